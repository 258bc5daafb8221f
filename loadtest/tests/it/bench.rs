//! The bench as a program: tiny runs, judged by what they print and not by how fast they were.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::alone;

/// Runs it; gives back its exit status, what it printed, and what it said besides.
fn bench(binary: &Path, only: &str, more: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    command.args(["bench", "--seconds", "1", "--rounds", "1", "--only", only, "--bin"]).arg(binary).args(more);
    let _alone = alone();
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// The rows of one product, or of all when it is empty.
fn rows<'a>(report: &'a Value, product: &str) -> Vec<&'a Value> {
    let rows = report["traffic"].as_array().unwrap();
    rows.iter().filter(|row| product.is_empty() || row["product"] == product).collect()
}

/// A rival is measured where it is installed, and says that it is not where it is not.
fn check_rivals(report: &Value) {
    for rival in ["haproxy", "nginx"] {
        for row in rows(report, rival) {
            let measured = row["measured"]["cpu"]["median"].as_f64().is_some_and(|cpu| cpu > 0.0);
            assert!(measured || row["missing"] == "not installed", "{row}");
        }
    }
}

/// Something that is no proxy and ends at once.
fn no_proxy() -> PathBuf {
    PathBuf::from("/bin/false")
}

#[test]
fn decisions_are_measured_from_the_cache_and_from_the_table() {
    let (status, printed, said) = bench(&no_proxy(), "decisions", &["--json"]);
    assert_eq!(status, 0, "{said}");
    let report = json(&printed);
    let decisions = report["decisions"].as_array().unwrap();
    let names: Vec<&str> = decisions.iter().map(|row| row["what"].as_str().unwrap()).collect();
    let wanted =
        ["cache, 10 000 clients", "table, 10 000 clients", "cache, 1 000 000 clients", "table, 1 000 000 clients"];
    assert_eq!(names, wanted);
    for row in decisions {
        assert!(row["per_second"].as_f64().unwrap() > 1.0 && row["p99_ns"].as_f64() >= row["p50_ns"].as_f64(), "{row}");
    }
    assert!(rows(&report, "").is_empty());
}

#[test]
fn what_does_not_start_is_named_and_the_rest_is_measured() {
    let (status, printed, said) = bench(&no_proxy(), "bulk,commits", &["--json"]);
    assert_eq!(status, 1, "{said}");
    let report = json(&printed);
    assert_eq!(rows(&report, "rocinante")[0]["failed"], "it did not start");
    let failures = report["failures"].as_array().unwrap();
    assert_eq!(failures.len(), 3, "two fleets and the instance beside the others: {failures:?}");
    assert!(failures.iter().all(|why| why.as_str().unwrap().contains("rocinante ended: exit status: 1")));
    assert!(rows(&report, "direct")[0]["measured"]["rate"]["median"].as_f64().unwrap() > 0.0);
    check_rivals(&report);
}

#[test]
fn an_unknown_part_is_refused_with_the_parts_that_there_are() {
    let (status, printed, said) = bench(&no_proxy(), "speed", &[]);
    assert_eq!((status, printed.as_str()), (2, ""));
    assert!(
        said.contains("no part of this bench is called speed; there are: decisions, commits, http, tcp, bulk"),
        "{said}"
    );
}

#[test]
fn a_short_run_of_the_log_takes_no_seconds() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    let output = command.args(["bench", "raft", "--short", "--seconds", "3"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("'--short' cannot be used with '--seconds <N>'"), "{said}");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_real_instance_and_real_fleets_are_measured() {
    let binary = Path::new(env!("CARGO_BIN_EXE_loadtest")).with_file_name("rocinante");
    if !binary.is_file() {
        eprintln!("left out: {} is not built; cargo build --release -p proxy builds it", binary.display());
        return;
    }
    let (status, printed, said) = bench(&binary, "commits,http,tcp,bulk", &["--json"]);
    assert_eq!(status, 0, "{said}");
    let report = json(&printed);
    let commits = report["commits"].as_array().unwrap();
    let shape: Vec<(u64, &str)> =
        commits.iter().map(|row| (row["instances"].as_u64().unwrap(), row["source"].as_str().unwrap())).collect();
    assert_eq!(shape, [(1, "commit"), (1, "commit"), (3, "commit"), (3, "commit"), (3, "table")]);
    for row in commits {
        let positive = |name: &str| row[name].as_f64().unwrap() > 0.0;
        assert!(positive("per_second") && positive("client_p50_us") && positive("decision_mean_us"), "{row}");
    }
    let ours = rows(&report, "rocinante");
    let kinds: Vec<&str> = ours.iter().map(|row| row["traffic"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["HTTP kept", "HTTP new", "TCP kept", "TCP new", "TCP bulk"]);
    for row in ours {
        let measured = &row["measured"];
        assert!(measured["rate"]["median"].as_f64().unwrap() > 0.0, "{row}");
        assert!(measured["cpu"]["median"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(measured["p99_us"].is_null(), row["traffic"] == "TCP bulk", "{row}");
    }
    check_rivals(&report);
    let own = report["decisions"].as_array().unwrap();
    assert_eq!(own[0]["what"], "cache, by the instance's own word");
    assert!(own[0]["count"].as_u64().unwrap() > 100, "traffic of known clients is decided from the cache: {own:?}");
}
