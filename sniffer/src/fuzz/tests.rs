//! A short, seeded run of each target; `./x fuzz` makes long ones. `SEED=n` replays one.

use super::*;

#[test]
fn no_frames_end_the_process() {
    mutate("packet", 4_000);
}

#[test]
fn no_payloads_end_the_process() {
    mutate("classify", 15_000);
}

#[test]
fn no_capture_file_ends_the_process() {
    mutate("pcapng", 20_000);
}

#[test]
fn no_commands_of_a_sniffer_end_the_process() {
    mutate("flows", 4_000);
}

/// Else the targets would only see what is refused at the door.
#[test]
fn seeds_get_where_they_shall() {
    use crate::classify::{Limits, Payload, Verdict, examine, forge};
    let hello = forge::client_hello("www.example.net", &[b"h3"]).unwrap();
    let datagram =
        forge::initial((1, rustls::quic::Version::V1), b"12345678", forge::crypto(&hello[5..], 200)).unwrap();
    let payload = Payload { protocol: 17, ports: (50_000, 443), sequence: 0, bytes: &datagram };
    let Verdict::Known(label) = examine(&mut None, &payload, true, &Limits::default()) else { panic!("a hello") };
    assert_eq!(label.host.as_deref(), Some("www.example.net"));
    for seed in seeds("flows") {
        let mut rest = &seed[1..];
        byte(&mut rest);
        assert!(::flow::flows::FlowCommand::decode(piece(&mut rest).unwrap()).is_ok());
    }
    for seed in seeds("pcapng") {
        let mut blocks = crate::pcapng::Blocks::new(seed.as_slice());
        let packets = std::iter::from_fn(|| blocks.advance().unwrap().then_some(())).count();
        assert!(packets == 4 || packets == 8, "{packets}");
        assert!(blocks.differ());
    }
    for seed in seeds("packet") {
        let mut rest = &seed[3..];
        let frame = piece(&mut rest).unwrap();
        let link = crate::decode::Link::of([1, 101, 0, 113, 276, 9, 104, 239][usize::from(seed[0])]).unwrap();
        assert!(crate::decode::decode(link, frame).is_ok(), "{link:?} {frame:02x?}");
    }
}

/// Runs a target on its seeds, then on so many changed ones.
fn mutate(name: &str, count: u64) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let inputs = (target.seeds)();
    assert!(!inputs.is_empty());
    inputs.iter().for_each(|input| (target.run)(input));
    let only = std::env::var("SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    for seed in only.map_or(0..count, |seed| seed..seed + 1) {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut input = inputs[random.below(inputs.len())].clone();
        for _ in 0..=random.below(4) {
            change(&mut input, &mut random);
        }
        let ended = std::panic::catch_unwind(|| (target.run)(&input)).is_err();
        assert!(!ended, "{name}: replay with SEED={seed}");
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % most
    }
}

/// One change: a byte, a number, a piece moved, doubled, cut out or cut off.
fn change(input: &mut Vec<u8>, random: &mut Random) {
    let places = [random.below(input.len() + 1), random.below(input.len() + 1)];
    let (from, to) = (places[0].min(places[1]), places[0].max(places[1]));
    let to = to.min(from + 64);
    match random.below(8) {
        0 => input.truncate(to),
        1 => drop(input.drain(from..to)),
        2 => {
            let piece = input[from..to].to_vec();
            input.splice(from..from, piece);
        }
        3 => input[from..to].fill(0),
        4 => input[from..to].fill(0xff),
        5 => input.extend((0..random.below(40)).map(|_| random.below(256) as u8).collect::<Vec<_>>()),
        _ if from == input.len() => {}
        6 => input[from] ^= 1 << random.below(8),
        _ => input[from] = random.below(256) as u8,
    }
}
