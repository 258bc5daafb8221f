//! What flows carry.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: fuzz::sow(sniffer::fuzz::seeds("classify")),
    |data: &[u8]| sniffer::fuzz::classify(data)
);
