//! Partitions, deaths, pauses and changes of members, played to real processes in networks of their own, and judged by what
//! clients of the key-value store and of a pool were told.

pub mod choices;
pub mod clients;
pub mod digests;
pub mod history;
pub mod hosts;
pub mod linear;
pub mod phases;
pub mod report;
pub mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU16;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::Mutex;

use self::choices::{Choices, Visitors};
use self::clients::{Clients, Notes};
use self::digests::Digests;
use self::history::{Deed, Operation};
use self::hosts::{Hosts, Server, wait_until};
use self::linear::Verdict;
use self::phases::{Phase, Stage};
use self::wire::Wire;
use crate::chance::Chance;
use crate::error::Result;
use crate::farm::Farm;
use crate::fleet::place::Place;
use crate::moment::{Clock, Moment};

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The binary under test.
    pub binary: PathBuf,
    /// Whether instances prove to each other who they are.
    pub tls: bool,
    /// How many instances the fleet has at the start; [`NEWCOMERS`] more join and leave.
    pub instances: u8,
    /// How long a fault lasts, and how long the fleet is left alone after it.
    pub fault: Duration,
    /// The phases, in the order of [`PHASES`].
    pub phases: Vec<Phase>,
    /// How clients of the store read.
    pub reads: Reads,
    /// The clients' chances.
    pub seed: u64,
    /// Leave the files behind, whatever comes of it.
    pub keep: bool,
}

/// How clients of the store read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// What was acknowledged anywhere before.
    Linearizable,
    /// What the instance has applied: a control, which the judge must find out.
    Local,
}

/// What came of a phase.
#[derive(Debug)]
pub struct Row {
    /// The phase.
    pub phase: Phase,
    /// How long it lasted.
    pub lasted: Duration,
    /// What clients of the store noted down.
    pub notes: Notes,
    /// What clients of the pool were told.
    pub choices: Choices,
    /// Why it failed; empty if it did not.
    pub reasons: Vec<String>,
}

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    /// The phases that were played, in their order.
    pub rows: Vec<Row>,
    /// Why the run as a whole failed; empty if it did not.
    pub reasons: Vec<String>,
    /// How often tables of two instances were compared at equal index.
    pub compared: u64,
    /// Where the files are, if they are kept.
    pub files: Option<PathBuf>,
}

impl Report {
    /// Whether the judge found a history that is not linearizable where instances were cut off from each other. Elsewhere an
    /// instance that is a moment behind is enough for one.
    pub fn has_caught(&self) -> bool {
        let cut = self.rows.iter().filter(|row| row.phase.cuts());
        cut.flat_map(|row| &row.reasons).any(|reason| reason.contains(NOT_LINEARIZABLE))
    }

    /// Whether everything held.
    pub fn passed(&self) -> bool {
        self.reasons.is_empty() && self.rows.iter().all(|row| row.reasons.is_empty())
    }

    /// Whether it came out as it should: a control is not meant to hold.
    pub fn is_good(&self, reads: Reads) -> bool {
        match reads {
            Reads::Linearizable => self.passed(),
            Reads::Local => self.has_caught(),
        }
    }
}

impl Row {
    /// All that clients of the store did and were told.
    pub fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.notes.keys.values().flatten()
    }

    /// The longest time without an acknowledged change.
    pub fn longest_gap(&self) -> Duration {
        let made = self.operations().filter(|one| one.deed.made().is_some());
        let mut ends: Vec<Moment> = made.filter_map(|one| one.until).collect();
        ends.sort_unstable();
        ends.windows(2).map(|pair| pair[1].since(pair[0])).max().unwrap_or_default()
    }
}

/// Plays all phases and judges. `say` gets a line for each.
pub async fn perform(wire: Wire, plan: &Plan, say: &dyn Fn(String)) -> Result<Report> {
    let farm = Farm::new(None)?;
    let servers = plant(&farm).await?;
    let all = plan.instances + NEWCOMERS;
    let hosts = Arc::new(Hosts::new(wire, plan, Place::new()?, all, &servers).await?);
    let stage = Stage {
        hosts: hosts.clone(),
        digests: Mutex::default(),
        newcomers: (plan.instances..all).collect(),
        fault: plan.fault,
    };
    let mut report = Report { rows: Vec::new(), reasons: Vec::new(), compared: 0, files: None };
    if let Err(error) = play(&stage, plan, say, &mut report).await {
        report.reasons.push(error.to_string());
    }
    hosts.stop().await;
    report.rows.iter_mut().for_each(judge);
    let Digests { differences, compared, .. } = std::mem::take(&mut *stage.digests.lock().await);
    report.reasons.extend(differences);
    report.compared = compared;
    if compared == 0 {
        report.reasons.push("tables of two instances were never compared".to_owned());
    }
    if plan.keep || !report.is_good(plan.reads) {
        hosts.place.keep()?;
        report.files = Some(hosts.place.directory().to_path_buf());
    }
    Ok(report)
}

async fn plant(farm: &Farm) -> Result<Vec<Server>> {
    let mut servers = Vec::new();
    for (name, port) in SERVERS {
        let backend = farm.add(name, (wire::CLIENTS, port).into()).await?;
        servers.push((backend.name.clone(), backend.address));
    }
    Ok(servers)
}

async fn play(stage: &Stage, plan: &Plan, say: &dyn Fn(String), report: &mut Report) -> Result<()> {
    let (clock, mut chance) = (Clock::start(), Chance::new(plan.seed));
    raise(stage, plan.instances).await?;
    let numbers = Arc::new(AtomicU16::new(1));
    for (number, phase) in plan.phases.iter().enumerate() {
        let began = Instant::now();
        let clients = Clients::start(&stage.hosts, clock, number, plan.reads, &mut chance);
        let visitors = Visitors::start(&stage.hosts, &numbers, &mut chance);
        let mut reasons = Vec::new();
        let played = stage.play(phase).await;
        let choices = visitors.stop().await?;
        let notes = clients.stop().await?;
        let settled = match played {
            Ok(()) => stage.settle().await,
            broken => broken,
        };
        let broken = settled.is_err();
        reasons.extend(settled.err().map(|error| error.to_string()));
        let row = Row { phase: *phase, lasted: began.elapsed(), notes, choices, reasons };
        say(report::line(&row));
        report.rows.push(row);
        if broken {
            report.reasons.push("the phases after it were not played".to_owned());
            break;
        }
    }
    read_back(stage, clock, report).await
}

/// Starts the fleet and waits until it serves.
async fn raise(stage: &Stage, instances: u8) -> Result<()> {
    for number in 0..instances {
        stage.hosts.start(number).await?;
    }
    stage.ready().await?;
    let up = || async {
        let pools = stage
            .hosts
            .get(0, "/pools")
            .await
            .ok()
            .and_then(|answer| serde_json::from_slice::<Value>(&answer.body).ok());
        let servers = pools.as_ref().and_then(|pools| pools["pools"][0]["servers"].as_array());
        servers.is_some_and(|servers| !servers.is_empty() && servers.iter().all(|server| server["verdict"] == "up"))
    };
    wait_until("all servers of the pool are up", up).await
}

/// Reads every key of every phase once more, at every instance: what was acknowledged must be there.
async fn read_back(stage: &Stage, clock: Clock, report: &mut Report) -> Result<()> {
    for at in stage.hosts.running() {
        for row in &mut report.rows {
            clients::read_all(&stage.hosts, clock, at, &mut row.notes).await?;
        }
    }
    Ok(())
}

/// What speaks against a phase.
fn judge(row: &mut Row) {
    let mut reasons = Vec::new();
    for (key, operations) in &row.notes.keys {
        match linear::judge(operations) {
            Verdict::Linearizable => {}
            Verdict::Not(why) => reasons.push(format!("{key} {NOT_LINEARIZABLE}: {why}")),
            Verdict::Undecided => {
                reasons.push(format!("{key}: no order was found within {} places", linear::PLACES_MAX))
            }
        }
        reasons.extend(lost(operations).map(|what| format!("{key} has lost an acknowledged write: {what}")));
    }
    if !row.operations().any(|one| one.deed.made().is_some()) {
        reasons.push("no change was acknowledged".to_owned());
    }
    let odd = row.notes.odd.len();
    reasons.extend(row.notes.odd.iter().take(ODD_SHOWN).cloned());
    if odd > ODD_SHOWN {
        reasons.push(format!("and {} more answers of that kind", odd - ODD_SHOWN));
    }
    if row.choices.compared == 0 {
        reasons.push("no client of the pool was given a server by two instances".to_owned());
    }
    if row.choices.split > 0 {
        reasons.push(format!("{} new clients were given two servers", row.choices.split));
    }
    if row.phase.no_refusal && row.choices.refused > 0 {
        reasons.push(format!("{} choices were refused", row.choices.refused));
    }
    if !reasons.is_empty() {
        reasons.extend(row.choices.evidence.iter().cloned());
    }
    row.reasons.extend(reasons);
}

/// The newest acknowledged write, if the last read found an older one.
fn lost(operations: &[Operation]) -> Option<&Operation> {
    let found = operations.iter().filter_map(|one| match one.deed {
        Deed::Read { revision, .. } => Some((one.from, revision)),
        _ => None,
    });
    let (_, last) = found.max()?;
    let acknowledged = operations.iter().filter(|one| one.until.is_some() && one.deed.made().is_some());
    acknowledged.max_by_key(|one| one.deed.made()).filter(|one| one.deed.made() > Some(last))
}

/// How many instances join and leave again.
pub const NEWCOMERS: u8 = 2;
/// Most instances at the start.
pub const INSTANCES_MAX: u8 = 7;

const NOT_LINEARIZABLE: &str = "is not linearizable";
const SERVERS: [(&str, u16); 3] = [("s1", 8887), ("s2", 8888), ("s3", 8889)];
/// Answers that no instance may give, as far as they are shown.
const ODD_SHOWN: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn row(phase: &str, reasons: &[&str]) -> Row {
        let phase = phases::PHASES.into_iter().find(|one| one.name == phase).unwrap();
        let reasons = reasons.iter().map(|reason| (*reason).to_owned()).collect();
        Row { phase, lasted: Duration::ZERO, notes: Notes::default(), choices: Choices::default(), reasons }
    }

    #[test]
    fn a_control_passes_by_what_it_catches_where_ways_are_cut_only() {
        let stale = format!("k {NOT_LINEARIZABLE}");
        let mut report = Report { rows: Vec::new(), reasons: Vec::new(), compared: 1, files: None };
        for phase in ["calm", "kill", "pause", "rolling"] {
            report.rows.push(row(phase, &[&stale]));
        }
        assert!(!report.is_good(Reads::Local));
        report.rows.push(row("cut-leader", &["3 choices were refused"]));
        assert!(!report.is_good(Reads::Local));
        report.rows.push(row("deaf-leader", &[&stale]));
        assert!(report.is_good(Reads::Local) && !report.is_good(Reads::Linearizable));
    }

    #[test]
    fn a_phase_in_which_nothing_was_compared_fails() {
        let mut silent = row("calm", &[]);
        judge(&mut silent);
        let wanted = ["no change was acknowledged", "no client of the pool was given a server by two instances"];
        assert_eq!(silent.reasons, wanted);
    }
}
