//! The door to libpcap: files, and interfaces.

use std::path::{Path, PathBuf};

use pcap::{Capture, Offline};

use crate::decode::Link;

/// What is wrong with a capture.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// It cannot be opened.
    #[error("{}: {why}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What libpcap says.
        why: String,
    },
    /// It ends in the middle, or what comes is no packet.
    #[error("{}: after {packets} packets: {why}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// How many were read before.
        packets: u64,
        /// What libpcap says.
        why: String,
    },
}

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

/// A capture file, pcap or pcapng.
pub struct File {
    path: PathBuf,
    capture: Capture<Offline>,
    /// How its frames begin; none: not known.
    pub link: Option<Link>,
}

impl File {
    /// Opens it.
    ///
    /// # Errors
    /// If it is not there, or no capture, or a pcapng file whose interfaces differ.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        let capture = Capture::from_file(path)
            .map_err(|error| CaptureError::Open { path: path.to_owned(), why: error.to_string() })?;
        let link = Link::of(capture.get_datalink().0);
        Ok(Self { path: path.to_owned(), capture, link })
    }

    /// Keeps only what this filter lets through (pcap-filter(7)).
    ///
    /// # Errors
    /// In the words of the filter's compiler.
    pub fn filter(&mut self, program: &str) -> Result<(), CaptureError> {
        self.capture.filter(program, true).map_err(|error| CaptureError::Open {
            path: self.path.clone(),
            why: format!("filter `{program}`: {error}"),
        })
    }

    /// Hands over all packets. What was handed over stays so when it fails.
    ///
    /// # Errors
    /// Where the file is cut off or damaged.
    pub fn each(&mut self, mut take: impl FnMut(Captured<'_>)) -> Result<(), CaptureError> {
        let mut packets = 0;
        loop {
            match self.capture.next_packet() {
                Ok(packet) => {
                    packets += 1;
                    // Times before 1970, or with more microseconds than a second has, come from damaged files.
                    let seconds = u64::try_from(packet.header.ts.tv_sec).unwrap_or_default();
                    let micros = u64::try_from(packet.header.ts.tv_usec).unwrap_or_default();
                    let at_us = seconds.saturating_mul(1_000_000).saturating_add(micros);
                    take(Captured { at_us, wire_bytes: packet.header.len, bytes: packet.data });
                }
                Err(pcap::Error::NoMorePackets) => return Ok(()),
                Err(error) => {
                    return Err(CaptureError::Broken { path: self.path.clone(), packets, why: error.to_string() });
                }
            }
        }
    }
}
