//! What people and scripts get to see: a line per second, a table at the end, JSON.

use std::time::Duration;

use serde_json::{Value, json};

use crate::scenario::{Beat, Outcome};

/// The head of the live table.
pub fn beat_head() -> String {
    format!(
        "{:>5} {:>8} {:>8} {:>6} {:>6} {:>6} {:>6} {:>6} {:>8}  events",
        "s", "asks", "answered", "split", "moved", "stray", "lost", "down", "refused"
    )
}

/// One second of the live table.
pub fn beat_line(beat: &Beat) -> String {
    let dot = |count: u64| if count == 0 { ".".to_owned() } else { count.to_string() };
    format!(
        "{:>5} {:>8} {:>8} {:>6} {:>6} {:>6} {:>6} {:>6} {:>8}  {}",
        beat.second,
        beat.asks,
        beat.answered,
        dot(beat.split),
        dot(beat.moved),
        dot(beat.stray),
        dot(beat.lost),
        dot(beat.down),
        dot(beat.refused),
        beat.notes.join("; ")
    )
    .trim_end()
    .to_owned()
}

/// The final table, one line per scenario.
pub fn table(outcomes: &[Outcome]) -> String {
    let head = [
        "product",
        "scenario",
        "clients",
        "asks",
        "answered",
        "split",
        "moved",
        "stray",
        "lost/budget",
        "down",
        "refused",
        "recovery p50/p99",
        "verdict",
    ];
    let mut rows: Vec<Vec<String>> = vec![head.iter().map(ToString::to_string).collect()];
    rows.extend(outcomes.iter().map(row));
    let last = head.len() - 1;
    columns(&rows, |column| column < 2 || column == last)
}

/// Rows as lines, every column as wide as its widest cell; those of words to the left, others to the right.
pub fn columns(rows: &[Vec<String>], words: impl Fn(usize) -> bool) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let width = cell.chars().count();
            match widths.get_mut(column) {
                Some(widest) => *widest = width.max(*widest),
                None => widths.push(width),
            }
        }
    }
    let mut text = String::new();
    for row in rows {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            text += &if words(column) { format!("{cell:<width$}  ") } else { format!("{cell:>width$}  ") };
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    text
}

fn row(outcome: &Outcome) -> Vec<String> {
    let tally = &outcome.tally;
    let mut row = vec![outcome.product.to_owned(), outcome.scenario.name.to_owned()];
    if let Some(why) = &outcome.not_applicable {
        row.extend(std::iter::repeat_n("-".to_owned(), 10));
        row.push(format!("n/a: {why}"));
        return row;
    }
    let recovery = match (percentile(&outcome.recoveries, 50), percentile(&outcome.recoveries, 99)) {
        (Some(middle), Some(high)) => format!("{} / {} ms", middle.as_millis(), high.as_millis()),
        _ => "-".to_owned(),
    };
    row.extend([
        tally.clients.to_string(),
        tally.asks.to_string(),
        format!("{:.3} %", tally.answered_share() * 100.0),
        tally.split.to_string(),
        tally.moved.to_string(),
        tally.stray.to_string(),
        format!("{}/{}", tally.lost(), outcome.budget.lost_inside),
        tally.down.to_string(),
        tally.refused.to_string(),
        recovery,
        if outcome.verdict.passed() { "pass" } else { "FAIL" }.to_owned(),
    ]);
    row
}

/// Everything that speaks against a fleet, and what should be looked at.
pub fn remarks(outcome: &Outcome) -> Vec<String> {
    let mut lines = Vec::new();
    let name = format!("{} {}", outcome.product, outcome.scenario.name);
    for reason in &outcome.verdict.reasons {
        lines.push(format!("{name}: {reason}"));
    }
    if !outcome.verdict.passed() {
        lines.extend(outcome.evidence.iter().map(|evidence| format!("  {evidence}")));
    }
    if let (Some(goal), Some(high)) = (outcome.scenario.recovery_goal, percentile(&outcome.recoveries, 99))
        && high > goal
    {
        lines.push(format!("{name}: recovery p99 {} ms is over the goal of {} ms", high.as_millis(), goal.as_millis()));
    }
    if let Some(logs) = &outcome.logs {
        lines.push(format!("{name}: logs and files are in {}", logs.display()));
    }
    lines
}

/// One scenario for scripts.
pub fn to_json(outcome: &Outcome) -> Value {
    let tally = &outcome.tally;
    let micros = |time: Option<Duration>| time.map(|time| time.as_secs_f64() * 1000.0);
    json!({
        "product": outcome.product,
        "scenario": outcome.scenario.name,
        "clients": tally.clients,
        "clients_planned": outcome.clients,
        "visits": tally.visits,
        "asks": tally.asks,
        "asks_in_service": tally.in_service(),
        "answered": tally.answered,
        "answered_percent": tally.answered_share() * 100.0,
        "split": tally.split,
        "moved": tally.moved,
        "stray": tally.stray,
        "clients_split": tally.clients_split,
        "clients_moved": tally.clients_moved,
        "lost": tally.lost(),
        "lost_inside_events": tally.lost_inside,
        "lost_outside_events": tally.lost_outside,
        "lost_budget": outcome.budget.lost_inside,
        "down": tally.down,
        "refused_by_isolated": tally.refused,
        "recoveries": outcome.recoveries.len(),
        "recovery_p50_ms": micros(percentile(&outcome.recoveries, 50)),
        "recovery_p99_ms": micros(percentile(&outcome.recoveries, 99)),
        "recovery_goal_ms": micros(outcome.scenario.recovery_goal),
        "passed": outcome.verdict.passed(),
        "reasons": outcome.verdict.reasons,
        "evidence": outcome.evidence,
        "not_applicable": outcome.not_applicable,
        "logs": outcome.logs,
    })
}

/// The smallest value that at least `percent` of all do not exceed.
pub fn percentile(values: &[Duration], percent: usize) -> Option<Duration> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let values: Vec<Duration> = (1..=10).map(Duration::from_millis).collect();
        assert_eq!(percentile(&values, 50), Some(Duration::from_millis(5)));
        assert_eq!(percentile(&values, 99), Some(Duration::from_millis(10)));
        assert_eq!(percentile(&values[..1], 50), Some(Duration::from_millis(1)));
        assert_eq!(percentile(&[], 50), None);
    }
}
