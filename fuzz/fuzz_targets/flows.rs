//! A sniffer's reports.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: fuzz::sow(sniffer::fuzz::seeds("flows")),
    |data: &[u8]| sniffer::fuzz::flows(data)
);
