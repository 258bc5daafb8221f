//! The farm as operators have it: a router that spreads one VIP over the instances by ECMP, each host in a network of its own.
//!
//! ```text
//!  clients ── router ──┬── a (VIP on lo) ──┬── switch ── s1
//!  100.64.0.0/10       ├── b (VIP on lo) ──┤          ── s2
//!                      └── c (VIP on lo) ──┘          ── ...
//! ```
//! Instances announce the VIP to the router while they are ready: over BGP where BIRD is installed, by a command that changes
//! the router's route otherwise. Peers, health checks and servers use the network behind the instances.

pub mod named;
pub mod net;
pub mod plan;
