//! The sniffer's doors: capture files, what its memory holds, and the binary on interfaces of network namespaces that the
//! tests make.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod capture;
mod captures;
mod memory;
mod net;
mod run;
#[path = "../../src/wires.rs"]
#[allow(dead_code, reason = "shared with the unit tests")]
mod wires;
