//! A flow as it lies in memory: two cache lines, so that a packet costs no more than those and one of the index.

use std::sync::Arc;

use ahash::RandomState;
use flow::tuple::{Endpoint, FlowKey, IpVersion};

use super::{Counts, Flow, State, index::prefetch};
use crate::{
    classify::{Label, Pending},
    decode::Packet,
};

/// A key, the TOS byte and the outermost VLAN in five words, so that they are compared and hashed as such.
///
/// The last word has, from its upper end: the low port and the high one, the protocol (8 bits), whether it is IPv6, whether
/// there is a VLAN, 2 bits of nothing, the VLAN's id (12 bits), the TOS byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity([u64; 5]);

impl Identity {
    /// Of a packet, and whether that goes from the key's low endpoint to the high one.
    #[inline]
    pub fn of(packet: &Packet<'_>) -> (Self, bool) {
        let mut ports = (packet.source.port, packet.destination.port);
        let from_low;
        let source = u128::from_be_bytes(packet.source.address);
        let destination = u128::from_be_bytes(packet.destination.address);
        if matches!(packet.protocol, ICMP | ICMP6) {
            let (key, forward) = packet.key();
            ports = if forward { (key.low.port, key.high.port) } else { (key.high.port, key.low.port) };
            from_low = forward;
        } else {
            from_low = (source, ports.0) <= (destination, ports.1);
        }
        let (low, high) = if from_low { (source, destination) } else { (destination, source) };
        let (low_port, high_port) = if from_low { ports } else { (ports.1, ports.0) };
        let mut last = u64::from(low_port) << 48 | u64::from(high_port) << 32;
        last |= u64::from(packet.protocol) << 24 | u64::from(packet.tos);
        if packet.version == IpVersion::V6 {
            last |= IPV6;
        }
        if let Some(vlan) = packet.vlan {
            last |= TAGGED | u64::from(vlan & 0xfff) << VLAN_SHIFT;
        }
        (Self([(low >> 64) as u64, low as u64, (high >> 64) as u64, high as u64, last]), from_low)
    }

    /// A hash of what tells flows apart, of [`FIVE`] or [`SEVEN`].
    #[inline]
    pub fn hash(&self, state: &RandomState, mask: u64) -> u32 {
        let [a, b, c, d, last] = self.0;
        let pair = |first: u64, second: u64| u128::from(first) << 64 | u128::from(second);
        (state.hash_one((pair(a, b), pair(c, d), last & mask)) >> 32) as u32
    }

    /// Whether both are the same flow, by [`FIVE`] or [`SEVEN`].
    #[inline]
    pub fn is(&self, other: &Self, mask: u64) -> bool {
        let differs = (0..4).fold(0, |sum, word| sum | (self.0[word] ^ other.0[word]));
        differs | ((self.0[4] ^ other.0[4]) & mask) == 0
    }

    pub fn key(&self) -> FlowKey {
        let [a, b, c, d, last] = self.0;
        let endpoint = |first: u64, second: u64, port: u64| {
            let mut address = [0; 16];
            address[..8].copy_from_slice(&first.to_be_bytes());
            address[8..].copy_from_slice(&second.to_be_bytes());
            Endpoint { address, port: port as u16 }
        };
        FlowKey {
            low: endpoint(a, b, last >> 48),
            high: endpoint(c, d, last >> 32),
            protocol: self.protocol(),
            version: if last & IPV6 == 0 { IpVersion::V4 } else { IpVersion::V6 },
        }
    }

    #[inline]
    pub fn protocol(&self) -> u8 {
        (self.0[4] >> 24) as u8
    }

    /// Of the low endpoint, and of the high one.
    #[inline]
    pub fn ports(&self) -> (u16, u16) {
        ((self.0[4] >> 48) as u16, (self.0[4] >> 32) as u16)
    }

    fn tos(&self) -> u8 {
        self.0[4] as u8
    }

    fn vlan(&self) -> Option<u16> {
        (self.0[4] & TAGGED != 0).then_some((self.0[4] >> VLAN_SHIFT) as u16 & 0xfff)
    }
}

/// A flow, or a free place.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Entry {
    pub identity: Identity,
    /// From who sent the first packet, and from the other side. A free place has none of the first.
    pub counts: [Counts; 2],
    pub first_us: u64,
    pub last_us: u64,
    /// When it was last told of.
    pub told_us: u64,
    pub hash: u32,
    /// The next flow in the same slot of the wheel, or the next free place.
    pub next: u32,
    pub tcp_flags: [u8; 2],
    /// Packets with a payload that were looked at to classify it.
    pub looked_at: u8,
    pub state: State,
    pub from_low: bool,
    /// Whether it was told of.
    pub told: bool,
    pub label: Option<Arc<Label>>,
    /// What classification remembers until it is known.
    pub pending: Option<Box<Pending>>,
}

impl Entry {
    pub fn is_free(&self) -> bool {
        self.counts[0].packets == 0
    }

    /// As it is told of.
    pub fn flow(&self) -> Flow {
        Flow {
            key: self.identity.key(),
            from_low: self.from_low,
            state: self.state,
            tos: self.identity.tos(),
            tcp_flags: self.tcp_flags,
            vlan: self.identity.vlan(),
            first_us: self.first_us,
            last_us: self.last_us,
            counts: self.counts,
            label: self.label.clone(),
        }
    }

    #[inline]
    pub fn prefetch(&self) {
        prefetch(self);
        prefetch(&self.told_us);
    }
}

/// Flows by their places. It grows in pieces that never move, so it neither copies nor holds more than one piece too much.
#[derive(Default)]
pub struct Slab {
    pieces: Vec<Vec<Entry>>,
    len: usize,
}

impl Slab {
    /// How many places there are, the free ones with them.
    pub fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub fn at(&self, place: u32) -> &Entry {
        &self.pieces[place as usize / PIECE][place as usize % PIECE]
    }

    #[inline]
    pub fn at_mut(&mut self, place: u32) -> &mut Entry {
        &mut self.pieces[place as usize / PIECE][place as usize % PIECE]
    }

    pub fn push(&mut self, entry: Entry) {
        if self.len.is_multiple_of(PIECE) {
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        if let Some(last) = self.pieces.last_mut() {
            last.push(entry);
            self.len += 1;
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.pieces.iter().flatten()
    }
}

/// Flows of a piece: 128 KiB.
const PIECE: usize = 1024;

/// Of the last word, what tells 5-tuples apart: ports, protocol, version.
pub const FIVE: u64 = !0 << 23;
/// And 7-tuples: the TOS byte and the VLAN as well. No VLAN and id 0 (a priority tag, IEEE 802.1Q) are the same.
pub const SEVEN: u64 = !TAGGED;

const ICMP: u8 = 1;
const ICMP6: u8 = 58;

const IPV6: u64 = 1 << 23;
const TAGGED: u64 = 1 << 22;
const VLAN_SHIFT: u32 = 8;

const _: () = assert!(size_of::<Entry>() == 128, "two cache lines");
