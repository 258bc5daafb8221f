//! Snapshots: a table's whole state as a stream of bytes, row by row, and back.

mod flows;
mod rows;
mod sessions;
mod stream;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    hash::Hasher,
    io::{self, Read, Write},
    sync::Arc,
};

use prost::Message;

pub(crate) use self::sessions::outcome_bytes;
pub use self::stream::{CHUNK_BYTES, FORMAT, ROW_BYTES_MAX, SnapshotError};
use self::{
    rows::{
        BackendRow, ControlHead, ControlKind, ControlRow, KvRow, MemberRow, PinHead, PinKind, PinRow, PoolRow,
        VerdictRow, VoteRow,
    },
    stream::{RowReader, RowWriter},
};
use crate::{
    control::{
        ControlTable, DEPARTED_MAX, KV_BYTES_MAX, KV_KEYS_MAX, KvEntry, MEMBERS_MAX, Member, Pool, Verdict, Vote,
    },
    ids::{BackendId, DIGEST_KEY, Epoch, Incarnation, InstanceId, LogTime, PoolId, Revision},
    pins::{BackendState, Expiry, PinTable},
    plant::{self, Plant},
    pool::PoolSpec,
    wire::{self, PinRowMessage, PoolTtlMessage, WireError},
};

impl PinTable {
    /// Writes the table. Of equal tables the pins may come in another order.
    ///
    /// # Errors
    /// Those of `out`, and if a row is larger than [`ROW_BYTES_MAX`].
    pub fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut writer = RowWriter::begin(out, PIN_TABLE);
        let mut put = |row| writer.put(&PinRow { row: Some(row) });
        put(PinKind::Head(PinHead {
            applied: self.applied.0,
            time: self.time.0,
            epoch: self.epoch.0,
            last_move: self.last_move.0,
            settled: self.settled.0,
        }))?;
        for (pool, ttl) in &self.pools {
            put(PinKind::Pool(PoolTtlMessage { pool: pool.0, pin_ttl_ms: *ttl }))?;
        }
        for (id, state) in &self.backends {
            put(PinKind::Backend(BackendRow {
                backend: id.0,
                standing: state.standing as u32,
                since: state.since.0,
                pins: state.pins,
            }))?;
        }
        for (key, pin) in &self.pins {
            put(PinKind::Pin(PinRowMessage::new(key, pin)))?;
        }
        let rows = writer.rows();
        writer.end(&PinRow { row: Some(PinKind::End(rows)) })
    }

    /// Reads a table, with the expiry index that goes with it. `input` must end with the table.
    ///
    /// # Errors
    /// If it is not the whole snapshot of such a table in this version's format.
    pub fn read_from(input: &mut dyn Read) -> Result<(Self, Expiry), SnapshotError> {
        let mut reader = RowReader::begin(input, PIN_TABLE)?;
        let head = match reader.next::<PinRow>()?.row {
            Some(PinKind::Head(head)) => head,
            _ => return Err(reader.bad(WireError::Field("head"))),
        };
        let mut table = Self::new();
        table.applied = Revision(head.applied);
        table.time = LogTime(head.time);
        table.epoch = Epoch(head.epoch);
        table.last_move = Revision(head.last_move);
        table.settled = Revision(head.settled);
        let mut expiry = Expiry::new();
        let mut counts = BTreeMap::<BackendId, u64>::new();
        let told = loop {
            match reader.next::<PinRow>()?.row {
                Some(PinKind::Pool(pool)) => {
                    let id = PoolId(pool.pool);
                    reader.ordered(table.pools.get_max().is_none_or(|(last, _)| *last < id), "pools")?;
                    table.pools.insert(id, pool.pin_ttl_ms);
                }
                Some(PinKind::Backend(row)) => {
                    let id = BackendId(row.backend);
                    reader.ordered(table.backends.get_max().is_none_or(|(last, _)| *last < id), "backends")?;
                    let standing = wire::standing(row.standing).map_err(|error| reader.bad(error))?;
                    let state = BackendState { standing, since: Revision(row.since), pins: row.pins };
                    table.backends.insert(id, state);
                }
                Some(PinKind::Pin(row)) => {
                    let (key, pin) = row.row().map_err(|error| reader.bad(error))?;
                    reader.ordered(table.restore(key, pin, &mut expiry), "a key")?;
                    *counts.entry(pin.backend).or_default() += 1;
                }
                Some(PinKind::End(told)) => break told,
                Some(PinKind::Head(_)) | None => return Err(reader.bad(WireError::Field("row"))),
            }
        };
        reader.end(told)?;
        let counted = |id: &BackendId| counts.get(id).copied().unwrap_or(0);
        let known = counts.keys().all(|id| table.backends.contains_key(id));
        if !known || table.backends.iter().any(|(id, state)| state.pins != counted(id)) {
            return Err(SnapshotError::Contradiction("the pins of a backend are not as many as it says"));
        }
        Ok((table, expiry))
    }

    /// The table's bytes. For tables that are known to be small.
    ///
    /// # Errors
    /// If a row is larger than [`ROW_BYTES_MAX`].
    #[cfg(test)]
    pub(crate) fn encode(&self) -> io::Result<Vec<u8>> {
        in_memory(|out| self.write_to(out))
    }

    /// The table of those bytes, with the expiry index that goes with it.
    ///
    /// # Errors
    /// As [`PinTable::read_from`].
    #[cfg(test)]
    pub(crate) fn decode(mut bytes: &[u8]) -> Result<(Self, Expiry), SnapshotError> {
        Self::read_from(&mut bytes)
    }
}

impl ControlTable {
    /// Writes the table; equal tables have equal bytes.
    ///
    /// # Errors
    /// Those of `out`, and if a row is larger than [`ROW_BYTES_MAX`].
    pub fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut writer = RowWriter::begin(out, CONTROL_TABLE);
        let mut put = |row| writer.put(&ControlRow { row: Some(row) });
        self.each_small_row(&mut put)?;
        for (key, entry) in &self.kv {
            let value = entry.value.to_vec();
            put(ControlKind::Kv(KvRow { key: key.clone(), value, revision: entry.revision.0 }))?;
        }
        if !plant::on(Plant::SessionsNotInSnapshot) {
            self.sessions.each_row(&mut put)?;
        }
        let rows = writer.rows();
        writer.end(&ControlRow { row: Some(ControlKind::End(rows)) })
    }

    /// The rows of what there are few of: all but the last one, keys, sessions and their outcomes. Equal tables make the
    /// same rows in the same order.
    fn each_small_row<E>(&self, put: &mut impl FnMut(ControlKind) -> Result<(), E>) -> Result<(), E> {
        put(ControlKind::Head(ControlHead {
            applied: self.applied.0,
            time: self.time.0,
            epoch: self.epoch.0,
            next_instance: self.next_instance,
        }))?;
        if let Some(birth) = &self.birth {
            put(ControlKind::Birth(birth.as_ref().into()))?;
        }
        for member in &self.members {
            put(ControlKind::Member(member_row(member)))?;
        }
        for member in &self.departed {
            put(ControlKind::Departed(member_row(member)))?;
        }
        for pool in self.pools.values() {
            put(ControlKind::Pool(PoolRow { spec: Some((&pool.spec).into()), revision: pool.revision.0 }))?;
        }
        for (id, verdict) in &self.verdicts {
            let (view, revision) = (verdict.view as u32, verdict.revision.0);
            put(ControlKind::Verdict(VerdictRow { backend: id.0, view, revision }))?;
        }
        for ((backend, voter), vote) in &self.votes {
            put(ControlKind::Vote(VoteRow {
                backend: backend.0,
                voter: voter.0,
                view: vote.view as u32,
                incarnation: vote.incarnation.0,
            }))?;
        }
        if let Some(tuning) = &self.tuning {
            put(ControlKind::Tuning(tuning.into()))?;
        }
        Ok(())
    }

    /// Reads a table. `input` must end with it.
    ///
    /// # Errors
    /// If it is not the whole snapshot of such a table in this version's format.
    pub fn read_from(input: &mut dyn Read) -> Result<Self, SnapshotError> {
        let mut reader = RowReader::begin(input, CONTROL_TABLE)?;
        let head = match reader.next::<ControlRow>()?.row {
            Some(ControlKind::Head(head)) => head,
            _ => return Err(reader.bad(WireError::Field("head"))),
        };
        let mut table = Self {
            applied: Revision(head.applied),
            time: LogTime(head.time),
            epoch: Epoch(head.epoch),
            next_instance: head.next_instance,
            ..Self::default()
        };
        let told = loop {
            match reader.next::<ControlRow>()?.row {
                Some(ControlKind::End(told)) => break told,
                Some(row) => table.take_row(row, &reader)?,
                None => return Err(reader.bad(WireError::Field("row"))),
            }
        };
        reader.end(told)?;
        table.index_backends();
        Ok(table)
    }

    fn take_row(&mut self, row: ControlKind, reader: &RowReader<'_>) -> Result<(), SnapshotError> {
        let bad = |error| reader.bad(error);
        match row {
            ControlKind::Birth(birth) => {
                reader.ordered(self.birth.is_none(), "the birth")?;
                self.birth = Some(Arc::new(birth.try_into().map_err(bad)?));
            }
            ControlKind::Member(row) => take_member(&mut self.members, row, reader, MEMBERS_MAX)?,
            ControlKind::Departed(row) => take_member(&mut self.departed, row, reader, DEPARTED_MAX)?,
            ControlKind::Pool(row) => {
                let spec: PoolSpec = row.spec.ok_or(bad(WireError::Field("pool")))?.try_into().map_err(bad)?;
                let id = spec.id();
                reader.ordered(self.pools.get_max().is_none_or(|(last, _)| *last < id), "pools")?;
                self.pools.insert(id, Arc::new(Pool { spec, revision: Revision(row.revision) }));
            }
            ControlKind::Verdict(row) => {
                let id = BackendId(row.backend);
                reader.ordered(self.verdicts.get_max().is_none_or(|(last, _)| *last < id), "verdicts")?;
                let view = wire::view(row.view).map_err(bad)?;
                self.verdicts.insert(id, Verdict { view, revision: Revision(row.revision) });
            }
            ControlKind::Vote(row) => {
                let id = (BackendId(row.backend), InstanceId(row.voter));
                reader.ordered(self.votes.get_max().is_none_or(|(last, _)| *last < id), "votes")?;
                let view = wire::view(row.view).map_err(bad)?;
                self.votes.insert(id, Vote { view, incarnation: Incarnation(row.incarnation) });
            }
            ControlKind::Kv(row) => {
                reader.ordered(self.kv.get_max().is_none_or(|(last, _)| *last < row.key), "keys")?;
                self.kv_bytes += row.key.len() + row.value.len();
                if self.kv.len() >= KV_KEYS_MAX || self.kv_bytes > KV_BYTES_MAX {
                    return Err(SnapshotError::TooMany("keys and values"));
                }
                let entry = KvEntry { value: row.value.into(), revision: Revision(row.revision) };
                self.kv_digest = self.kv_digest.wrapping_add(entry.hash(&row.key));
                self.kv.insert(row.key, entry);
            }
            ControlKind::Tuning(row) => {
                reader.ordered(self.tuning.is_none(), "the settings")?;
                self.tuning = Some(row.try_into().map_err(bad)?);
            }
            ControlKind::Session(row) => self.sessions.take_session(row, self.applied, reader)?,
            ControlKind::Outcome(row) => self.sessions.take_outcome(row, reader)?,
            ControlKind::Head(_) | ControlKind::End(_) => return Err(bad(WireError::Field("row"))),
        }
        Ok(())
    }

    /// The table's bytes. For tables that are known to be small.
    ///
    /// # Errors
    /// If a row is larger than [`ROW_BYTES_MAX`].
    #[cfg(test)]
    pub(crate) fn encode(&self) -> io::Result<Vec<u8>> {
        in_memory(|out| self.write_to(out))
    }

    /// The table of those bytes.
    ///
    /// # Errors
    /// As [`ControlTable::read_from`].
    #[cfg(test)]
    pub(crate) fn decode(mut bytes: &[u8]) -> Result<Self, SnapshotError> {
        Self::read_from(&mut bytes)
    }

    /// A digest of everything in the table; equal on all replicas at equal index. Of keys and outcomes, which can be many
    /// and large, it takes the sums that are kept as they change.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut hasher = siphasher::sip::SipHasher24::new_with_key(DIGEST_KEY);
        let mut put = |row| {
            hasher.write(&ControlRow { row: Some(row) }.encode_length_delimited_to_vec());
            Ok::<(), Infallible>(())
        };
        let Ok(()) = self.each_small_row(&mut put);
        hasher.write_u64(self.kv_digest.to_be());
        if !plant::on(Plant::SessionsNotInSnapshot) {
            for (id, session) in self.sessions.iter() {
                hasher.write(&sessions::session_row(id, session).encode_length_delimited_to_vec());
                hasher.write_u64(session.digest.to_be());
            }
        }
        hasher.finish()
    }
}

/// Which table a snapshot is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// A [`ControlTable`].
    Control,
    /// A [`PinTable`].
    Pins,
    /// A [`crate::flows::FlowTable`].
    Flows,
}

/// Finds out which table a snapshot is of; what comes back reads as the whole of it.
///
/// # Errors
/// If it is the snapshot of none.
pub fn table_of(input: &mut dyn Read) -> Result<(Table, impl Read), SnapshotError> {
    let mut start = [FORMAT, 0];
    let length = stream::fill(input, &mut start)?;
    let table = match start {
        [FORMAT, PIN_TABLE] => Table::Pins,
        [FORMAT, CONTROL_TABLE] => Table::Control,
        [FORMAT, FLOW_TABLE] => Table::Flows,
        _ if length == 0 => return Err(SnapshotError::Format { found: None, known: FORMAT }),
        [FORMAT, _] if length == 1 => return Err(SnapshotError::CutOff(0)),
        [FORMAT, _] => return Err(SnapshotError::OtherTable),
        [found, _] => return Err(SnapshotError::Format { found: Some(found), known: FORMAT }),
    };
    Ok((table, io::Cursor::new(start).chain(input)))
}

#[cfg(test)]
fn in_memory(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    write(&mut bytes)?;
    Ok(bytes)
}

fn member_row((id, member): (&InstanceId, &Arc<Member>)) -> MemberRow {
    MemberRow {
        id: id.0,
        address: Some((&member.address).into()),
        incarnation: member.incarnation.map(|incarnation| incarnation.0),
        voter: member.voter,
    }
}

fn take_member(
    members: &mut imbl::OrdMap<InstanceId, Arc<Member>>,
    row: MemberRow,
    reader: &RowReader<'_>,
    most: usize,
) -> Result<(), SnapshotError> {
    let id = InstanceId(row.id);
    reader.ordered(members.get_max().is_none_or(|(last, _)| *last < id), "members")?;
    if members.len() >= most {
        return Err(SnapshotError::TooMany("members"));
    }
    let address = row.address.ok_or(reader.bad(WireError::Field("member")))?.try_into();
    let address = address.map_err(|error| reader.bad(error))?;
    members.insert(id, Arc::new(Member { address, incarnation: row.incarnation.map(Incarnation), voter: row.voter }));
    Ok(())
}

/// Which table it is.
const PIN_TABLE: u8 = b'p';
const CONTROL_TABLE: u8 = b'c';
const FLOW_TABLE: u8 = b'f';

#[cfg(test)]
mod tests;
