//! The bench: how fast decisions are, and what traffic costs through one instance, beside HAProxy, nginx and no proxy at all.

mod commits;
mod cores;
mod cpu;
mod decisions;
mod figures;
pub mod flows;
mod load;
mod own_word;
pub mod raft;
mod subject;
mod table;
mod traffic;
pub mod vip;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::farm::Farm;
use crate::fleet::Server;
use crate::fleet::site::Site;

pub use cores::Shares;
pub use table::table;

/// A part of the bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Decisions without a commit, in this process.
    Decisions,
    /// Decisions that are committed, by fleets of processes.
    Commits,
    /// HTTP through one instance and beside it.
    Http,
    /// TCP connections and small questions.
    Tcp,
    /// Bytes over a few TCP connections.
    Bulk,
}

impl Part {
    /// All, in the order in which they run.
    pub const ALL: [Part; 5] = [Part::Decisions, Part::Commits, Part::Http, Part::Tcp, Part::Bulk];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Part::Decisions => "decisions",
            Part::Commits => "commits",
            Part::Http => "http",
            Part::Tcp => "tcp",
            Part::Bulk => "bulk",
        }
    }
}

/// What to measure, and of whom.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The parts to run.
    pub parts: Vec<Part>,
    /// How long each measurement lasts, without its warm-up.
    pub seconds: u64,
    /// How often products take turns; the median counts.
    pub rounds: u32,
    /// Our binary.
    pub rocinante: PathBuf,
    /// HAProxy's, if it is installed.
    pub haproxy: Option<PathBuf>,
    /// nginx's, if it is installed.
    pub nginx: Option<PathBuf>,
}

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// How long each measurement lasted.
    pub seconds: u64,
    /// How often products took turns.
    pub rounds: u32,
    /// Decisions without a commit.
    pub decisions: Vec<DecisionRow>,
    /// Committed decisions.
    pub commits: Vec<commits::Row>,
    /// Traffic.
    pub traffic: Vec<traffic::Row>,
    /// What the products use while nobody asks.
    pub idle: Vec<traffic::Idle>,
    /// What everything else on the machine used while there was traffic, in percent of one core; none where there was none.
    pub others_percent: Option<f64>,
    /// What could not be measured besides the rows that say so themselves.
    pub failures: Vec<String>,
}

impl Report {
    /// Whether everything was measured that should have been. A rival that is not installed is no failure.
    pub fn is_whole(&self) -> bool {
        let failed = |row: &traffic::Row| matches!(row.outcome, traffic::Outcome::Failed(_));
        self.failures.is_empty() && !self.traffic.iter().any(failed)
    }
}

/// The machine and how its cores were shared out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// The processor, as it calls itself.
    pub processor: String,
    /// The kernel's release.
    pub kernel: String,
    /// How many cores the bench may use.
    pub cores: usize,
    /// The core of what is measured.
    pub tested_on: String,
    /// The cores of clients and servers.
    pub load_on: String,
}

/// Decisions from one place.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DecisionRow {
    /// From where, and in which circumstances.
    pub what: String,
    /// How many there were.
    pub count: u64,
    /// On one core; none where other work went on between them.
    pub per_second: Option<f64>,
    /// How long one takes on average, in nanoseconds.
    pub mean_ns: f64,
    /// The median, in nanoseconds: of means over 64 in this process, out of a histogram's buckets from an instance.
    pub p50_ns: f64,
    /// The same for the slowest hundredth.
    pub p99_ns: f64,
}

/// Measures what the plan says. `watch` is told what is being done: steps done, steps in all, and a few words.
pub async fn run(plan: &Plan, watch: &dyn Fn(u32, u32, &str)) -> Result<Report> {
    let shares = Shares::find()?;
    // Everything started from here on runs there unless it is sent elsewhere.
    shares.load.enter()?;
    let kinds: Vec<traffic::Kind> = traffic::KINDS.into_iter().filter(|kind| plan.parts.contains(&kind.part)).collect();
    let steps = Steps { watch, done: Cell::new(0), all: steps_of(plan, kinds.len()) };
    let mut report = Report {
        machine: Machine::look(&shares)?,
        seconds: plan.seconds,
        rounds: plan.rounds,
        decisions: Vec::new(),
        commits: Vec::new(),
        traffic: Vec::new(),
        idle: Vec::new(),
        others_percent: None,
        failures: Vec::new(),
    };
    if plan.parts.contains(&Part::Decisions) {
        report.decisions = decide(plan, &shares, &steps).await?;
    }
    let site = Site::new()?;
    let farm = Farm::new(None)?;
    let mut servers = Vec::new();
    for index in 0..SERVERS {
        let name = format!("s{}", index + 1);
        let backend = farm.add(&name, site.backend(index)).await?;
        servers.push(Server { name, address: backend.address, weight: 100 });
    }
    if plan.parts.contains(&Part::Commits) {
        let span = commits::Span { warm_up: WARM_UP, measured: Duration::from_secs(plan.seconds) };
        for size in FLEETS {
            match commits::measure(&plan.rocinante, size, &servers, &shares.all, span, &steps).await {
                Ok(rows) => report.commits.extend(rows),
                Err(error) => report.failures.push(format!("fleet of {size}: {error}")),
            }
        }
    }
    if !kinds.is_empty() {
        carry(plan, &kinds, &site, &servers, &shares, &steps, &mut report).await?;
    }
    Ok(report)
}

async fn decide(plan: &Plan, shares: &Shares, steps: &Steps<'_>) -> Result<Vec<DecisionRow>> {
    let time = Duration::from_secs(plan.seconds);
    let mut rows = Vec::new();
    for (clients, sources) in DECISIONS {
        steps.say(format!("pinning {clients} clients"));
        let tables = Arc::new(decisions::Tables::new(clients)?);
        for from in sources {
            let what = match from {
                decisions::Place::Cache => format!("cache, {} clients", figures::short(f64::from(clients))),
                decisions::Place::Table => format!("table, {} clients", figures::short(f64::from(clients))),
            };
            steps.next(what.clone());
            let sample = tables.measure(*from, &shares.tested, time).await?;
            let seconds = sample.elapsed.as_secs_f64();
            rows.push(DecisionRow {
                what,
                count: sample.decisions,
                per_second: Some(sample.decisions as f64 / seconds),
                mean_ns: seconds * NANOS_PER_SECOND / sample.decisions.max(1) as f64,
                p50_ns: sample.nanos.value_at_quantile(0.5) as f64,
                p99_ns: sample.nanos.value_at_quantile(0.99) as f64,
            });
        }
    }
    Ok(rows)
}

/// Has traffic go through every product.
async fn carry(
    plan: &Plan,
    kinds: &[traffic::Kind],
    site: &Site,
    servers: &[Server],
    shares: &Shares,
    steps: &Steps<'_>,
    report: &mut Report,
) -> Result<()> {
    let mut turns = Vec::new();
    for product in subject::Product::ALL {
        steps.say(format!("starting {}", product.name()));
        let binary: Option<&Path> = match product {
            subject::Product::Direct | subject::Product::Rocinante => Some(&plan.rocinante),
            subject::Product::HaProxy => plan.haproxy.as_deref(),
            subject::Product::Nginx => plan.nginx.as_deref(),
        };
        let subject = match binary {
            None => Err(traffic::Outcome::Missing("not installed".to_owned())),
            Some(binary) => {
                let started = subject::Subject::start(product, binary, site, servers, &shares.tested).await;
                started.map_err(|error| {
                    report.failures.push(error.to_string());
                    traffic::Outcome::Failed("it did not start".to_owned())
                })
            }
        };
        turns.push(traffic::Turn { product, subject });
    }
    let measured = Duration::from_secs(plan.seconds);
    steps.next("nobody asks".to_owned());
    report.idle = traffic::idle(&turns, measured).await?;
    let (others, start) = (traffic::others(&turns)?, Instant::now());
    let before = traffic::cached(&turns).await?;
    report.traffic = traffic::measure(kinds, &turns, plan.rounds, WARM_UP, measured, steps).await;
    // An instance that died meanwhile is in the table already, as one that could not be measured.
    if report.is_whole()
        && let (Some(before), Some(after)) = (before, traffic::cached(&turns).await?)
    {
        report.decisions.extend(by_own_word(&after.since(&before)));
        let others = cpu::since(others, traffic::others(&turns)?);
        report.others_percent = Some(others.as_secs_f64() / start.elapsed().as_secs_f64() * 100.0);
    }
    for subject in turns.into_iter().filter_map(|turn| turn.subject.ok()) {
        subject.stop().await?;
    }
    Ok(())
}

fn by_own_word(decisions: &own_word::Decisions) -> Option<DecisionRow> {
    let nanos = |seconds: f64| seconds * NANOS_PER_SECOND;
    Some(DecisionRow {
        what: "cache, by the instance's own word".to_owned(),
        count: decisions.count() as u64,
        per_second: None,
        mean_ns: nanos(decisions.mean_seconds()?),
        p50_ns: nanos(decisions.quantile_seconds(0.5)?),
        p99_ns: nanos(decisions.quantile_seconds(0.99)?),
    })
}

impl Machine {
    fn look(shares: &Shares) -> Result<Machine> {
        let read = |path: &str| std::fs::read_to_string(path).map_err(Error::io(format!("reading {path}")));
        let processors = read("/proc/cpuinfo")?;
        let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Ok(Machine {
            processor: model.map_or("unknown", |(_, model)| model.trim()).to_owned(),
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            cores: shares.all.count(),
            tested_on: shares.tested.to_string(),
            load_on: shares.load.to_string(),
        })
    }
}

/// Tells those who watch how far it is.
struct Steps<'a> {
    watch: &'a dyn Fn(u32, u32, &str),
    done: Cell<u32>,
    all: u32,
}

impl Steps<'_> {
    /// The next measurement begins.
    fn next(&self, what: String) {
        self.done.set(self.done.get() + 1);
        self.say(what);
    }

    /// Something is done that is no measurement.
    fn say(&self, what: String) {
        (self.watch)(self.done.get(), self.all, &what);
    }
}

fn steps_of(plan: &Plan, kinds: usize) -> u32 {
    let asked = |part: Part| plan.parts.contains(&part);
    let decisions: usize = DECISIONS.iter().map(|(_, sources)| sources.len()).sum();
    let commits: u32 = FLEETS.into_iter().map(commits::steps).sum();
    let turns = (kinds * subject::Product::ALL.len()) as u32 * plan.rounds;
    u32::from(asked(Part::Decisions)) * decisions as u32
        + u32::from(asked(Part::Commits)) * commits
        + turns
        + u32::from(kinds > 0)
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

const MICROS_PER_SECOND: f64 = 1e6;
const NANOS_PER_SECOND: f64 = 1e9;
/// Servers behind each proxy.
const SERVERS: usize = 4;
/// Sizes of the fleets that commit.
const FLEETS: [u8; 2] = [1, 3];
/// Not measured, before each measurement: connections are opened and clients become known.
const WARM_UP: Duration = Duration::from_millis(400);
/// Clients in the tables, and where decisions on them come from.
const DECISIONS: [(u32, &[decisions::Place]); 2] = [
    (10_000, &[decisions::Place::Cache, decisions::Place::Table]),
    (1_000_000, &[decisions::Place::Cache, decisions::Place::Table]),
];
