//! The savefile: what was captured, as a pcap file that others read.
//!
//! libpcap's own writer tells of no error until it is too late; this one tells of the first.

use std::{
    fs,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use super::Captured;

/// The savefile cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct SaveError {
    /// The file.
    pub path: PathBuf,
    /// What the system says.
    pub why: io::Error,
}

/// A savefile that is being written.
pub struct Save {
    path: PathBuf,
    out: BufWriter<fs::File>,
}

impl Save {
    /// Makes one, in place of what may be there: frames of that link type (tcpdump.org/linktypes.html), cut to `snaplen`.
    ///
    /// # Errors
    /// If the system does not let it be written.
    pub fn create(path: &Path, link_type: u32, snaplen: u32) -> Result<Self, SaveError> {
        let failed = |why| SaveError { path: path.to_owned(), why };
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, fs::File::create(path).map_err(failed)?);
        let words = [MAGIC_MICROSECONDS, VERSION_2_4, 0, 0, snaplen, link_type];
        // Flushed, so that a disk that takes nothing is known before the capture begins.
        out.write_all(&words.map(u32::to_be_bytes).concat()).and_then(|()| out.flush()).map_err(failed)?;
        Ok(Self { path: path.to_owned(), out })
    }

    /// Adds a packet.
    ///
    /// # Errors
    /// If the disk takes no more.
    pub fn packet(&mut self, packet: Captured<'_>) -> Result<(), SaveError> {
        let (seconds, micros) = (packet.at_us / 1_000_000, packet.at_us % 1_000_000);
        let words = [seconds as u32, micros as u32, packet.bytes.len() as u32, packet.wire_bytes];
        let head = words.map(u32::to_be_bytes);
        let written = self.out.write_all(head.as_flattened()).and_then(|()| self.out.write_all(packet.bytes));
        written.map_err(|why| SaveError { path: self.path.clone(), why })
    }

    /// Writes what is still held back.
    ///
    /// # Errors
    /// If the disk takes no more.
    pub fn flush(&mut self) -> Result<(), SaveError> {
        self.out.flush().map_err(|why| SaveError { path: self.path.clone(), why })
    }
}

/// Bytes that are held back until they are written at once.
const BUFFER_BYTES: usize = 256 << 10;

/// A pcap file with times in microseconds; big-endian, as all that we write.
const MAGIC_MICROSECONDS: u32 = 0xa1b2_c3d4;
const VERSION_2_4: u32 = 2 << 16 | 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{capture::File, decode::Link};

    #[test]
    fn what_is_saved_is_read_back() {
        let path = std::env::temp_dir().join(format!("sniffer-save-{}.pcap", std::process::id()));
        let mut save = Save::create(&path, 1, 4).unwrap();
        save.packet(Captured { at_us: 1_700_000_000_000_007, wire_bytes: 60, bytes: b"abcd" }).unwrap();
        save.packet(Captured { at_us: 1_700_000_001_999_999, wire_bytes: 2, bytes: b"ef" }).unwrap();
        save.flush().unwrap();
        let mut file = File::of(&path, std::fs::File::open(&path).unwrap()).unwrap();
        fs::remove_file(&path).unwrap();
        let mut read = Vec::new();
        file.each(|packet| read.push((packet.at_us, packet.wire_bytes, packet.bytes.to_vec()))).unwrap();
        assert_eq!(file.link, Some(Link::Ethernet));
        let expected = [(1_700_000_000_000_007, 60, b"abcd".to_vec()), (1_700_000_001_999_999, 2, b"ef".to_vec())];
        assert_eq!(read, expected);
    }

    #[test]
    fn a_full_disk_is_told_of_at_once() {
        let error = Save::create(Path::new("/dev/full"), 1, 4).err().unwrap();
        assert_eq!(error.why.kind(), io::ErrorKind::StorageFull);
        assert!(error.to_string().starts_with("/dev/full: "), "{error}");
    }
}
