//! What a seed makes of a fleet: its size, its settings, how long it is troubled.

use super::random::Random;
use crate::{
    driver::{DetectorKind, DriverConfig, Tuning},
    types::NodeId,
    wal::WalOptions,
};

/// What stays the same for all of a seed's fleet.
pub struct Setup {
    /// How many voters there are at first, and machines.
    pub founders: u64,
    pub machines: usize,
    pub groups: u32,
    /// Faults end after so many steps.
    pub fault_steps: u64,
    pub tuning: Tuning,
    /// Whether messages may take as long as round trips of 200 ms.
    pub is_wide: bool,
    /// The most bytes of padding in a request.
    pub padding: u16,
    compact_entries: u64,
    compact_bytes: u64,
    tail_entries: u64,
    memory_bytes: u64,
    segment_bytes: u64,
    seed: u64,
}

impl Setup {
    pub fn draw(random: &mut Random) -> Self {
        let founders = random.pick(&[1, 2, 3, 3, 3, 3, 3, 4, 5, 5, 7]).unwrap_or(3);
        let is_wide = random.chance(150);
        // Logs that memory does not hold.
        let heavy = random.chance(400);
        Self {
            founders,
            machines: founders as usize + 2,
            groups: random.pick(&[1, 1, 2, 2, 3, 4]).unwrap_or(1),
            fault_steps: random.range(1500, 5000),
            tuning: tuning(random, is_wide),
            is_wide,
            padding: if heavy { random.range(4_000, 16_000) as u16 } else { 40 },
            compact_entries: if heavy { random.range(20, 400) } else { random.range(5, 60) },
            compact_bytes: random.pick(&[if heavy { 1 << 20 } else { 4 << 10 }, 1 << 20]).unwrap_or(1 << 20),
            tail_entries: random.range(0, if heavy { 100 } else { 30 }),
            memory_bytes: random.pick(&[0, 0, 0, 1 << 20]).unwrap_or(0),
            segment_bytes: random.pick(&[4 << 10, 16 << 10, 64 << 10]).unwrap_or(16 << 10),
            seed: random.next(),
        }
    }

    pub fn wal_options(&self, id: NodeId) -> WalOptions {
        WalOptions { segment_bytes: self.segment_bytes, prefill_bytes: self.segment_bytes / 4, salt: self.seed ^ id.0 }
    }

    pub fn driver_config(&self, id: NodeId, life: u64) -> DriverConfig {
        DriverConfig {
            tuning: self.tuning.clone(),
            compact_entries: self.compact_entries,
            compact_bytes: self.compact_bytes,
            tail_entries: self.tail_entries,
            memory_bytes: self.memory_bytes,
            ..DriverConfig::new(id, self.seed ^ (id.0 << 32) ^ life)
        }
    }
}

/// Settings as somebody may choose them.
pub fn tuning(random: &mut Random, is_wide: bool) -> Tuning {
    let detector = match random.below(3) {
        0 => DetectorKind::Fixed { timeout_ms: random.range(100, 1000) },
        1 => DetectorKind::Phi { threshold_tenths: random.range(30, 120) as u32 },
        _ => DetectorKind::default(),
    };
    let quick = !is_wide && random.chance(700);
    let (heartbeat_ticks, election_ticks, jitter_ticks) = if quick { (2, 10, 8) } else { (5, 30, 20) };
    Tuning { heartbeat_ticks, election_ticks, jitter_ticks, detector, spread: random.chance(500), shuffle_ticks: 0 }
}
