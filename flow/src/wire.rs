//! Commands as bytes: protobuf messages, so that versions of one fleet can differ while it is upgraded.
//!
//! The table of fields is the structs below; tags are never used again. Decoding checks everything: what comes out is a
//! good command or an error.

mod flows;
mod pools;

use prost::Message;

pub(crate) use self::flows::FlowRowMessage;
pub use self::flows::encode_report;
pub(crate) use self::pools::{AddressMessage, BirthMessage, PoolMessage};

use self::pools::ServerMessage;
use crate::{
    command::{ControlCommand, EpochCopy, Pin, PinCommand, Request, ServerChange, SessionOwner, Standing},
    health::View,
    ids::{BackendId, Epoch, Incarnation, InstanceId, LogTime, PinKey, PoolId, Revision, SessionId},
    tuning::{Detector, Tuning},
};

/// The bytes are no command of this version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not a protobuf message of that type.
    #[error("malformed message: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// A field that must be there is missing, or says something impossible.
    #[error("bad field {0}")]
    Field(&'static str),
}

impl ControlCommand {
    /// The command's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        ControlMessage { command: Some(self.into()) }.encode_to_vec()
    }

    /// Reads a command.
    ///
    /// # Errors
    /// If the bytes are not a command of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        ControlMessage::decode(bytes)?.command.ok_or(WireError::Field("command"))?.try_into()
    }
}

impl PinCommand {
    /// The command's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        PinMessage { command: Some(self.into()) }.encode_to_vec()
    }

    /// Reads a command.
    ///
    /// # Errors
    /// If the bytes are not a command of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        PinMessage::decode(bytes)?.command.ok_or(WireError::Field("command"))?.try_into()
    }
}

#[derive(Clone, PartialEq, Message)]
struct ControlMessage {
    #[prost(oneof = "ControlKind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16")]
    command: Option<ControlKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum ControlKind {
    #[prost(message, tag = "1")]
    Birth(BirthMessage),
    #[prost(message, tag = "2")]
    MemberAdd(AddressMessage),
    #[prost(uint64, tag = "3")]
    MemberRemove(u64),
    #[prost(message, tag = "4")]
    MemberSeen(SeenMessage),
    #[prost(message, tag = "5")]
    Apply(ApplyMessage),
    #[prost(message, tag = "6")]
    Server(ServerChangeMessage),
    #[prost(message, tag = "7")]
    Vote(VoteMessage),
    #[prost(message, tag = "8")]
    Verdict(VerdictMessage),
    #[prost(message, tag = "9")]
    KvPut(KvMessage),
    #[prost(message, tag = "10")]
    KvDelete(KvMessage),
    #[prost(message, tag = "11")]
    Tick(Empty),
    #[prost(uint64, tag = "12")]
    MemberPromote(u64),
    #[prost(message, tag = "13")]
    OpenSession(OpenSessionMessage),
    #[prost(uint64, tag = "14")]
    CloseSession(u64),
    #[prost(message, tag = "15")]
    Once(OnceMessage),
    #[prost(message, tag = "16")]
    Tune(TuneMessage),
}

#[derive(Clone, PartialEq, Message)]
struct PinMessage {
    #[prost(oneof = "PinKind", tags = "1, 2, 3, 4, 5, 6")]
    command: Option<PinKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum PinKind {
    #[prost(message, tag = "1")]
    Epoch(EpochMessage),
    #[prost(message, tag = "2")]
    Assign(AssignMessage),
    #[prost(message, tag = "3")]
    Touch(TouchMessage),
    #[prost(message, tag = "4")]
    Unpin(TouchedPin),
    #[prost(uint64, tag = "5")]
    Settle(u64),
    #[prost(message, tag = "6")]
    Tick(Empty),
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}

#[derive(Clone, PartialEq, Message)]
struct SeenMessage {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(fixed64, tag = "2")]
    incarnation: u64,
}

#[derive(Clone, PartialEq, Message)]
struct ApplyMessage {
    #[prost(message, repeated, tag = "1")]
    pools: Vec<PoolMessage>,
    #[prost(uint64, tag = "2")]
    expected: u64,
}

#[derive(Clone, PartialEq, Message)]
struct ServerChangeMessage {
    #[prost(fixed64, tag = "1")]
    pool: u64,
    #[prost(message, optional, tag = "2")]
    add: Option<ServerMessage>,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(uint32, tag = "4")]
    kind: u32,
}

#[derive(Clone, PartialEq, Message)]
struct VoteMessage {
    #[prost(uint64, tag = "1")]
    voter: u64,
    #[prost(fixed64, tag = "2")]
    incarnation: u64,
    #[prost(fixed64, tag = "3")]
    backend: u64,
    #[prost(uint32, tag = "4")]
    view: u32,
}

#[derive(Clone, PartialEq, Message)]
struct VerdictMessage {
    #[prost(fixed64, tag = "1")]
    backend: u64,
    #[prost(uint32, tag = "2")]
    view: u32,
    #[prost(uint64, tag = "3")]
    revision: u64,
}

#[derive(Clone, PartialEq, Message)]
struct KvMessage {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
    #[prost(uint64, optional, tag = "3")]
    if_revision: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct OpenSessionMessage {
    #[prost(message, optional, tag = "1")]
    owner: Option<OwnerMessage>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct OwnerMessage {
    #[prost(uint64, tag = "1")]
    instance: u64,
    #[prost(fixed64, tag = "2")]
    life: u64,
}

#[derive(Clone, PartialEq, Message)]
struct OnceMessage {
    #[prost(uint64, tag = "1")]
    session: u64,
    #[prost(uint64, tag = "2")]
    sequence: u64,
    #[prost(uint64, tag = "3")]
    answered_below: u64,
    /// A `ControlMessage`.
    #[prost(bytes = "vec", tag = "4")]
    command: Vec<u8>,
    /// Whose the session is; none: a client's.
    #[prost(message, optional, tag = "5")]
    owner: Option<OwnerMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct EpochMessage {
    #[prost(uint64, tag = "1")]
    epoch: u64,
    #[prost(message, repeated, tag = "2")]
    pools: Vec<PoolTtlMessage>,
    #[prost(message, repeated, tag = "3")]
    backends: Vec<StandingMessage>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PoolTtlMessage {
    #[prost(fixed64, tag = "1")]
    pub pool: u64,
    #[prost(uint64, tag = "2")]
    pub pin_ttl_ms: u64,
}

#[derive(Clone, PartialEq, Message)]
struct StandingMessage {
    #[prost(fixed64, tag = "1")]
    backend: u64,
    #[prost(uint32, tag = "2")]
    standing: u32,
}

#[derive(Clone, PartialEq, Message)]
struct AssignMessage {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(fixed64, tag = "2")]
    backend: u64,
    #[prost(uint64, tag = "3")]
    epoch: u64,
}

#[derive(Clone, PartialEq, Message)]
struct TouchMessage {
    #[prost(message, repeated, tag = "1")]
    pins: Vec<TouchedPin>,
}

#[derive(Clone, PartialEq, Message)]
struct TouchedPin {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(uint64, tag = "2")]
    revision: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PinRowMessage {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(fixed64, tag = "2")]
    backend: u64,
    #[prost(uint64, tag = "3")]
    revision: u64,
    #[prost(uint64, tag = "4")]
    epoch: u64,
    #[prost(uint64, tag = "5")]
    expires: u64,
    #[prost(uint64, optional, tag = "6")]
    moving: Option<u64>,
}

impl From<&ControlCommand> for ControlKind {
    fn from(command: &ControlCommand) -> Self {
        match command {
            ControlCommand::Birth(birth) => Self::Birth(birth.into()),
            ControlCommand::MemberAdd(address) => Self::MemberAdd(address.into()),
            ControlCommand::MemberPromote(id) => Self::MemberPromote(id.0),
            ControlCommand::MemberRemove(id) => Self::MemberRemove(id.0),
            ControlCommand::MemberSeen(id, incarnation) => {
                Self::MemberSeen(SeenMessage { id: id.0, incarnation: incarnation.0 })
            }
            ControlCommand::Apply { pools, expected } => {
                Self::Apply(ApplyMessage { pools: pools.iter().map(Into::into).collect(), expected: expected.0 })
            }
            ControlCommand::Server { pool, change } => Self::Server(server_change_message(*pool, change)),
            ControlCommand::Vote { voter, incarnation, backend, view } => Self::Vote(VoteMessage {
                voter: voter.0,
                incarnation: incarnation.0,
                backend: backend.0,
                view: *view as u32,
            }),
            ControlCommand::Verdict { backend, view, revision } => {
                Self::Verdict(VerdictMessage { backend: backend.0, view: *view as u32, revision: revision.0 })
            }
            ControlCommand::KvPut { key, value, if_revision } => Self::KvPut(KvMessage {
                key: key.clone(),
                value: value.clone(),
                if_revision: if_revision.map(|revision| revision.0),
            }),
            ControlCommand::KvDelete { key, if_revision } => Self::KvDelete(KvMessage {
                key: key.clone(),
                value: Vec::new(),
                if_revision: if_revision.map(|revision| revision.0),
            }),
            ControlCommand::OpenSession(owner) => {
                Self::OpenSession(OpenSessionMessage { owner: owner.as_ref().map(Into::into) })
            }
            ControlCommand::CloseSession(id) => Self::CloseSession(id.0),
            ControlCommand::Once { request, owner, command } => Self::Once(request.message(*owner, command.encode())),
            ControlCommand::Tune(tuning) => Self::Tune(TuneMessage { tuning: tuning.as_ref().map(Into::into) }),
            ControlCommand::Tick => Self::Tick(Empty {}),
        }
    }
}

impl TryFrom<ControlKind> for ControlCommand {
    type Error = WireError;

    fn try_from(kind: ControlKind) -> Result<Self, WireError> {
        Ok(match kind {
            ControlKind::Birth(birth) => Self::Birth(birth.try_into()?),
            ControlKind::MemberAdd(address) => Self::MemberAdd(address.try_into()?),
            ControlKind::MemberPromote(id) => Self::MemberPromote(InstanceId(id)),
            ControlKind::MemberRemove(id) => Self::MemberRemove(InstanceId(id)),
            ControlKind::MemberSeen(seen) => Self::MemberSeen(InstanceId(seen.id), Incarnation(seen.incarnation)),
            ControlKind::Apply(apply) => Self::Apply {
                pools: apply.pools.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
                expected: Epoch(apply.expected),
            },
            ControlKind::Server(change) => Self::Server { pool: PoolId(change.pool), change: server_change(change)? },
            ControlKind::Vote(vote) => Self::Vote {
                voter: InstanceId(vote.voter),
                incarnation: Incarnation(vote.incarnation),
                backend: BackendId(vote.backend),
                view: view(vote.view)?,
            },
            ControlKind::Verdict(verdict) => Self::Verdict {
                backend: BackendId(verdict.backend),
                view: view(verdict.view)?,
                revision: Revision(verdict.revision),
            },
            ControlKind::KvPut(kv) => {
                Self::KvPut { key: kv.key, value: kv.value, if_revision: kv.if_revision.map(Revision) }
            }
            ControlKind::KvDelete(kv) => Self::KvDelete { key: kv.key, if_revision: kv.if_revision.map(Revision) },
            ControlKind::OpenSession(open) => Self::OpenSession(open.owner.map(Into::into)),
            ControlKind::CloseSession(id) => Self::CloseSession(SessionId(id)),
            ControlKind::Once(once) => Self::Once {
                request: once.request(),
                command: Box::new(once.command()?),
                owner: once.owner.map(Into::into),
            },
            ControlKind::Tune(tune) => Self::Tune(tune.tuning.map(TryInto::try_into).transpose()?),
            ControlKind::Tick(_) => Self::Tick,
        })
    }
}

impl Request {
    /// The bytes of a command that is to be carried out once, made of those of the command itself. `owner`: whose the
    /// session is, none if it is a client's.
    #[must_use]
    pub fn wrap(&self, owner: Option<SessionOwner>, command: &[u8]) -> Vec<u8> {
        ControlMessage { command: Some(ControlKind::Once(self.message(owner, command.to_vec()))) }.encode_to_vec()
    }

    fn message(&self, owner: Option<SessionOwner>, command: Vec<u8>) -> OnceMessage {
        let Self { session, sequence, answered_below } = *self;
        let owner = owner.as_ref().map(Into::into);
        OnceMessage { session: session.0, sequence, answered_below, command, owner }
    }
}

/// Settings of the log, also as a row of a snapshot.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TuningMessage {
    #[prost(uint32, tag = "1")]
    heartbeat_ms: u32,
    #[prost(uint32, tag = "2")]
    election_ms: u32,
    #[prost(uint32, optional, tag = "3")]
    phi_tenths: Option<u32>,
    #[prost(uint32, optional, tag = "4")]
    fixed_ms: Option<u32>,
    #[prost(bool, tag = "5")]
    spread: bool,
    #[prost(uint32, tag = "6")]
    shuffle_ms: u32,
}

#[derive(Clone, PartialEq, Message)]
struct TuneMessage {
    #[prost(message, optional, tag = "1")]
    tuning: Option<TuningMessage>,
}

impl From<&Tuning> for TuningMessage {
    fn from(tuning: &Tuning) -> Self {
        let Tuning { heartbeat_ms, election_ms, detector, spread, shuffle_ms } = *tuning;
        let (phi_tenths, fixed_ms) = match detector {
            Detector::Phi(tenths) => (Some(tenths), None),
            Detector::Fixed(ms) => (None, Some(ms)),
        };
        Self { heartbeat_ms, election_ms, phi_tenths, fixed_ms, spread, shuffle_ms }
    }
}

impl TryFrom<TuningMessage> for Tuning {
    type Error = WireError;

    fn try_from(message: TuningMessage) -> Result<Self, WireError> {
        let detector = match (message.phi_tenths, message.fixed_ms) {
            (Some(tenths), None) => Detector::Phi(tenths),
            (None, Some(ms)) => Detector::Fixed(ms),
            _ => return Err(WireError::Field("detector")),
        };
        let TuningMessage { heartbeat_ms, election_ms, spread, shuffle_ms, .. } = message;
        Ok(Self { heartbeat_ms, election_ms, detector, spread, shuffle_ms })
    }
}

impl OnceMessage {
    fn request(&self) -> Request {
        let Self { session, sequence, answered_below, .. } = *self;
        Request { session: SessionId(session), sequence, answered_below }
    }

    /// The command within. It is none of sessions, so there is nothing within that.
    fn command(&self) -> Result<ControlCommand, WireError> {
        match ControlMessage::decode(self.command.as_slice())?.command.ok_or(WireError::Field("command"))? {
            ControlKind::OpenSession(_) | ControlKind::CloseSession(_) | ControlKind::Once(_) => {
                Err(WireError::Field("command of a session"))
            }
            command => command.try_into(),
        }
    }
}

impl From<&SessionOwner> for OwnerMessage {
    fn from(owner: &SessionOwner) -> Self {
        Self { instance: owner.instance.0, life: owner.life }
    }
}

impl From<OwnerMessage> for SessionOwner {
    fn from(owner: OwnerMessage) -> Self {
        Self { instance: InstanceId(owner.instance), life: owner.life }
    }
}

impl From<&PinCommand> for PinKind {
    fn from(command: &PinCommand) -> Self {
        match command {
            PinCommand::Epoch(copy) => Self::Epoch(EpochMessage {
                epoch: copy.epoch.0,
                pools: copy.pools.iter().map(|(pool, ttl)| PoolTtlMessage { pool: pool.0, pin_ttl_ms: *ttl }).collect(),
                backends: copy
                    .backends
                    .iter()
                    .map(|(backend, standing)| StandingMessage { backend: backend.0, standing: *standing as u32 })
                    .collect(),
            }),
            PinCommand::Assign { key, backend, epoch } => {
                Self::Assign(AssignMessage { key: key.to_bytes().to_vec(), backend: backend.0, epoch: epoch.0 })
            }
            PinCommand::Touch(pins) => {
                Self::Touch(TouchMessage { pins: pins.iter().map(|(key, revision)| touched(key, *revision)).collect() })
            }
            PinCommand::Unpin { key, revision } => Self::Unpin(touched(key, *revision)),
            PinCommand::Settle(through) => Self::Settle(through.0),
            PinCommand::Tick => Self::Tick(Empty {}),
        }
    }
}

impl TryFrom<PinKind> for PinCommand {
    type Error = WireError;

    fn try_from(kind: PinKind) -> Result<Self, WireError> {
        Ok(match kind {
            PinKind::Epoch(copy) => Self::Epoch(EpochCopy {
                epoch: Epoch(copy.epoch),
                pools: copy.pools.iter().map(|pool| (PoolId(pool.pool), pool.pin_ttl_ms)).collect(),
                backends: copy
                    .backends
                    .iter()
                    .map(|row| Ok((BackendId(row.backend), standing(row.standing)?)))
                    .collect::<Result<_, WireError>>()?,
            }),
            PinKind::Assign(assign) => Self::Assign {
                key: pin_key(&assign.key)?,
                backend: BackendId(assign.backend),
                epoch: Epoch(assign.epoch),
            },
            PinKind::Touch(touch) => Self::Touch(
                touch
                    .pins
                    .iter()
                    .map(|pin| Ok((pin_key(&pin.key)?, Revision(pin.revision))))
                    .collect::<Result<_, WireError>>()?,
            ),
            PinKind::Unpin(pin) => Self::Unpin { key: pin_key(&pin.key)?, revision: Revision(pin.revision) },
            PinKind::Settle(through) => Self::Settle(Revision(through)),
            PinKind::Tick(_) => Self::Tick,
        })
    }
}

impl PinRowMessage {
    pub(crate) fn new(key: &PinKey, pin: &Pin) -> Self {
        Self {
            key: key.to_bytes().to_vec(),
            backend: pin.backend.0,
            revision: pin.revision.0,
            epoch: pin.epoch.0,
            expires: pin.expires.0,
            moving: pin.moving.map(|revision| revision.0),
        }
    }

    pub(crate) fn row(&self) -> Result<(PinKey, Pin), WireError> {
        let pin = Pin {
            backend: BackendId(self.backend),
            revision: Revision(self.revision),
            epoch: Epoch(self.epoch),
            expires: LogTime(self.expires),
            moving: self.moving.map(Revision),
        };
        Ok((pin_key(&self.key)?, pin))
    }
}

fn server_change_message(pool: PoolId, change: &ServerChange) -> ServerChangeMessage {
    let (kind, name, add) = match change {
        ServerChange::Add(server) => (0, String::new(), Some(server.into())),
        ServerChange::Remove(name) => (1, name.clone(), None),
        ServerChange::Drain(name) => (2, name.clone(), None),
        ServerChange::Enable(name) => (3, name.clone(), None),
    };
    ServerChangeMessage { pool: pool.0, add, name, kind }
}

fn server_change(message: ServerChangeMessage) -> Result<ServerChange, WireError> {
    Ok(match message.kind {
        0 => ServerChange::Add(message.add.ok_or(WireError::Field("server"))?.try_into()?),
        1 => ServerChange::Remove(message.name),
        2 => ServerChange::Drain(message.name),
        3 => ServerChange::Enable(message.name),
        _ => return Err(WireError::Field("server change")),
    })
}

fn touched(key: &PinKey, revision: Revision) -> TouchedPin {
    TouchedPin { key: key.to_bytes().to_vec(), revision: revision.0 }
}

fn pin_key(bytes: &[u8]) -> Result<PinKey, WireError> {
    PinKey::from_bytes(bytes).ok_or(WireError::Field("key"))
}

fn port(number: u32) -> Result<u16, WireError> {
    u16::try_from(number).map_err(|_| WireError::Field("port"))
}

pub(crate) fn view(number: u32) -> Result<View, WireError> {
    pick(&[View::Unknown, View::Up, View::Down], number, "view")
}

pub(crate) fn standing(number: u32) -> Result<Standing, WireError> {
    let all = [Standing::Unknown, Standing::Live, Standing::Draining, Standing::Dead, Standing::Gone];
    pick(&all, number, "standing")
}

fn pick<T: Copy>(all: &[T], number: u32, field: &'static str) -> Result<T, WireError> {
    usize::try_from(number).ok().and_then(|index| all.get(index)).copied().ok_or(WireError::Field(field))
}

#[cfg(test)]
mod tests;
