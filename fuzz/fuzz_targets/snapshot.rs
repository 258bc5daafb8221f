//! A snapshot file, as stored and as received.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: fuzz::sow(raftlog::fuzz::seeds("snapshot")),
    |data: &[u8]| raftlog::fuzz::snapshot(data)
);
