//! `rocinante transparent install|show|remove` on a machine of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use super::{net::Space, without_network_rights};
use crate::{
    cli::{Ran, run_with},
    process::kit::{Directory, ROCINANTE},
};

/// `rocinante transparent LINE` on that machine.
pub fn transparent(space: &Space, line: &str) -> Ran {
    space.inside(|| run_with(&format!("transparent {line}"), None, Path::new("/nonexistent/pool.toml")))
}

/// A machine with nothing on it, and a place for files.
struct Machine {
    space: Space,
    directory: Directory,
}

impl Machine {
    fn new() -> Option<Self> {
        let space = Space::permitted()?;
        space.ip("link set lo up\n").unwrap();
        Some(Self { space, directory: Directory::new() })
    }

    /// A file with these binds, each of a transparent pool.
    fn file(&self, name: &str, binds: &[(&str, &str)]) -> PathBuf {
        let mut text =
            "[fleet]\nname = \"t\"\n[[fleet.instance]]\nlabel = \"a\"\naddress = \"lb\"\ngrpc = 1\nrest = 2\n\
                        metrics = 3\n[[pool]]\nname = \"plain\"\nbind = \"192.0.2.9:9\"\n"
                .to_owned();
        for (number, (bind, server)) in binds.iter().enumerate() {
            text += &format!(
                "[[pool]]\nname = \"p{number}\"\nbind = \"{bind}\"\ntransparent = true\n[[pool.server]]\nname = \"s\"\n\
                 address = \"{server}\"\nport = 80\n"
            );
        }
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn run(&self, line: &str, file: &Path) -> Ran {
        transparent(&self.space, &format!("{line} --config {}", file.display()))
    }

    fn done(&self, line: &str, file: &Path) -> String {
        let ran = self.run(line, file);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{line}: {ran:?}");
        ran.out
    }

    fn json(&self, line: &str, file: &Path) -> Value {
        serde_json::from_str(&self.done(&format!("{line} --json"), file)).unwrap()
    }

    fn refused(&self, line: &str, file: &Path, expected: &str) {
        let ran = self.run(line, file);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{ran:?}");
        assert!(ran.err.contains(expected), "{}", ran.err);
        assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    }

    /// All rules and routes of the machine.
    fn state(&self) -> Vec<String> {
        ["nft list ruleset", "ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all"]
            .map(|words| self.space.feed(words, "").unwrap())
            .to_vec()
    }
}

#[test]
fn what_is_installed_is_shown_and_removed_without_a_trace() {
    let Some(machine) = Machine::new() else { return };
    let both = machine.file("both.toml", &[("192.0.2.10:80", "10.0.0.1"), ("[2001:db8::10]:80", "2001:db8:1::1")]);
    let one = machine.file("one.toml", &[("192.0.2.11:80", "10.0.0.1")]);
    let before = machine.state();
    let shown = |file: &Path, words: &str| {
        let out = machine.done("show", file);
        assert!(out.contains(words), "{out}");
    };
    shown(&both, "nothing is installed; ");
    assert_eq!(machine.json("show", &both)["as_wanted"], false);
    let removed = transparent(&machine.space, "remove");
    assert_eq!((removed.code, removed.out.as_str()), (0, "there was nothing to remove\n"));
    assert_eq!(machine.state(), before);

    let out = machine.done("install", &both);
    assert!(out.starts_with("installed for pools p0, p1; servers have to send"), "{out}");
    let installed = machine.state();
    shown(&both, &format!("as {} wants it, for pools p0, p1\n", both.display()));
    assert_eq!(machine.json("show", &both)["as_wanted"], true);
    machine.done("install", &both);
    assert_eq!(machine.state(), installed, "once more changes nothing");

    let out = machine.done("show", &one);
    assert!(
        out.contains("not as ") && out.contains("\n+ nft inet rocinante: ip daddr 192.0.2.11 tcp dport 80 "),
        "{out}"
    );
    assert!(out.contains("\n- nft inet rocinante: ip6 daddr 2001:db8::10 "), "{out}");
    assert!(out.contains("\n- ip -6 rule: priority 100 fwmark 0x1c5f lookup 7263\n"), "{out}");
    machine.done("install --mark 99 --table 98", &one);
    assert_eq!(machine.json("show --mark 99 --table 98", &one)["as_wanted"], true);
    let text = machine.state().concat();
    assert!(!text.contains("2001:db8::10") && !text.contains("7263") && !text.contains("0x1c5f"), "{text}");

    let removed = transparent(&machine.space, "remove --json");
    let removed: Value = serde_json::from_str(&removed.out).unwrap();
    assert_eq!(removed["removed"].as_array().unwrap().len(), 5, "{removed}");
    assert_eq!(machine.state(), before);
}

#[test]
fn what_somebody_else_uses_is_left_alone() {
    let Some(machine) = Machine::new() else { return };
    let file = machine.file("pool.toml", &[("192.0.2.10:80", "10.0.0.1")]);
    machine.space.ip("rule add fwmark 5 lookup 55\nroute add local 192.0.2.1 dev lo table 77\n").unwrap();
    machine
        .space
        .feed("nft -f -", "table inet other {\nchain c {\ntype filter hook input priority 0;\n}\n}\n")
        .unwrap();
    let before = machine.state();
    machine.refused("install --mark 5", &file, "mark 5 is in use by something else here (ip rule {");
    machine.refused("install --table 77", &file, "table 77 is in use by something else here (ip route {");
    assert_eq!(machine.state(), before);
    machine.done("install", &file);
    assert_eq!(transparent(&machine.space, "remove").code, 0);
    assert_eq!(machine.state(), before);
}

#[test]
fn what_cannot_be_done_is_said_in_a_line() {
    let Some(machine) = Machine::new() else { return };
    let none = machine.file("none.toml", &[]);
    machine.refused("install", &none, "no pool of ");
    assert_eq!(machine.done("show", &none), format!("nothing is installed, and {} wants nothing\n", none.display()));
    for line in ["install --mark 0", "install --table 254", "show --table x"] {
        assert_eq!(machine.run(line, &none).code, 2, "{line}");
    }

    let file = machine.file("pool.toml", &[("192.0.2.10:80", "10.0.0.1")]);
    let mut command = Command::new(ROCINANTE);
    command.args(["transparent", "install", "--config"]).arg(&file).stdin(Stdio::null());
    machine.space.house(&mut command);
    without_network_rights(&mut command);
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said, "rocinante: no permission to change packet rules (CAP_NET_ADMIN): run this as root\n");
}
