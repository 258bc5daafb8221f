//! What does not start says why, and what would be right.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt, process::Command};

use super::{
    fleet::{Fleet, Plan},
    kit::{Ran, rocinante},
};

fn one() -> Plan {
    Plan { size: 1, servers: 1, ..Plan::default() }
}

/// Runs instance a to its end.
fn run(fleet: &Fleet, more: &[&str]) -> Ran {
    let arguments = ["run", "--config", "pool.toml", "--instance", "a"];
    rocinante(fleet.directory.path(), &[&arguments, more].concat())
}

#[test]
fn each_mistake_in_the_file_has_its_line_its_key_and_what_would_be_right() {
    let fleet = Fleet::new(one());
    let right = fs::read_to_string(fleet.config()).unwrap();
    let mistakes = [
        ("name = \"bad-days\"", "name = 7", "fleet.name", "write"),
        ("data_dir = \"data\"", "datadir = \"data\"", "fleet.datadir", "did you mean data_dir?"),
        ("groups = 4", "groups = 0", "fleet.groups", "1 to 256"),
        ("groups = 4", "lease = \"1 second\"", "fleet.lease", "from \"100ms\" to \"1m\""),
        ("label = \"a\"", "label = \"a b\"", "fleet.instance[1].label", "a-z"),
        ("[pool.health]", "[pool.health]\ntimeout = \"9s\"", "pool[web].health.timeout", "write \"200ms\" or less"),
        ("[pool.health]", "[pool.health]\nrise = -1", "pool[web].health.rise", "1 to 1000"),
        ("protocol = \"tcp\"", "protocol = \"quic\"", "pool[web].protocol", "\"http\""),
        ("protocol = \"tcp\"", "balance = \"random\"", "pool[web].balance", "\"source-hash\""),
        ("name = \"s1\"", "name = \"s1\"\nweight = 65536", "pool[web].server[s1].weight", "0 to 65535"),
        ("name = \"s1\"", "name = \"s1\"\nwieght = 1", "pool[web].server[s1].wieght", "did you mean weight?"),
        ("name = \"s1\"", "name = \"s1\"\nname = \"s2\"", "name", "keep one of them"),
        ("[fleet]", "[fleet", "", "toml.io"),
    ];
    for (from, to, key, remedy) in mistakes {
        assert!(right.contains(from), "{from}");
        let wrong = right.replacen(from, to, 1);
        fs::write(fleet.config(), &wrong).unwrap();
        let ran = run(&fleet, &[]);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{to}: {ran:?}");
        let first = ran.err.lines().next().unwrap();
        let place = first.strip_prefix("pool.toml:").and_then(|rest| rest.split(':').next());
        let line: usize = place.unwrap().parse().unwrap();
        let told = wrong.lines().nth(line - 1).unwrap();
        let last = to.lines().last().unwrap();
        assert!(
            told == last || key.ends_with("label") && told.contains("label"),
            "{to}: line {line} is {told}: {first}"
        );
        assert!(first.contains(key) && first.contains(remedy), "{to}: {first}");
        assert!(ran.err.trim_end().ends_with("1 mistake"), "{to}: {}", ran.err);
        assert!(!fleet.directory.path().join("data").exists(), "{to}: nothing was touched");
    }
}

#[test]
fn what_is_not_there_is_named() {
    let fleet = Fleet::new(one());
    let here = fleet.directory.path();
    let ran = rocinante(here, &["run", "--config", "none.toml", "--instance", "a"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("none.toml") && ran.err.contains("No such file"), "{}", ran.err);
    let ran = rocinante(here, &["run", "--config", "pool.toml", "--instance", "z"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("there is no instance z; it lists a"), "{}", ran.err);
    let ran = rocinante(here, &["run", "--config", "pool.toml"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("--instance"), "{}", ran.err);
}

#[test]
fn a_port_that_is_taken_is_named_with_its_address_and_key() {
    let fleet = Fleet::new(one());
    let instance = &fleet.instances[0];
    for (address, key) in [(instance.grpc, "grpc"), (instance.rest, "rest"), (instance.metrics, "metrics")] {
        let taken = TcpListener::bind(address).unwrap();
        let ran = run(&fleet, &[]);
        assert_eq!(ran.code, 1, "{ran:?}");
        let named = format!("fleet.instance[a].{key}");
        assert!(ran.err.contains(&address.to_string()) && ran.err.contains(&named), "{key}: {}", ran.err);
        assert!(ran.err.contains("already"), "{key}: {}", ran.err);
        drop(taken);
    }
}

#[test]
fn a_pool_whose_port_is_taken_is_told_and_opened_once_the_port_is_free() {
    let mut fleet = Fleet::new(one());
    let pool = fleet.instances[0].pool;
    let taken = TcpListener::bind(pool).unwrap();
    let process = fleet.start(0);
    let line = process.says(&["cannot listen", "web"]);
    assert!(line.contains(&pool.to_string()) && line.contains("taken by another listener"), "{line}");
    drop(taken);
    fleet.ready(0);
    assert_eq!(fleet.ask_all(0, 0..1)[&0], "s1");
}

#[test]
fn a_data_directory_that_cannot_be_used_is_named() {
    let fleet = Fleet::new(one());
    let here = fleet.directory.path();
    fs::write(here.join("file"), "not a directory").unwrap();
    let ran = run(&fleet, &["--data-dir", "file/a"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("cannot use the data directory file/a"), "{}", ran.err);

    let mine = here.join("read-only");
    fs::create_dir(&mine).unwrap();
    fs::set_permissions(&mine, fs::Permissions::from_mode(0o555)).unwrap();
    // Root may write everywhere, but for what the kernel keeps for itself.
    let root = rustix::process::getuid().is_root();
    let place = if root { "/proc/a".to_owned() } else { mine.join("a").display().to_string() };
    let ran = run(&fleet, &["--data-dir", &place]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains(&format!("cannot use the data directory {place}")), "{}", ran.err);
    assert!(root || ran.err.contains("give this user the right to write there"), "{}", ran.err);
}

#[test]
fn a_data_directory_of_somebody_else_is_refused() {
    let mut fleet = Fleet::started(Plan { size: 1, servers: 1, ..Plan::default() });
    let ran = run(&fleet, &["--data-dir", "elsewhere"]);
    assert_eq!(ran.code, 1, "the ports are taken: {ran:?}");

    // A second process with ports of its own, on the directory that is in use.
    let other = Fleet::new(one());
    let data = fleet.data(0);
    let busy = ["run", "--config", "pool.toml", "--instance", "a", "--data-dir", data.to_str().unwrap()];
    let ran = rocinante(other.directory.path(), &busy);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("another process uses it"), "{}", ran.err);
    assert!(fleet.readyz(0).unwrap().0, "the owner is not disturbed");
    fleet.kill(0);

    let rename = |from: &str, to: &str| {
        let text = fs::read_to_string(other.config()).unwrap();
        fs::write(other.config(), text.replacen(from, to, 1)).unwrap();
    };
    // Another instance of the fleet.
    rename("label = \"a\"", "label = \"b\"");
    let ran =
        rocinante(other.directory.path(), &["run", "--config", "pool.toml", "--instance", "b", "--data-dir", busy[6]]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("belongs to instance a of fleet bad-days, not to b of bad-days"), "{}", ran.err);
    assert!(ran.err.contains("--data-dir"), "{}", ran.err);
    // Another fleet.
    rename("label = \"b\"", "label = \"a\"");
    rename("name = \"bad-days\"", "name = \"good-days\"");
    let ran = rocinante(other.directory.path(), &busy);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("belongs to instance a of fleet bad-days, not to a of good-days"), "{}", ran.err);
}

#[test]
fn data_dir_names_another_place() {
    let mut fleet = Fleet::new(one());
    let mut command: Command = fleet.command(0);
    command.args(["--data-dir", "there/it/is"]);
    fleet.start_as(0, command);
    fleet.ready(0);
    assert!(fleet.directory.path().join("there/it/is/identity.dat").exists());
    assert!(!fleet.data(0).exists());
}
