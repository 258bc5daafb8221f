//! Entry points for fuzzing all that reads bytes from a disk or a peer. `fuzz/` runs them under libFuzzer, the tests
//! here with seeded mutations. Each panics where it finds a defect.

#[cfg(test)]
mod tests;

pub use crate::driver::fuzz::{frame, peer};
pub use crate::wal::fuzz::{log, small, snapshot};

/// What is fuzzed: its name, what takes the input, and inputs to start from.
pub struct Target {
    /// Also the name of its binary.
    pub name: &'static str,
    /// Takes any bytes.
    pub run: fn(&[u8]),
    /// Valid inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets of this crate.
pub const TARGETS: [Target; 5] = [
    Target { name: "log", run: log, seeds: crate::wal::fuzz::log_seeds },
    Target { name: "snapshot", run: snapshot, seeds: crate::wal::fuzz::snapshot_seeds },
    Target { name: "small", run: small, seeds: crate::wal::fuzz::small_seeds },
    Target { name: "frame", run: frame, seeds: crate::driver::fuzz::frame_seeds },
    Target { name: "peer", run: peer, seeds: crate::driver::fuzz::peer_seeds },
];

/// The inputs to start from of one target.
#[must_use]
pub fn seeds(name: &str) -> Vec<Vec<u8>> {
    TARGETS.iter().find(|target| target.name == name).map(|target| (target.seeds)()).unwrap_or_default()
}
