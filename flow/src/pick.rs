//! Who is picked for a client that has no pin: slot tables (`source-hash`), turns (`round-robin`), fewest pins.
//!
//! A pick is only a proposal, the commit decides. But where all instances pick alike, first contacts at several
//! instances propose the same backend, and an isolated instance that has to guess guesses as the others do.

mod log2;
mod policies;
mod slots;

pub use policies::{LeastConnections, RoundRobin};
pub use slots::{MAX_SERVERS_PER_POOL, SLOTS, SlotTable, slot_of};

#[cfg(test)]
mod tests;
