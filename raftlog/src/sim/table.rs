//! What the groups of a simulated fleet agree on: a few keys with versions, and a session for each client.

use std::{
    collections::BTreeMap,
    io::{self, Read},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::random::mix;
use crate::types::State;

/// A group's state at one index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The last index applied.
    pub index: u64,
    cells: [Cell; KEYS],
    /// By client: its newest request, and what it was answered.
    sessions: BTreeMap<u32, Answer>,
    digest: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cell {
    value: u64,
    /// Counts the writes.
    version: u64,
}

/// What a client wants done. Sent again with the same number it is done once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub client: u32,
    /// Counts up, per client.
    pub number: u64,
    pub key: u8,
    pub change: Change,
    /// Bytes that mean nothing, so that logs grow.
    pub padding: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Put(u64),
    /// Folds a number into the value.
    Append(u64),
    /// Puts the value if the key has this version.
    Swap {
        version: u64,
        value: u64,
    },
}

/// What a request came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub number: u64,
    pub key: u8,
    /// Whether it changed the key.
    pub changed: bool,
    /// The key's version and value after it.
    pub version: u64,
    pub value: u64,
}

impl Request {
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(REQUEST_BYTES + usize::from(self.padding));
        let (kind, version, value) = match self.change {
            Change::Put(value) => (0, 0, value),
            Change::Append(value) => (1, 0, value),
            Change::Swap { version, value } => (2, version, value),
        };
        bytes.put_u32(self.client);
        bytes.put_u64(self.number);
        bytes.put_u8(self.key);
        bytes.put_u8(kind);
        bytes.put_u64(version);
        bytes.put_u64(value);
        bytes.put_bytes(self.key, usize::from(self.padding));
        bytes.freeze()
    }

    fn decode(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() < REQUEST_BYTES {
            return None;
        }
        let (client, number, key, kind) = (bytes.get_u32(), bytes.get_u64(), bytes.get_u8(), bytes.get_u8());
        let (version, value) = (bytes.get_u64(), bytes.get_u64());
        let change = match kind {
            0 => Change::Put(value),
            1 => Change::Append(value),
            2 => Change::Swap { version, value },
            _ => return None,
        };
        Some(Self { client, number, key: key % KEYS as u8, change, padding: bytes.len() as u16 })
    }
}

impl Table {
    /// A group's first state.
    pub fn new(index: u64) -> Self {
        Self { index, ..Self::default() }
    }

    /// Takes the entry at `index`; the answer of a request, and the client.
    pub fn apply(&mut self, index: u64, data: Option<&[u8]>) -> Option<(u32, Answer)> {
        self.index = index;
        let request = Request::decode(data?)?;
        let known = self.sessions.get(&request.client).copied();
        if let Some(known) = known.filter(|known| known.number >= request.number) {
            return (known.number == request.number).then_some((request.client, known));
        }
        let answer = self.change(&request);
        self.digest ^=
            known.map_or(0, |known| of_session(request.client, &known)) ^ of_session(request.client, &answer);
        self.sessions.insert(request.client, answer);
        Some((request.client, answer))
    }

    fn change(&mut self, request: &Request) -> Answer {
        let place = usize::from(request.key);
        let old = self.cells[place];
        let value = match request.change {
            Change::Put(value) => Some(value),
            Change::Append(value) => Some(mix(old.value, value)),
            Change::Swap { version, value } => (old.version == version).then_some(value),
        };
        if let Some(value) = value {
            let new = Cell { value, version: old.version + 1 };
            self.digest ^= of_cell(place, &old) ^ of_cell(place, &new);
            self.cells[place] = new;
        }
        let Cell { value: now, version } = self.cells[place];
        Answer { number: request.number, key: request.key, changed: value.is_some(), version, value: now }
    }

    /// The version and value of a key.
    pub fn read(&self, key: u8) -> (u64, u64) {
        let cell = self.cells[usize::from(key)];
        (cell.version, cell.value)
    }

    /// Of all that is in it but the index.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Reads a table back.
    ///
    /// # Errors
    /// Those of `from`, also where it ends too early or does not make sense.
    pub fn read_from(from: &mut dyn Read) -> io::Result<Self> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes)?;
        Self::decode(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "this is no table"))
    }

    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut table = Self { index: bytes.try_get_u64().ok()?, ..Self::default() };
        for (place, cell) in table.cells.iter_mut().enumerate() {
            *cell = Cell { value: bytes.try_get_u64().ok()?, version: bytes.try_get_u64().ok()? };
            table.digest ^= of_cell(place, cell) ^ of_cell(place, &Cell::default());
        }
        while bytes.has_remaining() {
            let client = bytes.try_get_u32().ok()?;
            let (number, key) = (bytes.try_get_u64().ok()?, bytes.try_get_u8().ok()?);
            let changed = bytes.try_get_u8().ok()? == 1;
            let (version, value) = (bytes.try_get_u64().ok()?, bytes.try_get_u64().ok()?);
            let answer = Answer { number, key, changed, version, value };
            table.digest ^= of_session(client, &answer);
            table.sessions.insert(client, answer);
        }
        Some(table)
    }
}

impl State for Table {
    fn write_to(&self, out: &mut dyn io::Write) -> io::Result<()> {
        let mut bytes = BytesMut::new();
        bytes.put_u64(self.index);
        for cell in &self.cells {
            bytes.put_u64(cell.value);
            bytes.put_u64(cell.version);
        }
        for (client, answer) in &self.sessions {
            bytes.put_u32(*client);
            bytes.put_u64(answer.number);
            bytes.put_u8(answer.key);
            bytes.put_u8(u8::from(answer.changed));
            bytes.put_u64(answer.version);
            bytes.put_u64(answer.value);
        }
        out.write_all(&bytes)
    }
}

fn of_cell(place: usize, cell: &Cell) -> u64 {
    mix(mix(place as u64 + 1, cell.version), cell.value)
}

fn of_session(client: u32, answer: &Answer) -> u64 {
    mix(mix(mix(u64::from(client) + 1000, answer.number), answer.version), answer.value)
}

/// How many keys a group has.
pub const KEYS: usize = 4;

/// A request without its padding.
const REQUEST_BYTES: usize = 30;
