//! Small values that are replaced as a whole: who this instance is, whom it knows.

use std::io;

use bytes::BufMut;

use super::error::WalError;
use super::format::Reader;
use super::io_error;
use crate::disk::{Disk, is_full, publish, read_whole, stage};

/// The longest small value.
pub const SMALL_BYTES_MAX: usize = 1 << 20;

/// Stores a value under a name, durably; a crash leaves the old one or the new one.
pub fn save_small(disk: &dyn Disk, name: &str, value: &[u8]) -> Result<(), WalError> {
    let file = file_name(name)?;
    if value.len() > SMALL_BYTES_MAX {
        return Err(WalError::Refused(format!("{name}: {} bytes, the limit is {SMALL_BYTES_MAX}", value.len())));
    }
    let mut bytes = Vec::with_capacity(HEAD_BYTES + value.len());
    bytes.put_slice(&MAGIC);
    bytes.put_u32(VERSION);
    bytes.put_u32(0);
    bytes.put_u32(value.len() as u32);
    bytes.put_slice(value);
    let checksum = checksum(name, &bytes);
    bytes[12..16].copy_from_slice(&checksum.to_be_bytes());
    let failed = |source: io::Error| match is_full(&source) {
        true => WalError::NoSpace { file: file.clone() },
        false => io_error("writing", &file, source),
    };
    stage(disk, &file, &mut |door| door.write_at(0, &bytes)).map_err(failed)?;
    publish(disk, &file).map_err(failed)
}

/// The value under a name; `None` where none was ever stored.
pub fn load_small(disk: &dyn Disk, name: &str) -> Result<Option<Vec<u8>>, WalError> {
    let file = file_name(name)?;
    let bytes = match read_whole(disk, &file, (HEAD_BYTES + SMALL_BYTES_MAX) as u64) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error("reading", &file, source)),
    };
    if !bytes.starts_with(&MAGIC) {
        return Err(WalError::Foreign { file, why: "it does not start as a data file does".into() });
    }
    let corrupt = |what: &str| WalError::CorruptFile { file: file.clone(), what: what.to_owned() };
    let Some((head, value)) = bytes.split_at_checked(HEAD_BYTES) else {
        return Err(corrupt("it is shorter than its header"));
    };
    let mut reader = Reader(&head[MAGIC.len()..]);
    let (version, stored, length) = (reader.u32(), reader.u32(), reader.u32());
    if stored != Some(checksum(name, &bytes)) || length != Some(value.len() as u32) {
        return Err(corrupt("its checksum does not fit"));
    }
    match version {
        Some(VERSION) => Ok(Some(value.to_vec())),
        other => Err(WalError::UnknownVersion { file, version: other.unwrap_or_default(), known: VERSION }),
    }
}

fn file_name(name: &str) -> Result<String, WalError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(plain) {
        return Err(WalError::Refused(format!("{name:?} is no name for a small file")));
    }
    Ok(format!("{name}.dat"))
}

/// Over the name and all bytes but the checksum's own.
fn checksum(name: &str, bytes: &[u8]) -> u32 {
    let named = crc32c::crc32c_append(crc32c::crc32c(name.as_bytes()), &bytes[..12]);
    crc32c::crc32c_append(named, &bytes[16..])
}

const MAGIC: [u8; 8] = *b"raftdat\n";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 20;
const NAME_BYTES_MAX: usize = 64;
