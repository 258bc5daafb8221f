//! The rules of ARCHITECTURE.md that a machine can see. Each rule is data and a function from texts to complaints.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use toml::Table;

/// Which of our crates a crate may import; the order is that of the page.
const ARROWS: &[(&str, &[&str])] = &[
    ("flow", &[]),
    ("api", &[]),
    ("raftlog", &[]),
    ("replica", &["flow", "raftlog"]),
    ("proxy", &["flow", "api", "raftlog", "replica"]),
    ("loadtest", &["flow", "api"]),
    ("sniffer", &["flow", "api"]),
    ("benches", &["raftlog", "sniffer"]),
    ("xtask", &[]),
];

/// What decides is plain code: these folders know no socket, clock, disk or thread.
const PURE: &[&str] = &[
    "flow/src/",
    "proxy/src/vip/lines",
    "proxy/src/vip/reply",
    "proxy/src/vip/switch",
    "proxy/src/vip/words",
    "raftlog/src/driver/",
    "replica/src/",
    "sniffer/src/classify/",
    "sniffer/src/decode/",
    "sniffer/src/report/outbox",
    "sniffer/src/track/",
];
/// Except for these, which are doors by their nature.
const NOT_PURE: &[&str] = &["replica/src/bin/sim/main.rs", "replica/src/bin/sim/plants.rs"];
/// The words by which a folder would know one.
const DOORS: &[&str] = &[
    "std::fs",
    "std::thread",
    "std::net::Tcp",
    "std::net::Udp",
    "Instant::now",
    "SystemTime",
    "tokio::",
    "rustix::",
    "libc::",
    "rand::",
];

/// What no source holds: unfinished work, and tests that do not run or that wait for time to pass.
const NOWHERE: &[&str] = &["todo!(", "unimplemented!(", "dbg!(", "FIXME", "XXX"];
/// What a test holds only with a reason on the same line.
const NOT_IN_TESTS: &[&str] = &["#[ignore", "sleep("];

/// Longest source file, in lines: beyond that a reader would rather have two rooms.
const LINES_MAX: usize = 750;

/// Checks the whole workspace; every complaint is one line.
pub fn check() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut complaints = arrows(&|path| Ok(fs::read_to_string(root.join(path))?))?;
    let (mut sources, mut pages) = (Vec::new(), Vec::new());
    for (crate_name, _) in ARROWS {
        files(&root.join(crate_name), "rs", &mut sources)?;
    }
    files(&root.join("docs"), "md", &mut pages)?;
    pages.extend(["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(|page| root.join(page)));
    for path in &sources {
        let name = path.strip_prefix(&root)?.to_string_lossy().into_owned();
        if !name.contains("/generated/") && !name.contains("/shims/") && name != "xtask/src/tidy.rs" {
            complaints.extend(source(&name, &fs::read_to_string(path)?));
        }
    }
    for path in &pages {
        let folder = path.parent().ok_or("a page lies in a folder")?;
        let name = path.strip_prefix(&root)?.to_string_lossy().into_owned();
        complaints.extend(links(&name, &fs::read_to_string(path)?, &|target| folder.join(target).exists()));
    }
    match complaints.as_slice() {
        [] => {
            println!("{} sources, {} pages: tidy", sources.len(), pages.len());
            Ok(())
        }
        [..] => Err(format!("{} complaints\n{}", complaints.len(), complaints.join("\n")).into()),
    }
}

/// Gives the text of a file of the project.
type Read<'a> = &'a dyn Fn(&str) -> Result<String, Box<dyn Error>>;

/// Members of the workspace that are not in [`ARROWS`], and imports that it does not have.
fn arrows(read: Read<'_>) -> Result<Vec<String>, Box<dyn Error>> {
    let mut complaints = Vec::new();
    let workspace: Table = read("Cargo.toml")?.parse()?;
    let members = workspace["workspace"]["members"].as_array().ok_or("members is a list")?;
    for member in members.iter().filter_map(|member| member.as_str()) {
        if !ARROWS.iter().any(|(name, _)| *name == member) {
            complaints
                .push(format!("Cargo.toml: {member} has no arrows; add it to xtask/src/tidy.rs and ARCHITECTURE.md"));
        }
    }
    for (name, allowed) in ARROWS {
        let manifest: Table = read(&format!("{name}/Cargo.toml"))?.parse()?;
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for import in manifest.get(section).and_then(|table| table.as_table()).into_iter().flat_map(Table::keys) {
                let ours = ARROWS.iter().any(|(other, _)| other == import);
                if ours && !allowed.contains(&import.as_str()) {
                    complaints.push(format!("{name}/Cargo.toml: {name} imports {import}; it may import {allowed:?}"));
                }
            }
        }
    }
    let page = read("ARCHITECTURE.md")?;
    for (name, allowed) in ARROWS.iter().filter(|(_, allowed)| !allowed.is_empty()) {
        let arrow = format!("{name} imports {}", allowed.join(", "));
        if !page.replace('\n', " ").contains(&arrow) {
            complaints.push(format!("ARCHITECTURE.md: does not say \"{arrow}\""));
        }
    }
    Ok(complaints)
}

/// What is wrong with one source.
fn source(name: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if !text.starts_with("//!") {
        complaints.push(format!("{name}:1: starts without a line of what it is for (//!)"));
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        complaints.push(format!("{name}: {lines} lines; at most {LINES_MAX}"));
    }
    let pure = PURE.iter().any(|folder| name.starts_with(folder)) && !NOT_PURE.contains(&name);
    let test = ["/tests/", "/tests.rs", "/examples/"].iter().any(|part| name.contains(part));
    for (number, line) in text.lines().enumerate() {
        let mut complain = |words: &[&str], why: &str| {
            for word in words.iter().filter(|word| line.contains(**word)) {
                complaints.push(format!("{name}:{}: {word} {why}", number + 1));
            }
        };
        complain(NOWHERE, "is unfinished work");
        if pure && !test && !line.trim_start().starts_with("//") {
            complain(DOORS, "does not belong where decisions are made");
        }
        if test && !line.contains("; // ") {
            complain(NOT_IN_TESTS, "has no reason on its line: a test waits for a condition with a deadline");
        }
    }
    complaints
}

/// Links of a page to files that are not there.
fn links(name: &str, text: &str, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let files = targets.map(|target| target.split('#').next().unwrap_or_default());
    files
        .filter(|file| !file.is_empty() && !file.contains("://") && !exists(file))
        .map(|file| format!("{name}: links to {file}, which is not there"))
        .collect()
}

/// All files below `folder` that end in `.extension`, in order.
fn files(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_, std::io::Error>>()?;
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files(&path, extension, found)?;
        } else if path.extension().is_some_and(|end| end == extension) {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_tidy() {
        check().unwrap();
    }

    #[test]
    fn an_arrow_that_is_not_in_the_table_is_seen() {
        let read = |path: &str| -> Result<String, Box<dyn Error>> {
            Ok(match path {
                "Cargo.toml" => "[workspace]\nmembers = [\"flow\", \"stranger\"]".into(),
                "flow/Cargo.toml" => "[dependencies]\nproxy.workspace = true".into(),
                "raftlog/Cargo.toml" => "[dev-dependencies]\nflow = { path = \"../flow\" }".into(),
                "ARCHITECTURE.md" => {
                    "replica imports flow, raftlog; sniffer imports flow, api; benches imports raftlog, sniffer; proxy\nimports flow, api, raftlog, replica; \
                     loadtest imports flow"
                        .into()
                }
                _ => String::new(),
            })
        };
        let complaints = arrows(&read).unwrap();
        let starts: Vec<&str> = complaints.iter().map(|text| text.split(';').next().unwrap()).collect();
        assert_eq!(
            starts,
            [
                "Cargo.toml: stranger has no arrows",
                "flow/Cargo.toml: flow imports proxy",
                "raftlog/Cargo.toml: raftlog imports flow",
                "ARCHITECTURE.md: does not say \"loadtest imports flow, api\""
            ]
        );
    }

    #[test]
    fn each_rule_of_a_source_complains() {
        assert_eq!(source("flow/src/a.rs", "//! A.\nfn a() {}\n"), [""; 0]);
        assert!(source("flow/src/a.rs", "fn a() {}\n")[0].contains("starts without"));
        assert!(source("flow/src/a.rs", "//! A.\nuse std::fs;\n")[0].starts_with("flow/src/a.rs:2: std::fs"));
        assert_eq!(source("proxy/src/a.rs", "//! A.\nuse std::fs;\n"), [""; 0], "a door may");
        assert!(source("proxy/src/a.rs", "//! A.\ntodo!()\n")[0].contains("unfinished"));
        assert!(source("proxy/tests/it/a.rs", "//! A.\nstd::thread::sleep(x);\n")[0].contains("deadline"));
        assert!(source("proxy/src/a.rs", &"//! A.\n".repeat(LINES_MAX + 1))[0].contains("lines; at most"));
    }

    #[test]
    fn a_link_to_nowhere_is_seen() {
        let text = "[a](there.md) [b](gone.md#part) [c](https://example.net/) [d](#here)";
        assert_eq!(links("p.md", text, &|file| file == "there.md"), ["p.md: links to gone.md, which is not there"]);
    }
}
