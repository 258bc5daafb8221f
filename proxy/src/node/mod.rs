//! The node: the replica of this instance with its doors (clock, disk, peers), and the handles others reach it by.
//!
//! ```text
//!   peers ---Event--+                       +--> shared views (readers: every traffic thread, wait-free)
//!   traffic -Choose-+--> [replica thread] --+--> peers (frames, snapshots)
//!   health --View---+      ^                +--> [log thread] one write, one sync a round
//!   REST, CLI ------+      +----Persisted--------------'
//!                          +--> [snapshots thread] states to files
//! ```
//!
//! The replica thread alone touches the replica; it publishes what readers see before it sends what tells of it.

pub mod certificates;
mod clock;
mod control;
mod disk;
mod driver;
mod events;
mod fleet;
mod flows;
mod gate;
mod health;
mod input;
mod names;
mod operate;
mod seen;
mod shared;
mod snapshots;
mod start;
mod threads;

pub use fleet::Fleet;
pub use start::{Node, StartError, restore};
