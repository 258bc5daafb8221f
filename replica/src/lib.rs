//! One instance's deterministic core: where the agreement (`raftlog`) and the words (`flow`) meet.
//!
//! [`Replica`] applies the log to the tables, answers choices, keeps and grants leases, counts votes, settles moves.
//! It has no clock, no socket, no disk and no thread: the instance's threads and the simulator drive the same code.

pub mod backup;
pub mod birth;
mod choosing;
mod duties;
mod flows;
mod lease;
mod output;
mod proposals;
mod replica;
mod session;
mod snapshots;
pub mod storage;
mod tables;
mod words;

pub use birth::{Admission, Admitted, Birthing, Decision, Founding, Hello, Identity, Known, Refused, Reply};
pub use flows::REPORTS_MAX;
pub use output::{Answered, Chosen, GroupRole, Output, Refusal, Reported, SubmitError, Submitted, Ticket};
pub use replica::{Replica, ReplicaConfig, ReplicaCounts, group_of};
pub use tables::{ControlState, FlowState, GroupState, PinState, RestoreError, StartError};
