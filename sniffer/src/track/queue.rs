//! Packets that wait for the few behind them, so that what memory holds of their flows comes for all at once.

use super::entry::Identity;

/// What is kept of a packet, as its frame is gone by the time it is handled.
#[derive(Clone, Copy)]
pub struct Waiting {
    pub identity: Identity,
    pub now_us: u64,
    pub hash: u32,
    pub wire_bytes: u32,
    pub sequence: u32,
    /// Where its flow seems to be.
    pub place: u32,
    pub payload: (u32, u32),
    pub tcp_flags: u8,
    pub from_low: bool,
}

/// At most [`BATCH`] packets, in their order.
#[derive(Default)]
pub struct Queue {
    pub packets: Vec<Waiting>,
    payloads: Vec<u8>,
}

impl Queue {
    pub fn is_full(&self) -> bool {
        self.packets.len() >= BATCH
    }

    /// Takes a packet whose `payload` begins behind what is there of others.
    #[inline]
    pub fn push(&mut self, mut packet: Waiting, payload: &[u8]) {
        if !payload.is_empty() {
            let begin = self.payloads.len();
            self.payloads.extend_from_slice(payload);
            packet.payload = (begin as u32, self.payloads.len() as u32);
        }
        self.packets.push(packet);
    }

    #[inline]
    pub fn payload(&self, packet: &Waiting) -> &[u8] {
        self.payloads.get(packet.payload.0 as usize..packet.payload.1 as usize).unwrap_or_default()
    }

    pub fn clear(&mut self) {
        self.packets.clear();
        self.payloads.clear();
    }
}

/// Packets that are handled together: enough that fetching from memory overlaps, few enough that all stays in the first cache.
pub const BATCH: usize = 32;
