//! Sessions as rows: each session, followed by the outcomes that it keeps.

use prost::Message;

use super::{
    SnapshotError,
    rows::{ControlKind, OutcomeRow, SessionRow},
    stream::RowReader,
};
use crate::{
    command::{ControlOutcome, Request},
    ids::{Epoch, LogTime, Revision, SessionId},
    sessions::{OUTCOME_TEXT_MAX, Session, Sessions},
    wire::WireError,
};

impl Sessions {
    pub(super) fn each_row<E>(&self, put: &mut impl FnMut(ControlKind) -> Result<(), E>) -> Result<(), E> {
        for (id, session) in self.iter() {
            put(ControlKind::Session(session_row(id, session)))?;
            for (sequence, outcome) in &session.outcomes {
                put(ControlKind::Outcome(outcome_row(id, *sequence, outcome)))?;
            }
        }
        Ok(())
    }

    pub(super) fn take_session(
        &mut self,
        row: SessionRow,
        applied: Revision,
        reader: &RowReader<'_>,
    ) -> Result<(), SnapshotError> {
        let id = SessionId(row.id);
        let new = self.last().is_none_or(|(last, _)| last < id) && id.0 <= applied.0;
        reader.ordered(new, "sessions")?;
        let owner = row.owner.map(Into::into);
        let session = Session {
            owner,
            used: LogTime(row.used),
            answered_below: row.answered_below,
            outcomes: imbl::OrdMap::new(),
            digest: 0,
        };
        reader
            .ordered(session.owner.is_none_or(|owner| !self.is_owner(owner.instance)), "the session of an instance")?;
        self.insert(id, session);
        self.check_room()
    }

    pub(super) fn take_outcome(&mut self, row: OutcomeRow, reader: &RowReader<'_>) -> Result<(), SnapshotError> {
        let OutcomeRow { session, sequence, kind, revision, epoch, text } = row;
        let session = SessionId(session);
        let follows = self.last().is_some_and(|(id, last)| id == session && last.is_none_or(|last| last < sequence));
        reader.ordered(follows, "outcomes")?;
        if text.len() > OUTCOME_TEXT_MAX {
            return Err(reader.bad(WireError::Field("text")));
        }
        let outcome = match kind {
            0 => ControlOutcome::Done { revision: Revision(revision), epoch: Epoch(epoch) },
            1 => ControlOutcome::Conflict(text),
            2 => ControlOutcome::Invalid(text),
            _ => return Err(reader.bad(WireError::Field("outcome"))),
        };
        self.keep(&Request { session, sequence, answered_below: 0 }, outcome);
        self.check_room()
    }

    fn check_room(&self) -> Result<(), SnapshotError> {
        if self.has_room() { Ok(()) } else { Err(SnapshotError::TooMany("sessions and outcomes")) }
    }
}

pub(super) fn session_row(id: SessionId, session: &Session) -> SessionRow {
    SessionRow {
        id: id.0,
        used: session.used.0,
        answered_below: session.answered_below,
        owner: session.owner.as_ref().map(Into::into),
    }
}

/// The bytes of an outcome's row, but for its session.
pub(crate) fn outcome_bytes(sequence: u64, outcome: &ControlOutcome) -> Vec<u8> {
    outcome_row(SessionId(0), sequence, outcome).encode_to_vec()
}

fn outcome_row(session: SessionId, sequence: u64, outcome: &ControlOutcome) -> OutcomeRow {
    let (kind, text) = match outcome {
        ControlOutcome::Done { .. } => (0, String::new()),
        ControlOutcome::Conflict(text) => (1, text.clone()),
        ControlOutcome::Invalid(text) => (2, text.clone()),
        // No command of sessions is kept, and no other is refused so.
        ControlOutcome::Refused(refusal) => (2, refusal.to_string()),
    };
    let (revision, epoch) = match outcome {
        ControlOutcome::Done { revision, epoch } => (revision.0, epoch.0),
        _ => (0, 0),
    };
    OutcomeRow { session: session.0, sequence, kind, revision, epoch, text }
}
