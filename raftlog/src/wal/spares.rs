//! Segments that were released and wait to be used again: their blocks are there, so that no later sync needs metadata.

use super::error::WalError;
use super::format::segment_name;
use super::{io_error, write_error};
use crate::disk::Disk;

/// How many released segments are kept.
pub const SPARE_SEGMENTS_MAX: usize = 2;

/// A released segment, durably under the name of a spare.
pub(super) struct Spare {
    pub name: String,
    pub length: u64,
}

/// The spares of a disk that are of use; removes the others. The directory was synced before, so that none of them can
/// come back as a segment.
pub(super) fn adopt(disk: &dyn Disk, bytes_max: u64) -> Result<Vec<Spare>, WalError> {
    let mut spares = Vec::new();
    for name in disk.list().map_err(|source| io_error("listing", "the data directory", source))? {
        if !is_spare(&name) {
            continue;
        }
        let length = disk.open(&name).and_then(|file| file.length());
        let length = length.map_err(|source| io_error("opening", &name, source))?;
        if spares.len() < SPARE_SEGMENTS_MAX && is_of_use(length, bytes_max) {
            spares.push(Spare { name, length });
        } else {
            disk.remove(&name).map_err(|source| io_error("removing", &name, source))?;
        }
    }
    Ok(spares)
}

/// Takes a segment that no group needs out of the log: it becomes a spare if there is room for one, else it is gone. A
/// spare may be written to only once the directory is synced: before that it could come back as a segment.
pub(super) fn retire(disk: &dyn Disk, sequence: u64, length: u64, keep: bool) -> Result<Option<Spare>, WalError> {
    let name = segment_name(sequence);
    if !keep {
        return disk.remove(&name).map(|()| None).map_err(|source| write_error("removing", &name, source));
    }
    let spare = Spare { name: format!("{PREFIX}{sequence:016x}{SUFFIX}"), length };
    disk.rename(&name, &spare.name).map_err(|source| write_error("renaming", &name, source))?;
    Ok(Some(spare))
}

/// A spare as long as no segment is now would keep its space for good.
pub(super) fn is_of_use(length: u64, bytes_max: u64) -> bool {
    (1..=bytes_max).contains(&length)
}

fn is_spare(name: &str) -> bool {
    let digits = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX));
    digits.is_some_and(|digits| digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

const PREFIX: &str = "spare-";
const SUFFIX: &str = ".log";
