//! Carrying a connection through a peer, when the backend is up but cannot be reached from here.
//!
//! ```text
//! client -- this instance ==gRPC stream==> peer -- backend
//! ```
//! The peer connects only to members of committed pools, and only for so many connections at once. One stream is one
//! connection; frames wait in bounded queues, so a slow end slows the other through HTTP/2's flow control.

mod caller;
mod pump;
mod service;

/// What `proto/relay.proto` says, as Rust. Made by `cargo xtask codegen`.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "made from the .proto file")]
pub mod proto {
    include!("../generated/rocinante.relay.v1.rs");
}

pub use caller::{CallError, Caller, Carried, carry_client, carry_local};
pub use service::{RelayService, server};
