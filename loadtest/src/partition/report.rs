//! What people and scripts get to see of a run.

use serde_json::{Value, json};

use super::history::Deed;
use super::{Report, Row};
use crate::report::columns;

/// How many operations of each kind there were.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    reads: u64,
    writes: u64,
    conditional: u64,
    refused: u64,
    unknown: u64,
}

fn counts(row: &Row) -> Counts {
    let mut counts = Counts::default();
    for one in row.operations() {
        let of = match one.deed {
            _ if one.until.is_none() => &mut counts.unknown,
            Deed::Read { .. } => &mut counts.reads,
            Deed::Write { .. } => &mut counts.writes,
            Deed::Swap { .. } => &mut counts.conditional,
            Deed::Refused { .. } => &mut counts.refused,
        };
        *of += 1;
    }
    counts
}

/// One phase as it ends, before it is judged.
pub fn line(row: &Row) -> String {
    let done = row.operations().filter(|one| one.until.is_some()).count();
    let seconds = row.lasted.as_secs_f64();
    let mut line = format!("{:<15} {seconds:>5.1} s  {done:>5} done  {}", row.phase.name, row.phase.about);
    for reason in &row.reasons {
        line += &format!("\n  {reason}");
    }
    line
}

/// The table, one line per phase.
pub fn table(report: &Report) -> String {
    let head = [
        "phase",
        "seconds",
        "reads",
        "writes",
        "if-revision",
        "conflict",
        "unknown",
        "nothing",
        "repeated",
        "longest gap",
        "choices",
        "refused",
        "split",
        "verdict",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(report.rows.iter().map(cells));
    columns(&rows, |column| column == 0 || column == head.len() - 1)
}

fn cells(row: &Row) -> Vec<String> {
    let Counts { reads, writes, conditional, refused, unknown } = counts(row);
    let numbers = [reads, writes, conditional, refused, unknown, row.notes.nothing, row.notes.repeated];
    let mut cells = vec![row.phase.name.to_owned(), format!("{:.1}", row.lasted.as_secs_f64())];
    cells.extend(numbers.map(|number| number.to_string()));
    cells.push(format!("{} ms", row.longest_gap().as_millis()));
    cells.extend([row.choices.asked, row.choices.refused, row.choices.split].map(|number| number.to_string()));
    cells.push(verdict(row.reasons.is_empty()).to_owned());
    cells
}

/// Everything that speaks against the fleet.
pub fn remarks(report: &Report) -> Vec<String> {
    let of_phases = report.rows.iter().flat_map(|row| {
        let name = row.phase.name;
        row.reasons.iter().map(move |reason| format!("{name}: {reason}"))
    });
    let files = report.files.iter().map(|path| format!("logs and files are in {}", path.display()));
    of_phases.chain(report.reasons.iter().cloned()).chain(files).collect()
}

/// The last line.
pub fn conclusion(report: &Report) -> String {
    let operations: usize = report.rows.iter().map(|row| row.operations().count()).sum();
    let keys: usize = report.rows.iter().map(|row| row.notes.keys.len()).sum();
    format!(
        "{}: {operations} operations on {keys} keys; tables compared {} times at equal index",
        verdict(report.passed()).to_uppercase(),
        report.compared
    )
}

/// A run for scripts.
pub fn to_json(report: &Report, seed: u64) -> Value {
    json!({
        "seed": seed,
        "passed": report.passed(),
        "reasons": report.reasons,
        "tables_compared": report.compared,
        "phases": report.rows.iter().map(row_to_json).collect::<Vec<_>>(),
        "files": report.files,
    })
}

fn row_to_json(row: &Row) -> Value {
    let counts = counts(row);
    json!({
        "phase": row.phase.name,
        "about": row.phase.about,
        "seconds": row.lasted.as_secs_f64(),
        "reads": counts.reads,
        "writes": counts.writes,
        "conditional_writes": counts.conditional,
        "conflicts": counts.refused,
        "unknown_outcomes": counts.unknown,
        "nothing_done": row.notes.nothing,
        "reads_unanswered": row.notes.unread,
        "repeated_in_sessions": row.notes.repeated,
        "longest_gap_ms": row.longest_gap().as_secs_f64() * 1000.0,
        "choices": row.choices.asked,
        "choices_refused": row.choices.refused,
        "choices_compared": row.choices.compared,
        "choices_split": row.choices.split,
        "refusals_allowed": !row.phase.no_refusal,
        "passed": row.reasons.is_empty(),
        "reasons": row.reasons,
    })
}

fn verdict(passed: bool) -> &'static str {
    if passed { "pass" } else { "FAIL" }
}
