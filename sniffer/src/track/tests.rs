//! Directions, ends, timeouts, bounds, and sums that are exact.

use super::*;
use crate::{
    classify::Limits,
    decode::{Link, decode},
    wires::{at, ethernet, ip, tagged, tcp, udp},
};

const SECOND: u64 = 1_000_000;
/// Any time; the first tick of a tracker's clock is its first packet's.
const BEGIN: u64 = 1_700_000_000 * SECOND;

fn datagram(from: u16, to: u16) -> Vec<u8> {
    ip(17, at("192.0.2.1"), at("198.51.100.1"), 0, &udp(from, to, b"x"))
}

fn segment(client: bool, port: u16, flags: u8) -> Vec<u8> {
    let (a, b) = (at("192.0.2.1"), at("198.51.100.1"));
    if client { ip(6, a, b, 0, &tcp(port, 80, 1, flags, b"")) } else { ip(6, b, a, 0, &tcp(80, port, 1, flags, b"")) }
}

fn feed(tracker: &mut Tracker, now_us: u64, packet: &[u8]) -> Vec<Event> {
    let decoded = decode(Link::Raw, packet).unwrap();
    tracker.handle_packet(now_us, packet.len() as u32, &decoded);
    tracker.poll_events()
}

fn kinds(events: &[Event]) -> Vec<Kind> {
    events.iter().map(|event| event.kind).collect()
}

#[test]
fn a_connection_is_told_of_once_both_sides_were_seen_and_ends_five_seconds_after_its_end() {
    let mut tracker = Tracker::new(Config::default());
    assert_eq!(kinds(&feed(&mut tracker, BEGIN, &segment(true, 1000, SYN))), []);
    assert_eq!(kinds(&feed(&mut tracker, BEGIN + 10, &segment(false, 1000, SYN | ACK))), [Kind::Start]);
    assert_eq!(kinds(&feed(&mut tracker, BEGIN + 20, &segment(true, 1000, ACK | FIN))), []);
    let closed = feed(&mut tracker, BEGIN + 30, &segment(false, 1000, ACK | FIN));
    assert_eq!(kinds(&closed), [Kind::Update], "how it stands is known at once");
    assert_eq!((closed[0].flow.state, closed[0].flow.counts.map(|side| side.packets)), (State::Closed, [2, 2]));
    assert_eq!(kinds(&feed(&mut tracker, BEGIN + 40, &segment(true, 1000, ACK))), [], "it is over once");
    assert_eq!(kinds(&feed(&mut tracker, BEGIN + 50, &segment(true, 1000, RST))), []);
    tracker.handle_time(BEGIN + 4 * SECOND);
    assert_eq!(tracker.len(), 1);
    tracker.handle_time(BEGIN + 6 * SECOND);
    let events = tracker.poll_events();
    assert_eq!(kinds(&events), [Kind::End(End::Closed)]);
    assert!(tracker.is_empty());
    let flow = &events[0].flow;
    assert_eq!((flow.counts[0].packets, flow.counts[1].packets), (4, 2));
    assert_eq!((flow.first_us, flow.last_us), (BEGIN, BEGIN + 50));
    assert_eq!(flow.tcp_flags, [SYN | ACK | FIN | RST, SYN | ACK | FIN]);
    assert!(flow.from_low, "192.0.2.1 is the lower one, and it began");
}

#[test]
fn a_flow_that_is_over_with_its_second_packet_is_told_of_once_before_its_end() {
    let mut tracker = Tracker::new(Config::default());
    assert_eq!(kinds(&feed(&mut tracker, BEGIN, &segment(true, 1000, SYN))), []);
    let refused = feed(&mut tracker, BEGIN + 10, &segment(false, 1000, RST | ACK));
    assert_eq!((kinds(&refused), refused[0].flow.state), (vec![Kind::Start], State::Closed));
    tracker.handle_time(BEGIN + 6 * SECOND);
    assert_eq!(kinds(&tracker.poll_events()), [Kind::End(End::Closed)]);
}

#[test]
fn silence_ends_flows_by_the_clock_alone_and_at_the_next_packet() {
    let mut tracker = Tracker::new(Config::default());
    feed(&mut tracker, BEGIN, &datagram(1, 2));
    tracker.handle_time(BEGIN + SECOND);
    assert_eq!(kinds(&tracker.poll_events()), [Kind::Start], "a flow of one side is told of after a while");
    tracker.handle_time(BEGIN + 40 * SECOND);
    assert_eq!(kinds(&tracker.poll_events()), [Kind::End(End::Idle)]);
    feed(&mut tracker, BEGIN + 41 * SECOND, &datagram(1, 2));
    let again = feed(&mut tracker, BEGIN + 41 * SECOND + 30 * SECOND + 1, &datagram(1, 2));
    assert_eq!(kinds(&again), [Kind::Short(End::Idle)], "nobody looked in between");
    assert_eq!(tracker.counters().flows, 3);
}

#[test]
fn a_gap_of_exactly_the_timeout_is_none() {
    let config = Config { timeouts: Timeouts::all(15 * SECOND), ..Config::default() };
    let mut tracker = Tracker::new(config);
    for step in 0..10 {
        feed(&mut tracker, BEGIN + step * 15 * SECOND, &datagram(1, 2));
    }
    assert_eq!(tracker.counters().flows, 1);
    feed(&mut tracker, BEGIN + 9 * 15 * SECOND + 15 * SECOND + 1, &datagram(1, 2));
    assert_eq!(tracker.counters().flows, 2);
}

#[test]
fn a_flow_that_goes_on_is_told_of_again() {
    let mut tracker = Tracker::new(Config::default());
    let mut updates = 0;
    for second in 0..310 {
        let events = feed(&mut tracker, BEGIN + second * SECOND, &datagram(1, 2));
        updates += events.iter().filter(|event| event.kind == Kind::Update).count();
    }
    assert_eq!(updates, 5, "each minute of five");
}

#[test]
fn ports_that_are_used_again_make_another_flow_unless_it_is_not_wanted() {
    for (split_closed, flows) in [(true, 2), (false, 1)] {
        let mut tracker = Tracker::new(Config { split_closed, ..Config::default() });
        feed(&mut tracker, BEGIN, &segment(true, 1000, SYN));
        feed(&mut tracker, BEGIN + 1, &segment(false, 1000, RST));
        feed(&mut tracker, BEGIN + 2, &segment(true, 1000, SYN));
        assert_eq!(tracker.counters().flows, flows);
    }
}

#[test]
fn the_seventh_parts_tell_flows_apart() {
    let packet = |tos| ip(17, at("192.0.2.1"), at("198.51.100.1"), tos, &udp(1, 2, b"x"));
    for (seven, flows) in [(false, 1), (true, 2)] {
        let mut tracker = Tracker::new(Config { seven, ..Config::default() });
        feed(&mut tracker, BEGIN, &packet(0));
        feed(&mut tracker, BEGIN, &packet(8));
        assert_eq!(tracker.len(), flows);
    }
}

#[test]
fn a_full_table_gives_up_quiet_flows_and_counts_them() {
    let mut tracker = Tracker::new(Config { flows_max: 100, ..Config::default() });
    let mut ended = 0;
    for port in 0..1000 {
        // One flow that is never quiet.
        ended += feed(&mut tracker, BEGIN + u64::from(port) * 1000, &datagram(5000, 53)).len();
        ended += feed(&mut tracker, BEGIN + u64::from(port) * 1000, &datagram(port, 53))
            .iter()
            .filter(|event| matches!(event.kind, Kind::End(End::Evicted) | Kind::Short(End::Evicted)))
            .count();
    }
    assert_eq!(tracker.len(), 100);
    assert_eq!(tracker.counters().evicted, 901);
    assert!(ended >= 901);
    tracker.finish();
    let last = tracker.poll_events();
    assert_eq!(last.len(), 100);
    assert!(last.iter().any(|event| event.flow.counts[0].packets == 1000), "the busy one was never given up");
}

#[test]
fn every_packet_is_in_exactly_one_record() {
    let mut tracker = Tracker::new(Config { flows_max: 50, ..Config::default() });
    let mut random = 3_u64;
    let (mut now, mut packets, mut bytes) = (BEGIN, 0, 0);
    let mut told = (0, 0);
    let mut count = |events: Vec<Event>| {
        for event in events.iter().filter(|event| matches!(event.kind, Kind::End(_) | Kind::Short(_))) {
            told.0 += event.flow.counts.iter().map(|side| side.packets).sum::<u64>();
            told.1 += event.flow.counts.iter().map(|side| side.bytes).sum::<u64>();
        }
    };
    for _ in 0..50_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let number = random >> 33;
        now += number % 300_000;
        let port = (number % 97) as u16;
        let packet = match number % 5 {
            0 => datagram(port, 53),
            1 => datagram(53, port),
            2 => segment(true, port, SYN),
            3 => segment(false, port, ACK | FIN),
            _ => segment(true, port, ACK | FIN),
        };
        packets += 1;
        bytes += packet.len() as u64;
        count(feed(&mut tracker, now, &packet));
        assert!(tracker.len() <= 50);
    }
    tracker.finish();
    count(tracker.poll_events());
    assert_eq!(told, (packets, bytes));
    let counters = tracker.counters();
    assert_eq!((counters.packets, counters.tracked + counters.unsampled), (packets, packets));
}

#[test]
fn a_sample_takes_whole_flows_and_the_same_ones_everywhere() {
    let mut trackers = [1, 2].map(|_| Tracker::new(Config { sample: 4, ..Config::default() }));
    for port in 0..4000 {
        for tracker in &mut trackers {
            feed(tracker, BEGIN, &datagram(port, 53));
            feed(tracker, BEGIN, &datagram(53, port));
        }
    }
    let [a, b] = trackers.map(|mut tracker| {
        tracker.finish();
        let events = tracker.poll_events();
        let ended = events.iter().filter(|event| matches!(event.kind, Kind::End(_) | Kind::Short(_)));
        let mut keys: Vec<_> = ended.map(|event| event.flow.key).collect();
        keys.sort_unstable();
        (keys, tracker.counters())
    });
    assert_eq!(a, b);
    assert!((1800..2200).contains(&a.0.len()), "{} of 8000", a.0.len());
    assert_eq!(a.1.tracked + a.1.unsampled, 8000);
}

#[test]
fn time_that_goes_back_or_leaps_loses_nothing() {
    let mut tracker = Tracker::new(Config::default());
    feed(&mut tracker, BEGIN, &datagram(1, 2));
    feed(&mut tracker, BEGIN - 100 * SECOND, &datagram(3, 4));
    feed(&mut tracker, 0, &datagram(5, 6));
    assert_eq!(tracker.len(), 3);
    tracker.handle_time(BEGIN + 1_000_000 * SECOND);
    assert!(tracker.is_empty());
    assert_eq!(
        tracker.poll_events().iter().filter(|event| matches!(event.kind, Kind::End(_) | Kind::Short(_))).count(),
        3
    );
}

/// A sequence of packets of few flows, with payloads, ends and jumps of time.
fn anything(seed: u64, count: usize) -> Vec<(u64, Vec<u8>)> {
    let mut random = seed;
    let mut next = move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        random >> 33
    };
    let mut now = BEGIN;
    let mut packet = || {
        now += match next() % 50 {
            0 => next() % 700 * SECOND,
            1..5 => next() % SECOND,
            _ => 10,
        };
        let time = if next() % 20 == 0 { now - next() % (300 * SECOND) } else { now };
        let (port, there) = (1000 + (next() % 40) as u16, next() % 2 == 0);
        let payload: &[u8] =
            [&b""[..], b"GET / HTTP/1.1\r\n", b"Host: a.example\r\n\r\n", b"\x80\x00"][next() as usize % 4];
        let (a, b) = if there { (at("192.0.2.1"), at("192.0.2.9")) } else { (at("192.0.2.9"), at("192.0.2.1")) };
        let ports = if there { (port, 80) } else { (80, port) };
        let flags = [SYN, ACK, ACK, ACK, ACK | FIN, RST][next() as usize % 6];
        let tos = (next() % 8 == 0) as u8;
        match next() % 3 {
            0 => (time, ip(17, a, b, tos, &udp(ports.0, ports.1, payload))),
            _ => (time, ip(6, a, b, tos, &tcp(ports.0, ports.1, 1 + (next() % 3) as u32 * 16, flags, payload))),
        }
    };
    (0..count).map(|_| packet()).collect()
}

#[test]
fn packets_that_are_handled_together_make_the_same_of_it_as_one_by_one() {
    for seed in 0..60 {
        let config = Config {
            seven: seed % 2 == 0,
            sample: 1 + seed as u32 % 3 / 2 * 3,
            flows_max: [20, 50, 1000][seed as usize % 3],
            limits: Limits { packets: 5, bytes: 100, bytes_of_all: [1000, 5000, 1 << 20][seed as usize / 3 % 3] },
            ..Config::default()
        };
        let packets = anything(seed, 3000);
        let [mut single, mut batched] = [1, 2].map(|_| Tracker::new(config.clone()));
        let (mut one, mut other) = (Vec::new(), Vec::new());
        for (number, (now_us, packet)) in packets.iter().enumerate() {
            let decoded = decode(Link::Raw, packet).unwrap();
            single.handle_packet(*now_us, packet.len() as u32, &decoded);
            one.extend(single.poll_events());
            batched.queue_packet(*now_us, packet.len() as u32, &decoded);
            if number % 211 == 0 {
                single.handle_time(now_us + SECOND);
                batched.handle_time(now_us + SECOND);
            }
        }
        single.finish();
        batched.finish();
        one.extend(single.poll_events());
        other.extend(batched.poll_events());
        assert_eq!(single.counters(), batched.counters());
        assert_eq!(one.len(), other.len());
        assert_eq!(one, other, "seed {seed}");
        let ended = one.iter().filter(|event| matches!(event.kind, Kind::End(_) | Kind::Short(_)));
        let counted: u64 = ended.map(|event| event.flow.counts[0].packets + event.flow.counts[1].packets).sum();
        assert_eq!(counted, single.counters().tracked);
        assert_eq!(single.pending_bytes, 0, "nothing is remembered of flows that are over");
    }
}

#[test]
fn what_is_remembered_of_all_flows_is_bounded_and_what_that_costs_is_counted() {
    let limits = Limits { bytes_of_all: 100_000, ..Limits::default() };
    let mut tracker = Tracker::new(Config { limits, ..Config::default() });
    for port in 0..2000 {
        let packet = ip(6, at("192.0.2.1"), at("198.51.100.1"), 0, &tcp(port, 4000, 1, ACK, &[0xd7; 1000]));
        feed(&mut tracker, BEGIN, &packet);
        assert!(tracker.pending_bytes <= 100_000);
    }
    let unclassified = tracker.counters().unclassified;
    assert!((1900..2000).contains(&unclassified), "{unclassified}");
    tracker.handle_time(BEGIN + 1000 * SECOND);
    assert_eq!((tracker.pending_bytes, tracker.len()), (0, 0));
}

#[test]
fn a_table_that_is_nearly_full_gives_quiet_flows_a_tenth_of_their_time() {
    let mut tracker = Tracker::new(Config { flows_max: 1000, ..Config::default() });
    for port in 0..900 {
        feed(&mut tracker, BEGIN, &datagram(port, 53));
    }
    for port in 0..100 {
        feed(&mut tracker, BEGIN + 2 * SECOND, &datagram(2000 + port, 53));
    }
    let counters = tracker.counters();
    assert_eq!((tracker.len(), counters.hurried, counters.evicted), (1000, 0, 0), "none was silent for 3 s");
    for port in 0..100 {
        let events = feed(&mut tracker, BEGIN + 3 * SECOND + 200_000, &datagram(4000 + port, 53));
        assert!(kinds(&events).contains(&Kind::End(End::Evicted)), "{events:?}");
    }
    let counters = tracker.counters();
    assert_eq!((tracker.len(), counters.hurried, counters.evicted), (1000, 100, 0));
}

#[test]
fn no_time_is_too_late_or_too_early() {
    let times = [0, 1, BEGIN, u64::MAX, u64::MAX - 1, BEGIN + 1, 0, u64::MAX / 2, u64::MAX];
    for timeouts in [Timeouts::default(), Timeouts::all(u64::MAX), Timeouts::all(0)] {
        let config = Config { timeouts, active_us: u64::MAX, flows_max: 3, ..Config::default() };
        let mut tracker = Tracker::new(config);
        let mut counted = 0;
        for round in 0..50 {
            for (number, now_us) in times.iter().enumerate() {
                let events = feed(&mut tracker, *now_us, &datagram(number as u16 * (round % 3), 53));
                counted += packets_of_ended(&events);
                tracker.handle_time(*now_us);
                counted += packets_of_ended(&tracker.poll_events());
            }
        }
        tracker.finish();
        counted += packets_of_ended(&tracker.poll_events());
        assert_eq!(counted, tracker.counters().packets);
    }
}

fn packets_of_ended(events: &[Event]) -> u64 {
    let ended = events.iter().filter(|event| matches!(event.kind, Kind::End(_) | Kind::Short(_)));
    ended.map(|event| event.flow.counts[0].packets + event.flow.counts[1].packets).sum()
}

#[test]
fn a_clock_that_was_set_back_goes_on_from_there_but_one_wrong_time_does_not_count() {
    let mut tracker = Tracker::new(Config::default());
    feed(&mut tracker, BEGIN + 1_000_000 * SECOND, &datagram(1, 2));
    feed(&mut tracker, BEGIN, &datagram(3, 4));
    tracker.handle_time(BEGIN + 50 * SECOND);
    assert_eq!(tracker.len(), 2, "two times that are far back do not turn the clock");
    for step in 0..2000 {
        tracker.handle_time(BEGIN + 50 * SECOND + step * 100_000);
    }
    assert!(tracker.is_empty(), "both were silent for longer than they may");
    feed(&mut tracker, BEGIN + 251 * SECOND, &datagram(5, 6));
    tracker.handle_time(BEGIN + 290 * SECOND);
    assert!(tracker.is_empty());
}

#[test]
fn a_priority_tag_is_no_vlan_of_its_own() {
    let mut tracker = Tracker::new(Config { seven: true, ..Config::default() });
    let packet = datagram(1, 2);
    let frames = [
        ethernet(0x0800, &packet),
        ethernet(0x8100, &tagged(0, 0x0800, &packet)),
        ethernet(0x8100, &tagged(5, 0x0800, &packet)),
    ];
    for frame in frames {
        tracker.handle_packet(BEGIN, 1, &decode(Link::Ethernet, &frame).unwrap());
    }
    assert_eq!(tracker.len(), 2, "none and 0 are one, 5 is another");
}

/// What the table holds of a packet is what the words of the fleet say.
#[test]
fn the_packed_key_is_the_key_of_the_packet() {
    let addresses = ["192.0.2.1", "192.0.2.2", "0.0.0.0", "255.255.255.255", "2001:db8::1", "::", "2001:db8::2"];
    for source in addresses.map(at) {
        for destination in addresses.map(at).into_iter().filter(|other| other.is_ipv4() == source.is_ipv4()) {
            for protocol in [1, 6, 17, 47, 58, 132] {
                for ports in [(8, 0), (0, 8), (128, 7), (3, 1), (65_535, 65_535), (1, 65_535)] {
                    let packet = ip(protocol, source, destination, 0xb8, &udp(ports.0, ports.1, b"0123456789"));
                    let packet = decode(Link::Raw, &packet).unwrap();
                    let (identity, from_low) = Identity::of(&packet);
                    assert_eq!((identity.key(), from_low), packet.key(), "{packet:?}");
                }
            }
        }
    }
}
