//! Where each live entry lies in its segment, so that it can be read back; kept in memory, bounded by what is live.

use std::collections::VecDeque;

use super::SEGMENT_FILE_BYTES_MAX;

/// Where an entry's record starts in its segment, how long its payload is, and the payload's CRC-32C: the frame's own
/// checksum covers a whole round, which may be long, and what disks return may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub offset: u32,
    pub length: u32,
    pub checksum: u32,
}

impl Position {
    /// Of an entry whose record starts at `offset` of its segment.
    pub fn new(offset: u64, payload: &[u8]) -> Position {
        // Both fit: a segment file is far shorter than 4 GiB, a payload shorter still.
        const { assert!(SEGMENT_FILE_BYTES_MAX <= u32::MAX as u64) };
        debug_assert!(offset <= SEGMENT_FILE_BYTES_MAX);
        Position { offset: offset as u32, length: payload.len() as u32, checksum: crc32c::crc32c(payload) }
    }
}

/// The positions of a group's live entries, by index. 12 bytes for each, and never more than 24 with the room to grow
/// (beyond a fixed few). Segment and term are those of the entry's run in the group's log.
#[derive(Debug, Default)]
pub(super) struct Positions {
    first: u64,
    places: VecDeque<Position>,
}

impl Positions {
    /// The position of the entry at this index.
    pub fn at(&self, index: u64) -> Option<Position> {
        let place = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.places.get(place).copied()
    }

    /// Takes up an entry; those at its index and after it are gone.
    pub fn put(&mut self, index: u64, position: Position) {
        self.places.truncate(index.saturating_sub(self.first) as usize);
        if self.places.is_empty() {
            self.first = index;
        }
        debug_assert_eq!(self.first + self.places.len() as u64, index);
        self.places.push_back(position);
        self.fit();
    }

    /// Forgets the entries up to this index.
    pub fn drop_through(&mut self, index: u64) {
        let dead = (index + 1).saturating_sub(self.first).min(self.places.len() as u64);
        self.places.drain(..dead as usize);
        self.first += dead;
        self.fit();
    }

    /// Forgets all entries.
    pub fn clear(&mut self) {
        self.places.clear();
        self.fit();
    }

    /// The first and the last index, if there are any.
    #[cfg(test)]
    pub fn range(&self) -> Option<(u64, u64)> {
        Some((self.first, self.first + self.places.len().checked_sub(1)? as u64))
    }

    /// Bytes of memory for the positions.
    #[cfg(test)]
    pub fn memory_bytes(&self) -> usize {
        self.places.capacity() * size_of::<Position>()
    }

    /// Gives back memory where more than half of it is not used. What stays has some room, so that this is rare.
    fn fit(&mut self) {
        if self.places.capacity() > ROOM_MIN && self.places.len() < self.places.capacity() / 2 {
            self.places.shrink_to((self.places.len() * 5 / 4).max(ROOM_MIN));
        }
    }
}

/// So many positions a group may have room for without having them.
const ROOM_MIN: usize = 64;
