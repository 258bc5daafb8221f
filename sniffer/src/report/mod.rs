//! The door to the fleet: what was seen is committed through any of its instances.
//!
//! [`Reporter`] takes events from whoever captures, on a thread of its own, and never makes it wait. What is sent when, what an
//! answer means, and what is given up when there is too much, is decided by `outbox`, which knows no socket and no clock.

mod args;
mod options;
mod outbox;
mod push;
mod queue;
mod seen;
mod targets;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use args::ReportArgs;
pub use options::Options;
pub use outbox::{Closing, Counters, Fatal, PENDING_MAX, Shed};
pub use push::{Reporter, Unfinished};
pub use queue::{Ended, QUEUE_EVENTS_MAX};
pub use seen::Seen;
pub use targets::{Target, Targets, TargetsError};
