//! A short, seeded run of each target; `./x fuzz` makes long ones. `SEED=n` replays one.

use super::*;
use crate::disk::SplitMix;

#[test]
fn no_bytes_of_a_log_end_the_process() {
    mutate("log", 20_000);
}

#[test]
fn no_bytes_of_a_snapshot_end_the_process() {
    mutate("snapshot", 3_000);
}

#[test]
fn no_bytes_of_a_small_file_end_the_process() {
    mutate("small", 20_000);
}

#[test]
fn no_bytes_of_a_frame_end_the_process() {
    mutate("frame", 100_000);
}

#[test]
fn no_messages_of_a_peer_end_the_process() {
    mutate("peer", 4_000);
}

/// Else the target would see nothing but checksums that do not fit.
#[test]
fn many_changed_logs_get_past_the_checksums() {
    let inputs = (TARGETS[0].seeds)();
    let opened = (0..1000).filter(|seed| {
        let mut random = SplitMix(*seed);
        let mut input = inputs[random.below(inputs.len() as u64) as usize].clone();
        change(&mut input, &mut random);
        crate::wal::fuzz::opens(&input)
    });
    let opened = opened.count();
    assert!((200..900).contains(&opened), "{opened}");
}

/// Runs a target on its seeds, then on so many changed ones.
fn mutate(name: &str, count: u64) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let inputs = (target.seeds)();
    assert!(!inputs.is_empty());
    inputs.iter().for_each(|input| (target.run)(input));
    let only = std::env::var("SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    for seed in only.map_or(0..count, |seed| seed..seed + 1) {
        let mut random = SplitMix(seed);
        let mut input = inputs[random.below(inputs.len() as u64) as usize].clone();
        for _ in 0..=random.below(4) {
            change(&mut input, &mut random);
        }
        let ended = std::panic::catch_unwind(|| (target.run)(&input)).is_err();
        assert!(!ended, "{name}: replay with SEED={seed}");
    }
}

/// One change: a byte, a number, a piece moved, doubled, cut out or cut off.
fn change(input: &mut Vec<u8>, random: &mut SplitMix) {
    let place = |random: &mut SplitMix| random.below(input.len() as u64 + 1) as usize;
    let (from, to) = (place(random), place(random));
    let (from, to) = (from.min(to), from.max(to).min(from.min(to) + 64));
    match random.below(8) {
        0 => input.truncate(to),
        1 => drop(input.drain(from..to)),
        2 => {
            let piece = input[from..to].to_vec();
            input.splice(from..from, piece);
        }
        3 => input[from..to].fill(0),
        4 => input[from..to].fill(0xff),
        5 => input.extend((0..random.below(40)).map(|_| random.next() as u8)),
        _ if from == input.len() => {}
        6 => input[from] ^= 1 << random.below(8),
        _ => input[from] = random.next() as u8,
    }
}
