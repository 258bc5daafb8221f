//! Certificates as operators meet them: made, checked, exchanged while a fleet runs, and wrong.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use rustix::process::Signal;

use super::{
    fleet::{Fleet, Plan},
    kit::{Directory, ROCINANTE, Ran, rocinante, wait_until},
};

/// Runs `rocinante LINE` in the directory.
fn run(directory: &Directory, line: &str) -> Ran {
    rocinante(directory.path(), &line.split(' ').collect::<Vec<_>>())
}

fn done(directory: &Directory, line: &str) -> String {
    let ran = run(directory, line);
    assert_eq!(ran.code, 0, "{line}: {ran:?}");
    ran.out
}

fn refused(directory: &Directory, line: &str, expected: &str) {
    let ran = run(directory, line);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{line}: {ran:?}");
    assert!(ran.err.contains(expected), "{line}: {} does not say {expected:?}", ran.err);
}

const TLS: &str = "[fleet.tls]\nca = \"pki/ca.pem\"\ncert = \"pki/{label}.pem\"\nkey = \"pki/{label}.key\"\n";

/// A configuration of instances a and b in fleet `t`.
fn write_config(directory: &Directory, tls: &str) {
    let mut text = format!("[fleet]\nname = \"t\"\n{tls}");
    for (label, host) in [("a", "127.0.0.1"), ("b", "127.0.0.2")] {
        text += &format!(
            "[[fleet.instance]]\nlabel = \"{label}\"\naddress = \"{host}\"\ngrpc = 1\nrest = 2\nmetrics = 3\n"
        );
    }
    text += "[[pool]]\nname = \"web\"\nbind = \":9001\"\n";
    text += "[[pool.server]]\nname = \"s1\"\naddress = \"127.0.0.9\"\nport = 1\n";
    fs::write(directory.path().join("pool.toml"), text).unwrap();
}

#[test]
fn they_are_made_once_for_their_owner_alone_and_checked() {
    let directory = Directory::new();
    write_config(&directory, TLS);
    let check = "check --config pool.toml";
    refused(&directory, "pki issue --fleet t a", "pki/ca.pem cannot be read");
    assert!(done(&directory, "pki init --fleet t").contains("pki/ca.key: its key; keep it away from the instances"));
    refused(&directory, check, "pool.toml:5:8: fleet.tls.cert: pki/a.pem cannot be read");
    assert!(done(&directory, "pki issue --fleet t a --address 127.0.0.1 --address lb-a.example").contains("pki/a.pem"));
    assert!(done(&directory, check).ends_with("certificates: good for a\n"));
    done(&directory, "pki issue --fleet t b --days 3");
    assert!(done(&directory, check).ends_with("certificates: good for a, b\n"));
    assert!(done(&directory, &format!("{check} --instance b")).ends_with("certificates: good for b\n"));
    refused(&directory, &format!("{check} --instance c"), "there is no instance c; it lists a, b");

    let path = |name: &str| directory.path().join("pki").join(name);
    for secret in ["ca.key", "a.key", "b.key"] {
        assert_eq!(fs::metadata(path(secret)).unwrap().permissions().mode() & 0o777, 0o600, "{secret}");
    }
    let before = fs::read(path("a.pem")).unwrap();
    refused(&directory, "pki init --fleet t", "pki/ca.pem is there already; --force overwrites it");
    refused(&directory, "pki issue --fleet t a", "pki/a.pem is there already; --force overwrites it");
    refused(&directory, "pki issue --fleet t ca", "choose another label");
    assert_eq!(fs::read(path("a.pem")).unwrap(), before);
    done(&directory, "pki issue --fleet t a --force");
    assert_ne!(fs::read(path("a.pem")).unwrap(), before);
    for usage in ["pki issue --fleet t ../a", "pki issue --fleet t/ a", "pki init", "pki issue --fleet t a --days 0"] {
        assert_eq!(run(&directory, usage).code, 2, "{usage}");
    }
}

#[test]
fn what_is_wrong_with_them_is_told_with_file_and_key() {
    let directory = Directory::new();
    write_config(&directory, TLS);
    for line in ["pki init --fleet t", "pki issue --fleet t a", "pki issue --fleet t b", "pki init --dir x --fleet t"] {
        done(&directory, line);
    }
    done(&directory, "pki issue --dir x --fleet other a");
    done(&directory, "pki issue --dir x --fleet t b");
    let path = |name: &str| directory.path().join(name);
    let check = |from: &str, to: &str, expected: &str| {
        let good = fs::read(path(to)).unwrap();
        fs::copy(path(from), path(to)).unwrap();
        refused(&directory, "check --config pool.toml", expected);
        fs::write(path(to), good).unwrap();
        done(&directory, "check --config pool.toml");
    };
    check("pki/b.key", "pki/a.key", "6:7: fleet.tls.key: pki/a.key: it does not belong to the certificate");
    check("pool.toml", "pki/a.key", "fleet.tls.key: pki/a.key: there is no private key in it");
    check("pool.toml", "pki/ca.pem", "4:6: fleet.tls.ca: pki/ca.pem: there is no certificate in it");
    check("x/ca.pem", "pki/ca.pem", "fleet.tls.cert: pki/a.pem: its certificate comes from another authority");
    // A whole identity of somebody else.
    let own = ["pki/a.pem", "pki/a.key"].map(|name| (name, fs::read(path(name)).unwrap()));
    for (from, expected) in [("pki/b", "it is the certificate of instance b"), ("x/b", "another authority")] {
        fs::copy(path(&format!("{from}.key")), path("pki/a.key")).unwrap();
        fs::copy(path(&format!("{from}.pem")), path("pki/a.pem")).unwrap();
        refused(&directory, "check --config pool.toml", expected);
    }
    for (name, bytes) in own {
        fs::write(path(name), bytes).unwrap();
    }
    done(&directory, "check --config pool.toml");
    fs::copy(path("x/ca.pem"), path("pki/ca.pem")).unwrap();
    fs::copy(path("x/b.pem"), path("pki/b.pem")).unwrap();
    fs::copy(path("x/b.key"), path("pki/b.key")).unwrap();
    done(&directory, "check --config pool.toml --instance b");
    fs::copy(path("x/a.pem"), path("pki/a.pem")).unwrap();
    fs::copy(path("x/a.key"), path("pki/a.key")).unwrap();
    let expected = "it names no instance of this fleet, but rocinante://other/instance/a; issue one with the URI \
                    rocinante://t/instance/a among its subject alternative names";
    refused(&directory, "check --config pool.toml", expected);
    // One file for all is one instance's.
    write_config(&directory, &TLS.replace("{label}", "b"));
    assert!(done(&directory, "check --config pool.toml").ends_with("certificates: good for b\n"));
    refused(&directory, "check --config pool.toml --instance a", "it is the certificate of instance b");
    refused(&directory, "run --config pool.toml --instance a", "it is the certificate of instance b");
}

#[test]
fn a_fleet_goes_on_while_they_are_exchanged() {
    let mut fleet = Fleet::new(Plan { fleet: TLS.to_owned(), ..Plan::default() });
    done(&fleet.directory, "pki init --fleet bad-days");
    for label in ["a", "b", "c"] {
        done(&fleet.directory, &format!("pki issue --fleet bad-days {label}"));
    }
    fleet.start_all();
    assert!(!fleet.process(0).said().contains("plaintext"));
    let given = fleet.ask_all(0, 0..20);
    assert!(fleet.metric(0, "rocinante_certificate_expiry_seconds").unwrap() > 1.7e9);
    assert_eq!(fleet.metric(0, "rocinante_link_events_total{event=\"handshakes_failed\"}"), Some(0.0));

    let path = fleet.directory.path().join("pki/a.pem");
    fs::write(&path, "torn").unwrap();
    fleet.process(0).signal(Signal::HUP);
    fleet.process(0).says(&["new certificates are not good", "pki/a.pem: there is no certificate in it"]);
    assert!(fleet.metric(0, "rocinante_certificate_reloads_failed_total").unwrap() >= 1.0);
    assert_eq!(fleet.ask_all(1, 0..20), given);
    let before = fleet.metric(0, "rocinante_certificate_expiry_seconds").unwrap();
    done(&fleet.directory, "pki issue --fleet bad-days a --force --days 700");
    // Without a signal: new files are found.
    wait_until("the new certificate counts", || {
        fleet.metric(0, "rocinante_certificate_expiry_seconds").unwrap() > before
    });
    // Another process of b dials and is dialled with it.
    fleet.kill(1);
    fleet.start(1);
    fleet.ready(1);
    assert_eq!(fleet.ask_all(1, 0..20), given);

    // An instance of another authority stays outside, and is told why.
    done(&fleet.directory, "pki init --dir x --fleet bad-days");
    done(&fleet.directory, "pki issue --dir x --fleet bad-days c");
    for name in ["c.pem", "c.key"] {
        let (from, to) = (format!("x/{name}"), format!("pki/{name}"));
        fs::copy(fleet.directory.path().join(from), fleet.directory.path().join(to)).unwrap();
    }
    let own_ca = fs::read_to_string(fleet.config()).unwrap().replace("pki/ca.pem", "x/ca.pem");
    fs::write(fleet.directory.path().join("c.toml"), own_ca).unwrap();
    fleet.kill(2);
    let mut command = Command::new(ROCINANTE);
    command.current_dir(fleet.directory.path()).args(["run", "--config", "c.toml", "--instance", "c"]);
    fleet.start_as(2, command);
    fleet.not_ready(2, "another authority");
    assert_eq!(fleet.ask_all(1, 0..20), given);
}

#[test]
fn plaintext_is_said_aloud_and_a_hangup_ends_nothing() {
    let mut fleet = Fleet::started(Plan { size: 1, ..Plan::default() });
    fleet.process(0).says(&["WARN", "peers talk plaintext"]);
    fleet.process(0).signal(Signal::HUP);
    fleet.process(0).says(&["SIGHUP", "no certificates to be read again"]);
    fleet.ready(0);
    assert!(fleet.process(0).ended().is_none());
    assert_eq!(fleet.metric(0, "rocinante_certificate_expiry_seconds"), None);
}
