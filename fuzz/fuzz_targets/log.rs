//! The files of the log: segments in any state.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: fuzz::sow(raftlog::fuzz::seeds("log")),
    |data: &[u8]| raftlog::fuzz::log(data)
);
