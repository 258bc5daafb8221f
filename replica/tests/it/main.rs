//! The replica as a whole: fleets of them in the simulator.
//!
//! `cargo test --release -p replica --features plant`; without the feature there is no simulator and nothing to run.
#![cfg(feature = "plant")]

use std::{
    io,
    process::{Command, Output},
};

/// Runs the simulator; its exit status and what it said.
fn sim(arguments: &str) -> io::Result<(Option<i32>, String)> {
    let output: Output = Command::new(env!("CARGO_BIN_EXE_sim")).args(arguments.split(' ')).output()?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
}

#[test]
fn forty_seeds_are_clean() {
    let (code, text) = sim("--seeds 40").unwrap();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with("40 seeds, "), "{text}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let (code, text) = sim("--seed 7 --seeds 4 --twice").unwrap();
    assert_eq!(code, Some(0), "{text}");
    // Also in another process, whose maps are hashed otherwise.
    let trace = |seed: u32| {
        let (_, text) = sim(&format!("--seed {seed} --seeds 1")).unwrap();
        text.lines().next().and_then(|line| line.split("trace ").nth(1)).map(str::to_owned)
    };
    assert!(trace(7).is_some());
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
}

#[test]
fn a_planted_bug_is_caught() {
    let (code, text) = sim("--plant settle-at-once --seeds 200 --stop").unwrap();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("VIOLATION seed"), "{text}");
}

#[test]
fn a_planted_bug_of_the_log_is_caught_in_its_own_world() {
    let (code, text) = sim("--plant ack-before-fsync --seeds 50 --stop").unwrap();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("replay: ./x sim --world log --seed"), "{text}");
}

#[test]
fn what_it_does_not_know_is_a_usage_error() {
    for arguments in ["--frobnicate", "--plant nothing", "--seeds many", "--world flat"] {
        assert_eq!(sim(arguments).unwrap().0, Some(2), "{arguments}");
    }
}
