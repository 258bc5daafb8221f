//! A large state goes to a new learner while commits go on.

use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use super::fleet::{Fleet, Shape, number};
use super::{ENTRY_BYTES, Plan, WARM_UP};
use crate::error::{Error, Result};

/// One such transfer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Snapshot {
    /// The state.
    pub state_bytes: u64,
    /// The limit of the sender's speed, in bytes per second; none where absent.
    pub rate_limit: Option<u64>,
    /// Proposals under way at a time, made inside the leader.
    pub in_flight: u32,
    /// Before, while the state is stored, while it is sent, and afterwards.
    pub phases: Vec<Phase>,
    /// The leader's memory before, in bytes.
    pub memory_bytes: u64,
    /// The most that it took beyond that meanwhile.
    pub extra_bytes_max: u64,
}

/// A part of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Phase {
    /// What happened meanwhile.
    pub what: &'static str,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Commits per second.
    pub per_second: f64,
    /// From proposal to commit, in microseconds.
    pub p50_us: f64,
    /// The slowest hundredth.
    pub p99_us: f64,
    /// The slowest of all.
    pub max_us: f64,
}

impl Phase {
    fn read(what: &'static str, mark: &Value) -> Result<Phase> {
        let load = &mark["load"];
        let seconds = number(load, "seconds")?;
        Ok(Phase {
            what,
            seconds,
            per_second: number(load, "commits")? / seconds,
            p50_us: number(load, "p50_us")?,
            p99_us: number(load, "p99_us")?,
            max_us: number(load, "max_us")?,
        })
    }
}

impl Snapshot {
    /// The slowest hundredth in the worst phase, in relation to before.
    pub fn p99_ratio(&self) -> Option<f64> {
        let (before, others) = self.phases.split_first()?;
        others.iter().map(|phase| phase.p99_us / before.p99_us).reduce(f64::max)
    }
}

/// Measures it, without a limit of speed and with one.
pub async fn measure(plan: &Plan, watch: &dyn Fn(&str), found: &mut Vec<Snapshot>) -> Result<()> {
    let limits: &[Option<u64>] = if plan.short { &[None] } else { &[None, Some(RATE_LIMIT)] };
    for limit in limits {
        found.push(one(plan, watch, *limit).await?);
    }
    Ok(())
}

async fn one(plan: &Plan, watch: &dyn Fn(&str), rate_limit: Option<u64>) -> Result<Snapshot> {
    let state_bytes = if plan.short { STATE_BYTES / 16 } else { STATE_BYTES };
    // Whoever has a large state does not write it anew every few seconds.
    let shape = Shape { tls: true, groups: 1, compact_entries: Some(COMPACT_ENTRIES), snapshot_rate: rate_limit };
    watch(&format!("filling 3 nodes with {} MiB each", state_bytes >> 20));
    let mut fleet = Fleet::start(&plan.node, shape).await?;
    fill(&mut fleet, state_bytes).await?;
    watch("as much of the log in memory as there may be");
    fleet.nodes[0].order(&format!("load {MANY} {ENTRY_BYTES}")).await?;
    let held = |seen: &Value| seen["held_bytes"].as_u64() > Some(HELD_BYTES);
    fleet.nodes[0].until("the memory of the log", PATIENCE, held).await?;
    fleet.rest().await?;
    watch("64 in flight, before the snapshot");
    fleet.nodes[0].order(&format!("load {LOAD} {ENTRY_BYTES}")).await?;
    tokio::time::sleep(WARM_UP).await;
    fleet.nodes[0].order("mark").await?;
    tokio::time::sleep(Duration::from_secs(plan.seconds.max(SECONDS_MIN))).await;
    let mut phases = vec![Phase::read("before", &fleet.nodes[0].order("mark").await?)?];
    let memory_bytes = fleet.nodes[0].memory_bytes()?;
    fleet.add_learner().await?;
    fleet.nodes[0].order("mark").await?;
    let mut peak = memory_bytes;
    for (what, counter) in [("stored", "snapshots_taken"), ("sent", "snapshots_sent")] {
        watch(&format!("the state is being {what}"));
        wait(&mut fleet, counter, &mut peak).await?;
        phases.push(Phase::read(what, &fleet.nodes[0].order("mark").await?)?);
    }
    // The sender counts them.
    let seen = fleet.nodes[0].order("look").await?;
    if number(&seen, "snapshots_failed")? > 0.0 {
        return Err(Error::Fleet(format!("the snapshot did not arrive at once: {seen}")));
    }
    let state = state_bytes;
    fleet.nodes[3].until("the state", PATIENCE, move |seen| seen["ballast_bytes"].as_u64() == Some(state)).await?;
    fleet.rest().await?;
    fleet.agree().await?;
    Ok(Snapshot {
        state_bytes,
        rate_limit,
        in_flight: LOAD,
        phases,
        memory_bytes,
        extra_bytes_max: peak.saturating_sub(memory_bytes),
    })
}

async fn fill(fleet: &mut Fleet, state_bytes: u64) -> Result<()> {
    let begun = Instant::now();
    let full = |seen: &Value| seen["ballast_bytes"].as_u64() == Some(state_bytes);
    // An order may come to nothing when the leader changes, and it does some of it only.
    while !full(&fleet.nodes[0].order("look").await?) {
        fleet.nodes[0].order(&format!("fill {state_bytes}")).await?;
        if begun.elapsed() > PATIENCE {
            return Err(Error::Fleet(format!("the state is not there within {PATIENCE:?}")));
        }
        tokio::time::sleep(FILL_PAUSE).await;
    }
    for node in &mut fleet.nodes {
        node.until("the ballast", PATIENCE, full).await?;
    }
    fleet.lead().await
}

/// Waits until a counter of the leader is no longer zero, looking at its memory all the while.
async fn wait(fleet: &mut Fleet, counter: &str, peak: &mut u64) -> Result<()> {
    let begun = Instant::now();
    loop {
        *peak = fleet.nodes[0].memory_bytes()?.max(*peak);
        let seen = fleet.nodes[0].order("look").await?;
        if number(&seen, counter)? > 0.0 {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            return Err(Error::Fleet(format!("no {counter} within {PATIENCE:?}: {seen}")));
        }
        tokio::time::sleep(POLL).await;
    }
}

const STATE_BYTES: u64 = 1 << 30;
const FILL_PAUSE: Duration = Duration::from_millis(20);
const LOAD: u32 = 64;
const MANY: u32 = 1024;
/// Nearly what a driver holds of its log by default.
const HELD_BYTES: u64 = 62 << 20;
/// So many bytes per second where the sender's speed is limited.
const RATE_LIMIT: u64 = 64 << 20;
const COMPACT_ENTRIES: u64 = 1 << 40;
/// The slowest hundredth wants some time.
const SECONDS_MIN: u64 = 5;
const PATIENCE: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(5);
