//! The farm that stays: namespaces with names, and processes that outlive the command that started them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::{Value, json};

use super::net::{NO_NAMESPACES, Tools};
use super::plan::{self, Host, Plan, VIP};
use crate::error::{Error, Result};
use crate::fleet::Server;
use crate::fleet::process::{in_path, run};
use crate::fleet::rocinante::{Layout, configuration};
use crate::fleet::site::REST_PORT;
use crate::http::{self, Response};
use crate::lab::Namespace;
use crate::report::columns;

/// A farm that is there.
#[derive(Debug)]
pub struct Farm {
    plan: Plan,
    tools: Tools,
}

/// What there is of a farm, host by host.
#[derive(Debug)]
pub struct Status {
    hosts: Vec<Line>,
    bgp: bool,
}

#[derive(Debug)]
struct Line {
    host: Host,
    address: String,
    /// Names of the processes there.
    runs: Vec<String>,
    /// For an instance: whether it is ready, or why not.
    ready: Option<std::result::Result<(), String>>,
    /// For an instance: whether the router has a path to it.
    announced: Option<bool>,
}

/// Makes the farm and waits until all instances announce the VIP. What was made is removed again when that fails.
pub async fn up(plan: Plan, rocinante: &Path, loadtest: &Path) -> Result<Farm> {
    let tools = Tools::find().map_err(Error::Usage)?;
    if !geteuid().is_root() {
        return Err(Error::Usage(NOT_ROOT.to_owned()));
    }
    if !namespaces().is_empty() {
        return Err(Error::Usage("there is a farm already, or what is left of one: loadtest anycast down".to_owned()));
    }
    let farm = Farm { plan, tools };
    let made = async {
        farm.make(rocinante, loadtest).await?;
        farm.wait().await
    };
    match made.await {
        Ok(()) => Ok(farm),
        Err(error) => {
            let said = farm.last_words();
            down().await?;
            Err(match said.is_empty() {
                true => error,
                false => Error::Fleet(format!("{error}\n{said}")),
            })
        }
    }
}

/// Removes whatever there is of a farm, and says what that was.
pub async fn down() -> Result<Vec<String>> {
    let mut removed = Vec::new();
    if !namespaces().is_empty() && !geteuid().is_root() {
        return Err(Error::Usage(NOT_ROOT.to_owned()));
    }
    for host in namespaces() {
        for process in processes(host).await? {
            // It can only be gone already.
            Pid::from_raw(process).map(|pid| kill_process(pid, Signal::KILL));
        }
        ip(&["netns", "delete", &name(host)]).await?;
        removed.push(name(host));
    }
    match fs::remove_dir_all(FOLDER) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::Io(format!("removing {FOLDER}"), error));
        }
        gone => removed.extend(gone.is_ok().then(|| FOLDER.to_owned())),
    }
    Ok(removed)
}

/// Becomes a shell, or a command, at a host.
pub fn shell(host: &str, words: &[String]) -> Result<ExitCode> {
    let here = namespaces();
    let names = here.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let found = here.into_iter().find(|other| other.to_string() == host).ok_or_else(|| {
        Error::Usage(match names.as_str() {
            "" => "there is no farm: loadtest anycast up".to_owned(),
            _ => format!("there is no host {host}; there are: {names}"),
        })
    })?;
    let namespace = Namespace::named(&path(found)).map_err(Error::io(format!("opening {}", path(found).display())))?;
    let program = words.first().cloned().or_else(|| std::env::var("SHELL").ok()).unwrap_or_else(|| "sh".to_owned());
    let mut command = Command::new(&program);
    command.args(words.iter().skip(1)).env("PS1", format!("{host}# ")).env("FARM_HOST", host);
    namespace.house(&mut command);
    let error = command.exec();
    Err(match error.kind() {
        std::io::ErrorKind::PermissionDenied => Error::Usage(NOT_ROOT.to_owned()),
        _ => Error::Io(format!("running {program} at {host}"), error),
    })
}

impl Farm {
    /// The one that was made before.
    pub fn found() -> Result<Farm> {
        let none = || Error::Usage("there is no farm: loadtest anycast up".to_owned());
        let text = fs::read(folder().join(PLAN_FILE)).map_err(|_| none())?;
        let plan: Value = serde_json::from_slice(&text).map_err(|_| none())?;
        let number = |key: &str| plan[key].as_u64().and_then(|number| u8::try_from(number).ok()).ok_or_else(none);
        let plan = Plan { instances: number("instances")?, servers: number("servers")? };
        Ok(Farm { plan, tools: Tools::find().map_err(Error::Usage)? })
    }

    async fn make(&self, rocinante: &Path, loadtest: &Path) -> Result<()> {
        let failed = || Error::io(format!("writing to {FOLDER}"));
        fs::create_dir_all(folder()).map_err(failed())?;
        let plan = json!({ "instances": self.plan.instances, "servers": self.plan.servers }).to_string();
        fs::write(folder().join(PLAN_FILE), plan).map_err(failed())?;
        fs::write(folder().join(CONFIG_FILE), self.configuration()).map_err(failed())?;
        let mut hosts = BTreeMap::new();
        for host in self.plan.hosts() {
            let made = ip(&["netns", "add", &name(host)]).await;
            made.map_err(|error| Error::Usage(format!("{error}\n{NO_NAMESPACES}")))?;
            ip(&["-n", &name(host), "link", "set", "lo", "up"]).await?;
            let namespace =
                Namespace::named(&path(host)).map_err(Error::io(format!("opening {}", path(host).display())))?;
            hosts.insert(host, namespace);
        }
        self.tools.wire(&self.plan, &hosts, |host| path(host).display().to_string())?;
        self.tools.route_script(&self.plan, &folder(), &path(Host::Router).display().to_string())?;
        for (host, namespace) in &hosts {
            if let Some(command) = self.tools.bird(&self.plan, *host, &folder())? {
                launch(command, namespace, &format!("{host}.bird.log"))?;
            }
            let program = match host {
                Host::Server(number) => {
                    let mut command = Command::new(loadtest);
                    command.args(["farm", "--names", &host.to_string(), "--listen"]);
                    command.arg(SocketAddr::from((plan::server(*number), SERVER_PORT)).to_string());
                    command
                }
                Host::Instance(_) => {
                    let mut command = Command::new(rocinante);
                    command.args(["run", "--config", CONFIG_FILE, "--instance", &host.to_string()]);
                    command
                }
                Host::Router | Host::Switch | Host::Clients => continue,
            };
            launch(program, namespace, &format!("{host}.log"))?;
        }
        Ok(())
    }

    fn configuration(&self) -> String {
        let servers: Vec<Server> = (0..self.plan.servers)
            .map(|number| Server {
                name: Host::Server(number).to_string(),
                address: (plan::server(number), SERVER_PORT).into(),
                weight: 100,
            })
            .collect();
        configuration(&Layout {
            name: "farm",
            instances: (0..self.plan.instances).map(|number| IpAddr::V4(plan::instance(number))).collect(),
            vip: Some((VIP.into(), self.tools.vip_section(&folder()))),
            servers: &servers,
            tls: "",
        })
    }

    async fn wait(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let status = self.status().await?;
            if status.is_whole() {
                return Ok(());
            }
            if begun.elapsed() > UP_DEADLINE {
                let limit = UP_DEADLINE.as_secs();
                return Err(Error::Fleet(format!("the farm was not whole within {limit} s\n{}", status.table())));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// What is there now.
    pub async fn status(&self) -> Result<Status> {
        let paths = if namespaces().contains(&Host::Router) {
            ip(&["-n", &name(Host::Router), "route", "show", "exact", &format!("{VIP}/32")]).await?
        } else {
            String::new()
        };
        let mut hosts = Vec::new();
        for host in self.plan.hosts() {
            let instance = matches!(host, Host::Instance(_));
            let mut runs = Vec::new();
            for process in processes(host).await? {
                // One that has just ended has no name.
                runs.extend(
                    fs::read_to_string(format!("/proc/{process}/comm")).ok().map(|name| name.trim().to_owned()),
                );
            }
            runs.sort();
            hosts.push(Line {
                host,
                address: address(host),
                runs,
                ready: instance.then(|| readiness(host)),
                announced: instance.then(|| paths.split_whitespace().any(|word| word == host.to_string())),
            });
        }
        Ok(Status { hosts, bgp: self.tools.has_bird() })
    }

    /// The last that each process said, for one that looks why something failed.
    fn last_words(&self) -> String {
        let mut words = String::new();
        for host in self.plan.hosts() {
            let log = fs::read_to_string(folder().join(format!("{host}.log"))).unwrap_or_default();
            if let Some(last) = log.lines().last() {
                words += &format!("{host}: {last}\n");
            }
        }
        words
    }
}

impl Status {
    /// Whether everything runs, is ready and announced.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.hosts.iter().all(|line| match line.host {
            Host::Instance(_) => line.ready == Some(Ok(())) && line.announced == Some(true),
            Host::Server(_) => !line.runs.is_empty(),
            Host::Router => !self.bgp || !line.runs.is_empty(),
            Host::Switch | Host::Clients => true,
        })
    }

    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut rows = vec![["HOST", "ADDRESS", "RUNS", "READY", "ANNOUNCES"].map(str::to_owned).to_vec()];
        for line in &self.hosts {
            let ready = line.ready.as_ref().map_or("", |ready| ready.as_ref().map_or_else(String::as_str, |()| "yes"));
            let announced = line.announced.map_or("", |announced| if announced { "yes" } else { "no" });
            let runs = if line.runs.is_empty() { "-".to_owned() } else { line.runs.join(", ") };
            rows.push(vec![line.host.to_string(), line.address.clone(), runs, ready.to_owned(), announced.to_owned()]);
        }
        let way = if self.bgp { "BGP (BIRD)" } else { "a command, as BIRD is not installed" };
        format!("{}\nVIP {VIP}: announced by {way}\n", columns(&rows, |_| true))
    }

    /// For scripts.
    #[must_use]
    pub fn json(&self) -> Value {
        let host = |line: &Line| {
            json!({
                "host": line.host.to_string(),
                "address": line.address,
                "runs": line.runs,
                "ready": line.ready.as_ref().map(std::result::Result::is_ok),
                "reason": line.ready.as_ref().and_then(|ready| ready.as_ref().err()),
                "announces": line.announced,
            })
        };
        json!({ "vip": VIP.to_string(), "bgp": self.bgp, "hosts": self.hosts.iter().map(host).collect::<Vec<_>>() })
    }
}

/// Whether an instance is ready, or why not, asked at its own host.
fn readiness(host: Host) -> std::result::Result<(), String> {
    let Host::Instance(number) = host else { return Err("no instance".to_owned()) };
    let ask = || -> Result<Response> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::io("a runtime"))?;
        let address = (plan::instance(number), REST_PORT).into();
        runtime.block_on(http::get(address, "/readyz", ASK_DEADLINE)).map_err(Error::io("asking /readyz"))
    };
    let namespace = Namespace::named(&path(host)).map_err(|error| error.to_string())?;
    match namespace.inside(ask) {
        Ok(answer) if answer.status == 200 => Ok(()),
        Ok(answer) => Err(String::from_utf8_lossy(&answer.body).trim().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Starts a process at a host; it outlives this one.
fn launch(mut command: Command, namespace: &Namespace, log: &str) -> Result<()> {
    let failed = || Error::io(format!("starting {}", command.get_program().display()));
    let log = File::create(folder().join(log)).map_err(failed())?;
    let both = log.try_clone().map_err(failed())?;
    let failed = failed();
    command.current_dir(FOLDER).stdin(Stdio::null()).stdout(log).stderr(both).process_group(0);
    namespace.house(&mut command);
    command.spawn().map(drop).map_err(failed)
}

/// The hosts whose namespaces are there, in the order in which they are made.
fn namespaces() -> Vec<Host> {
    let entries = fs::read_dir(NAMESPACES).into_iter().flatten().flatten();
    let mut hosts: Vec<Host> = entries.filter_map(|entry| host_of(entry.file_name().to_str()?)).collect();
    hosts.sort();
    hosts
}

/// The host of a namespace of the farm; others of the same prefix are not ours.
fn host_of(name: &str) -> Option<Host> {
    let known = Plan { instances: 9, servers: 99 }.hosts();
    let host = name.strip_prefix(PREFIX)?;
    known.into_iter().find(|known| known.to_string() == host)
}

async fn processes(host: Host) -> Result<Vec<i32>> {
    if !namespaces().contains(&host) {
        return Ok(Vec::new());
    }
    Ok(ip(&["netns", "pids", &name(host)]).await?.lines().filter_map(|line| line.trim().parse().ok()).collect())
}

async fn ip(arguments: &[&str]) -> Result<String> {
    let program =
        in_path("ip").ok_or_else(|| Error::Usage("ip is not installed: apt-get install iproute2".to_owned()))?;
    let mut command = Command::new(program);
    command.args(arguments);
    run(command, COMMAND_DEADLINE).await
}

fn name(host: Host) -> String {
    format!("{PREFIX}{host}")
}

fn path(host: Host) -> PathBuf {
    Path::new(NAMESPACES).join(name(host))
}

fn folder() -> PathBuf {
    PathBuf::from(FOLDER)
}

fn address(host: Host) -> String {
    match host {
        Host::Instance(number) => plan::instance(number).to_string(),
        Host::Server(number) => format!("{}:{SERVER_PORT}", plan::server(number)),
        Host::Clients => "100.64.0.0/10".to_owned(),
        Host::Router | Host::Switch => String::new(),
    }
}

const NOT_ROOT: &str = "a farm of namespaces with names takes root: sudo (loadtest stick --farm netns does without)";
const NAMESPACES: &str = "/run/netns";
const PREFIX: &str = "rocinante-";
const FOLDER: &str = "/run/rocinante-farm";
const PLAN_FILE: &str = "farm.json";
const CONFIG_FILE: &str = "pool.toml";
const SERVER_PORT: u16 = 8887;
const UP_DEADLINE: Duration = Duration::from_secs(30);
const COMMAND_DEADLINE: Duration = Duration::from_secs(10);
const ASK_DEADLINE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_namespaces_of_the_farm_are_its_own() {
        assert_eq!(host_of("rocinante-router"), Some(Host::Router));
        assert_eq!(host_of("rocinante-b"), Some(Host::Instance(1)));
        assert_eq!(host_of("rocinante-s12"), Some(Host::Server(11)));
        for other in ["rocinante-", "rocinante-test", "rocinante-s0", "other-a", "router"] {
            assert_eq!(host_of(other), None, "{other}");
        }
    }
}
