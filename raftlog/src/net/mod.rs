//! The transport between peers: opaque frames over one long gRPC stream per direction, snapshots on their own connection.
//!
//! A dials B and opens the stream `Link`; frames flow from A to B on it, B answers with pongs only. What B has to say
//! travels on the stream that B dials. Nothing here knows what a frame means: the owner gives a [`Gate`], which says who
//! may come in, and an [`Inbox`], which takes frames and news of links without ever blocking.
//!
//! One dialler per peer, in this circle:
//!
//! ```text
//!            +--------- pause (20 ms .. 1 s, jitter; ends early when the peer itself comes in) <-------+
//!            v                                                                                         |
//!         dialling --connected--> saying hello --accepted--> up (LinkUp) --lost--> LinkDown --+        |
//!            |                         |                                                      |        |
//!            | ECONNREFUSED:           | no: Refused                at once, if not flapping  |        |
//!            | LinkDown{refused}       |                     dialling <-----------------------+        |
//!            +-------------------------+---------------------------------------------------------------+
//! ```
//!
//! Loss is part of the contract: whatever does not fit a queue, comes while a link is down or is not taken by the inbox
//! is dropped and counted, since Raft repeats what matters.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod backoff;
mod connect;
mod counters;
mod dialer;
mod directory;
mod gate;
mod generated;
mod inbound;
mod incoming;
mod network;
mod options;
mod outbox;
mod receive;
mod service;
mod snapshot;
mod tasks;
mod tls;
mod transport;

#[cfg(test)]
mod tests;

pub use connect::{Connector, Tapped};
pub use counters::Counters;
pub use gate::{Event, Gate, Inbox, PeerAddress, Refused, SnapshotOffer, SnapshotSink, SnapshotSource};
pub use generated::link_server::LinkServer;
pub use incoming::{Caller, GuardedStream, Incoming, Proof};
pub use network::{Listener, MemoryListener, MemoryNetwork, Network};
pub use options::*;
pub use service::LinkService;
pub use snapshot::SnapshotSendError;
pub use tls::{Part, Pems, Tls, TlsError};
pub use transport::{LinkStatus, PeersError, Transport, server};
