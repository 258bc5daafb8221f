//! Whom the load goes through: one instance of ours, HAProxy, nginx, or nobody. All in front of the same servers, in the
//! configuration that serves each best; docs/performance.md explains them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::cores::Cores;
use crate::ask::{self, Door, Reply};
use crate::error::{Error, Result};
use crate::fleet::hosts::label_of;
use crate::fleet::process::Process;
use crate::fleet::rocinante::{Layout, configuration};
use crate::fleet::site::{METRICS_PORT, POOL_PORTS, REST_PORT, Site};
use crate::fleet::{POOLS, Server};
use crate::http;
use crate::judge::InstanceId;

/// A product that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// No proxy: clients ask the servers.
    Direct,
    /// One instance, a fleet of its own.
    Rocinante,
    /// With one thread.
    HaProxy,
    /// With one worker.
    Nginx,
}

impl Product {
    /// All, in the order in which they take turns.
    pub const ALL: [Product; 4] = [Product::Direct, Product::Rocinante, Product::HaProxy, Product::Nginx];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Product::Direct => "direct",
            Product::Rocinante => "rocinante",
            Product::HaProxy => "haproxy",
            Product::Nginx => "nginx",
        }
    }

    /// Where it has its addresses at a site.
    fn place(self) -> InstanceId {
        InstanceId(match self {
            Product::Direct | Product::Rocinante => 0,
            Product::HaProxy => 1,
            Product::Nginx => 2,
        })
    }
}

/// A product that runs.
#[derive(Debug)]
pub struct Subject {
    /// Which one.
    pub product: Product,
    /// Where clients ask, by the number of the pool.
    entrances: [Vec<SocketAddr>; 2],
    process: Option<Process>,
    /// Where it tells of its decisions.
    pub metrics: Option<SocketAddr>,
}

impl Subject {
    /// The servers themselves.
    pub fn direct(servers: &[Server]) -> Subject {
        let addresses: Vec<SocketAddr> = servers.iter().map(|server| server.address).collect();
        Subject { product: Product::Direct, entrances: [addresses.clone(), addresses], process: None, metrics: None }
    }

    /// Starts a product at its place and waits until it serves. `binary` is that of the product.
    pub async fn start(
        product: Product,
        binary: &Path,
        site: &Site,
        servers: &[Server],
        cores: &Cores,
    ) -> Result<Subject> {
        let command = match product {
            Product::Direct => return Ok(Subject::direct(servers)),
            Product::Rocinante => {
                write(site, CONFIG_FILE, &configuration(&Layout::of(site, 1, servers, "")))?;
                rocinante(binary, site, product.place())
            }
            Product::HaProxy => {
                write(site, "haproxy.cfg", &haproxy_configuration(site, servers))?;
                let mut command = Command::new(binary);
                command.args(["-db", "-f", "haproxy.cfg"]);
                command
            }
            Product::Nginx => {
                write(site, "nginx.conf", &nginx_configuration(site, servers, &Streams::ask(binary)?)?)?;
                let mut command = Command::new(binary);
                command.arg("-p").arg(site.directory()).args(["-c", "nginx.conf", "-e", "nginx-error.log"]);
                command
            }
        };
        let metrics = (product == Product::Rocinante).then(|| (site.instance(product.place()), METRICS_PORT).into());
        let mut subject = Subject::spawn(product, product.place(), command, site, cores)?;
        subject.metrics = metrics;
        subject.wait_until_it_serves().await?;
        Ok(subject)
    }

    /// Starts a fleet of ours at a site of its own, on all the cores given, and waits until every instance serves.
    pub async fn fleet(
        binary: &Path,
        size: u8,
        site: &Site,
        servers: &[Server],
        cores: &Cores,
    ) -> Result<Vec<Subject>> {
        write(site, CONFIG_FILE, &configuration(&Layout::of(site, size, servers, "")))?;
        let mut fleet = Vec::new();
        for id in (0..size).map(InstanceId) {
            let mut subject = Subject::spawn(Product::Rocinante, id, rocinante(binary, site, id), site, cores)?;
            subject.metrics = Some((site.instance(id), METRICS_PORT).into());
            fleet.push(subject);
        }
        for subject in &mut fleet {
            subject.wait_until_it_serves().await?;
        }
        Ok(fleet)
    }

    fn spawn(product: Product, id: InstanceId, mut command: Command, site: &Site, cores: &Cores) -> Result<Subject> {
        cores.hold(&mut command);
        command.current_dir(site.directory());
        let process = Process::start(command, &site.directory().join(format!("{}-{}.log", product.name(), id.0)))?;
        let entrances = POOL_PORTS.map(|port| vec![SocketAddr::from((site.instance(id), port))]);
        Ok(Subject { product, entrances, process: Some(process), metrics: None })
    }

    /// Where clients ask over TCP or HTTP.
    pub fn entrances(&self, door: Door) -> Vec<SocketAddr> {
        let pools = POOLS.iter().zip(&self.entrances);
        pools.filter(|(pool, _)| pool.door == door).flat_map(|(_, entrances)| entrances.clone()).collect()
    }

    /// Asks it to end and waits for that; one that takes long is killed. A parent that ends by itself takes its children along
    /// in order, which a killed one leaves to the system.
    pub async fn stop(mut self) -> Result<()> {
        if let Some(process) = &mut self.process {
            process.signal(Signal::TERM)?;
            if process.wait(STOP_DEADLINE).await.is_none() {
                process.kill().await?;
            }
        }
        Ok(())
    }

    /// The process group whose CPU time is its own.
    pub fn group(&self) -> Option<i32> {
        self.process.as_ref().map(Process::group)
    }

    async fn wait_until_it_serves(&mut self) -> Result<()> {
        let start = Instant::now();
        let source = std::net::Ipv4Addr::new(127, 64, 0, 1);
        let ready = self.metrics.map(|metrics| SocketAddr::from((metrics.ip(), REST_PORT)));
        loop {
            let mut serves = match ready {
                Some(rest) => http::get(rest, "/readyz", ASK_DEADLINE).await.is_ok_and(|answer| answer.status == 200),
                None => true,
            };
            for door in [Door::Tcp, Door::Http] {
                for entrance in self.entrances(door) {
                    // An error is the system's, out of sockets or addresses, and may pass within the deadline as well.
                    let reply = ask::ask(source, entrance, door, ASK_DEADLINE).await;
                    serves &= matches!(reply, Ok(Reply::Name(..)));
                }
            }
            if serves {
                return Ok(());
            }
            let name = self.product.name();
            if let Some(last) = self.process.as_mut().and_then(Process::obituary) {
                return Err(Error::Fleet(format!("{name} ended: {last}")));
            }
            if start.elapsed() > START_DEADLINE {
                return Err(Error::Fleet(format!(
                    "{name} does not serve {} s after its start",
                    START_DEADLINE.as_secs()
                )));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

fn rocinante(binary: &Path, site: &Site, id: InstanceId) -> Command {
    let mut command = Command::new(binary);
    command.current_dir(site.directory()).args(["run", "--config", CONFIG_FILE, "--instance", &label_of(id)]);
    command
}

/// One thread, a hash of the source as ours has it, no table of clients: the least work that it can do.
fn haproxy_configuration(site: &Site, servers: &[Server]) -> String {
    let address = site.instance(Product::HaProxy.place());
    let mut text = "global\n  nbthread 1\n  maxconn 6000\n\ndefaults\n  timeout connect 1s\n  timeout client 5m\n  \
         timeout server 5m\n  timeout check 500ms\n  option splice-auto\n  balance source\n  hash-type consistent\n"
        .to_owned();
    for (pool, port) in POOLS.iter().zip(POOL_PORTS) {
        let name = pool.name;
        let (mode, more) = match pool.door {
            Door::Tcp => ("tcp", ""),
            Door::Http => ("http", "  http-reuse always\n  option forwardfor\n  option httpchk GET /healthz\n"),
        };
        text += &format!(
            "\nfrontend {name}\n  mode {mode}\n  bind {address}:{port}\n  default_backend {name}\n\nbackend {name}\n  \
             mode {mode}\n{more}  default-server check inter 500ms rise 2 fall 2\n"
        );
        for server in servers {
            text += &format!("  server {} {} weight {}\n", server.name, server.address, server.weight);
        }
    }
    text
}

/// One worker, a hash of the source as ours has it, connections to the servers kept.
fn nginx_configuration(site: &Site, servers: &[Server], streams: &Streams) -> Result<String> {
    let address = site.instance(Product::Nginx.place());
    let [tcp, http] = POOL_PORTS;
    let servers: String =
        servers.iter().map(|server| format!("    server {} weight={};\n", server.address, server.weight)).collect();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("  {what}_temp_path nginx-{what};\n"))
        .concat();
    let load = match streams {
        Streams::Inside => String::new(),
        Streams::Module(path) => format!("load_module {};\n", path.display()),
        Streams::Missing => {
            return Err(Error::Usage(
                "this nginx has no stream module: apt-get install libnginx-mod-stream".to_owned(),
            ));
        }
    };
    Ok(format!(
        "{load}daemon off;\nworker_processes 1;\npid nginx.pid;\nevents {{\n  worker_connections 12000;\n}}\n\nstream {{\n  \
         upstream web {{\n    hash $remote_addr consistent;\n{servers}  }}\n  server {{\n    listen {address}:{tcp} \
         backlog=4096;\n    proxy_pass web;\n  }}\n}}\n\nhttp {{\n  access_log off;\n{temporary}  keepalive_requests \
         1000000000;\n  upstream site {{\n    hash $remote_addr consistent;\n{servers}    keepalive 256;\n    \
         keepalive_requests 1000000000;\n  }}\n  server {{\n    listen {address}:{http} backlog=4096;\n    location / {{\n      \
         proxy_pass http://site;\n      proxy_http_version 1.1;\n      proxy_set_header Connection \"\";\n      \
         proxy_set_header Host $host;\n      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n    }}\n  }}\n}}\n"
    ))
}

/// Where an nginx has what it needs for TCP.
#[derive(Debug, PartialEq, Eq)]
enum Streams {
    Inside,
    Module(PathBuf),
    Missing,
}

impl Streams {
    fn ask(binary: &Path) -> Result<Streams> {
        let output = Command::new(binary).arg("-V").output().map_err(Error::io(format!("{} -V", binary.display())))?;
        Ok(Streams::read(&String::from_utf8_lossy(&output.stderr), Path::is_file))
    }

    fn read(said: &str, exists: impl Fn(&Path) -> bool) -> Streams {
        let words: Vec<&str> = said.split_ascii_whitespace().collect();
        if words.contains(&"--with-stream") {
            return Streams::Inside;
        }
        let folder = words.iter().find_map(|word| word.strip_prefix("--modules-path="));
        let module = folder.map(|folder| Path::new(folder).join("ngx_stream_module.so")).filter(|path| exists(path));
        module.map_or(Streams::Missing, Streams::Module)
    }
}

fn write(site: &Site, name: &str, text: &str) -> Result<()> {
    let path = site.directory().join(name);
    std::fs::write(&path, text).map_err(Error::io(format!("writing {}", path.display())))
}

const CONFIG_FILE: &str = "pool.toml";
const START_DEADLINE: Duration = Duration::from_secs(20);
const STOP_DEADLINE: Duration = Duration::from_secs(2);
const ASK_DEADLINE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_nginx_has_streams_inside_as_a_module_or_not_at_all() {
        let module = PathBuf::from("/m/ngx_stream_module.so");
        let read = |said: &str, there: bool| Streams::read(said, |_| there);
        assert_eq!(read("configure arguments: --with-stream --with-x", false), Streams::Inside);
        assert_eq!(read("--modules-path=/m --with-stream=dynamic", true), Streams::Module(module));
        assert_eq!(read("--modules-path=/m --with-stream=dynamic", false), Streams::Missing);
        assert_eq!(read("", true), Streams::Missing);
    }
}
