//! How long a flow may be silent, by what it is, and how many there may be.

use super::{State, entry::Entry};
use crate::classify::Limits;

/// How flows are told apart, and when they end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Whether the TOS byte and where a packet came in are part of the key.
    pub seven: bool,
    /// The number of the interface that packets come from, of which the lowest 20 bits count; 0: a file.
    pub ingress: u32,
    /// How long a flow may be silent.
    pub timeouts: Timeouts,
    /// Whether a new connection of the same ports is a flow of its own, once TCP said that the old one is over.
    pub split_closed: bool,
    /// A flow that goes on is told of again after so many microseconds.
    pub active_us: u64,
    /// Most flows at once, and at most [`super::FLOWS_MAX`]. From nine tenths of it on a new flow takes the place of one that
    /// was silent for a tenth of its timeout; at all of it, of the one of a few that was silent longest.
    pub flows_max: usize,
    /// One flow in so many is tracked, chosen by its key ([`super::takes`]), so every sniffer chooses the same ones. 1: all.
    pub sample: u32,
    /// What classification may cost.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seven: false,
            ingress: 0,
            timeouts: Timeouts::default(),
            split_closed: true,
            active_us: 60 * SECOND_US,
            flows_max: 1_000_000,
            sample: 1,
            limits: Limits::default(),
        }
    }
}

/// Microseconds without a packet after which a flow has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP of which one side was seen.
    pub tcp_new_us: u64,
    /// TCP of which both were.
    pub tcp_us: u64,
    /// TCP after its end.
    pub tcp_closed_us: u64,
    /// ICMP.
    pub icmp_us: u64,
    /// Any other of which one side was seen.
    pub other_new_us: u64,
    /// Any other of which both were.
    pub other_us: u64,
}

impl Timeouts {
    /// One for all.
    #[must_use]
    pub fn all(us: u64) -> Self {
        Self { tcp_new_us: us, tcp_us: us, tcp_closed_us: us, icmp_us: us, other_new_us: us, other_us: us }
    }

    #[inline]
    pub(super) fn of(&self, flow: &Entry) -> u64 {
        match (flow.identity.protocol(), flow.state) {
            (TCP, State::New) => self.tcp_new_us,
            (TCP, State::Established | State::Closing) => self.tcp_us,
            (TCP, State::Closed) => self.tcp_closed_us,
            (ICMP | ICMP6, _) => self.icmp_us,
            (_, State::New) => self.other_new_us,
            (_, _) => self.other_us,
        }
    }
}

impl Default for Timeouts {
    /// Those of Suricata's defaults, but that established UDP has Zeek's patience.
    fn default() -> Self {
        Self {
            tcp_new_us: 60 * SECOND_US,
            tcp_us: 600 * SECOND_US,
            tcp_closed_us: 5 * SECOND_US,
            icmp_us: 30 * SECOND_US,
            other_new_us: 30 * SECOND_US,
            other_us: 120 * SECOND_US,
        }
    }
}

const SECOND_US: u64 = 1_000_000;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const ICMP6: u8 = 58;
