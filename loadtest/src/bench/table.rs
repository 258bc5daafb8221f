//! The report for people.

use super::figures::{Spread, ratio, short};
use super::traffic::{Figures, Outcome, Row};
use super::{DecisionRow, Report, commits};
use crate::report::columns;

/// The whole report as text.
pub fn table(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "{}, {} cores, kernel {}; measured on core {}, clients and servers on {}\n",
        machine.processor, machine.cores, machine.kernel, machine.tested_on, machine.load_on
    );
    if machine.tested_on == machine.load_on {
        text += "There is only one core: what is measured shares it with clients and servers, and only CPU times mean much.\n";
    }
    if !report.decisions.is_empty() {
        text += "\nDecisions without a commit, on one core\n";
        text += &decisions(&report.decisions);
    }
    if !report.commits.is_empty() {
        text += "\nCommitted decisions; instances on all cores, times in us\n";
        text += &committed(&report.commits);
    }
    if !report.traffic.is_empty() {
        text += &format!(
            "\nTraffic through one process on one core; median of {} rounds of {} s, +- from lowest to highest\n",
            report.rounds, report.seconds
        );
        text += &traffic(&report.traffic);
    }
    if !report.idle.is_empty() {
        let used: Vec<String> =
            report.idle.iter().map(|idle| format!("{} {:.1} %", idle.product, idle.busy_percent)).collect();
        text += &format!("CPU while nobody asks: {}\n", used.join(", "));
    }
    if let Some(others) = report.others_percent.filter(|others| *others > OTHERS_PERCENT_MAX) {
        text += &format!(
            "This machine is busy with other things, at {others:.0} % of a core: the figures suffer, rates most of all.\n"
        );
    }
    for failure in failures(report) {
        text += &format!("could not be measured: {failure}\n");
    }
    text
}

fn failures(report: &Report) -> Vec<String> {
    let of_row = |row: &Row| match &row.outcome {
        Outcome::Failed(why) => Some(format!("{}, {}: {why}", row.traffic, row.product)),
        Outcome::Measured(_) | Outcome::Missing(_) => None,
    };
    report.failures.iter().cloned().chain(report.traffic.iter().filter_map(of_row)).collect()
}

fn decisions(rows: &[DecisionRow]) -> String {
    let mut lines = vec![head(&["from", "decisions/s", "mean ns", "p50 ns", "p99 ns"])];
    lines.extend(rows.iter().map(|row| {
        vec![
            row.what.clone(),
            row.per_second.map_or_else(nothing, short),
            short(row.mean_ns),
            short(row.p50_ns),
            short(row.p99_ns),
        ]
    }));
    columns(&lines, |column| column == 0)
}

fn committed(rows: &[commits::Row]) -> String {
    let titles = [
        "clients",
        "fleet",
        "in flight",
        "clients/s",
        "p50",
        "p99",
        "from",
        "decision mean",
        "p50",
        "p99",
        "CPU/client",
    ];
    let mut lines = vec![head(&titles)];
    lines.extend(rows.iter().map(|row| {
        let own = |figure: Option<f64>| figure.map_or_else(nothing, short);
        vec![
            row.what.to_owned(),
            row.instances.to_string(),
            row.in_flight.to_string(),
            short(row.per_second),
            short(row.client_p50_us),
            short(row.client_p99_us),
            row.source.to_owned(),
            own(row.decision_mean_us),
            own(row.decision_p50_us),
            own(row.decision_p99_us),
            short(row.cpu_us),
        ]
    }));
    columns(&lines, |column| column == 0 || column == 6)
}

fn traffic(rows: &[Row]) -> String {
    let titles = [
        "traffic",
        "through",
        "rate",
        "",
        "+-",
        "CPU",
        "",
        "+-",
        "core busy",
        "p50 us",
        "p99 us",
        "our CPU/its",
        "our rate/its",
    ];
    let mut lines = vec![head(&titles)];
    for row in rows {
        let mut line = vec![row.traffic.to_owned(), row.product.to_owned()];
        match &row.outcome {
            Outcome::Measured(figures) => line.extend(cells(figures, row.product, ours(rows, row.traffic))),
            Outcome::Missing(why) => line.push(why.clone()),
            Outcome::Failed(_) => line.push("failed".to_owned()),
        }
        lines.push(line);
    }
    columns(&lines, |column| column < 2 || column == 3 || column == 6)
}

/// Our figures under the same traffic.
fn ours<'a>(rows: &'a [Row], traffic: &str) -> Option<&'a Figures> {
    rows.iter().find(|row| row.traffic == traffic && row.product == OURS).and_then(|row| match &row.outcome {
        Outcome::Measured(figures) => Some(figures.as_ref()),
        Outcome::Missing(_) | Outcome::Failed(_) => None,
    })
}

fn cells(figures: &Figures, product: &str, ours: Option<&Figures>) -> Vec<String> {
    let median = |spread: Option<Spread>| spread.map_or_else(nothing, |spread| short(spread.median));
    let wide = |spread: Option<Spread>| spread.map_or_else(nothing, |spread| format!("{:.0} %", spread.percent()));
    let related = |ours: Option<Spread>, its: Option<Spread>| {
        let ratio = ours.zip(its).filter(|_| product != OURS).and_then(|(ours, its)| ratio(ours.median, its.median));
        ratio.map_or_else(nothing, |ratio| format!("{ratio:.2}"))
    };
    vec![
        short(figures.rate.median),
        figures.rate_unit.to_owned(),
        wide(Some(figures.rate)),
        median(figures.cpu),
        if figures.cpu.is_some() { figures.cpu_unit.to_owned() } else { String::new() },
        wide(figures.cpu),
        figures.busy_percent.map_or_else(nothing, |busy| format!("{:.0} %", busy.median)),
        median(figures.p50_us),
        median(figures.p99_us),
        related(ours.and_then(|ours| ours.cpu), figures.cpu),
        related(ours.map(|ours| ours.rate), Some(figures.rate)),
    ]
}

fn head(titles: &[&str]) -> Vec<String> {
    titles.iter().map(ToString::to_string).collect()
}

fn nothing() -> String {
    "-".to_owned()
}

/// A machine is quiet while everything else uses less of a core.
const OTHERS_PERCENT_MAX: f64 = 5.0;
const OURS: &str = "rocinante";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Machine, traffic::Idle};

    fn figures(rate: f64, cpu: Option<f64>) -> Outcome {
        let flat = |figure: f64| Spread { median: figure, low: figure * 0.95, high: figure * 1.05 };
        Outcome::Measured(Box::new(Figures {
            rate: flat(rate),
            rate_unit: "/s",
            cpu: cpu.map(flat),
            cpu_unit: "us",
            busy_percent: cpu.map(flat),
            p50_us: Some(flat(100.0)),
            p99_us: None,
        }))
    }

    fn row(product: &'static str, outcome: Outcome) -> Row {
        Row { traffic: "TCP new", product, outcome }
    }

    fn report() -> Report {
        Report {
            machine: Machine {
                processor: "Some CPU".into(),
                kernel: "6.1".into(),
                cores: 2,
                tested_on: "1".into(),
                load_on: "0".into(),
            },
            seconds: 2,
            rounds: 3,
            decisions: Vec::new(),
            commits: Vec::new(),
            traffic: vec![
                row("direct", figures(40_000.0, None)),
                row("rocinante", figures(10_000.0, Some(60.0))),
                row("haproxy", figures(8_000.0, Some(80.0))),
                row("nginx", Outcome::Missing("not installed".into())),
            ],
            idle: vec![Idle { product: "rocinante", busy_percent: 0.5 }],
            others_percent: Some(1.0),
            failures: Vec::new(),
        }
    }

    #[test]
    fn ours_is_related_to_each_of_the_others_and_what_is_missing_says_so() {
        let lines: Vec<String> = table(&report()).lines().map(str::to_owned).collect();
        let cells = |start: &str| -> Vec<String> {
            let line = lines.iter().find(|line| line.starts_with(start)).unwrap();
            line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
        };
        let direct = ["TCP new", "direct", "40 000", "/s", "10 %", "-", "-", "-", "100", "-", "-", "0.25"];
        assert_eq!(cells("TCP new  direct"), direct);
        let ours = ["TCP new", "rocinante", "10 000", "/s", "10 %", "60.0", "us", "10 %", "60 %", "100", "-", "-", "-"];
        assert_eq!(cells("TCP new  rocinante"), ours);
        let haproxy =
            ["TCP new", "haproxy", "8 000", "/s", "10 %", "80.0", "us", "10 %", "80 %", "100", "-", "0.75", "1.25"];
        assert_eq!(cells("TCP new  haproxy"), haproxy);
        assert_eq!(cells("TCP new  nginx"), ["TCP new", "nginx", "not installed"]);
        let text = table(&report());
        assert!(report().is_whole() && !text.contains("could not") && !text.contains("busy with other things"));
        let noisy = Report { others_percent: Some(120.0), ..report() };
        assert!(table(&noisy).contains("busy with other things, at 120 % of a core"));
    }

    #[test]
    fn a_failure_is_named_and_spoils_the_report() {
        let mut report = report();
        report.traffic.push(row("nginx", Outcome::Failed("it burned".into())));
        assert!(!report.is_whole());
        assert!(table(&report).contains("could not be measured: TCP new, nginx: it burned"));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["traffic"][2]["measured"]["cpu"]["median"], 80.0);
        assert_eq!(json["traffic"][3]["missing"], "not installed");
        assert_eq!(json["traffic"][4]["failed"], "it burned");
    }
}
