//! A capture file.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: fuzz::sow(sniffer::fuzz::seeds("pcapng")),
    |data: &[u8]| sniffer::fuzz::pcapng(data)
);
