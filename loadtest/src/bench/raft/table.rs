//! The report for people.

use super::{Report, Row, Snapshot};
use crate::bench::figures::short;
use crate::report::columns;

/// The whole report as text.
pub fn table(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "{}, {} cores, kernel {}; load average {:.1} at the start, {:.1} at the end\n",
        machine.processor, machine.cores, machine.kernel, report.load_average[0], report.load_average[1]
    );
    for probe in &report.probes {
        let (p50, p99) = (short(probe.p50_us), short(probe.p99_us));
        text += &format!("4 KiB written and synced, {}: p50 {p50} us, p99 {p99} us\n", probe.when);
    }
    if !report.rows.is_empty() {
        text += "\nCommits of 100-byte entries (a call each: and a key of 17 bytes), 3 replicas on this machine, synced on disk by a \
                 majority; times in us\n";
        text += &rows(report);
    }
    if let Some(idle) = &report.idle {
        let each = |figures: &[f64]| figures.iter().map(|figure| short(*figure)).collect::<Vec<_>>().join(", ");
        text += &format!(
            "\n{} idle groups x 3, the first node leads all, {:.0} s: CPU {} % of a core; {} bytes per replica\n",
            idle.groups,
            idle.seconds,
            each(&idle.busy_percent),
            each(&idle.bytes_per_replica)
        );
    }
    for snapshot in &report.snapshots {
        text += &sending(snapshot);
    }
    for failure in &report.failures {
        text += &format!("could not be measured: {failure}\n");
    }
    text
}

fn rows(report: &Report) -> String {
    let titles = [
        "proposed",
        "peers",
        "groups",
        "in flight",
        "commits/s",
        "p50",
        "p99",
        "p99.9",
        "CPU leader",
        "follower",
        "all 3",
        "client",
        "commits/sync",
        "x etcd",
    ];
    let mut lines = vec![titles.map(str::to_owned).to_vec()];
    lines.extend(report.rows.iter().map(|row| line(report, row)));
    columns(&lines, |column| column < 2)
}

fn line(report: &Report, row: &Row) -> Vec<String> {
    let own = |figure: Option<f64>| figure.map_or_else(|| "-".to_owned(), short);
    vec![
        row.door.name().to_owned(),
        if row.tls { "mTLS" } else { "plain" }.to_owned(),
        row.groups.to_string(),
        row.in_flight.to_string(),
        short(row.per_second),
        short(row.p50_us),
        short(row.p99_us),
        short(row.p999_us),
        own(row.leader_cpu_us),
        own(row.follower_cpu_us),
        short(row.all_cpu_us),
        own(row.client_cpu_us),
        own(row.commits_per_sync),
        own(report.to_etcd(row)),
    ]
}

fn sending(snapshot: &Snapshot) -> String {
    let limit = snapshot.rate_limit.map_or_else(|| "no limit".to_owned(), |rate| format!("{} MiB/s", rate >> 20));
    let mut text = format!(
        "\n{} MiB of state go to a new learner ({limit}), {} in flight inside the leader; extra memory there {} MiB\n",
        snapshot.state_bytes >> 20,
        snapshot.in_flight,
        short(snapshot.extra_bytes_max as f64 / f64::from(1 << 20))
    );
    let mut lines =
        vec![["the state is", "seconds", "commits/s", "p50", "p99", "max", "p99/before"].map(str::to_owned).to_vec()];
    let before = snapshot.phases.first().map_or(0.0, |phase| phase.p99_us);
    lines.extend(snapshot.phases.iter().map(|phase| {
        vec![
            phase.what.to_owned(),
            short(phase.seconds),
            short(phase.per_second),
            short(phase.p50_us),
            short(phase.p99_us),
            short(phase.max_us),
            short(phase.p99_us / before),
        ]
    }));
    text += &columns(&lines, |column| column == 0);
    text
}
