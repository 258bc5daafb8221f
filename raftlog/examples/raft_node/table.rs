//! The state machine: a count and a digest of what was applied, and as much ballast as a measurement wants.

use std::{
    io::{self, Read, Write},
    sync::Arc,
};

use raftlog::types::State;

/// A group's state. Cheap to clone: the ballast is shared.
#[derive(Clone, Default)]
pub struct Table {
    /// The last index applied.
    pub applied: u64,
    count: u64,
    digest: u32,
    ballast: Vec<Arc<[u8]>>,
}

impl Table {
    /// An empty state, at an index.
    pub fn at(applied: u64) -> Self {
        Self { applied, ..Self::default() }
    }

    /// Applies a command at an index.
    pub fn apply(&mut self, index: u64, command: &[u8]) {
        self.applied = index;
        self.count += 1;
        self.digest = crc32c::crc32c_append(self.digest, command);
        if let Some((&FILL, wanted)) = command.split_first() {
            let wanted = wanted.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
            let have = self.ballast.len() as u64;
            self.ballast.extend((have..wanted.min(have + PIECES_PER_COMMAND_MAX)).map(piece));
        }
    }

    /// How many bytes of ballast there are.
    pub fn ballast_bytes(&self) -> u64 {
        (self.ballast.len() * PIECE_BYTES) as u64
    }

    /// Adds a check of everything that was applied, and of how far, to that of other tables.
    pub fn add_to_digest(others: u32, table: &Self) -> u32 {
        let others = crc32c::crc32c_append(others, &table.applied.to_be_bytes());
        crc32c::crc32c_append(others, &table.digest.to_be_bytes())
    }

    /// Reads what [`State::write_to`] wrote.
    ///
    /// # Errors
    /// Those of `from`.
    pub fn read_from(from: &mut dyn Read) -> io::Result<Self> {
        let mut head = [0; HEAD_BYTES];
        from.read_exact(&mut head)?;
        let number = |at: usize| head[at..].first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        let digest = head[16..].first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        let mut table = Self { applied: number(0), count: number(8), digest, ballast: Vec::new() };
        for _ in 0..number(20) {
            let mut piece = vec![0; PIECE_BYTES];
            from.read_exact(&mut piece)?;
            table.ballast.push(piece.into());
        }
        Ok(table)
    }
}

impl State for Table {
    fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.applied.to_be_bytes())?;
        out.write_all(&self.count.to_be_bytes())?;
        out.write_all(&self.digest.to_be_bytes())?;
        out.write_all(&(self.ballast.len() as u64).to_be_bytes())?;
        self.ballast.iter().try_for_each(|piece| out.write_all(piece))
    }
}

/// A command that adds some ballast while there is less than so many bytes. It may be repeated.
pub fn fill(bytes: u64) -> Vec<u8> {
    let mut command = vec![FILL];
    command.extend((bytes / PIECE_BYTES as u64).to_be_bytes());
    command
}

/// Bytes that no file system or network makes smaller; the same on every replica.
fn piece(number: u64) -> Arc<[u8]> {
    let mut state = number.wrapping_mul(GOLDEN) | 1;
    let mut bytes = Vec::with_capacity(PIECE_BYTES);
    while bytes.len() < PIECE_BYTES {
        // xorshift64 (Marsaglia 2003)
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_be_bytes());
    }
    bytes.into()
}

/// The first byte of a command without meaning.
pub const BLANK: u8 = 0;
const FILL: u8 = 1;
const HEAD_BYTES: usize = 28;
const PIECE_BYTES: usize = 1 << 20;
/// Applying a command must not take long.
const PIECES_PER_COMMAND_MAX: u64 = 8;
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
