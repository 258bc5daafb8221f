//! Frames of the wire.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: fuzz::sow(sniffer::fuzz::seeds("packet")),
    |data: &[u8]| sniffer::fuzz::packet(data)
);
