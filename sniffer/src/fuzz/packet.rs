//! Frames of any link, one after the other, through all of the sniffer: decoded, tracked, classified, told of.

use flow::flows::{EVENTS_PER_BATCH_MAX, FlowCommand, SnifferId};

use super::{byte, check_label, piece, put_piece};
use crate::{
    classify::Limits,
    decode::{Link, decode},
    observed::observed,
    track::{Config, Event, Kind, Tracker},
    wires::{at, ethernet, ip, tagged, tcp, udp},
};

/// The first byte is the link, the second the configuration, then come frames, each behind a byte that says how time went on.
pub fn packet(input: &[u8]) {
    let mut rest = input;
    let link = LINKS[usize::from(byte(&mut rest)) % LINKS.len()];
    let Some(link) = Link::of(link) else { unreachable!("all of them are known") };
    let options = byte(&mut rest);
    let config = Config {
        seven: options & 1 != 0,
        ingress: options.into(),
        split_closed: options & 2 != 0,
        sample: if options & 4 != 0 { 2 } else { 1 },
        flows_max: if options & 8 != 0 { 3 } else { 40 },
        limits: Limits { packets: 12, bytes: 2048, bytes_of_all: 20_000 },
        ..Config::default()
    };
    let [mut single, mut batched] = [1, 2].map(|_| Tracker::new(config.clone()));
    let (mut events, mut decoded) = (Vec::new(), 0);
    let mut now_us = 1_700_000_000_000_000_u64;
    while !rest.is_empty() {
        now_us = time(now_us, byte(&mut rest), &mut rest);
        let Some(frame) = piece(&mut rest) else { break };
        let Ok(packet) = decode(link, frame) else { continue };
        decoded += 1;
        let (key, _) = packet.key();
        assert!(key.is_in_order());
        single.handle_packet(now_us, frame.len() as u32, &packet);
        batched.queue_packet(now_us, frame.len() as u32, &packet);
        assert!(single.len() <= config.flows_max);
        events.extend(single.poll_events());
    }
    single.finish();
    batched.finish();
    events.extend(single.poll_events());
    assert_eq!(events, batched.poll_events(), "in a batch and one by one");
    assert_eq!(single.counters(), batched.counters());
    let counters = single.counters();
    assert_eq!((counters.packets, counters.tracked + counters.unsampled), (decoded, decoded));
    let over = |event: &&Event| matches!(event.kind, Kind::End(_) | Kind::Short(_));
    let counted: u64 =
        events.iter().filter(over).map(|event| event.flow.counts.iter().map(|side| side.packets).sum::<u64>()).sum();
    assert_eq!(counted, counters.tracked, "every packet is in one record");
    assert_eq!(events.iter().filter(over).count() as u64, counters.flows, "every flow that begins ends once");
    check_events(&events, &config);
}

fn check_events(events: &[Event], config: &Config) {
    for event in events {
        assert!(event.flow.first_us <= event.flow.last_us);
        event.flow.label.as_deref().into_iter().for_each(check_label);
    }
    let events: Vec<_> = events.iter().take(EVENTS_PER_BATCH_MAX).map(|event| observed(event, config)).collect();
    let report = FlowCommand::Report { sniffer: SnifferId(1), epoch: 1, sequence: 1, name: "a".into(), events };
    assert_eq!(FlowCommand::decode(&report.encode()), Ok(report), "the fleet takes what it is told");
}

/// Mostly a little later, sometimes much, or earlier, or any time at all.
fn time(now_us: u64, how: u8, rest: &mut &[u8]) -> u64 {
    match how {
        0..200 => now_us.saturating_add(u64::from(how).pow(2)),
        200..240 => now_us.saturating_add(u64::from(how - 199) * 10_000_000),
        240..254 => now_us.saturating_sub(u64::from(how - 239) * 20_000_000),
        254.. => u64::from_le_bytes([0; 8].map(|_: u8| byte(rest))),
    }
}

/// Link types by pcap's numbers.
const LINKS: [i32; 10] = [1, 101, 0, 113, 276, 9, 104, 239, 105, 127];

pub fn seeds() -> Vec<Vec<u8>> {
    let (a, b) = (at("192.0.2.1"), at("198.51.100.1"));
    let (c, d) = (at("2001:db8::1"), at("2001:db8::2"));
    let question = [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x01a\x07example\0\0\x01\0\x01"].concat();
    let request = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let packets = [
        ip(6, a, b, 0, &tcp(50_000, 80, 9, 2, b"")),
        ip(6, b, a, 0, &tcp(80, 50_000, 99, 0x12, b"")),
        ip(6, a, b, 0, &tcp(50_000, 80, 10, 0x18, &request[..20])),
        ip(6, a, b, 0, &tcp(50_000, 80, 30, 0x19, &request[20..])),
        ip(6, b, a, 0, &tcp(80, 50_000, 100, 0x11, b"HTTP/1.1 200 OK\r\n\r\n")),
        ip(6, a, b, 0, &tcp(50_000, 80, 10, 2, b"")),
        ip(17, c, d, 8, &udp(50_000, 53, &question)),
        ip(17, d, c, 0, &udp(53, 50_000, &question)),
        ip(1, a, b, 0, &[8, 0, 0, 0, 0, 1, 0, 1]),
        ip(58, c, d, 0, &[128, 0, 0, 0, 0, 1, 0, 1]),
        ip(132, a, b, 0, &[11, 89, 11, 90, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
    ];
    type Wrap = fn(&[u8]) -> Vec<u8>;
    let kind = |packet: &[u8]| crate::wires::ip_type(packet).to_be_bytes();
    let wraps: [(u8, Wrap); 8] = [
        (0, |packet| ethernet(crate::wires::ip_type(packet), packet)),
        (0, |packet| ethernet(0x8100, &tagged(5, crate::wires::ip_type(packet), packet))),
        (0, |packet| ethernet(0x8847, &[&[0, 1, 1, 64][..], packet].concat())),
        (0, |packet| ethernet(0x8864, &[&[0x11, 0, 0, 1, 0, 0, 0, 0x21][..], packet].concat())),
        (1, |packet| packet.to_vec()),
        (2, |packet| [&2_u32.to_le_bytes()[..], packet].concat()),
        (5, |packet| [&[0xff, 3, 0, 0x21][..], packet].concat()),
        (7, |packet| [&[2, 0, 0, 0, 4 + packet.len() as u8, 0, 9, 0][..], packet].concat()),
    ];
    let mut seeds = Vec::new();
    for (number, (link, wrap)) in wraps.into_iter().enumerate() {
        let mut input = vec![link, number as u8];
        for (step, packet) in packets.iter().enumerate() {
            input.push([10, 100, 201, 230, 241][(step + number) % 5]);
            put_piece(&mut input, &wrap(packet));
        }
        seeds.push(input);
    }
    for (link, head) in [(3_u8, 14), (4, 0), (6, 2)] {
        let mut input = vec![link, 0];
        for packet in &packets {
            let rest = if link == 4 { 18 } else { 0 };
            input.push(1);
            put_piece(&mut input, &[&vec![0; head][..], &kind(packet), &vec![0; rest], packet].concat());
        }
        seeds.push(input);
    }
    seeds
}
