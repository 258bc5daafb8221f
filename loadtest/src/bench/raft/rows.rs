//! Commits per second: by the load inside the leader's process, and by clients over gRPC, ours and etcd's.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::clients::{self, Sample};
use super::etcd::Etcd;
use super::fleet::{Fleet, Shape, number};
use super::{ENTRY_BYTES, IN_FLIGHT, Plan, WARM_UP};
use crate::bench::{MICROS_PER_SECOND, cpu, micros};
use crate::error::{Error, Result};

/// How proposals come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Door {
    /// From the leader's own thread: nothing but the agreement is measured.
    Inside,
    /// From another process, on one gRPC stream.
    Stream,
    /// From another process, each by a call of etcd's API.
    Calls,
    /// The same client, at etcd.
    Etcd,
}

impl Door {
    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Door::Inside => "inside the leader",
            Door::Stream => "gRPC, one stream",
            Door::Calls => "gRPC, a call each",
            Door::Etcd => "etcd, a call each",
        }
    }
}

/// What was measured under one load.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// How proposals came in.
    pub door: Door,
    /// Whether peers prove who they are and encrypt; clients do not.
    pub tls: bool,
    /// Raft groups, proposed to in turn.
    pub groups: u32,
    /// Proposals under way at a time.
    pub in_flight: u32,
    /// Committed and applied on the leader, per second.
    pub per_second: f64,
    /// From proposal to answer, in microseconds.
    pub p50_us: f64,
    /// The slowest hundredth.
    pub p99_us: f64,
    /// The slowest thousandth.
    pub p999_us: f64,
    /// CPU time per commit in microseconds: of the leader (with the load, where that is inside).
    pub leader_cpu_us: Option<f64>,
    /// Of each follower, on average.
    pub follower_cpu_us: Option<f64>,
    /// Of all three together.
    pub all_cpu_us: f64,
    /// Of the clients' process.
    pub client_cpu_us: Option<f64>,
    /// Commits for each sync of the leader's log.
    pub commits_per_sync: Option<f64>,
    /// Proposals refused, and proposed again.
    pub refused: u64,
}

/// The load inside the leader, plain and with mTLS, with few and many groups.
pub async fn inside(plan: &Plan, watch: &dyn Fn(&str), rows: &mut Vec<Row>) -> Result<()> {
    let shapes: &[(bool, u32)] = if plan.short { &[(true, 16)] } else { &SHAPES };
    for &(tls, groups) in shapes {
        watch(&format!("starting 3 nodes of {groups} groups{}", if tls { ", mTLS" } else { "" }));
        let shape = Shape { tls, groups, compact_entries: None, snapshot_rate: None };
        let mut fleet = Fleet::start(&plan.node, shape).await?;
        for in_flight in IN_FLIGHT {
            let mut tries = 0;
            rows.push(loop {
                watch(&format!("{in_flight} in flight inside the leader"));
                tries += 1;
                match one_inside(&mut fleet, in_flight, plan.seconds).await {
                    Err(Error::NotApplicable(why)) if tries < TRIES_MAX => watch(&format!("once more: {why}")),
                    row => break row?,
                }
            });
        }
        fleet.agree().await?;
    }
    Ok(())
}

async fn one_inside(fleet: &mut Fleet, in_flight: u32, seconds: u64) -> Result<Row> {
    fleet.lead().await?;
    fleet.nodes[0].order(&format!("load {in_flight} {ENTRY_BYTES}")).await?;
    tokio::time::sleep(WARM_UP).await;
    let before = fleet.mark().await?;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let after = fleet.mark().await?;
    fleet.rest().await?;
    row_inside(fleet.shape, in_flight, &before, &after)
}

fn row_inside(shape: Shape, in_flight: u32, before: &[Value], after: &[Value]) -> Result<Row> {
    let load = &after[0]["load"];
    let commits = number(load, "commits")?;
    let used = Used::between(before, after)?;
    Ok(Row {
        door: Door::Inside,
        tls: shape.tls,
        groups: shape.groups,
        in_flight,
        per_second: commits / number(load, "seconds")?,
        p50_us: number(load, "p50_us")?,
        p99_us: number(load, "p99_us")?,
        p999_us: number(load, "p999_us")?,
        client_cpu_us: None,
        refused: number(load, "refused")? as u64,
        ..used.per_commit(commits)
    })
}

/// What three nodes used between two marks.
struct Used {
    cpu: Vec<f64>,
    syncs: f64,
}

impl Used {
    fn between(before: &[Value], after: &[Value]) -> Result<Used> {
        if number(&before[0], "role_changes")? != number(&after[0], "role_changes")? {
            return Err(Error::NotApplicable("the leader changed while it was measured".to_owned()));
        }
        let grown = |name: &str| -> Result<Vec<f64>> {
            before.iter().zip(after).map(|(before, after)| Ok(number(after, name)? - number(before, name)?)).collect()
        };
        Ok(Used { cpu: grown("cpu_seconds")?, syncs: grown("syncs")?[0] })
    }

    /// A row with nothing but this.
    fn per_commit(&self, commits: f64) -> Row {
        let per_commit = |seconds: f64| seconds * MICROS_PER_SECOND / commits.max(1.0);
        let all: f64 = self.cpu.iter().sum();
        Row {
            door: Door::Inside,
            tls: false,
            groups: 1,
            in_flight: 0,
            per_second: 0.0,
            p50_us: 0.0,
            p99_us: 0.0,
            p999_us: 0.0,
            leader_cpu_us: Some(per_commit(self.cpu[0])),
            follower_cpu_us: Some(per_commit((all - self.cpu[0]) / (self.cpu.len() - 1) as f64)),
            all_cpu_us: per_commit(all),
            client_cpu_us: None,
            commits_per_sync: Some(commits / self.syncs.max(1.0)),
            refused: 0,
        }
    }
}

/// Clients over gRPC, at our leader and at etcd's, as both come: one group, no encryption.
pub async fn over_grpc(plan: &Plan, watch: &dyn Fn(&str), rows: &mut Vec<Row>) -> Result<()> {
    let span = Duration::from_secs(plan.seconds);
    watch("starting 3 nodes");
    let shape = Shape { tls: false, groups: 1, compact_entries: None, snapshot_rate: None };
    let mut fleet = Fleet::start(&plan.node, shape).await?;
    for door in [Door::Stream, Door::Calls] {
        for in_flight in IN_FLIGHT {
            watch(&format!("{in_flight} in flight, {}", door.name()));
            rows.push(ours(&mut fleet, door, in_flight, span).await?);
        }
    }
    fleet.agree().await?;
    drop(fleet);
    let Some(binary) = &plan.etcd else { return Ok(()) };
    watch("starting 3 members of etcd");
    let etcd = Etcd::start(binary).await?;
    for in_flight in IN_FLIGHT {
        watch(&format!("{in_flight} in flight, {}", Door::Etcd.name()));
        let mut before = Duration::ZERO;
        let began = async || {
            before = etcd.cpu()?;
            Ok(())
        };
        let sample = clients::puts(etcd.leader, in_flight, span, began).await?;
        let used = Used { cpu: vec![cpu::since(before, etcd.cpu()?).as_secs_f64(), 0.0, 0.0], syncs: 0.0 };
        let row = row_over_grpc(Door::Etcd, in_flight, &sample, &used);
        rows.push(Row { leader_cpu_us: None, follower_cpu_us: None, commits_per_sync: None, ..row });
    }
    Ok(())
}

async fn ours(fleet: &mut Fleet, door: Door, in_flight: u32, span: Duration) -> Result<Row> {
    let leader = fleet.nodes[0].address;
    let mut before = Vec::new();
    let began = async || {
        before = fleet.mark().await?;
        Ok(())
    };
    let sample = match door {
        Door::Stream => clients::stream(leader, in_flight, span, began).await?,
        Door::Inside | Door::Calls | Door::Etcd => clients::puts(leader, in_flight, span, began).await?,
    };
    let after = fleet.mark().await?;
    Ok(row_over_grpc(door, in_flight, &sample, &Used::between(&before, &after)?))
}

fn row_over_grpc(door: Door, in_flight: u32, sample: &Sample, used: &Used) -> Row {
    let commits = sample.commits as f64;
    Row {
        door,
        in_flight,
        per_second: commits / sample.elapsed.as_secs_f64(),
        p50_us: micros(sample.latency.value_at_quantile(0.5)),
        p99_us: micros(sample.latency.value_at_quantile(0.99)),
        p999_us: micros(sample.latency.value_at_quantile(0.999)),
        client_cpu_us: Some(sample.cpu.as_secs_f64() * MICROS_PER_SECOND / commits.max(1.0)),
        ..used.per_commit(commits)
    }
}

/// mTLS or not, and groups.
const SHAPES: [(bool, u32); 6] = [(false, 1), (false, 16), (false, 64), (true, 1), (true, 16), (true, 64)];
/// A leader that changes while it is measured spoils a row.
const TRIES_MAX: u32 = 4;
