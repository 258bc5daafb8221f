//! The fleet under test: a process at each host of the network, driven through its REST API and by signals.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tokio::sync::Mutex;

use super::Plan;
use super::wire::{self, Wire};
use crate::error::{Error, Result};
use crate::fleet::hosts::label_of;
use crate::fleet::pki;
use crate::fleet::place::Place;
use crate::fleet::process::Process;
use crate::fleet::rocinante::TERMINATE_DEADLINE;
use crate::fleet::site::{GRPC_PORT, METRICS_PORT, POOL_PORTS, REST_PORT};
use crate::http::{self, Lost, Response};
use crate::judge::InstanceId;

/// A server of the pool, by name and address.
pub type Server = (String, SocketAddr);

/// The instances, by their number; those from `founders` on join later. The order of the fields is the order of their end.
#[derive(Debug)]
pub struct Hosts {
    instances: Vec<Instance>,
    wire: Wire,
    /// Where the configuration, the data and the logs are.
    pub place: Place,
    binary: PathBuf,
    founders: u8,
}

#[derive(Debug)]
struct Instance {
    process: Mutex<Option<Process>>,
    /// Whether it is part of the fleet and its process is there: clients of the store ask it.
    runs: AtomicBool,
    /// Whether new clients of the pool are sent to it.
    serves: AtomicBool,
    /// How many of them are there now.
    visitors: AtomicU32,
}

impl Hosts {
    /// Writes the configuration; no instance runs yet.
    pub async fn new(wire: Wire, plan: &Plan, place: Place, all: u8, servers: &[Server]) -> Result<Hosts> {
        let (binary, founders) = (plan.binary.clone(), plan.instances);
        let labels: Vec<String> = (0..all).map(label).collect();
        let tls = if plan.tls { pki::issue(&binary, place.directory(), NAME, &labels).await? } else { "" };
        for (file, size) in [(FOUNDERS_FILE, founders), (ALL_FILE, all)] {
            let path = place.directory().join(file);
            std::fs::write(&path, configuration(size, servers, tls))
                .map_err(Error::io(format!("writing {}", path.display())))?;
        }
        let instance = |_| Instance {
            process: Mutex::new(None),
            runs: AtomicBool::new(false),
            serves: AtomicBool::new(false),
            visitors: AtomicU32::new(0),
        };
        let instances = (0..all).map(instance).collect();
        Ok(Hosts { instances, wire, place, binary, founders })
    }

    fn instance(&self, number: u8) -> Result<&Instance> {
        self.instances.get(usize::from(number)).ok_or_else(|| Error::Usage(format!("no instance {number}")))
    }

    fn all(&self) -> impl Iterator<Item = (u8, &Instance)> {
        (0..).zip(&self.instances)
    }

    /// Those that run.
    pub fn running(&self) -> Vec<u8> {
        self.all().filter(|(_, one)| one.runs.load(Ordering::SeqCst)).map(|(number, _)| number).collect()
    }

    /// Those to which new clients of the pool are sent.
    pub fn serving(&self) -> Vec<u8> {
        self.all().filter(|(_, one)| one.serves.load(Ordering::SeqCst)).map(|(number, _)| number).collect()
    }

    /// Starts a process; it need not be ready on return.
    pub async fn start(&self, number: u8) -> Result<()> {
        let instance = self.instance(number)?;
        let file = if number < self.founders { FOUNDERS_FILE } else { ALL_FILE };
        let mut command = Command::new(&self.binary);
        command.args(["run", "--config", file, "--instance", &label(number)]).current_dir(self.place.directory());
        self.wire.house(number, &mut command)?;
        let log = self.place.directory().join(format!("{}.log", label(number)));
        *instance.process.lock().await = Some(Process::start(command, &log)?);
        instance.runs.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// kill -9.
    pub async fn kill(&self, number: u8) -> Result<()> {
        let instance = self.instance(number)?;
        instance.serves.store(false, Ordering::SeqCst);
        match instance.process.lock().await.take() {
            Some(mut process) => process.kill().await,
            None => Ok(()),
        }
    }

    /// Sends a signal to the process.
    pub async fn signal(&self, number: u8, signal: Signal) -> Result<()> {
        match self.instance(number)?.process.lock().await.as_ref() {
            Some(process) => process.signal(signal),
            None => Err(Error::Fleet(format!("{} does not run", label(number)))),
        }
    }

    /// SIGTERM, after the last client of the pool that was on its way has got its answer.
    pub async fn terminate(&self, number: u8) -> Result<()> {
        self.withdraw(number).await?;
        let taken = self.instance(number)?.process.lock().await.take();
        match taken {
            Some(process) => process.terminate(&label(number), TERMINATE_DEADLINE).await,
            None => Ok(()),
        }
    }

    /// Sends no new clients of the pool to an instance, and waits for those that are on their way.
    pub async fn withdraw(&self, number: u8) -> Result<()> {
        let instance = self.instance(number)?;
        instance.serves.store(false, Ordering::SeqCst);
        let gone = || async { instance.visitors.load(Ordering::SeqCst) == 0 };
        wait_until(&format!("the clients of {} have their answers", label(number)), gone).await
    }

    /// Takes an instance that was removed off the list of those that run.
    pub fn forget(&self, number: u8) -> Result<()> {
        self.instance(number)?.runs.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// A visit of a client of the pool; `None` while no clients are sent there.
    pub fn visit(&self, number: u8) -> Option<Visit<'_>> {
        let instance = self.instances.get(usize::from(number))?;
        instance.visitors.fetch_add(1, Ordering::SeqCst);
        let visit = Visit(&instance.visitors);
        instance.serves.load(Ordering::SeqCst).then_some(visit)
    }

    /// Waits until it says that it is ready, and sends clients of the pool to it from then on.
    pub async fn ready(&self, number: u8) -> Result<()> {
        let instance = self.instance(number)?;
        let start = Instant::now();
        loop {
            let answer = self.get(number, "/readyz").await;
            if answer.as_ref().is_ok_and(|answer| answer.status == 200) {
                instance.serves.store(true, Ordering::SeqCst);
                return Ok(());
            }
            if let Some(words) = instance.process.lock().await.as_mut().and_then(Process::obituary) {
                return Err(Error::Fleet(format!("{} ended by itself: {words}", label(number))));
            }
            if start.elapsed() > DEADLINE {
                let said = answer.map(|answer| String::from_utf8_lossy(&answer.body).into_owned());
                let said = said.unwrap_or_else(|error| error.to_string());
                return Err(Error::Fleet(format!("{} was not ready within {DEADLINE:?}: {said}", label(number))));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The one that says it leads, as soon as there is exactly one.
    pub async fn leader(&self) -> Result<u8> {
        let start = Instant::now();
        while start.elapsed() < DEADLINE {
            let mut leaders = Vec::new();
            for number in self.running() {
                let Ok(answer) = self.get(number, "/role").await else { continue };
                if serde_json::from_slice::<Value>(&answer.body).is_ok_and(|role| role["role"] == "leader") {
                    leaders.push(number);
                }
            }
            if let [leader] = leaders[..] {
                return Ok(leader);
            }
            tokio::time::sleep(POLL).await;
        }
        Err(Error::Fleet(format!("there was not one leader within {DEADLINE:?}")))
    }

    /// Cuts these ways and no others.
    pub async fn cut(&self, ways: &[(u8, u8)]) -> Result<()> {
        self.wire.cut(ways).await
    }

    /// How many packets the cuts have dropped since the beginning.
    pub async fn dropped(&self) -> Result<u64> {
        self.wire.dropped().await
    }

    /// Asks one instance.
    pub async fn get(&self, number: u8, path: &str) -> std::io::Result<Response> {
        http::get(rest(number), path, REST_DEADLINE).await
    }

    /// Asks for a change, at one instance after the other, until one does it. Where it may have been done already, saying
    /// so (409, or 404 for a removal) is doing it.
    pub async fn command(&self, method: &str, path: &str, body: &str) -> Result<()> {
        let start = Instant::now();
        let (mut said, mut maybe) = (String::new(), false);
        while start.elapsed() < DEADLINE {
            for number in self.running() {
                match http::send(rest(number), method, path, body.as_bytes(), COMMAND_DEADLINE).await {
                    Ok(answer) if answer.status == 200 => return Ok(()),
                    Ok(answer) => {
                        if maybe && matches!(answer.status, 404 | 409) {
                            return Ok(());
                        }
                        maybe |= answer.status == 504;
                        said = format!("{}: {}", answer.status, String::from_utf8_lossy(&answer.body));
                    }
                    Err(Lost::Unsent(error)) => said = error.to_string(),
                    Err(Lost::Sent(error)) => {
                        maybe = true;
                        said = error.to_string();
                    }
                }
            }
            tokio::time::sleep(COMMAND_PAUSE).await;
        }
        Err(Error::Fleet(format!("{method} {path} was not done within {DEADLINE:?}; the last answer was {said}")))
    }

    /// Ends all processes.
    pub async fn stop(&self) {
        for instance in &self.instances {
            // Dropping a process kills it and waits.
            drop(instance.process.lock().await.take());
        }
    }
}

/// A client of the pool that is at an instance.
#[derive(Debug)]
pub struct Visit<'a>(&'a AtomicU32);

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Waits for a condition; an error when it does not come within [`DEADLINE`].
pub async fn wait_until<F: Future<Output = bool>>(what: &str, mut met: impl FnMut() -> F) -> Result<()> {
    let start = Instant::now();
    while !met().await {
        if start.elapsed() > DEADLINE {
            return Err(Error::Fleet(format!("waited {DEADLINE:?} in vain: {what}")));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// The name of an instance.
pub fn label(number: u8) -> String {
    label_of(InstanceId(number))
}

/// Where an instance answers REST.
pub fn rest(number: u8) -> SocketAddr {
    (wire::instance(number), REST_PORT).into()
}

/// Where clients of the pool find an instance.
pub fn entrance(number: u8) -> SocketAddr {
    (wire::instance(number), POOL_PORT).into()
}

/// What `POST /members` takes for an instance.
pub fn member(number: u8) -> String {
    let (label, address) = (label(number), wire::instance(number).to_string());
    serde_json::json!({
        "label": label, "address": address, "grpc": GRPC_PORT, "rest": REST_PORT, "metrics": METRICS_PORT,
    })
    .to_string()
}

/// The configuration for a fleet of that size: only keys that the documentation names.
fn configuration(size: u8, servers: &[Server], tls: &str) -> String {
    let mut text = format!("[fleet]\nname = \"{NAME}\"\ndata_dir = \"data\"\ngroups = {GROUPS}\n{tls}");
    for number in 0..size {
        text += &format!(
            "\n[[fleet.instance]]\nlabel = \"{}\"\naddress = \"{}\"\ngrpc = {GRPC_PORT}\nrest = {REST_PORT}\n\
             metrics = {METRICS_PORT}\n",
            label(number),
            wire::instance(number)
        );
    }
    text += &format!(
        "\n[[pool]]\nname = \"web\"\nbind = \":{POOL_PORT}\"\nprotocol = \"tcp\"\n\n[pool.health]\ntype = \"tcp\"\n\
         interval = \"500ms\"\n"
    );
    for (name, address) in servers {
        let (ip, port) = (address.ip(), address.port());
        text += &format!("\n[[pool.server]]\nname = \"{name}\"\naddress = \"{ip}\"\nport = {port}\n");
    }
    text
}

const NAME: &str = "partition";

/// Enough that pins have groups with leaders at every instance; few enough for two cores.
const GROUPS: u8 = 4;
const POOL_PORT: u16 = POOL_PORTS[0];
const FOUNDERS_FILE: &str = "pool.toml";
const ALL_FILE: &str = "grown.toml";

/// How long the fleet may take for whatever it is told.
pub const DEADLINE: Duration = Duration::from_secs(20);
const REST_DEADLINE: Duration = Duration::from_secs(1);
const COMMAND_DEADLINE: Duration = Duration::from_secs(10);
const COMMAND_PAUSE: Duration = Duration::from_millis(200);
const POLL: Duration = Duration::from_millis(20);
