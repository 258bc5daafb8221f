//! Many groups that do nothing: what their heartbeats cost, and their memory.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::Plan;
use super::fleet::{Fleet, Shape, number};
use crate::error::Result;

/// Three nodes with many groups, all led by the first, and nothing to do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Idle {
    /// Raft groups.
    pub groups: u32,
    /// CPU of each node in percent of a core; the first leads all groups.
    pub busy_percent: Vec<f64>,
    /// Memory of each node, per replica beyond the first, in bytes.
    pub bytes_per_replica: Vec<f64>,
    /// How long it was measured, in seconds.
    pub seconds: f64,
}

/// Measures it.
pub async fn measure(plan: &Plan, watch: &dyn Fn(&str)) -> Result<Idle> {
    let groups = if plan.short { 100 } else { 1000 };
    let span = Duration::from_secs(if plan.short { 2 } else { 10 });
    watch("memory of nodes with a single group");
    let few = memory(&settled(plan, 1).await?)?;
    watch(&format!("3 nodes of {groups} groups that do nothing, for {} s", span.as_secs()));
    let mut fleet = settled(plan, groups).await?;
    let (begun, before) = (Instant::now(), fleet.mark().await?);
    tokio::time::sleep(span).await;
    let (seconds, after) = (begun.elapsed().as_secs_f64(), fleet.mark().await?);
    let mut busy_percent = Vec::new();
    for (before, after) in before.iter().zip(&after) {
        busy_percent.push((number(after, "cpu_seconds")? - number(before, "cpu_seconds")?) / seconds * 100.0);
    }
    let per_replica = |(many, few): (f64, f64)| (many - few) / f64::from(groups - 1);
    let bytes_per_replica = memory(&fleet)?.into_iter().zip(few).map(per_replica).collect();
    fleet.agree().await?;
    Ok(Idle { groups, busy_percent, bytes_per_replica, seconds })
}

/// A fleet whose elections are over.
async fn settled(plan: &Plan, groups: u32) -> Result<Fleet> {
    let shape = Shape { tls: true, groups, compact_entries: None, snapshot_rate: None };
    let mut fleet = Fleet::start(&plan.node, shape).await?;
    // Each leader begins with an entry: who has applied it knows that leader.
    fleet.agree().await?;
    fleet.lead().await?;
    Ok(fleet)
}

fn memory(fleet: &Fleet) -> Result<Vec<f64>> {
    fleet.nodes.iter().map(|node| Ok(node.memory_bytes()? as f64)).collect()
}
