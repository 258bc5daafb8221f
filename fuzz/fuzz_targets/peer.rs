//! A replica whose peers say anything.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: fuzz::sow(raftlog::fuzz::seeds("peer")),
    |data: &[u8]| raftlog::fuzz::peer(data)
);
