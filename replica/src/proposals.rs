//! Proposals of this replica, from their sending to their outcome.

use bytes::Bytes;
use flow::{
    ControlOutcome, PinOutcome, Revision,
    plant::{self, Plant},
};
use raftlog::{GroupId, driver::Rejection};

use crate::{
    output::{Output, SubmitError, Submitted, Ticket},
    replica::Replica,
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
}

/// Who waits for an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    Choice(Ticket),
    Submit(Ticket),
}

impl Proposal {
    /// It was sent now.
    pub(crate) fn sent(&mut self, now_ms: u64) {
        self.maybe = true;
        self.patience_ms = (self.patience_ms * 2).min(RESEND_MS_MAX);
        self.resend_ms = now_ms.saturating_add(self.patience_ms);
    }
}

impl Replica {
    /// A proposal of this replica was applied.
    pub(crate) fn answer(&mut self, token: u64, outcome: Outcome) {
        let Some(proposal) = self.proposals.remove(&token) else { return };
        match (proposal.asker, outcome) {
            (Asker::Submit(ticket), Outcome::Control(outcome)) => {
                self.outputs.push(Output::Submitted(ticket, Ok(outcome)));
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
            (Asker::Choice(ticket), Outcome::Pin(_)) => self.choosing.applied(ticket),
            (Asker::Choice(_), Outcome::Control(_)) => {}
        }
    }

    pub(crate) fn rejected(&mut self, token: u64, reason: Rejection) {
        let Some(proposal) = self.proposals.get_mut(&token) else { return };
        let hopeless = reason == Rejection::TooLarge;
        if !hopeless && self.now_ms < proposal.deadline_ms {
            // `resend` and the tick send it again.
            if !proposal.maybe || proposal.again {
                return;
            }
        }
        let maybe = proposal.maybe && !hopeless;
        self.fail(token, maybe, reason);
    }

    pub(crate) fn fail(&mut self, token: u64, maybe: bool, reason: Rejection) {
        let Some(proposal) = self.proposals.remove(&token) else { return };
        match proposal.asker {
            Asker::Choice(ticket) => self.choosing.retry(ticket),
            Asker::Submit(ticket) => {
                let unknown = maybe && !plant::on(Plant::UnknownIsNo);
                let error = if unknown { SubmitError::Unknown } else { SubmitError::NotDone(reason) };
                let answer: Submitted = Err(error);
                self.outputs.push(Output::Submitted(ticket, answer));
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

    pub(crate) fn propose(&mut self, group: GroupId, data: Bytes, asker: Asker, deadline_ms: u64, again: bool) -> u64 {
        let token = self.draw_token();
        let maybe = self.driver.leader(group).is_some();
        self.proposals.insert(
            token,
            Proposal {
                group,
                data: data.clone(),
                asker,
                resend_ms: self.now_ms + RESEND_MS,
                patience_ms: RESEND_MS,
                deadline_ms,
                again,
                maybe,
            },
        );
        self.driver.propose(group, token, data);
        token
    }

    pub(crate) fn draw_token(&mut self) -> u64 {
        self.next_token = self.next_token.wrapping_add(1);
        self.next_token
    }

    /// Sends proposals of a group again that may be.
    pub(crate) fn resend(&mut self, group: GroupId) {
        let leader = self.driver.leader(group).is_some();
        for (token, proposal) in &mut self.proposals {
            if proposal.group == group && leader && (proposal.again || !proposal.maybe) {
                proposal.sent(self.now_ms);
                self.driver.propose(group, *token, proposal.data.clone());
            }
        }
    }
}

/// A proposal without an answer is sent again after so long, and then after twice as long each time.
const RESEND_MS: u64 = 100;

/// The longest such time.
const RESEND_MS_MAX: u64 = 1600;

/// Most proposals of this replica that wait for their outcome.
const PROPOSALS_MAX: usize = 100_000;
