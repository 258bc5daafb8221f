//! What is known of one flow.

use std::sync::Arc;

pub use flow::flows::{Counts, End};
use flow::tuple::FlowKey;

use crate::classify::Label;

/// How far a flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// One side was seen.
    New,
    /// Both were.
    Established,
    /// One side of TCP said that it has nothing more.
    Closing,
    /// Both did, or one broke it off.
    Closed,
}

/// What is known of one flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Its endpoints.
    pub key: FlowKey,
    /// Whether its first packet went from the key's low endpoint to the high one.
    pub from_low: bool,
    /// How far it is.
    pub state: State,
    /// The TOS byte of its first packet.
    pub tos: u8,
    /// The TCP flags seen from who sent the first packet, and from the other side.
    pub tcp_flags: [u8; 2],
    /// The outermost VLAN id of its first packet.
    pub vlan: Option<u16>,
    /// The time of its first packet, in microseconds since 1970.
    pub first_us: u64,
    /// The time of its last packet.
    pub last_us: u64,
    /// From who sent the first packet, and from the other side.
    pub counts: [Counts; 2],
    /// What it carries, once that is known.
    pub label: Option<Arc<Label>>,
}
