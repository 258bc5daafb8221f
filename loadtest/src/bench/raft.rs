//! The bench of the log itself: three replicas on real sockets and a real disk, beside etcd in the same run.

mod clients;
mod etcd;
mod fleet;
mod idle;
mod probe;
mod rows;
mod snapshot;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::Machine;
use super::cores::Shares;
use super::figures::ratio;
use crate::error::Result;

pub use idle::Idle;
pub use probe::Probe;
pub use rows::{Door, Row};
pub use snapshot::{Phase, Snapshot};
pub use table::table;

/// Messages that the bench and nodes speak, as the node has them.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "made from the .proto files")]
mod generated {
    pub mod etcd {
        include!("../../../raftlog/examples/raft_node/generated/etcdserverpb.rs");
    }
    pub mod stream {
        include!("../../../raftlog/examples/raft_node/generated/raftlog.bench.v1.rs");
    }
}

/// A part of this bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Commits by the load inside the leader's process.
    Commits,
    /// Commits by clients over gRPC, ours and etcd's.
    Clients,
    /// Many groups that do nothing.
    Idle,
    /// A large state on its way to a new learner.
    Snapshot,
}

impl Part {
    /// All, in the order in which they run.
    pub const ALL: [Part; 4] = [Part::Commits, Part::Clients, Part::Idle, Part::Snapshot];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Part::Commits => "commits",
            Part::Clients => "clients",
            Part::Idle => "idle",
            Part::Snapshot => "snapshot",
        }
    }
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The parts to run.
    pub parts: Vec<Part>,
    /// How long each row is measured, without its warm-up.
    pub seconds: u64,
    /// A run that only shows that all of it works.
    pub short: bool,
    /// The replica: the example `raft_node` of `raftlog`.
    pub node: PathBuf,
    /// etcd, if it is installed.
    pub etcd: Option<PathBuf>,
}

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// The load average of the last minute, before the first and after the last measurement. All that runs here
    /// counts, the bench's own processes too.
    pub load_average: [f64; 2],
    /// How long each row was measured.
    pub seconds: u64,
    /// What a sync costs on this disk, before the first and after the last row.
    pub probes: Vec<Probe>,
    /// Commits.
    pub rows: Vec<Row>,
    /// Groups that do nothing.
    pub idle: Option<Idle>,
    /// A state on its way to a learner, per limit of the sender's speed.
    pub snapshots: Vec<Snapshot>,
    /// What could not be measured.
    pub failures: Vec<String>,
}

impl Report {
    /// Whether everything was measured that should have been. An etcd that is not installed is no failure.
    pub fn is_whole(&self) -> bool {
        self.failures.is_empty()
    }

    /// The rate of a row in relation to etcd's with as many in flight.
    pub fn to_etcd(&self, row: &Row) -> Option<f64> {
        let etcd = self.rows.iter().find(|other| other.door == Door::Etcd && other.in_flight == row.in_flight)?;
        ratio(row.per_second, etcd.per_second)
    }
}

/// Measures what the plan says. `watch` is told what is being done.
pub async fn run(plan: &Plan, watch: &dyn Fn(&str)) -> Result<Report> {
    let mut report = Report {
        machine: Machine::look(&Shares::find()?)?,
        load_average: [probe::load_average()?; 2],
        seconds: plan.seconds,
        probes: vec![Probe::measure("before")?],
        rows: Vec::new(),
        idle: None,
        snapshots: Vec::new(),
        failures: Vec::new(),
    };
    for part in &plan.parts {
        let done = match part {
            Part::Commits => rows::inside(plan, watch, &mut report.rows).await,
            Part::Clients => rows::over_grpc(plan, watch, &mut report.rows).await,
            Part::Idle => idle::measure(plan, watch).await.map(|idle| report.idle = Some(idle)),
            Part::Snapshot => snapshot::measure(plan, watch, &mut report.snapshots).await,
        };
        if let Err(error) = done {
            report.failures.push(format!("{}: {error}", part.name()));
        }
    }
    report.probes.push(Probe::measure("after")?);
    report.load_average[1] = probe::load_average()?;
    Ok(report)
}

/// Not measured, before each row.
const WARM_UP: Duration = Duration::from_secs(1);
/// Bytes of each entry.
const ENTRY_BYTES: usize = 100;
/// Proposals under way at a time.
const IN_FLIGHT: [u32; 3] = [1, 64, 1024];
