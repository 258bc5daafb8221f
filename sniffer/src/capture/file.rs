//! The door to capture files.

use std::{
    fs,
    os::fd::{FromRawFd, IntoRawFd, OwnedFd},
    path::{Path, PathBuf},
};

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
    /// Begins to read a file that is open already: whoever may open it need not be who reads it.
    ///
    /// # Errors
    /// If it is no capture, or a pcapng file whose interfaces differ.
    pub fn of(path: &Path, file: fs::File) -> Result<Self, CaptureError> {
        let descriptor = file.into_raw_fd();
        // SAFETY: nobody else has the descriptor.
        let capture = unsafe { Capture::from_raw_fd(descriptor) }.map_err(|error| {
            // SAFETY: libpcap leaves open what it cannot read, and does not use it any more.
            drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
            CaptureError::Open { path: path.to_owned(), why: words(&error) }
        })?;
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
