//! The machine: what it has of our rules now, and the programs that change them.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

use super::plan::{self, Line, Numbers, Owner, PROTOCOL, Plan, Setting, TABLE, Version};

/// Why the machine could not be asked or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program is not there.
    #[error("{program} is not installed: apt-get install {package}")]
    NotInstalled {
        /// Its name.
        program: &'static str,
        /// Debian's package that has it.
        package: &'static str,
    },
    /// The user may not.
    #[error("no permission to change packet rules (CAP_NET_ADMIN): run this as root")]
    NotPermitted,
    /// The kernel was built without something, or lacks a module.
    #[error(
        "this kernel lacks what transparent mode needs ({said}): modprobe -a nft_tproxy nft_socket, or take a kernel with \
         CONFIG_NFT_TPROXY and CONFIG_NFT_SOCKET"
    )]
    Kernel {
        /// What `nft` said.
        said: String,
    },
    /// Numbers that somebody else uses.
    #[error("{what} is in use by something else here ({by}): choose another one with {option}")]
    Taken {
        /// Which number.
        what: String,
        /// What uses it.
        by: String,
        /// The option that names another one.
        option: &'static str,
    },
    /// A program failed otherwise.
    #[error("{command}: {said}")]
    Failed {
        /// The program and its arguments.
        command: String,
        /// The first line it said.
        said: String,
    },
    /// A program could not be run, or its output not be understood.
    #[error("{command}: {error}")]
    Program {
        /// The program and its arguments.
        command: String,
        /// Why.
        error: io::Error,
    },
}

type Result<T> = std::result::Result<T, Error>;

/// All that is there of ours.
///
/// # Errors
/// If `nft` or `ip` cannot be run or say something else.
pub fn look() -> Result<Vec<Line>> {
    let mut lines = match run(NFT, &["list", "table", "inet", "rocinante"], "") {
        Ok(listed) => plan::nft_lines(&listed),
        Err(Error::Failed { said, .. }) if said.contains("No such file or directory") => Vec::new(),
        Err(error) => return Err(error),
    };
    for version in Version::ALL {
        for rule in list(version, &["rule", "show"])?.iter().filter(|rule| text(rule, "protocol") == PROTOCOL) {
            let priority = rule.get("priority").and_then(Value::as_u64).unwrap_or_default();
            let text = plan::rule(priority, text(rule, "fwmark"), text(rule, "table"));
            lines.push(Line { owner: Owner::Rule(version), text });
        }
        for route in list(version, &["route", "show", "table", "all", "proto", PROTOCOL])? {
            lines.push(Line { owner: Owner::Route(version), text: plan::route(text(&route, "table")) });
        }
    }
    Ok(lines)
}

/// Makes the machine have what `plan` says and nothing else of ours: the ways first, then the packet rules, in one step.
///
/// # Errors
/// If something may not be or cannot be done; what was done by then can be removed by [`remove`], or done again.
pub fn install(plan: &Plan, numbers: Numbers) -> Result<()> {
    let difference = plan.compare(&look()?);
    let script = plan.script();
    if difference.has_nft() {
        run(NFT, &["--check", "--file", "-"], &script)?;
    }
    for line in &difference.missing {
        if let Owner::Rule(version) | Owner::Route(version) = line.owner {
            check_free(version, numbers)?;
        }
    }
    for line in &difference.missing {
        change(line, "add")?;
    }
    if difference.has_nft() {
        run(NFT, &["--file", "-"], &script)?;
    }
    for line in &difference.surplus {
        change(line, "delete")?;
    }
    Ok(())
}

/// Removes all that is there of ours, the packet rules first; says what that was.
///
/// # Errors
/// If something may not be or cannot be removed.
pub fn remove() -> Result<Vec<Line>> {
    let found = look()?;
    if found.iter().any(|line| line.owner == Owner::Nft) {
        // Both in one: a table that went in between is no mistake.
        run(NFT, &["--file", "-"], &format!("add table {TABLE}\ndelete table {TABLE}\n"))?;
    }
    for line in &found {
        change(line, "delete")?;
    }
    Ok(found)
}

/// What of the machine's settings stands in the way, or may.
///
/// # Errors
/// If they cannot be read.
pub fn settings() -> Result<Vec<String>> {
    let failed = |error| Error::Program { command: format!("reading {SETTINGS}"), error };
    let mut found = Vec::new();
    for interface in fs::read_dir(SETTINGS).map_err(failed)? {
        let path = interface.map_err(failed)?.path();
        let interface = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let read = |key: &str| fs::read_to_string(path.join(key)).map(|value| value.trim().parse().unwrap_or(0));
        match (read("rp_filter"), read("src_valid_mark")) {
            (Ok(rp_filter), Ok(src_valid_mark)) => found.push(Setting { interface, rp_filter, src_valid_mark }),
            // The interface went in between.
            (Err(error), _) | (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => {}
            (Err(error), _) | (_, Err(error)) => return Err(failed(error)),
        }
    }
    found.sort_by(|one, other| one.interface.cmp(&other.interface));
    Ok(plan::advice(&found))
}

/// Adds or deletes a line of `ip`; a line of `nft` changes with its table.
fn change(line: &Line, verb: &'static str) -> Result<()> {
    let (version, noun) = match line.owner {
        Owner::Nft => return Ok(()),
        Owner::Rule(version) => (version, "rule"),
        Owner::Route(version) => (version, "route"),
    };
    let mut words = vec![version.option(), noun, verb];
    words.extend(line.text.split(' '));
    words.extend(["protocol", PROTOCOL]);
    run(IP, &words, "").map(drop)
}

/// Whether nobody else uses the numbers.
fn check_free(version: Version, numbers: Numbers) -> Result<()> {
    let Numbers { mark, table } = numbers;
    let others = |value: &&Value| text(value, "protocol") != PROTOCOL;
    let marks = |rule: &&Value| {
        let (number, _mask) = text(rule, "fwmark").split_once('/').unwrap_or((text(rule, "fwmark"), ""));
        number == format!("{mark:#x}")
    };
    if let Some(rule) = list(version, &["rule", "show"])?.iter().filter(others).find(marks) {
        return Err(Error::Taken { what: format!("mark {mark}"), by: format!("ip rule {rule}"), option: "--mark" });
    }
    let table = table.to_string();
    if let Some(route) = list(version, &["route", "show", "table", &table])?.iter().find(others) {
        return Err(Error::Taken {
            what: format!("table {table}"),
            by: format!("ip route {route}"),
            option: "--table",
        });
    }
    Ok(())
}

/// What `ip` lists. A version that this kernel does not have, or a table that nobody made, is empty.
fn list(version: Version, words: &[&str]) -> Result<Vec<Value>> {
    let arguments = [&["-json", "-N", version.option()], words].concat();
    let printed = match run(IP, &arguments, "") {
        Ok(printed) => printed,
        Err(Error::Failed { said, .. }) if EMPTY.iter().any(|words| said.contains(words)) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    if printed.trim().is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str(&printed)
        .map_err(|error| Error::Program { command: format!("ip {}", arguments.join(" ")), error: error.into() })
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// A program to be run, and where it comes from.
#[derive(Clone, Copy)]
struct Program {
    name: &'static str,
    package: &'static str,
}

/// Runs `program` without a shell, with `input`; gives what it prints.
fn run(program: Program, arguments: &[&str], input: &str) -> Result<String> {
    let Program { name, package } = program;
    let command = || format!("{name} {}", arguments.join(" "));
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Error::NotInstalled { program: name, package },
        _ => Error::Program { command: command(), error },
    };
    let path = PLACES.iter().map(|place| Path::new(place).join(name)).find(|path| path.exists());
    let mut child = Command::new(path.unwrap_or_else(|| name.into()))
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input.as_bytes()) {
            // It ended before it had read all; it says why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            written => written.map_err(failed)?,
        }
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(explain(program, command(), &String::from_utf8_lossy(&output.stderr)))
}

/// What a program's failure means.
fn explain(program: Program, command: String, stderr: &str) -> Error {
    let said = stderr.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no reason given").to_owned();
    let has = |words: &str| stderr.contains(words);
    if has("Operation not permitted") || has("Permission denied") {
        Error::NotPermitted
    } else if program.name == NFT.name
        && (has("Could not process rule: No such file or directory") || has("not supported"))
    {
        Error::Kernel { said }
    } else {
        Error::Failed { command, said }
    }
}

const NFT: Program = Program { name: "nft", package: "nftables" };
const IP: Program = Program { name: "ip", package: "iproute2" };
/// Where the programs are for those whose path has no place of the administrator's.
const PLACES: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];
/// What `ip` says where there is nothing to list.
const EMPTY: [&str; 3] = ["FIB table does not exist", "not supported", "Address family not supported"];
/// The settings of each interface.
const SETTINGS: &str = "/proc/sys/net/ipv4/conf";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_that_says_what_to_do() {
        let check = |program, stderr: &str, expected: &str| {
            assert_eq!(explain(program, "nft --file -".to_owned(), stderr).to_string(), expected);
        };
        let root = "no permission to change packet rules (CAP_NET_ADMIN): run this as root";
        check(NFT, "Error: Operation not permitted (you must be root)\nlist table\n^^^\n", root);
        check(IP, "RTNETLINK answers: Operation not permitted\n", root);
        let kernel = "this kernel lacks what transparent mode needs (/dev/stdin:6:3-9: Error: Could not process rule: No such \
                      file or directory): modprobe -a nft_tproxy nft_socket, or take a kernel with CONFIG_NFT_TPROXY and \
                      CONFIG_NFT_SOCKET";
        let said =
            "/dev/stdin:6:3-9: Error: Could not process rule: No such file or directory\n\t\tip daddr\n\t\t^^^\n";
        check(NFT, said, kernel);
        check(IP, "\nRTNETLINK answers: File exists\n", "nft --file -: RTNETLINK answers: File exists");
        check(IP, "", "nft --file -: no reason given");
    }
}
