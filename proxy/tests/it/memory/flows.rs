//! The table of flows of the fleet in memory: real shards, to which one applies at once what the other would commit.

use std::{net::IpAddr, sync::Arc};

use flow::{
    FleetId, LogTime, Revision,
    app::{App, Label},
    flows::{
        Counts, Expiry, FlowCommand, FlowId, FlowLimits, FlowOutcome, FlowTable, Observed, SnifferId, Standing,
        shard_of,
    },
    tuple::{Endpoint, FlowKey},
};
use proxy::control::flows::FlowTables;
use tokio::sync::watch;

/// Whose they are.
pub const FLEET: FleetId = FleetId(0xabc);

/// How many shards there are.
pub const SHARDS: u32 = 2;

pub struct Flows {
    shards: Vec<(FlowTable, Expiry)>,
    now_ms: u64,
    changed: watch::Sender<()>,
}

impl Flows {
    pub fn new() -> Self {
        let limits = FlowLimits { flows: 100_000, ..FlowLimits::default() };
        let shards = (0..SHARDS).map(|_| (FlowTable::new(limits), Expiry::new())).collect();
        Self { shards, now_ms: 1_000, changed: watch::Sender::new(()) }
    }

    pub fn tables(&self) -> FlowTables {
        let shards = self.shards.iter().map(|(table, _)| Arc::new(table.clone())).collect();
        FlowTables { fleet: FLEET, shards }
    }

    pub fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// As if it was committed.
    pub fn apply(&mut self, shard: u32, command: &FlowCommand) -> FlowOutcome {
        let (table, expiry) = &mut self.shards[shard as usize];
        let index = Revision(table.applied().0 + 1);
        let outcome = table.apply(index, LogTime(self.now_ms), command, expiry);
        self.changed.send_replace(());
        outcome
    }

    /// What a sniffer says, in a batch for each shard that it concerns.
    pub fn report(&mut self, name: &str, events: &[Observed]) {
        let sniffer = SnifferId::of(name);
        for shard in 0..SHARDS {
            let of_shard = events.iter().filter(|event| shard_of(FlowId(event.key.id()), SHARDS) == shard);
            let events: Vec<Observed> = of_shard.cloned().collect();
            if events.is_empty() {
                continue;
            }
            let last = self.shards[shard as usize].0.sniffer(sniffer).map_or(0, |reporter| reporter.sequence);
            let command = FlowCommand::Report { sniffer, epoch: 1, sequence: last + 1, name: name.into(), events };
            assert!(matches!(self.apply(shard, &command), FlowOutcome::Done(_)));
        }
    }

    /// Time passes in the log.
    pub fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        for shard in 0..SHARDS {
            self.apply(shard, &FlowCommand::Tick);
        }
    }
}

/// A TLS connection from 10.0.0.1 and this port to 198.51.100.1 and 443, with so many packets from each side.
pub fn tls(port: u16, packets: u64) -> Observed {
    let mut seen = seen(6, ("10.0.0.1", port), ("198.51.100.1", 443), packets);
    seen.label = Some(Label::sure(App::Tls).named(b"www.example.net"));
    seen
}

/// A flow of a protocol between two ends, the first packet from the first.
pub fn seen(protocol: u8, source: (&str, u16), destination: (&str, u16), packets: u64) -> Observed {
    let end = |(address, port): (&str, u16)| Endpoint::new(address.parse::<IpAddr>().unwrap(), port);
    let ((version, source), (_, destination)) = (end(source), end(destination));
    let (key, from_low) = FlowKey::of(version, protocol, source, destination);
    let forward = Counts { packets, bytes: packets * 100 };
    let reverse = Counts { packets: packets * 2, bytes: packets * 2_000 };
    Observed {
        key,
        seventh: None,
        from_low,
        standing: Standing::Established,
        end: None,
        first_us: 1_700_000_000_000_000,
        last_us: 1_700_000_000_000_000 + packets * 1_000,
        counts: if from_low { [forward, reverse] } else { [reverse, forward] },
        tcp_flags: if from_low { [2, 18] } else { [18, 2] },
        vlan: None,
        sample: 1,
        label: None,
    }
}
