//! The door to capture files.

use std::path::{Path, PathBuf};

use pcap::{Capture, Offline};

use super::{Captured, words};
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
            .map_err(|error| CaptureError::Open { path: path.to_owned(), why: words(&error) })?;
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
            why: format!("filter `{program}`: {}", words(&error)),
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
                    take(packet.into());
                }
                Err(pcap::Error::NoMorePackets) => return Ok(()),
                Err(error) => {
                    return Err(CaptureError::Broken { path: self.path.clone(), packets, why: words(&error) });
                }
            }
        }
    }
}
