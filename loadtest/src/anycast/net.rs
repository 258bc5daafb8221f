//! The farm's networks while a run lasts: namespaces without names, which the kernel removes with everything in them when this
//! process ends, in whatever way.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::plan::{self, Cuts, Host, PROTOCOL, Plan};
use crate::error::{Error, Result};
use crate::fleet::place::Place;
use crate::fleet::process::{self, Process, in_path};
use crate::judge::InstanceId;
use crate::lab::{self, Namespace, feed, is_lacking};

/// The networks, and BIRD in them where it is installed.
#[derive(Debug)]
pub struct Net {
    plan: Plan,
    /// Before the namespaces, as they end first.
    _birds: Vec<Process>,
    hosts: BTreeMap<Host, Namespace>,
    tools: Tools,
    cuts: Mutex<BTreeMap<u8, Cuts>>,
    place: Place,
}

/// The programs that networks are made with.
#[derive(Clone, Debug)]
pub struct Tools {
    ip: PathBuf,
    nft: PathBuf,
    bird: Option<PathBuf>,
}

/// What became of the wish for networks.
#[derive(Debug)]
pub enum Laid {
    /// They are there, and the calling thread is at the clients' host.
    Here(Net),
    /// They are not to be had here, for this reason.
    Not(String),
}

impl Tools {
    /// Those of this machine, or what is missing.
    pub fn find() -> std::result::Result<Tools, String> {
        let found = |name, package| in_path(name).ok_or(format!("{name} is not installed: apt-get install {package}"));
        let tools = Tools { ip: found("ip", "iproute2")?, nft: found("nft", "nftables")?, bird: in_path("bird") };
        if tools.bird.is_none() {
            found("nsenter", "util-linux")?;
        }
        Ok(tools)
    }

    /// Joins the hosts and gives them their addresses and settings.
    pub fn wire(&self, plan: &Plan, hosts: &BTreeMap<Host, Namespace>, path: impl Fn(Host) -> String) -> Result<()> {
        let at = |host: Host| hosts.get(&host).ok_or_else(|| Error::Usage(format!("no host {host}")));
        for (host, namespace) in hosts {
            feed(namespace, &self.ip, &["-batch", "-"], &plan.cables(*host, &path))?;
        }
        for (host, namespace) in hosts {
            feed(namespace, &self.ip, &["-batch", "-"], &plan.addresses(*host))?;
            at(*host)?.inside(|| set(&plan.settings(*host)))?;
        }
        Ok(())
    }

    /// How BIRD is started at a host, with its configuration and socket in `folder`; `None` where it is not installed or the
    /// host has none.
    pub fn bird(&self, plan: &Plan, host: Host, folder: &Path) -> Result<Option<Command>> {
        let (Some(bird), Some(text)) = (&self.bird, plan.bird(host)) else { return Ok(None) };
        let configuration = folder.join(format!("{host}.bird"));
        fs::write(&configuration, text).map_err(Error::io(format!("writing {}", configuration.display())))?;
        let mut command = Command::new(bird);
        command.args(["-f", "-c"]).arg(configuration).arg("-s").arg(bird_socket(folder, host));
        Ok(Some(command))
    }

    /// Writes the script that keeps the router's route without BIRD.
    pub fn route_script(&self, plan: &Plan, folder: &Path, router: &str) -> Result<()> {
        let path = route_script(folder);
        fs::write(&path, plan.route_script(folder, router)).map_err(Error::io(format!("writing {}", path.display())))
    }

    /// Whether BGP carries the announcements.
    #[must_use]
    pub fn has_bird(&self) -> bool {
        self.bird.is_some()
    }

    /// The section `[vip]` of an instance's configuration here.
    pub fn vip_section(&self, folder: &Path) -> String {
        match self.bird {
            Some(_) => format!(
                "\n[vip]\nannounce = \"bird\"\nbird_socket = \"{}/{{label}}.ctl\"\nbird_protocol = \"{PROTOCOL}\"\n",
                folder.display()
            ),
            None => format!(
                "\n[vip]\nannounce = \"command\"\ncommand = [\"sh\", \"{}\", \"{{label}}\"]\n",
                route_script(folder).display()
            ),
        }
    }
}

impl Net {
    /// Makes the networks and moves the calling thread, and what it starts from now on, to the clients' host. To be called
    /// before other threads are started.
    pub fn lay(plan: Plan) -> Result<Laid> {
        let tools = match Tools::find() {
            Ok(tools) => tools,
            Err(missing) => return Ok(Laid::Not(missing)),
        };
        if !lab::enter_to_build().map_err(Error::io("entering a network namespace"))? {
            return Ok(Laid::Not(NO_NAMESPACES.to_owned()));
        }
        let make = |host| Ok((host, Namespace::create()?));
        let hosts: std::io::Result<BTreeMap<_, _>> = plan.hosts().into_iter().map(make).collect();
        let hosts = hosts.map_err(Error::io("making a network namespace"))?;
        let path = |host| hosts.get(&host).map(Namespace::path).unwrap_or_default();
        match tools.wire(&plan, &hosts, path) {
            Err(Error::Fleet(reason)) if is_lacking(&reason) => return Ok(Laid::Not(reason)),
            wired => wired?,
        }
        let place = Place::new()?;
        let mut birds = Vec::new();
        for (host, namespace) in &hosts {
            if let Some(mut command) = tools.bird(&plan, *host, place.directory())? {
                namespace.house(&mut command);
                let mut bird = Process::start(command, &place.directory().join(format!("{host}.bird.log")))?;
                wait_for_bird(&bird_socket(place.directory(), *host), || bird.obituary())?;
                birds.push(bird);
            }
        }
        tools.route_script(&plan, place.directory(), &path(Host::Router))?;
        let net = Net { plan, _birds: birds, hosts, tools, cuts: Mutex::default(), place };
        net.host(Host::Clients)?.go().map_err(Error::io("moving to the clients' network"))?;
        Ok(Laid::Here(net))
    }

    fn host(&self, host: Host) -> Result<&Namespace> {
        self.hosts.get(&host).ok_or_else(|| Error::Usage(format!("the farm has no host {host}")))
    }

    /// Has a command run at the host of an instance.
    pub fn house(&self, instance: InstanceId, command: &mut Command) -> Result<()> {
        self.host(Host::Instance(instance.0))?.house(command);
        Ok(())
    }

    /// Runs `deed` at the host of the server with this address.
    pub fn at_server<T: Send>(&self, address: SocketAddr, deed: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let host = plan::server_at(address).ok_or_else(|| Error::Usage(format!("no server's host has {address}")))?;
        self.host(host)?.inside(deed)
    }

    /// Whether BGP carries the announcements.
    pub fn has_bird(&self) -> bool {
        self.tools.has_bird()
    }

    /// The section `[vip]` of a fleet's configuration.
    pub fn vip_section(&self) -> String {
        self.tools.vip_section(self.place.directory())
    }

    /// Announces the VIP for an instance that cannot do so itself, or withdraws it.
    pub async fn announce(&self, instance: InstanceId, wanted: bool) -> Result<()> {
        let (host, folder) = (Host::Instance(instance.0), self.place.directory());
        let mut command = if self.tools.has_bird() {
            let mut command = Command::new("birdc");
            command
                .arg("-s")
                .arg(bird_socket(folder, host))
                .args([if wanted { "enable" } else { "disable" }, PROTOCOL]);
            command
        } else {
            let mut command = Command::new("sh");
            command
                .arg(route_script(folder))
                .args([host.to_string().as_str(), if wanted { "announce" } else { "withdraw" }]);
            command
        };
        self.house(instance, &mut command)?;
        process::run(command, COMMAND_DEADLINE).await.map(drop)
    }

    /// Which instances the router has a path to now, by what its kernel says.
    pub async fn paths(&self) -> Result<Vec<InstanceId>> {
        let mut command = Command::new(&self.tools.ip);
        command.args(["route", "show", "exact", &format!("{}/32", plan::VIP)]);
        self.host(Host::Router)?.house(&mut command);
        let said = process::run(command, COMMAND_DEADLINE).await?;
        let on_path = |id: &InstanceId| said.split_whitespace().any(|word| word == Host::Instance(id.0).to_string());
        Ok((0..self.plan.instances).map(InstanceId).filter(on_path).collect())
    }

    /// Has the router spread by other things than before: by addresses alone in odd rounds, by ports as well in even ones.
    pub fn change_paths(&self, round: u32) -> Result<()> {
        let policy = if round.is_multiple_of(2) { "1" } else { "0" };
        self.host(Host::Router)?.inside(|| set(&[("ipv4/fib_multipath_hash_policy", policy.to_owned())]))
    }

    /// Changes what is cut at an instance's host.
    pub async fn cut(&self, instance: InstanceId, change: impl FnOnce(&mut Cuts)) -> Result<()> {
        let rules = {
            let mut all = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
            let cuts = all.entry(instance.0).or_default();
            change(cuts);
            cuts.rules()
        };
        let mut command = Command::new(&self.tools.nft);
        command.arg(rules);
        self.house(instance, &mut command)?;
        process::run(command, COMMAND_DEADLINE).await.map(drop)
    }

    /// The addresses of all instances but one.
    pub fn peers(&self, instance: InstanceId) -> impl Iterator<Item = Ipv4Addr> + use<> {
        (0..self.plan.instances).filter(move |other| *other != instance.0).map(plan::instance)
    }
}

/// Where BIRD of a host is spoken to.
pub fn bird_socket(folder: &Path, host: Host) -> PathBuf {
    folder.join(format!("{host}.ctl"))
}

/// Waits until BIRD listens on its socket; `ended` says how it ended, if it did.
pub fn wait_for_bird(socket: &Path, mut ended: impl FnMut() -> Option<String>) -> Result<()> {
    let begun = Instant::now();
    while UnixStream::connect(socket).is_err() {
        let failed = |why: &str| Err(Error::Fleet(format!("bird with the socket {}: {why}", socket.display())));
        if let Some(end) = ended() {
            return failed(&end);
        }
        if begun.elapsed() > COMMAND_DEADLINE {
            return failed("does not listen");
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

fn route_script(folder: &Path) -> PathBuf {
    folder.join("route.sh")
}

/// Writes settings of the kernel where the calling thread is.
fn set(settings: &[(&'static str, String)]) -> Result<()> {
    for (file, value) in settings {
        let path = Path::new("/proc/sys/net").join(file);
        fs::write(&path, value).map_err(Error::io(format!("setting {} to {value}", path.display())))?;
    }
    Ok(())
}

/// Why there is no farm for somebody who may not make one.
pub const NO_NAMESPACES: &str = "this user gets no network namespaces here: run it as root, or allow user namespaces (sysctl kernel.unprivileged_userns_clone)";
const COMMAND_DEADLINE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);
