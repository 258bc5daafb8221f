//! A snapshot's body on its way in: collected chunk by chunk, checked, never larger than there is room for.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::generated::{SnapshotChunk, SnapshotHeader};

/// The bytes that all bodies on their way in may take together: one permit is one byte.
pub(super) type Room = Arc<Semaphore>;

/// A body that is being collected. Memory is taken as bytes arrive, whatever the header promised.
#[derive(Debug)]
pub(super) struct Body {
    bytes: Vec<u8>,
    /// CRC-32C of `bytes`.
    checksum: u32,
    total_bytes: usize,
    total_checksum: u32,
    room: Room,
    held: Vec<OwnedSemaphorePermit>,
}

/// Why a body was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BodyError {
    /// The header promises more than may ever be taken.
    #[error("the snapshot has {total} bytes, the limit here is {max}")]
    TooLarge { total: u64, max: usize },
    /// Other snapshots take the room.
    #[error("no room for the snapshot while others arrive")]
    NoRoom,
    /// A chunk without data.
    #[error("a chunk of the snapshot is empty")]
    EmptyChunk,
    /// More came than the header promised.
    #[error("the snapshot is longer than its header says")]
    TooLong,
    /// The stream ended early.
    #[error("the snapshot ended after {len} of {total} bytes")]
    TooShort { len: usize, total: usize },
    /// A chunk is damaged.
    #[error("the chunk at byte {offset} of the snapshot is damaged")]
    ChunkDamaged { offset: usize },
    /// All chunks are as they were sent and still it is not the body.
    #[error("the snapshot as a whole is damaged")]
    Damaged,
}

impl Body {
    /// An empty body for what `header` promises, of at most `max` bytes.
    pub(super) fn new(header: &SnapshotHeader, max: usize, room: Room) -> Result<Body, BodyError> {
        let too_large = BodyError::TooLarge { total: header.total_bytes, max };
        let total_bytes = usize::try_from(header.total_bytes).map_err(|_| too_large.clone())?;
        if total_bytes > max {
            return Err(too_large);
        }
        let total_checksum = header.crc32c;
        Ok(Body { bytes: Vec::new(), checksum: 0, total_bytes, total_checksum, room, held: Vec::new() })
    }

    /// Adds the next chunk.
    pub(super) fn push(&mut self, chunk: &SnapshotChunk) -> Result<(), BodyError> {
        let left = self.total_bytes - self.bytes.len();
        if chunk.data.is_empty() {
            return Err(BodyError::EmptyChunk);
        }
        if chunk.data.len() > left {
            return Err(BodyError::TooLong);
        }
        if crc32c::crc32c(&chunk.data) != chunk.crc32c {
            return Err(BodyError::ChunkDamaged { offset: self.bytes.len() });
        }
        self.hold(chunk.data.len())?;
        if self.bytes.capacity() - self.bytes.len() < chunk.data.len() {
            let growth = chunk.data.len().max(self.bytes.len() / 2).max(GROWTH_BYTES_MIN);
            self.bytes.reserve_exact(growth.min(left));
        }
        self.bytes.extend_from_slice(&chunk.data);
        self.checksum = crc32c::crc32c_append(self.checksum, &chunk.data);
        Ok(())
    }

    /// Whether all bytes are there.
    pub(super) fn is_whole(&self) -> bool {
        self.bytes.len() == self.total_bytes
    }

    /// The whole body, and its hold on the room, to be kept as long as the body.
    pub(super) fn finish(self) -> Result<(Bytes, Vec<OwnedSemaphorePermit>), BodyError> {
        if !self.is_whole() {
            return Err(BodyError::TooShort { len: self.bytes.len(), total: self.total_bytes });
        }
        if self.checksum != self.total_checksum {
            return Err(BodyError::Damaged);
        }
        Ok((Bytes::from(self.bytes), self.held))
    }

    fn hold(&mut self, bytes: usize) -> Result<(), BodyError> {
        let count = u32::try_from(bytes).map_err(|_| BodyError::NoRoom)?;
        let permit = self.room.clone().try_acquire_many_owned(count).map_err(|_| BodyError::NoRoom)?;
        match self.held.first_mut() {
            Some(first) => first.merge(permit),
            None => self.held.push(permit),
        }
        Ok(())
    }
}

/// The least that a body's memory grows by.
const GROWTH_BYTES_MIN: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn header(body: &[u8]) -> SnapshotHeader {
        SnapshotHeader { total_bytes: body.len() as u64, crc32c: crc32c::crc32c(body), ..SnapshotHeader::default() }
    }

    fn chunk(data: &[u8]) -> SnapshotChunk {
        SnapshotChunk { data: Bytes::copy_from_slice(data), crc32c: crc32c::crc32c(data) }
    }

    fn body(promised: &[u8]) -> Body {
        Body::new(&header(promised), 100, Arc::new(Semaphore::new(100))).unwrap()
    }

    #[test]
    fn chunks_make_the_body() {
        let mut body = body(b"hello world");
        body.push(&chunk(b"hello ")).unwrap();
        assert!(!body.is_whole());
        body.push(&chunk(b"world")).unwrap();
        let (bytes, _held) = body.finish().unwrap();
        assert_eq!(bytes, "hello world");
    }

    #[test]
    fn an_empty_body_needs_no_chunk() {
        assert_eq!(body(b"").finish().unwrap().0, "");
    }

    #[test]
    fn what_is_not_as_promised_is_refused() {
        assert_eq!(body(b"ab").push(&chunk(b"")).unwrap_err(), BodyError::EmptyChunk);
        assert_eq!(body(b"ab").push(&chunk(b"abc")).unwrap_err(), BodyError::TooLong);
        assert_eq!(body(b"ab").finish().unwrap_err(), BodyError::TooShort { len: 0, total: 2 });
        let mut damaged = chunk(b"ab");
        damaged.crc32c ^= 1;
        assert_eq!(body(b"ab").push(&damaged).unwrap_err(), BodyError::ChunkDamaged { offset: 0 });
        let mut other = body(b"ab");
        other.push(&chunk(b"ba")).unwrap();
        assert_eq!(other.finish().unwrap_err(), BodyError::Damaged);
    }

    #[test]
    fn the_limits_hold_for_one_body_and_for_all() {
        let room = Arc::new(Semaphore::new(10));
        let huge = SnapshotHeader { total_bytes: u64::MAX, ..SnapshotHeader::default() };
        assert!(matches!(Body::new(&huge, 100, room.clone()), Err(BodyError::TooLarge { .. })));
        let mut first = Body::new(&header(&[1; 8]), 100, room.clone()).unwrap();
        let mut second = Body::new(&header(&[1; 8]), 100, room.clone()).unwrap();
        first.push(&chunk(&[1; 8])).unwrap();
        assert_eq!(second.push(&chunk(&[1; 8])).unwrap_err(), BodyError::NoRoom);
        drop(first);
        second.push(&chunk(&[1; 8])).unwrap();
    }
}
