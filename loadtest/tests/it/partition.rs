//! `loadtest partition` as a program, as far as it needs no fleet.

use std::process::Command;

/// What it says when it is called with these arguments, and its exit status.
fn refused(arguments: &[&str]) -> (String, Option<i32>) {
    let own = env!("CARGO_BIN_EXE_loadtest");
    let output = Command::new(own).args(["partition", "--bin", own]).args(arguments).output().unwrap();
    (String::from_utf8(output.stderr).unwrap(), output.status.code())
}

#[test]
fn phases_that_cannot_be_are_refused_before_anything_is_set_up() {
    let (said, status) = refused(&["--phases", "calm,quiet"]);
    assert!(said.contains("no phase is called quiet; there are: calm, cut-leader, "), "{said}");
    assert_eq!(status, Some(2));
    let (said, status) = refused(&["--phases", "calm,shrink"]);
    assert!(said.contains("shrink needs grow before it"), "{said}");
    assert_eq!(status, Some(2));
    let (said, status) = refused(&["--phases", "calm,grown-bridge"]);
    assert!(said.contains("grown-bridge needs grow before it"), "{said}");
    assert_eq!(status, Some(2));
    let (said, status) = refused(&["--instances", "2"]);
    assert!(said.contains("2 is not in 3..=7"), "{said}");
    assert_eq!(status, Some(2));
}
