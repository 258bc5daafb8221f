//! A small file.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: fuzz::sow(raftlog::fuzz::seeds("small")),
    |data: &[u8]| raftlog::fuzz::small(data)
);
