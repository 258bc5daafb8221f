//! The count of a scenario and the verdict on it.

use std::collections::BTreeMap;

use super::{BackendId, InstanceId};

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Clients that came at least once.
    pub clients: u64,
    /// Times a client asked all instances.
    pub visits: u64,
    /// Questions to one instance.
    pub asks: u64,
    /// Asks that a backend answered.
    pub answered: u64,
    /// Visits in which one client had two backends at one moment.
    pub split: u64,
    /// Visits in which a client had another backend than before without a reason.
    pub moved: u64,
    /// Visits that ended at a backend that had been taken out of the choice.
    pub stray: u64,
    /// Asks without an answer while something was being done.
    pub lost_inside: u64,
    /// Asks without an answer while nothing was being done.
    pub lost_outside: u64,
    /// Asks without an answer of instances that the judge itself had killed, stopped or paused.
    pub down: u64,
    /// Asks that an instance which the judge had cut off from its peers declined.
    pub refused: u64,
    /// Clients that were split at least once.
    pub clients_split: u64,
    /// Clients that were moved at least once.
    pub clients_moved: u64,
    /// Answers by backend.
    pub by_backend: BTreeMap<BackendId, u64>,
    /// Answers by instance.
    pub by_instance: BTreeMap<InstanceId, u64>,
}

impl Tally {
    /// Asks of instances that the judge had left in service.
    pub fn in_service(&self) -> u64 {
        self.asks - self.down - self.refused
    }

    /// Asks without an answer, whenever.
    pub fn lost(&self) -> u64 {
        self.lost_inside + self.lost_outside
    }

    /// The share of the asks in service that were answered, between 0 and 1.
    pub fn answered_share(&self) -> f64 {
        if self.in_service() == 0 { 0.0 } else { self.answered_in_service() as f64 / self.in_service() as f64 }
    }

    fn answered_in_service(&self) -> u64 {
        self.in_service() - self.lost()
    }
}

/// How much may be lost while something is being done; outside it is always nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// At most so many asks lost inside the events of the scenario.
    pub lost_inside: u64,
}

/// The verdict: passed when there is no reason against it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Why it did not pass, in words; empty when it did.
    pub reasons: Vec<String>,
}

impl Verdict {
    /// Whether nothing speaks against the fleet.
    pub fn passed(&self) -> bool {
        self.reasons.is_empty()
    }
}

/// The verdict on a whole scenario. `instances` is how many there are: one that never answered proves nothing.
pub fn judge_tally(tally: &Tally, budget: Budget, instances: usize) -> Verdict {
    let mut reasons = Vec::new();
    if tally.split > 0 {
        reasons.push(format!("{} visits saw two backends at one moment", tally.split));
    }
    if tally.moved > 0 {
        reasons.push(format!("{} visits were moved though the old backend was alive and a member", tally.moved));
    }
    if tally.stray > 0 {
        reasons.push(format!("{} visits ended at a backend that had been taken out", tally.stray));
    }
    if tally.lost_outside > 0 {
        reasons.push(format!("{} asks lost while nothing was being done", tally.lost_outside));
    }
    if tally.lost_inside > budget.lost_inside {
        reasons.push(format!("{} asks lost during events, budget {}", tally.lost_inside, budget.lost_inside));
    }
    if tally.answered_share() < ANSWERED_SHARE_MIN {
        reasons.push(format!("only {:.2} % of the asks in service were answered", tally.answered_share() * 100.0));
    }
    if tally.by_instance.len() < instances {
        reasons.push(format!("only {} of {instances} instances ever answered", tally.by_instance.len()));
    }
    Verdict { reasons }
}

/// Refusing everybody is no agreement: at least this share of the asks in service must be answered.
pub const ANSWERED_SHARE_MIN: f64 = 0.99;
