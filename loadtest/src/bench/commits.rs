//! Decisions that are committed, by fleets of real processes: clients that were never there connect, ask, and are answered
//! once their backend is in the logs of a majority, on disk.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::load::{Act, Load, Origin, Sample};
use super::own_word::Decisions;
use super::subject::Subject;
use super::{MICROS_PER_SECOND, Steps, micros};
use crate::ask::Door;
use crate::error::{Error, Result};
use crate::fleet::Server;
use crate::fleet::site::Site;

use super::cores::Cores;

/// What was measured of one fleet under one load.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Instances of the fleet.
    pub instances: u8,
    /// What its clients did.
    pub what: &'static str,
    /// Where the instances had the answers from.
    pub source: &'static str,
    /// Clients with a question in flight.
    pub in_flight: u16,
    /// Clients answered per second.
    pub per_second: f64,
    /// From before the connect to the answer, as clients saw it, in microseconds.
    pub client_p50_us: f64,
    /// The same for the slowest hundredth.
    pub client_p99_us: f64,
    /// How long the decision alone took, as the instances say, in microseconds; none if they made none.
    pub decision_mean_us: Option<f64>,
    /// The median of that, out of a histogram's buckets.
    pub decision_p50_us: Option<f64>,
    /// The same for the slowest hundredth.
    pub decision_p99_us: Option<f64>,
    /// CPU time of all instances together per client, the connection included, in microseconds.
    pub cpu_us: f64,
}

/// How long to load a fleet.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Before it counts.
    pub warm_up: Duration,
    /// While it counts.
    pub measured: Duration,
}

/// Starts a fleet of `size`, measures it, and ends it.
pub async fn measure(
    binary: &Path,
    size: u8,
    servers: &[Server],
    cores: &Cores,
    span: Span,
    steps: &Steps<'_>,
) -> Result<Vec<Row>> {
    let site = Site::new()?;
    steps.say(format!("starting a fleet of {size}"));
    let fleet = Subject::fleet(binary, size, &site, servers, cores).await?;
    let mut rows = Vec::new();
    let mut first = 0;
    let mut visits = u32::MAX;
    for in_flight in [MANY, ONE] {
        steps.next(format!("fleet of {size}: first contacts, {in_flight} in flight"));
        let (row, sample) = one(&fleet, "first contact", "commit", in_flight, Origin::Fresh { first }, 0, span).await?;
        if in_flight == MANY {
            visits = sample.visits.0;
        }
        first += sample.visits.1;
        rows.push(row);
    }
    if size > 1 {
        steps.next(format!("fleet of {size}: the same clients at another instance"));
        let again = Origin::Again { visits };
        rows.push(one(&fleet, "known elsewhere", "table", MANY, again, 1, span).await?.0);
    }
    Ok(rows)
}

async fn one(
    fleet: &[Subject],
    what: &'static str,
    source: &'static str,
    in_flight: u16,
    origin: Origin,
    turn: usize,
    span: Span,
) -> Result<(Row, Sample)> {
    let mut entrances: Vec<_> = fleet.iter().flat_map(|instance| instance.entrances(Door::Tcp)).collect();
    entrances.rotate_left(turn);
    let before = told(fleet, source).await?;
    let load = Load {
        act: Act::TcpNew,
        origin,
        entrances,
        clients: in_flight,
        warm_up: span.warm_up,
        measured: span.measured,
        groups: fleet.iter().filter_map(Subject::group).collect(),
    };
    let sample = load.run().await?;
    let decisions = told(fleet, source).await?.since(&before);
    if decisions.count() < 1.0 {
        return Err(Error::Fleet(format!("the fleet says that no decision came from {source}")));
    }
    let scaled = |seconds: Option<f64>| seconds.map(|seconds| seconds * MICROS_PER_SECOND);
    let row = Row {
        instances: u8::try_from(fleet.len()).unwrap_or(u8::MAX),
        what,
        source,
        in_flight,
        per_second: sample.asks as f64 / sample.elapsed.as_secs_f64(),
        client_p50_us: micros(sample.latency.value_at_quantile(0.5)),
        client_p99_us: micros(sample.latency.value_at_quantile(0.99)),
        decision_mean_us: scaled(decisions.mean_seconds()),
        decision_p50_us: scaled(decisions.quantile_seconds(0.5)),
        decision_p99_us: scaled(decisions.quantile_seconds(0.99)),
        cpu_us: sample.cpu.as_secs_f64() * MICROS_PER_SECOND / sample.asks.max(1) as f64,
    };
    Ok((row, sample))
}

async fn told(fleet: &[Subject], source: &str) -> Result<Decisions> {
    let mut all = Decisions::default();
    for metrics in fleet.iter().filter_map(|instance| instance.metrics) {
        all = all.plus(&Decisions::ask(metrics, source).await?);
    }
    Ok(all)
}

/// Loads of a fleet.
pub fn steps(size: u8) -> u32 {
    if size > 1 { 3 } else { 2 }
}

const MANY: u16 = 64;
const ONE: u16 = 1;
