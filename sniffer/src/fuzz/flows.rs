//! Commands of flow groups, as a sniffer's bytes come to a replica: decoded, and applied to two tables that must agree.

use flow::{
    app::{App, Confidence, Label},
    flows::{Counts, End, Expiry, FlowCommand, FlowId, FlowLimits, FlowTable, Observed, SnifferId, Standing, Verdict},
    ids::{LogTime, Revision},
    tuple::{Endpoint, FlowKey},
};

use super::{byte, piece, put_piece};

/// The first byte is how many flows a table has, then come commands, each behind a byte that says how log time went on.
pub fn flows(input: &[u8]) {
    let mut rest = input;
    let limits = FlowLimits { flows: u64::from(byte(&mut rest) % 8) + 1, ttl_ms: 3000, ended_ttl_ms: 1000 };
    let mut tables = [1, 2].map(|_| (FlowTable::new(limits), Expiry::new()));
    let (mut index, mut time_ms) = (1, 0);
    while !rest.is_empty() {
        time_ms += u64::from(byte(&mut rest)) * 10;
        let Some(bytes) = piece(&mut rest) else { break };
        let Ok(command) = FlowCommand::decode(bytes) else { continue };
        let encoded = command.encode();
        let again = FlowCommand::decode(&encoded);
        assert_eq!(again.as_ref(), Ok(&command), "it comes back as it went");
        assert_eq!(again.map(|again| again.encode()), Ok(encoded), "in the same bytes");
        index += 1;
        let outcomes =
            tables.each_mut().map(|(table, expiry)| table.apply(Revision(index), LogTime(time_ms), &command, expiry));
        assert_eq!(outcomes[0], outcomes[1]);
        tables[0].0.check_invariants(&tables[0].1);
        assert!(tables[0].0.len() as u64 <= limits.flows);
        assert_eq!(tables[0].0.digest(), tables[1].0.digest());
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let observed = |port: u16, end: Option<End>| {
        let address = |text: &str| text.parse().unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into());
        let (version, source) = Endpoint::new(address("192.0.2.9"), port);
        let (_, destination) = Endpoint::new(address("198.51.100.1"), 443);
        let (key, from_low) = FlowKey::of(version, 6, source, destination);
        let mut label = Label::new(App::Tls, Confidence::Payload).named(b"a.example");
        label.alpn = Some("h2".into());
        Observed {
            key,
            seventh: port.is_multiple_of(2).then_some((8, 4097)),
            from_low,
            standing: if end.is_some() { Standing::Ended } else { Standing::Established },
            end,
            first_us: 1_700_000_000_000_000,
            last_us: 1_700_000_000_500_000,
            counts: [Counts { packets: 3, bytes: 200 }, Counts { packets: 2, bytes: 3000 }],
            tcp_flags: [2, 18],
            vlan: port.is_multiple_of(3).then_some(5),
            sample: 1,
            label: Some(label),
        }
    };
    let report = |sniffer, epoch, sequence, ports: std::ops::Range<u16>, end| FlowCommand::Report {
        sniffer: SnifferId(sniffer),
        epoch,
        sequence,
        name: "a".into(),
        events: ports.map(|port| observed(port, end)).collect(),
    };
    let annotate = |flow: FlowId, revision| FlowCommand::Annotate {
        flow,
        revision: Revision(revision),
        labels: vec![("owner".to_owned(), "me".to_owned())],
        verdict: Some(Verdict { action: "drop".into(), source: "firewall".into() }),
    };
    let sequences: [Vec<FlowCommand>; 4] = [
        vec![report(1, 1, 1, 1..4, None), report(1, 1, 2, 2..5, Some(End::Closed)), FlowCommand::Tick],
        vec![report(1, 1, 1, 1..3, None), report(2, 7, 1, 1..3, None), report(1, 2, 1, 1..3, Some(End::Idle))],
        vec![report(1, 1, 1, 1..2, None), annotate(observed(1, None).id(), 2), report(1, 1, 3, 1..2, None)],
        vec![report(1, 1, 1, 1..20, None), report(1, 1, 1, 1..20, None), FlowCommand::Tick, FlowCommand::Tick],
    ];
    let mut seeds = Vec::new();
    for (number, commands) in sequences.iter().enumerate() {
        let mut input = vec![number as u8 * 2];
        for command in commands {
            input.push(100);
            put_piece(&mut input, &command.encode());
        }
        seeds.push(input);
    }
    seeds
}
