//! This replica's own session: what lets it send a command again that must not be carried out twice.
//!
//! ```text
//!   submit --> waiting --the session is open, its window has room--> sent, and sent again --applied--> answered
//!                 ^                                                          |
//!                 '--- the session ended before the command was carried out -'
//! ```
//! The session is opened when it is first needed, in each life of the process anew.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use flow::{
    ControlCommand, ControlOutcome, InstanceId, Request, SessionId, SessionOwner, SessionRefusal,
    sessions::SESSION_WINDOW_MAX,
};
use raftlog::{GroupId, driver::Rejection};

use crate::{
    output::{Output, SubmitError, Ticket},
    proposals::{Asker, PROPOSALS_MAX, Proposal},
    replica::Replica,
};

/// The session and the proposals that go by it.
#[derive(Debug, Default)]
pub(crate) struct OwnSession {
    /// None: it was not needed yet, or ended.
    id: Option<SessionId>,
    /// It is being opened.
    opening: bool,
    /// Numbers are not used again in a later session, so that `open` may hold those of both.
    next_sequence: u64,
    /// The requests that were sent and not answered.
    open: BTreeSet<u64>,
    /// The tokens of proposals that were not sent yet.
    waiting: VecDeque<u64>,
}

/// How a proposal goes into the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    /// As it is.
    Plain,
    /// It waits for the session.
    Held,
    /// As that request of that session.
    Session(SessionId, u64),
}

impl Replica {
    /// Proposes a control command; answered by `Output::Submitted`.
    ///
    /// With a `request` it is carried out once, however often that comes, here or elsewhere. Without one it goes by this
    /// replica's own session, so that it is carried out once although it is sent until it is answered; or, with `again`, as
    /// it is: it is idempotent or compare-and-set. Commands of sessions always go as they are; the one that opens a
    /// client's session goes once.
    pub fn submit(
        &mut self,
        ticket: Ticket,
        command: &ControlCommand,
        deadline_ms: u64,
        again: bool,
        request: Option<Request>,
    ) {
        let data = command.encode();
        let of_sessions = matches!(
            command,
            ControlCommand::OpenSession(_) | ControlCommand::CloseSession(_) | ControlCommand::Once { .. }
        );
        match request {
            Some(request) => self.submit_bytes(ticket, GroupId(0), request.wrap(None, &data).into(), deadline_ms, true),
            None if again || of_sessions => {
                // Each copy would open a session of its own.
                let again = *command != ControlCommand::OpenSession(None);
                self.submit_bytes(ticket, GroupId(0), data.into(), deadline_ms, again);
            }
            None if self.proposals.len() >= PROPOSALS_MAX => {
                self.outputs.push(Output::Submitted(ticket, Err(SubmitError::NotDone(Rejection::Overloaded))));
            }
            None => self.hold(Proposal::held(data.into(), Asker::Submit(ticket), deadline_ms)),
        }
    }

    /// Has a proposal wait for the session.
    fn hold(&mut self, proposal: Proposal) {
        // A new token for each session: copies of what went by an earlier one are not taken for its answer.
        let token = self.draw_token();
        self.proposals.insert(token, proposal);
        self.session.waiting.push_back(token);
        self.use_session();
    }

    /// Sends what waits for the session, as far as it allows.
    fn use_session(&mut self) {
        let control = &self.control.table;
        self.session.id = self.session.id.filter(|id| control.sessions().is_open(*id, control.time()));
        let Some(id) = self.session.id else { return self.open_session() };
        while self.session.has_room()
            && let Some(token) = self.session.waiting.pop_front()
        {
            let Some(proposal) = self.proposals.get_mut(&token) else { continue };
            let sequence = self.session.next_sequence;
            self.session.next_sequence += 1;
            self.session.open.insert(sequence);
            proposal.course = Course::Session(id, sequence);
            self.send_first(token);
        }
    }

    fn open_session(&mut self) {
        if self.session.opening || self.session.waiting.is_empty() {
            return;
        }
        self.session.opening = true;
        let command = ControlCommand::OpenSession(Some(self.session_owner())).encode();
        self.propose(GroupId(0), command.into(), Asker::Session, self.now_ms.saturating_add(OPEN_MS), true);
    }

    /// By whom the table knows this replica's sessions: nobody else's requests go by them.
    fn session_owner(&self) -> SessionOwner {
        SessionOwner { instance: InstanceId(self.config.driver.id.0), life: self.config.token_start }
    }

    /// The session was opened, or refused.
    pub(crate) fn session_opened(&mut self, outcome: &ControlOutcome) {
        self.session.opening = false;
        if let ControlOutcome::Done { revision, .. } = outcome {
            self.session.id = Some(SessionId(revision.0));
            return self.use_session();
        }
        // Before the fleet's birth, and once this instance was removed: nothing else would be done either.
        for token in std::mem::take(&mut self.session.waiting) {
            if let Some(Proposal { asker: Asker::Submit(ticket), .. }) = self.proposals.remove(&token) {
                // What is invalid is that such an instance has a session: the command was not looked at.
                let no_member = matches!(outcome, ControlOutcome::Invalid(_));
                let answer = if no_member { Err(SubmitError::NoMember) } else { Ok(outcome.clone()) };
                self.outputs.push(Output::Submitted(ticket, answer));
            }
        }
    }

    /// The session was not opened in time.
    pub(crate) fn session_not_opened(&mut self) {
        self.session.opening = false;
        self.open_session();
    }

    /// A command of the session was applied.
    pub(crate) fn session_answered(&mut self, mut proposal: Proposal, sequence: u64, outcome: ControlOutcome) {
        self.session.open.remove(&sequence);
        match (proposal.asker, outcome) {
            // The session ended before this entry, and so before all copies that come later. None came earlier, unless
            // that is hidden in a snapshot.
            (_, ControlOutcome::Refused(SessionRefusal::NoSession(_))) if !proposal.hidden => {
                proposal.course = Course::Held;
                (proposal.maybe, proposal.doubled) = (false, false);
                self.hold(proposal);
            }
            (Asker::Submit(ticket), ControlOutcome::Refused(_)) => {
                self.outputs.push(Output::Submitted(ticket, Err(SubmitError::Unknown)));
            }
            (Asker::Submit(ticket), outcome) => self.outputs.push(Output::Submitted(ticket, Ok(outcome))),
            (Asker::Choice(_) | Asker::Session | Asker::Flow(_), _) => {}
        }
        self.use_session();
    }

    /// Nobody waits any more for a proposal of the session.
    pub(crate) fn session_given_up(&mut self, token: u64, course: Course) {
        match course {
            Course::Session(_, sequence) => drop(self.session.open.remove(&sequence)),
            Course::Held => self.session.waiting.retain(|waiting| *waiting != token),
            Course::Plain => return,
        }
        self.use_session();
    }

    /// What a proposal puts into the log: the command as it is, or as a request of the session.
    pub(crate) fn data_of(&self, proposal: &Proposal) -> Bytes {
        let Course::Session(session, sequence) = proposal.course else { return proposal.data.clone() };
        let request = Request { session, sequence, answered_below: self.session.answered_below() };
        request.wrap(Some(self.session_owner()), &proposal.data).into()
    }

    /// A snapshot of a group was installed: what was sent may have been carried out in what it skipped.
    pub(crate) fn hide_outcomes(&mut self, group: GroupId) {
        for proposal in self.proposals.values_mut().filter(|proposal| proposal.group == group) {
            proposal.hidden |= proposal.maybe;
        }
    }
}

impl OwnSession {
    /// Every request below was answered, or nobody waits for its answer any more.
    fn answered_below(&self) -> u64 {
        self.open.first().copied().unwrap_or(self.next_sequence)
    }

    /// Whether one more outcome can be kept, even if none is answered for a while.
    fn has_room(&self) -> bool {
        self.next_sequence - self.answered_below() < SESSION_WINDOW_MAX as u64
    }
}

/// The opening of a session is given up, and begun anew if that is still wanted, after so long.
const OPEN_MS: u64 = 10_000;

#[cfg(test)]
mod tests;
