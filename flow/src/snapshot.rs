//! Snapshots: a table's whole state as bytes, and back.
//!
//! One byte of the format, [`FORMAT`], then a protobuf message. So no bytes at all are no table: protobuf alone would
//! read them as an empty one.

use std::sync::Arc;

use prost::Message;

use crate::{
    control::{ControlTable, KvEntry, Member, Pool, Verdict, Vote},
    ids::{BackendId, Epoch, Incarnation, InstanceId, LogTime, PoolId, Revision},
    pins::{BackendState, Expiry, PinTable},
    wire::{self, AddressMessage, BirthMessage, PinRowMessage, PoolMessage, PoolTtlMessage, WireError},
};

impl PinTable {
    /// The table's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        with_format(&PinSnapshot {
            applied: self.applied.0,
            time: self.time.0,
            epoch: self.epoch.0,
            last_move: self.last_move.0,
            settled: self.settled.0,
            pools: self.pools.iter().map(|(pool, ttl)| PoolTtlMessage { pool: pool.0, pin_ttl_ms: *ttl }).collect(),
            backends: self
                .backends
                .iter()
                .map(|(id, state)| BackendRow {
                    backend: id.0,
                    standing: state.standing as u32,
                    since: state.since.0,
                    pins: state.pins,
                })
                .collect(),
            pins: self.pins.iter().map(|(key, pin)| PinRowMessage::new(key, pin)).collect(),
        })
    }

    /// The table of those bytes, with the expiry index that goes with it.
    ///
    /// # Errors
    /// If the bytes are not a snapshot of this version.
    pub fn decode(bytes: &[u8]) -> Result<(Self, Expiry), WireError> {
        let snapshot = PinSnapshot::decode(without_format(bytes)?)?;
        let mut table = Self::new();
        table.applied = Revision(snapshot.applied);
        table.time = LogTime(snapshot.time);
        table.epoch = Epoch(snapshot.epoch);
        table.last_move = Revision(snapshot.last_move);
        table.settled = Revision(snapshot.settled);
        table.pools = snapshot.pools.iter().map(|pool| (PoolId(pool.pool), pool.pin_ttl_ms)).collect();
        for row in &snapshot.backends {
            let standing = wire::standing(row.standing)?;
            let state = BackendState { standing, since: Revision(row.since), pins: row.pins };
            table.backends.insert(BackendId(row.backend), state);
        }
        let rows = snapshot.pins.iter().map(PinRowMessage::row).collect::<Result<Vec<_>, _>>()?;
        Ok(table.restore(rows.into_iter()))
    }
}

impl ControlTable {
    /// The table's bytes; equal tables have equal bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        with_format(&ControlSnapshot {
            applied: self.applied.0,
            time: self.time.0,
            epoch: self.epoch.0,
            birth: self.birth.as_deref().map(Into::into),
            next_instance: self.next_instance,
            members: self.members.iter().map(member_row).collect(),
            departed: self.departed.iter().map(member_row).collect(),
            pools: self
                .pools
                .values()
                .map(|pool| PoolRow { spec: Some((&pool.spec).into()), revision: pool.revision.0 })
                .collect(),
            verdicts: self
                .verdicts
                .iter()
                .map(|(id, verdict)| VerdictRow {
                    backend: id.0,
                    view: verdict.view as u32,
                    revision: verdict.revision.0,
                })
                .collect(),
            votes: self
                .votes
                .iter()
                .map(|((backend, voter), vote)| VoteRow {
                    backend: backend.0,
                    voter: voter.0,
                    view: vote.view as u32,
                    incarnation: vote.incarnation.0,
                })
                .collect(),
            kv: self
                .kv
                .iter()
                .map(|(key, entry)| KvRow { key: key.clone(), value: entry.value.to_vec(), revision: entry.revision.0 })
                .collect(),
        })
    }

    /// The table of those bytes.
    ///
    /// # Errors
    /// If the bytes are not a snapshot of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let snapshot = ControlSnapshot::decode(without_format(bytes)?)?;
        let mut table = Self {
            applied: Revision(snapshot.applied),
            time: LogTime(snapshot.time),
            epoch: Epoch(snapshot.epoch),
            birth: snapshot.birth.map(|birth| birth.try_into().map(Arc::new)).transpose()?,
            next_instance: snapshot.next_instance,
            ..Self::default()
        };
        for (rows, members) in [(snapshot.members, &mut table.members), (snapshot.departed, &mut table.departed)] {
            for row in rows {
                let address = row.address.ok_or(WireError::Field("member"))?.try_into()?;
                let member = Member { address, incarnation: row.incarnation.map(Incarnation), voter: row.voter };
                members.insert(InstanceId(row.id), Arc::new(member));
            }
        }
        for row in snapshot.pools {
            let spec: crate::pool::PoolSpec = row.spec.ok_or(WireError::Field("pool"))?.try_into()?;
            table.pools.insert(spec.id(), Arc::new(Pool { spec, revision: Revision(row.revision) }));
        }
        for row in snapshot.verdicts {
            let verdict = Verdict { view: wire::view(row.view)?, revision: Revision(row.revision) };
            table.verdicts.insert(BackendId(row.backend), verdict);
        }
        for row in snapshot.votes {
            let vote = Vote { view: wire::view(row.view)?, incarnation: Incarnation(row.incarnation) };
            table.votes.insert((BackendId(row.backend), InstanceId(row.voter)), vote);
        }
        for row in snapshot.kv {
            table.kv_bytes += row.key.len() + row.value.len();
            table.kv.insert(row.key, KvEntry { value: row.value.into(), revision: Revision(row.revision) });
        }
        table.index_backends();
        Ok(table)
    }

    /// A digest of everything in the table; equal on all replicas at equal index.
    #[must_use]
    pub fn digest(&self) -> u64 {
        use std::hash::Hasher;
        let mut hasher = siphasher::sip::SipHasher24::new_with_key(b"rocinante-digest");
        hasher.write(&self.encode());
        hasher.finish()
    }
}

fn member_row((id, member): (&InstanceId, &Arc<Member>)) -> MemberRow {
    MemberRow {
        id: id.0,
        address: Some((&member.address).into()),
        incarnation: member.incarnation.map(|incarnation| incarnation.0),
        voter: member.voter,
    }
}

fn with_format(message: &impl Message) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + message.encoded_len());
    bytes.push(FORMAT);
    bytes.append(&mut message.encode_to_vec());
    bytes
}

fn without_format(bytes: &[u8]) -> Result<&[u8], WireError> {
    match bytes.split_first() {
        Some((&FORMAT, message)) => Ok(message),
        found => Err(WireError::Format { found: found.map(|(format, _)| *format), known: FORMAT }),
    }
}

/// The format of snapshots that this version writes and reads.
pub const FORMAT: u8 = 1;

#[derive(Clone, PartialEq, Message)]
struct PinSnapshot {
    #[prost(uint64, tag = "1")]
    applied: u64,
    #[prost(uint64, tag = "2")]
    time: u64,
    #[prost(uint64, tag = "3")]
    epoch: u64,
    #[prost(uint64, tag = "4")]
    last_move: u64,
    #[prost(uint64, tag = "5")]
    settled: u64,
    #[prost(message, repeated, tag = "6")]
    pools: Vec<PoolTtlMessage>,
    #[prost(message, repeated, tag = "7")]
    backends: Vec<BackendRow>,
    #[prost(message, repeated, tag = "8")]
    pins: Vec<PinRowMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct BackendRow {
    #[prost(fixed64, tag = "1")]
    backend: u64,
    #[prost(uint32, tag = "2")]
    standing: u32,
    #[prost(uint64, tag = "3")]
    since: u64,
    #[prost(uint64, tag = "4")]
    pins: u64,
}

#[derive(Clone, PartialEq, Message)]
struct ControlSnapshot {
    #[prost(uint64, tag = "1")]
    applied: u64,
    #[prost(uint64, tag = "2")]
    time: u64,
    #[prost(uint64, tag = "3")]
    epoch: u64,
    #[prost(message, optional, tag = "4")]
    birth: Option<BirthMessage>,
    #[prost(uint64, tag = "5")]
    next_instance: u64,
    #[prost(message, repeated, tag = "6")]
    members: Vec<MemberRow>,
    #[prost(message, repeated, tag = "7")]
    pools: Vec<PoolRow>,
    #[prost(message, repeated, tag = "8")]
    verdicts: Vec<VerdictRow>,
    #[prost(message, repeated, tag = "9")]
    votes: Vec<VoteRow>,
    #[prost(message, repeated, tag = "10")]
    kv: Vec<KvRow>,
    #[prost(message, repeated, tag = "11")]
    departed: Vec<MemberRow>,
}

#[derive(Clone, PartialEq, Message)]
struct MemberRow {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, optional, tag = "2")]
    address: Option<AddressMessage>,
    #[prost(fixed64, optional, tag = "3")]
    incarnation: Option<u64>,
    #[prost(bool, tag = "4")]
    voter: bool,
}

#[derive(Clone, PartialEq, Message)]
struct PoolRow {
    #[prost(message, optional, tag = "1")]
    spec: Option<PoolMessage>,
    #[prost(uint64, tag = "2")]
    revision: u64,
}

#[derive(Clone, PartialEq, Message)]
struct VerdictRow {
    #[prost(fixed64, tag = "1")]
    backend: u64,
    #[prost(uint32, tag = "2")]
    view: u32,
    #[prost(uint64, tag = "3")]
    revision: u64,
}

#[derive(Clone, PartialEq, Message)]
struct VoteRow {
    #[prost(fixed64, tag = "1")]
    backend: u64,
    #[prost(uint64, tag = "2")]
    voter: u64,
    #[prost(uint32, tag = "3")]
    view: u32,
    #[prost(fixed64, tag = "4")]
    incarnation: u64,
}

#[derive(Clone, PartialEq, Message)]
struct KvRow {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
    #[prost(uint64, tag = "3")]
    revision: u64,
}

#[cfg(test)]
mod tests;
