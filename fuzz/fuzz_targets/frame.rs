//! A frame from a peer.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: fuzz::sow(raftlog::fuzz::seeds("frame")),
    |data: &[u8]| raftlog::fuzz::frame(data)
);
