//! The packet rules of transparent mode: what a machine needs so that servers may answer to clients' own addresses.
//!
//! ```text
//!  client C ──> VIP        rule: what comes for a VIP goes to its listener, though no interface has the VIP     (tproxy)
//!  C ──> server            the instance's socket has C's address and port                              (no rule needed)
//!  server ──> C            rule: what belongs to such a socket is marked; marked packets are for this machine   (socket)
//! ```
//! [`plan`] decides, without a look at the machine; [`host`] looks and does.

pub mod host;
pub mod plan;
