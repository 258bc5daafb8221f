//! The door to the disk: named files in one directory, synchronous, nothing durable before its sync.

mod file;
mod memory;
#[cfg(test)]
mod tests;

use std::io;

pub use file::FileDisk;
pub(crate) use memory::SplitMix;
pub use memory::{MemDisk, SECTOR_BYTES};

/// One data directory.
///
/// What callers rely on: a file's bytes are durable after [`DiskFile::sync_data`], its name only after
/// [`Disk::sync_dir`], and a rename replaces the old file as a whole. Before that, any part of it may or may not
/// survive.
pub trait Disk: Send + Sync {
    /// The names of all files, sorted.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes an empty file; one with that name loses its content.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file that is there.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Gives a file another name; a file that had it is gone.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes names, renames and removals so far durable.
    fn sync_dir(&self) -> io::Result<()>;
}

/// An open file of a [`Disk`].
pub trait DiskFile: Send + Sync {
    /// How long the file is.
    fn length(&self) -> io::Result<u64>;
    /// Fills the whole buffer from `offset` on, or fails.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Writes all bytes at `offset`, growing the file where needed (a hole reads as zeros). After an error any
    /// prefix of them may be there.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Writes zeros, really: later writes there need no new blocks.
    fn write_zeros(&mut self, offset: u64, length: u64) -> io::Result<()>;
    /// Makes all bytes and the length durable.
    fn sync_data(&mut self) -> io::Result<()>;
}

/// What a name gets while its file is being made.
pub const STAGED_SUFFIX: &str = ".new";

/// Makes the file `name` under its staged name: writes it, syncs it. After an error nothing of it counts.
pub fn stage(
    disk: &dyn Disk,
    name: &str,
    write: &mut dyn FnMut(&mut dyn DiskFile) -> io::Result<()>,
) -> io::Result<Box<dyn DiskFile>> {
    let staged = format!("{name}{STAGED_SUFFIX}");
    let mut file = disk.create(&staged)?;
    match write(file.as_mut()).and_then(|()| file.sync_data()) {
        Ok(()) => Ok(file),
        Err(error) => {
            drop(file);
            // Gives the space back early. A leftover is harmless: `create` empties it, the next start sweeps it.
            disk.remove(&staged).ok();
            Err(error)
        }
    }
}

/// Gives a staged file its name, durably. After an error it may have either.
pub fn publish(disk: &dyn Disk, name: &str) -> io::Result<()> {
    disk.rename(&format!("{name}{STAGED_SUFFIX}"), name)?;
    disk.sync_dir()
}

/// The whole content of a file that is at most `limit` bytes long.
pub fn read_whole(disk: &dyn Disk, name: &str, limit: u64) -> io::Result<Vec<u8>> {
    let file = disk.open(name)?;
    let length = file.length()?;
    if length > limit {
        let text = format!("{length} bytes are more than the {limit} that such a file can have");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    let length = usize::try_from(length).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let mut bytes = vec![0; length];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// Whether an error says that there is no room, which may change, and not that something broke.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether opening, making or listing files failed for want of descriptors or of the system's memory. Nothing was changed
/// then, and the same may succeed later. Of a write or a sync it says nothing of the kind.
pub fn is_starved(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::OutOfMemory || matches!(error.raw_os_error(), Some(EMFILE | ENFILE))
}

/// Refuses names that would leave the directory.
fn check_name(name: &str) -> io::Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.starts_with('.') || !name.bytes().all(plain) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no name for a data file")));
    }
    Ok(())
}

/// The process, and the system, have no descriptor left; the same numbers on all Unix systems.
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;

const NAME_BYTES_MAX: usize = 128;
