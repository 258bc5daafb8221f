//! The doors to packets: capture files, interfaces, the savefile, and the privileges that opening takes.

mod file;
mod interface;
mod list;
pub mod privileges;
mod save;
mod socket;

pub use file::{CaptureError, File};
pub use interface::{Interface, InterfaceError, Received, Settings};
pub use list::{Listed, list};
pub use save::{Save, SaveError};

/// A packet as it was captured.
#[derive(Clone, Copy, Debug)]
pub struct Captured<'a> {
    /// Microseconds since 1970.
    pub at_us: u64,
    /// Bytes on the wire.
    pub wire_bytes: u32,
    /// The bytes that were captured.
    pub bytes: &'a [u8],
}

impl<'a> From<pcap::Packet<'a>> for Captured<'a> {
    fn from(packet: pcap::Packet<'a>) -> Self {
        // Times before 1970, or with more microseconds than a second has, come from damaged files.
        let seconds = u64::try_from(packet.header.ts.tv_sec).unwrap_or_default();
        let micros = u64::try_from(packet.header.ts.tv_usec).unwrap_or_default();
        let at_us = seconds.saturating_mul(1_000_000).saturating_add(micros);
        Self { at_us, wire_bytes: packet.header.len, bytes: packet.data }
    }
}

/// What libpcap says, on one line and without the words that only its binding adds.
fn words(error: &pcap::Error) -> String {
    let text = match error {
        pcap::Error::PcapError(text) => text.clone(),
        other => other.to_string(),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
