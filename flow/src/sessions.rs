//! Clients' sessions: what makes a command count once, however often its request comes (Ongaro 2014, section 6.3).
//!
//! A client opens a session and numbers its requests. The table keeps the outcome of each until the client says that it
//! has the answers to all below some number; a request that comes again gets the outcome that it got before.
//!
//! What must stay true:
//! 1. A request below the session's `answered_below` is never carried out: its outcome is forgotten, not unknown.
//! 2. A request is one of its session only if it comes from whom that session is of: clients may know the ids of instances'
//!    sessions, and must neither use nor end them.
//! 3. A session ends by log time, in apply, or when it is closed: on all replicas with the same entry. Its id is the index
//!    of the entry that opened it, so a request of a session that ended is never taken for one of another.

use std::{hash::Hasher, sync::Arc};

use siphasher::sip::SipHasher24;

use crate::{
    command::{ControlOutcome, Request, SessionOwner},
    ids::{DIGEST_KEY, InstanceId, LogTime, SessionId},
    plant::{self, Plant},
    snapshot::outcome_bytes,
};

/// All sessions. A clone is cheap.
#[derive(Clone, Debug, Default)]
pub struct Sessions {
    by_id: imbl::OrdMap<SessionId, Arc<Session>>,
    /// All of them, by their last use. Made anew from a snapshot, as are the next two.
    by_use: imbl::OrdSet<(LogTime, SessionId)>,
    by_owner: imbl::OrdMap<InstanceId, SessionId>,
    /// What the sessions without an owner take in memory, about.
    bytes: usize,
}

/// One session.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub owner: Option<SessionOwner>,
    /// When it was used last.
    pub used: LogTime,
    /// Requests below are over.
    pub answered_below: u64,
    /// The outcomes of requests from there on.
    pub outcomes: imbl::OrdMap<u64, ControlOutcome>,
    /// Sum of their hashes: a digest of the table must not have to look at all of them.
    pub digest: u64,
}

/// Why a session does not allow what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionRefusal {
    /// The session is not there.
    #[error("there is no session {0}: it was closed, was not used for {minutes} minutes, or never was", minutes = SESSION_TTL_MS / 60_000)]
    NoSession(SessionId),
    /// The client said that it has the answer, and the outcome is forgotten.
    #[error("request {sequence} is over: the client has the answers to all requests below {answered_below}")]
    Answered {
        /// The request.
        sequence: u64,
        /// As the client said, here or before.
        answered_below: u64,
    },
    /// The session holds as many outcomes as it may.
    #[error("session {0} keeps {SESSION_WINDOW_MAX} outcomes, which is the most: say which requests are answered")]
    WindowFull(SessionId),
    /// There are as many sessions as there may be.
    #[error("there are {SESSIONS_MAX} sessions, which is the most: close some, or wait until some expire")]
    TooMany,
    /// The outcomes of all sessions take as much memory as they may.
    #[error(
        "the outcomes of all sessions take {SESSIONS_BYTES_MAX} bytes, which is the most: say which requests are answered, or close sessions"
    )]
    OutOfBytes,
}

impl SessionRefusal {
    /// Whether the same request is refused whenever it comes again. Else it is carried out once there is room.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::NoSession(_) | Self::Answered { .. } => true,
            Self::WindowFull(_) | Self::TooMany | Self::OutOfBytes => false,
        }
    }
}

impl Sessions {
    /// How many there are, those included that expired and were not swept yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// About how many bytes the sessions of clients take in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The ids of all, lowest first, with the instance whose it is.
    pub fn ids(&self) -> impl Iterator<Item = (SessionId, Option<SessionOwner>)> {
        self.by_id.iter().map(|(id, session)| (*id, session.owner))
    }

    /// Whether a request of this session would be taken at that log time.
    #[must_use]
    pub fn is_open(&self, id: SessionId, now: LogTime) -> bool {
        self.by_id.get(&id).is_some_and(|session| !session.is_over(now))
    }

    /// Opens a session under that id. An owner gets the one that it has, if that is of the same life.
    pub(crate) fn open(
        &mut self,
        id: SessionId,
        now: LogTime,
        owner: Option<SessionOwner>,
    ) -> Result<SessionId, SessionRefusal> {
        if let Some(owner) = owner {
            let old = self.by_owner.get(&owner.instance).copied();
            if let Some(old) = old
                && let Some(session) = self.by_id.get(&old)
                && session.owner == Some(owner)
                && !session.is_over(now)
            {
                self.touch(old, now);
                return Ok(old);
            }
            self.close_of(owner.instance);
        } else if self.by_id.len() - self.by_owner.len() >= SESSIONS_MAX {
            return Err(SessionRefusal::TooMany);
        } else if self.bytes + SESSION_BYTES > SESSIONS_BYTES_MAX {
            return Err(SessionRefusal::OutOfBytes);
        }
        self.insert(id, Session { owner, used: now, answered_below: 0, outcomes: imbl::OrdMap::new(), digest: 0 });
        Ok(id)
    }

    /// A request of `owner` came, or of a client: the outcome that it got before, or none if it is to be carried out.
    pub(crate) fn begin(
        &mut self,
        now: LogTime,
        request: &Request,
        owner: Option<SessionOwner>,
    ) -> Result<Option<ControlOutcome>, SessionRefusal> {
        let Request { session: id, sequence, .. } = *request;
        let allowed = |session: &Session| session.owner == owner || plant::on(Plant::AnyonesSession);
        let Some(session) = self.by_id.get(&id).filter(|session| !session.is_over(now) && allowed(session)) else {
            return Err(SessionRefusal::NoSession(id));
        };
        let answered_below = session.answered_below.max(request.answered_below);
        if sequence < answered_below {
            return Err(SessionRefusal::Answered { sequence, answered_below });
        }
        self.touch(id, now);
        self.forget(id, answered_below);
        let Some(session) = self.by_id.get(&id) else { return Err(SessionRefusal::NoSession(id)) };
        if let Some(outcome) = session.outcomes.get(&sequence) {
            return Ok(Some(outcome.clone()));
        }
        if session.outcomes.len() >= SESSION_WINDOW_MAX {
            return Err(SessionRefusal::WindowFull(id));
        }
        // The sessions of instances are as few as these, and always served.
        if session.owner.is_none() && self.bytes + OUTCOME_BYTES + OUTCOME_TEXT_MAX > SESSIONS_BYTES_MAX {
            return Err(SessionRefusal::OutOfBytes);
        }
        Ok(None)
    }

    /// The request was carried out: keeps its outcome, and gives it back as it is kept.
    pub(crate) fn keep(&mut self, request: &Request, outcome: ControlOutcome) -> ControlOutcome {
        let outcome = clipped(outcome);
        if let Some(session) = self.by_id.get_mut(&request.session) {
            let counted = session.owner.is_none();
            let session = Arc::make_mut(session);
            let old = session.outcomes.insert(request.sequence, outcome.clone());
            let hash = |outcome| hash_outcome(request.sequence, outcome);
            session.digest = session.digest.wrapping_add(hash(&outcome));
            session.digest = session.digest.wrapping_sub(old.as_ref().map_or(0, hash));
            if counted {
                self.bytes += size(&outcome);
                self.bytes -= old.as_ref().map_or(0, size);
            }
        }
        outcome
    }

    /// Ends a session as a client asks: not that of an instance.
    pub(crate) fn close_client(&mut self, id: SessionId) -> Result<(), SessionRefusal> {
        if self.by_id.get(&id).is_some_and(|session| session.owner.is_some()) {
            return Err(SessionRefusal::NoSession(id));
        }
        self.close(id);
        Ok(())
    }

    /// Ends a session.
    fn close(&mut self, id: SessionId) {
        let Some(session) = self.by_id.remove(&id) else { return };
        self.by_use.remove(&(session.used, id));
        match session.owner {
            Some(owner) => drop(self.by_owner.remove(&owner.instance)),
            None => self.bytes -= session.size(),
        }
    }

    /// Ends the session of an instance.
    pub(crate) fn close_of(&mut self, owner: InstanceId) {
        if let Some(id) = self.by_owner.get(&owner).copied() {
            self.close(id);
        }
    }

    /// Ends sessions that have expired.
    pub(crate) fn sweep(&mut self, now: LogTime) {
        for _ in 0..EXPIRE_PER_ENTRY {
            match self.by_use.get_min() {
                Some((used, id)) if used.plus(SESSION_TTL_MS) <= now => {
                    let id = *id;
                    self.close(id);
                }
                _ => break,
            }
        }
    }

    /// All sessions by id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.by_id.iter().map(|(id, session)| (*id, session.as_ref()))
    }

    /// The session with the highest id, and its highest request.
    pub(crate) fn last(&self) -> Option<(SessionId, Option<u64>)> {
        let (id, session) = self.by_id.get_max()?;
        Some((*id, session.outcomes.get_max().map(|(sequence, _)| *sequence)))
    }

    /// Adds a session, as opened or as a snapshot has it.
    pub(crate) fn insert(&mut self, id: SessionId, session: Session) {
        self.by_use.insert((session.used, id));
        match session.owner {
            Some(owner) => drop(self.by_owner.insert(owner.instance, id)),
            None => self.bytes += session.size(),
        }
        self.by_id.insert(id, Arc::new(session));
    }

    /// Whether a snapshot's session and outcome may follow what was read of it.
    pub(crate) fn has_room(&self) -> bool {
        self.bytes <= SESSIONS_BYTES_MAX
            && self.by_id.len() - self.by_owner.len() <= SESSIONS_MAX
            && self.by_id.get_max().is_none_or(|(_, session)| session.outcomes.len() <= SESSION_WINDOW_MAX)
    }

    /// Whether that instance has a session.
    pub(crate) fn is_owner(&self, instance: InstanceId) -> bool {
        self.by_owner.contains_key(&instance)
    }

    /// Panics where the sessions contradict themselves.
    pub(crate) fn check_invariants(&self) {
        let mut bytes = 0;
        for session in self.by_id.values() {
            bytes += if session.owner.is_none() { session.size() } else { 0 };
            let hashes = session.outcomes.iter().map(|(sequence, outcome)| hash_outcome(*sequence, outcome));
            let sum = hashes.fold(0, u64::wrapping_add);
            assert_eq!(sum, session.digest, "the running digest is the sum of the outcomes");
        }
        assert_eq!(bytes, self.bytes, "the running size is that of all sessions of clients");
    }

    fn touch(&mut self, id: SessionId, now: LogTime) {
        let Some(session) = self.by_id.get_mut(&id).filter(|session| session.used != now) else { return };
        let session = Arc::make_mut(session);
        self.by_use.remove(&(session.used, id));
        session.used = now;
        self.by_use.insert((now, id));
    }

    /// Forgets the outcomes below a number.
    fn forget(&mut self, id: SessionId, answered_below: u64) {
        let Some(session) = self.by_id.get_mut(&id).filter(|session| session.answered_below < answered_below) else {
            return;
        };
        let session = Arc::make_mut(session);
        session.answered_below = answered_below;
        while let Some((sequence, outcome)) = session.outcomes.get_min()
            && *sequence < answered_below
        {
            if session.owner.is_none() {
                self.bytes -= size(outcome);
            }
            let sequence = *sequence;
            session.digest = session.digest.wrapping_sub(hash_outcome(sequence, outcome));
            session.outcomes.remove(&sequence);
        }
    }
}

impl Session {
    /// Whether it has expired, swept or not.
    fn is_over(&self, now: LogTime) -> bool {
        self.used.plus(SESSION_TTL_MS) <= now
    }

    fn size(&self) -> usize {
        SESSION_BYTES + self.outcomes.values().map(size).sum::<usize>()
    }
}

/// About what an outcome takes in memory.
fn size(outcome: &ControlOutcome) -> usize {
    match outcome {
        ControlOutcome::Conflict(text) | ControlOutcome::Invalid(text) => OUTCOME_BYTES + text.len(),
        ControlOutcome::Done { .. } | ControlOutcome::Refused(_) => OUTCOME_BYTES,
    }
}

/// What an outcome adds to its session's running digest.
fn hash_outcome(sequence: u64, outcome: &ControlOutcome) -> u64 {
    let mut hasher = SipHasher24::new_with_key(DIGEST_KEY);
    hasher.write(&outcome_bytes(sequence, outcome));
    hasher.finish()
}

/// The outcome with a text no longer than is kept, so that the first answer and the next are the same.
fn clipped(mut outcome: ControlOutcome) -> ControlOutcome {
    if let ControlOutcome::Conflict(text) | ControlOutcome::Invalid(text) = &mut outcome
        && text.len() > OUTCOME_TEXT_MAX
    {
        text.truncate(text.floor_char_boundary(OUTCOME_TEXT_MAX - CUT.len()));
        text.push_str(CUT);
    }
    outcome
}

/// Most sessions of clients. Instances have one each beside them.
pub const SESSIONS_MAX: usize = 10_000;

/// Most outcomes that a session keeps.
pub const SESSION_WINDOW_MAX: usize = 1024;

/// A session that was not used for so long ends, in milliseconds of log time.
pub const SESSION_TTL_MS: u64 = 10 * 60 * 1000;

/// Most bytes of the sessions of clients, as counted by [`Sessions::bytes`]: a snapshot of group 0 holds them all.
pub const SESSIONS_BYTES_MAX: usize = 64 << 20;

/// Most bytes of an outcome's text; longer ones are cut.
pub const OUTCOME_TEXT_MAX: usize = 512;

/// Most sessions that expire with one entry, so that no entry takes long to apply.
const EXPIRE_PER_ENTRY: usize = 16;

/// About what a session takes in memory without its outcomes, in bytes.
const SESSION_BYTES: usize = 512;

/// About what an outcome takes in memory without its text, in bytes.
const OUTCOME_BYTES: usize = 128;

/// Ends a text that was cut.
const CUT: &str = "...";

#[cfg(test)]
mod tests;
