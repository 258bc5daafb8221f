//! Proposals of this replica, from their sending to their outcome.

use bytes::Bytes;
use flow::{
    ControlOutcome, PinOutcome, Revision,
    flows::FlowOutcome,
    plant::{self, Plant},
};
use raftlog::{GroupId, driver::Rejection};

use crate::{
    output::{Output, SubmitError, Submitted, Ticket},
    replica::Replica,
    session::Course,
    tables::Outcome,
};

/// A proposal that waits for its entry.
#[derive(Debug)]
pub(crate) struct Proposal {
    pub group: GroupId,
    pub data: Bytes,
    pub asker: Asker,
    /// When it is sent again, if nothing was heard by then.
    pub resend_ms: u64,
    /// How long to wait for the next time after that: doubles, or a slow fleet would be fed more and more.
    pub patience_ms: u64,
    pub deadline_ms: u64,
    /// Whether it may be sent again: it is idempotent or compare-and-set.
    pub again: bool,
    /// Whether it may have been appended.
    pub maybe: bool,
    /// Whether it may have been appended more than once.
    pub doubled: bool,
    /// Whether it may have been applied in what a snapshot skipped.
    pub hidden: bool,
    pub course: Course,
}

/// Who waits for an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    Choice(Ticket),
    Submit(Ticket),
    /// A batch of flows, or what others say of one.
    Flow(Ticket),
    /// This replica's own session, which is being opened.
    Session,
}

impl Proposal {
    /// One of group 0 that waits for this replica's session.
    pub(crate) fn held(data: Bytes, asker: Asker, deadline_ms: u64) -> Self {
        Self {
            group: GroupId(0),
            data,
            asker,
            resend_ms: u64::MAX,
            patience_ms: RESEND_MS,
            deadline_ms,
            again: false,
            maybe: false,
            doubled: false,
            hidden: false,
            course: Course::Held,
        }
    }

    /// Whether it may be sent, now or later.
    pub(crate) fn may_be_sent(&self) -> bool {
        match self.course {
            Course::Plain => self.again || !self.maybe,
            Course::Held => false,
            Course::Session(..) => true,
        }
    }

    /// It was sent now.
    pub(crate) fn sent(&mut self, now_ms: u64) {
        self.doubled |= self.maybe;
        self.maybe = true;
        self.patience_ms = (self.patience_ms * 2).min(RESEND_MS_MAX);
        self.resend_ms = now_ms.saturating_add(self.patience_ms);
    }
}

impl Replica {
    /// A proposal of this replica was applied.
    pub(crate) fn answer(&mut self, token: u64, outcome: Outcome) {
        let Some(proposal) = self.proposals.remove(&token) else { return };
        self.reports -= usize::from(matches!(proposal.asker, Asker::Flow(_)));
        if let (Course::Session(_, sequence), Outcome::Control(outcome)) = (proposal.course, &outcome) {
            return self.session_answered(proposal, sequence, outcome.clone());
        }
        match (proposal.asker, outcome) {
            (Asker::Session, Outcome::Control(outcome)) => self.session_opened(&outcome),
            // An earlier copy may have been carried out before the session ended, or a later one may yet find room.
            (Asker::Submit(ticket), Outcome::Control(ControlOutcome::Refused(refusal)))
                if proposal.hidden || (proposal.doubled && !refusal.is_final()) =>
            {
                self.outputs.push(Output::Submitted(ticket, Err(SubmitError::Unknown)));
            }
            (Asker::Submit(ticket), Outcome::Control(outcome)) => {
                self.outputs.push(Output::Submitted(ticket, Ok(outcome)));
            }
            (Asker::Submit(ticket), Outcome::Pin(PinOutcome::Holds(_))) if proposal.hidden => {
                self.outputs.push(Output::Submitted(ticket, Err(SubmitError::Unknown)));
            }
            (Asker::Submit(ticket), Outcome::Pin(PinOutcome::Holds(pin))) => {
                let text = format!("the pin changed meanwhile: it is at revision {}", pin.revision);
                self.outputs.push(Output::Submitted(ticket, Ok(ControlOutcome::Conflict(text))));
            }
            (Asker::Submit(ticket), Outcome::Pin(_)) => {
                let group = self.groups.get((proposal.group.0 as usize).wrapping_sub(1));
                let revision = group.map_or(Revision(0), |group| group.view.table.applied());
                let epoch = self.control.table.epoch();
                self.outputs.push(Output::Submitted(ticket, Ok(ControlOutcome::Done { revision, epoch })));
            }
            (Asker::Choice(ticket), Outcome::Pin(outcome)) => {
                self.choosing.applied(ticket, matches!(outcome, PinOutcome::Holds(_)));
            }
            // An earlier copy may have changed the record itself, which may have left since. Batches are numbered.
            (Asker::Flow(ticket), Outcome::Flow(FlowOutcome::Changed(_) | FlowOutcome::NoFlow)) if proposal.hidden => {
                self.outputs.push(Output::Reported(ticket, Err(SubmitError::Unknown)));
            }
            (Asker::Flow(ticket), Outcome::Flow(outcome)) => self.outputs.push(Output::Reported(ticket, Ok(outcome))),
            // Who asks what is answered by entries of that group.
            (Asker::Choice(_), Outcome::Control(_) | Outcome::Flow(_))
            | (Asker::Session, Outcome::Pin(_) | Outcome::Flow(_))
            | (Asker::Submit(_), Outcome::Flow(_))
            | (Asker::Flow(_), Outcome::Control(_) | Outcome::Pin(_)) => {}
        }
    }

    pub(crate) fn rejected(&mut self, token: u64, reason: Rejection) {
        let Some(proposal) = self.proposals.get_mut(&token) else { return };
        let hopeless = reason.retry_after_ms().is_none();
        // `resend` and the tick send it again.
        if hopeless || self.now_ms >= proposal.deadline_ms || !proposal.may_be_sent() {
            return self.fail(token, reason);
        }
        // Nothing is on its way any more: no need to wait for as long as if it were.
        let again_ms = self.now_ms.saturating_add(reason.retry_after_ms().unwrap_or(RESEND_MS).max(RESEND_MS));
        proposal.resend_ms = proposal.resend_ms.min(again_ms);
    }

    /// Gives a proposal up. By what it is at this moment: it may have been sent since it was found to be late.
    pub(crate) fn fail(&mut self, token: u64, reason: Rejection) {
        let Some(proposal) = self.proposals.remove(&token) else { return };
        self.reports -= usize::from(matches!(proposal.asker, Asker::Flow(_)));
        let hopeless = reason.retry_after_ms().is_none();
        // A request grows by some bytes with what it says is answered: of two copies the first may have been small enough.
        let maybe = proposal.maybe && (!hopeless || proposal.doubled);
        self.session_given_up(token, proposal.course);
        match proposal.asker {
            Asker::Session => self.session_not_opened(),
            Asker::Choice(ticket) => self.choosing.retry(ticket),
            Asker::Submit(ticket) => {
                let unknown = maybe && !plant::on(Plant::UnknownIsNo);
                let error = if unknown { SubmitError::Unknown } else { SubmitError::NotDone(reason) };
                let answer: Submitted = Err(error);
                self.outputs.push(Output::Submitted(ticket, answer));
            }
            Asker::Flow(ticket) => {
                let error = if maybe { SubmitError::Unknown } else { SubmitError::NotDone(reason) };
                self.outputs.push(Output::Reported(ticket, Err(error)));
            }
        }
    }

    pub(crate) fn submit_bytes(&mut self, ticket: Ticket, group: GroupId, data: Bytes, deadline_ms: u64, again: bool) {
        if self.proposals.len() >= PROPOSALS_MAX {
            let error = SubmitError::NotDone(raftlog::driver::Rejection::Overloaded);
            self.outputs.push(Output::Submitted(ticket, Err(error)));
            return;
        }
        self.propose(group, data, Asker::Submit(ticket), deadline_ms, again);
    }

    pub(crate) fn propose(&mut self, group: GroupId, data: Bytes, asker: Asker, deadline_ms: u64, again: bool) {
        let token = self.draw_token();
        let proposal = Proposal::held(data, asker, deadline_ms);
        self.proposals.insert(token, Proposal { group, again, course: Course::Plain, ..proposal });
        self.send_first(token);
    }

    /// Sends a proposal for the first time.
    pub(crate) fn send_first(&mut self, token: u64) {
        let now_ms = self.now_ms;
        if let Some(proposal) = self.proposals.get_mut(&token) {
            proposal.maybe = self.driver.leader(proposal.group).is_some();
            // Batches are large, and a busy fleet takes its time for them.
            let patience_ms = if matches!(proposal.asker, Asker::Flow(_)) { RESEND_MS_MAX } else { RESEND_MS };
            (proposal.resend_ms, proposal.patience_ms) = (now_ms.saturating_add(patience_ms), patience_ms);
        }
        self.send(token);
    }

    /// Sends a proposal once more.
    pub(crate) fn send_again(&mut self, token: u64) {
        if let Some(proposal) = self.proposals.get_mut(&token) {
            proposal.sent(self.now_ms);
        }
        self.send(token);
    }

    fn send(&mut self, token: u64) {
        if let Some(proposal) = self.proposals.get(&token) {
            let data = self.data_of(proposal);
            self.driver.propose(proposal.group, token, data);
        }
    }

    pub(crate) fn draw_token(&mut self) -> u64 {
        self.next_token = self.next_token.wrapping_add(1);
        self.next_token
    }

    /// Sends proposals of a group again that may be.
    pub(crate) fn resend(&mut self, group: GroupId) {
        if self.driver.leader(group).is_none() {
            return;
        }
        let due = |proposal: &Proposal| proposal.group == group && proposal.may_be_sent();
        let due: Vec<u64> =
            self.proposals.iter().filter(|(_, proposal)| due(proposal)).map(|(token, _)| *token).collect();
        for token in due {
            self.send_again(token);
        }
    }
}

/// A proposal without an answer is sent again after so long, and then after twice as long each time.
const RESEND_MS: u64 = 100;

/// The longest such time.
const RESEND_MS_MAX: u64 = 1600;

/// Most proposals of this replica that wait for their outcome.
pub(crate) const PROPOSALS_MAX: usize = 100_000;
