//! From what happened to a flow here to what the fleet is told of it.

use flow::flows::{Observed, Standing};

use crate::track::{Config, Event, Kind, State};

/// What the fleet is told of an event. Here counters are those of who sent the first packet and of the other side; there,
/// where several sniffers may have seen different first packets, of the low endpoint and of the high one.
#[must_use]
pub fn observed(event: &Event, config: &Config) -> Observed {
    let flow = &event.flow;
    let end = match event.kind {
        Kind::Start | Kind::Update => None,
        Kind::End(end) | Kind::Short(end) => Some(end),
    };
    let (mut counts, mut tcp_flags) = (flow.counts, flow.tcp_flags);
    if !flow.from_low {
        counts.reverse();
        tcp_flags.reverse();
    }
    Observed {
        key: flow.key,
        seventh: config.seven.then(|| (flow.tos, config.ingress << 12 | u32::from(flow.vlan.unwrap_or_default()))),
        from_low: flow.from_low,
        standing: standing(event),
        end,
        first_us: flow.first_us,
        last_us: flow.last_us,
        counts,
        tcp_flags,
        vlan: flow.vlan,
        sample: config.sample.max(1),
        label: flow.label.as_deref().cloned(),
    }
}

/// How far the flow is.
#[must_use]
pub fn standing(event: &Event) -> Standing {
    match (event.kind, event.flow.state) {
        (Kind::End(_) | Kind::Short(_), _) => Standing::Ended,
        (_, State::New) => Standing::New,
        (_, State::Established) => Standing::Established,
        (_, State::Closing | State::Closed) => Standing::Closing,
    }
}

#[cfg(test)]
mod tests {
    use flow::flows::{Counts, End, FlowCommand, SnifferId};

    use super::*;
    use crate::{
        decode::{Link, decode},
        track::Tracker,
        wires::{at, ethernet, ip, tagged, tcp, udp},
    };

    const BEGIN: u64 = 1_700_000_000_000_000;

    /// The high endpoint asks, on VLAN 5, and the low one answers with more.
    fn events(config: &Config) -> Vec<Event> {
        let mut tracker = Tracker::new(config.clone());
        let (low, high) = (at("192.0.2.1"), at("198.51.100.1"));
        let ask = ip(6, high, low, 0xb8, &tcp(50_000, 80, 1, 0x18, b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"));
        let answer = ip(6, low, high, 0xb8, &tcp(80, 50_000, 1, 0x11, &[b'x'; 500]));
        for (step, packet) in [ask, answer].iter().enumerate() {
            let frame = ethernet(0x8100, &tagged(5, 0x0800, packet));
            tracker.handle_packet(BEGIN + step as u64, frame.len() as u32, &decode(Link::Ethernet, &frame).unwrap());
        }
        tracker.finish();
        tracker.poll_events()
    }

    #[test]
    fn directions_are_those_of_the_key_and_both_keys_have_the_ids_of_the_fleet() {
        for (config, seventh) in [
            (Config::default(), None),
            (Config { seven: true, ingress: 3, sample: 1, ..Config::default() }, Some((0xb8, 3 << 12 | 5))),
        ] {
            let events = events(&config);
            assert_eq!(events.len(), 2, "told of when both sides were seen, and at the end");
            let [start, end] = [observed(&events[0], &config), observed(&events[1], &config)];
            assert_eq!((start.standing, start.end), (Standing::Closing, None), "one side has nothing more");
            assert_eq!((end.standing, end.end), (Standing::Ended, Some(End::Finished)));
            let counts = [Counts { packets: 1, bytes: 18 + 40 + 500 }, Counts { packets: 1, bytes: 18 + 40 + 35 }];
            assert_eq!((end.counts, end.tcp_flags, end.from_low), (counts, [0x11, 0x18], false));
            assert_eq!((end.seventh, end.vlan, end.sample), (seventh, Some(5), 1));
            assert_eq!(end.label.as_ref().and_then(|label| label.host.as_deref()), Some("a.example"));
            let id = seventh.map_or(end.key.id(), |(tos, ingress)| end.key.id_with(tos, ingress));
            assert_eq!(end.id().0, id);
            let report = FlowCommand::Report {
                sniffer: SnifferId(1),
                epoch: 1,
                sequence: 1,
                name: "a".into(),
                events: vec![start, end],
            };
            assert_eq!(FlowCommand::decode(&report.encode()), Ok(report), "the fleet takes it");
        }
    }

    #[test]
    fn a_flow_that_is_not_over_stands_as_it_does() {
        let mut tracker = Tracker::new(Config { sample: 0, ..Config::default() });
        let packet = |from, to| ip(17, at(from), at(to), 0, &udp(7, 7, b"x"));
        let mut standings = Vec::new();
        let mut feed = |now_us, packet: Vec<u8>| {
            tracker.handle_packet(now_us, packet.len() as u32, &decode(Link::Raw, &packet).unwrap());
            let events = tracker.poll_events();
            standings.extend(events.iter().map(|event| observed(event, tracker.config()).standing));
        };
        feed(BEGIN, packet("192.0.2.1", "192.0.2.2"));
        feed(BEGIN + 1_000_000, packet("192.0.2.1", "192.0.2.3"));
        feed(BEGIN + 1_000_001, packet("192.0.2.3", "192.0.2.1"));
        assert_eq!(standings, [Standing::New, Standing::Established]);
    }
}
