//! The judge of the sniffer: what a live capture sees must be in the table of every instance, with the backend its client was
//! given, and must count as a capture without faults counts it, whatever befalls sniffers and leaders meanwhile.
//!
//! It takes a network of its own, in which two sniffers capture the same connections: one tells the fleet, and is killed; the
//! other tells nobody, lives to the end, and is the truth.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::v1::{self, flow_ack::Kind, flows_client::FlowsClient};
use flow::flows::{Counts, End, FlowId, Observed, Standing, shard_of};
use flow::tuple::{Endpoint, FlowKey};
use flow::wire::encode_report;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::ask::{Door, Reply, ask};
use crate::chance::Chance;
use crate::error::{Error, Result};
use crate::farm::Farm;
use crate::fleet::process::Process;
use crate::fleet::rocinante::Rocinante;
use crate::fleet::site::{GRPC_PORT, POOL_PORTS, Site};
use crate::fleet::{Fleet, Server};
use crate::http;
use crate::judge::InstanceId;

/// What to judge.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Our binaries.
    pub rocinante: PathBuf,
    /// The sniffer.
    pub sniffer: PathBuf,
    /// Clients in each part.
    pub clients: u16,
    /// Repeats the clients' chances.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Flows that were looked for on every instance while nothing else happened.
    pub flows_seen: usize,
    /// From the end of the last connection of a part until every instance had all its flows with their backends, the slowest.
    pub seen_after_ms: u64,
    /// Flows in the truth, and how many of them count otherwise in the fleet.
    pub flows: usize,
    /// Packets of them.
    pub packets: u64,
    /// What is wrong, each in a line.
    pub violations: Vec<String>,
}

impl Report {
    /// Whether the promise was kept.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.violations.is_empty()
    }
}

/// Judges a fleet of three.
///
/// # Errors
/// If something could not even be tried.
pub async fn run(plan: &Plan, say: &dyn Fn(String)) -> Result<Report> {
    let site = Arc::new(Site::new()?);
    let farm = Farm::new(None)?;
    let mut servers = Vec::new();
    for (index, name) in ["s1", "s2", "s3", "s4"].into_iter().enumerate() {
        let backend = farm.add(name, site.backend(index)).await?;
        servers.push(Server { name: name.to_owned(), address: backend.address, weight: 100 });
    }
    let fleet = Rocinante::new(plan.rocinante.clone(), Arc::clone(&site), INSTANCES, &servers, false).await?;
    for id in (0..INSTANCES).map(InstanceId) {
        fleet.start(id).await?;
    }
    let mut judged = Judged { fleet, site, plan, chance: Chance::new(plan.seed), report: Report::default() };
    let outcome = judged.play(say).await;
    judged.fleet.stop().await;
    if outcome.is_err() || !judged.report.passed() {
        judged.site.keep()?;
        say(format!("logs are in {}", judged.site.directory().display()));
    }
    outcome.map(|()| judged.report)
}

struct Judged<'a> {
    fleet: Rocinante,
    site: Arc<Site>,
    plan: &'a Plan,
    chance: Chance,
    report: Report,
}

/// A flow by its ends, whoever began it.
type Ends = [(IpAddr, u16); 2];

/// Packets and bytes of both directions.
type Totals = (u64, u64);

impl Judged<'_> {
    async fn play(&mut self, say: &dyn Fn(String)) -> Result<()> {
        self.wait_until_ready().await?;
        let truth = self.sniff("truth", &["--json"])?;
        let mut told = self.sniff("told", TELLING)?;
        self.wait_for_log("truth", 1).await?;
        self.wait_for_log("told", 1).await?;
        // One connection lives through everything.
        let mut lasting = self.connect_for_long().await?;
        converse(&mut lasting).await?;

        say("clients come; nothing else happens".to_owned());
        let seen = self.clients_are_seen().await?;
        self.report.flows_seen = seen.0;
        self.report.seen_after_ms = seen.1;
        say(format!("{} flows were on all instances {} ms after the last of them", seen.0, seen.1));

        say("an instance that leads is killed while clients come".to_owned());
        let victim = self.fleet.leader().await?.unwrap_or(InstanceId(0));
        self.fleet.kill(victim).await?;
        self.clients_come(Some(victim)).await?;
        converse(&mut lasting).await.ok();
        self.fleet.start(victim).await?;
        self.wait_until_ready().await?;
        self.clients_are_seen().await?;

        say("the sniffer is killed, and another one takes its place".to_owned());
        // What it has not told dies with it: packets it alone has seen are no promise of the fleet's.
        self.wait_until_all_is_told().await?;
        told.kill().await?;
        drop(told);
        let told = self.sniff("told", TELLING)?;
        self.wait_for_log("told", 2).await?;
        if converse(&mut lasting).await.is_err() {
            // The victim carried it.
            lasting = self.connect_for_long().await?;
            converse(&mut lasting).await?;
        }
        self.clients_are_seen().await?;
        drop(lasting);

        say("a batch comes twice, and once more at another instance".to_owned());
        self.twice().await?;

        say("both captures end, and are compared".to_owned());
        told.terminate("the sniffer", SNIFFER_DEADLINE).await?;
        truth.terminate("the sniffer that tells nobody", SNIFFER_DEADLINE).await?;
        self.compare().await
    }

    fn sniff(&self, name: &str, more: &[&str]) -> Result<Process> {
        let mut command = Command::new(&self.plan.sniffer);
        // Root here may be nobody outside, and become nobody else; it gives up its capabilities all the same.
        command
            .current_dir(self.site.directory())
            .args(["capture", "lo", "--user", "root", "--active", "1"])
            .args(more);
        command.arg(format!("tcp and net {CLIENTS_NET} and port {}", POOL_PORTS[0]));
        Process::start(command, &self.log(name))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.site.directory().join(format!("sniffer-{name}.log"))
    }

    async fn wait_for_log(&self, name: &str, starts: usize) -> Result<()> {
        let path = self.log(name);
        until("the sniffer does not begin", WAIT, async || {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            Ok(text.matches("capturing on").count() >= starts)
        })
        .await
    }

    async fn wait_until_ready(&self) -> Result<()> {
        until("the fleet is not ready", WAIT, async || {
            for id in (0..INSTANCES).map(InstanceId) {
                if let Some(last) = self.fleet.obituary(id).await {
                    return Err(Error::Fleet(format!("instance {} ended: {last}", id.0)));
                }
                if !self.fleet.is_ready(id).await {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .await
    }

    /// A connection through instance b that says something once in a while.
    async fn connect_for_long(&mut self) -> Result<TcpStream> {
        let source = self.fresh_client();
        let entrance = self.fleet.entrance(InstanceId(1), 0);
        http::connect_from(source, entrance).await.map_err(Error::io("a lasting connection"))
    }

    fn fresh_client(&mut self) -> Ipv4Addr {
        Ipv4Addr::from(CLIENTS_FIRST + 1 + self.chance.below(0x003f_fffe))
    }

    /// Fresh clients ask every instance; what each was told.
    async fn clients_come(&mut self, but: Option<InstanceId>) -> Result<Vec<(Ipv4Addr, String)>> {
        let mut told = Vec::new();
        for _ in 0..self.plan.clients {
            let client = self.fresh_client();
            let mut name = None;
            for id in (0..INSTANCES).map(InstanceId).filter(|id| Some(*id) != but) {
                let entrance = self.fleet.entrance(id, 0);
                let asked = ask(client, entrance, Door::Tcp, ASK_DEADLINE).await;
                if let Reply::Name(answer, _) = asked.map_err(Error::io("asking"))? {
                    name = Some(answer);
                }
            }
            told.extend(name.map(|name| (client, name)));
        }
        Ok(told)
    }

    /// Clients come, and every instance has their flows with their backends: how many flows, and how long after.
    async fn clients_are_seen(&mut self) -> Result<(usize, u64)> {
        let told = self.clients_come(None).await?;
        if told.len() < usize::from(self.plan.clients) {
            self.report.violations.push(format!("{} of {} clients were served", told.len(), self.plan.clients));
        }
        let came = Instant::now();
        for id in (0..INSTANCES).map(InstanceId) {
            let mut client = self.table(id).await?;
            for (address, name) in &told {
                let mut found = Vec::new();
                let seen = until("", SEEN_WITHIN, async || {
                    let filter = v1::FlowFilter { prefix: address.to_string(), ..v1::FlowFilter::default() };
                    let request = v1::FlowsListRequest { filter: Some(filter), ..v1::FlowsListRequest::default() };
                    let answer = client.list(request).await.map_err(|status| Error::Fleet(status.to_string()))?;
                    found = answer.into_inner().flows;
                    Ok(found.len() >= usize::from(INSTANCES) && found.iter().all(|flow| is_at(flow, *address, name)))
                });
                if seen.await.is_err() {
                    let backends: Vec<_> = found.iter().map(|flow| &flow.backends).collect();
                    self.report.violations.push(format!(
                        "instance {}: client {address} was told {name}, and its {} flows say {backends:?}",
                        id.0,
                        found.len()
                    ));
                }
            }
        }
        Ok((told.len() * usize::from(INSTANCES), came.elapsed().as_millis() as u64))
    }

    async fn table(&self, id: InstanceId) -> Result<FlowsClient<tonic::transport::Channel>> {
        let address = SocketAddr::from((self.site.instance(id), GRPC_PORT));
        let client = FlowsClient::connect(format!("http://{address}")).await;
        Ok(client.map_err(|error| Error::Fleet(format!("{address}: {error}")))?.max_decoding_message_size(MESSAGE_MAX))
    }

    /// All flows of the clients that the sniffer told of, as an instance has them.
    async fn flows(&self, id: InstanceId) -> Result<Vec<v1::Flow>> {
        let (mut flows, mut cursor) = (Vec::new(), String::new());
        let mut client = self.table(id).await?;
        loop {
            let filter = v1::FlowFilter { prefix: CLIENTS_NET.to_owned(), ..v1::FlowFilter::default() };
            let mut request =
                v1::FlowsListRequest { filter: Some(filter), limit: 1000, cursor, ..v1::FlowsListRequest::default() };
            request.set_consistency(v1::Consistency::Linearizable);
            let page = client.list(request).await.map_err(|status| Error::Fleet(status.to_string()))?.into_inner();
            flows.extend(page.flows);
            cursor = page.next;
            if cursor.is_empty() {
                return Ok(flows);
            }
        }
    }

    /// All flows but the lasting one are over in the table, and that one stands still: the sniffer has told all it knows.
    async fn wait_until_all_is_told(&self) -> Result<()> {
        let (mut before, mut since) = (Vec::new(), Instant::now());
        until("flows do not end in the table", WAIT, async || {
            let flows = self.flows(InstanceId(0)).await?;
            let going = flows.iter().filter(|flow| flow.state != Standing::Ended as u32);
            let packets: Vec<u64> = going.map(|flow| flow.low_packets + flow.high_packets).collect();
            if packets != before {
                (before, since) = (packets, Instant::now());
            }
            Ok(before.len() <= 1 && since.elapsed() > ALL_IS_TOLD)
        })
        .await
    }

    /// A made-up sniffer says the same three times, to two instances.
    async fn twice(&mut self) -> Result<()> {
        let (version, source) = Endpoint::new(Ipv4Addr::new(198, 51, 100, 9).into(), 40_000);
        let (_, destination) = Endpoint::new(Ipv4Addr::new(192, 0, 2, 1).into(), 443);
        let (key, from_low) = FlowKey::of(version, 6, source, destination);
        let event = Observed {
            key,
            seventh: None,
            from_low,
            standing: Standing::Ended,
            end: Some(End::Closed),
            first_us: 1,
            last_us: 2,
            counts: [Counts { packets: 3, bytes: 300 }, Counts { packets: 2, bytes: 200 }],
            tcp_flags: [3, 19],
            vlan: None,
            sample: 1,
            label: None,
        };
        let mut numbers = Vec::new();
        for id in [InstanceId(0), InstanceId(2)] {
            let mut client = self.table(id).await?;
            let failed = |status: tonic::Status| Error::Fleet(status.to_string());
            let (batches, stream) = tokio::sync::mpsc::channel(4);
            let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
            let mut acks = client.push(stream).await.map_err(failed)?.into_inner();
            let Some(Kind::Hello(hello)) = acks.message().await.map_err(failed)?.and_then(|ack| ack.kind) else {
                return Err(Error::Fleet("an instance does not begin with its hello".to_owned()));
            };
            let report = encode_report("made-up", 1, 1, &event.encode_event());
            let shard = shard_of(FlowId(key.id()), hello.shards);
            let batch = v1::FlowBatch { shard, report: report.into() };
            for _ in 0..if id.0 == 0 { 2 } else { 1 } {
                batches.send(batch.clone()).await.map_err(|_| Error::Fleet("an instance takes no batch".to_owned()))?;
                match acks.message().await.map_err(failed)?.and_then(|ack| ack.kind) {
                    Some(Kind::Acked(acked)) => numbers.push(acked.index > 0),
                    other => return Err(Error::Fleet(format!("a batch was answered {other:?}"))),
                }
            }
        }
        if numbers != [true, false, false] {
            self.report.violations.push(format!("of three equal batches these counted: {numbers:?}"));
        }
        for id in (0..INSTANCES).map(InstanceId) {
            let name = v1::FlowName { name: Some(v1::flow_name::Name::Id5(key.id())) };
            let mut request = v1::FlowGetRequest { name: Some(name), ..v1::FlowGetRequest::default() };
            request.set_consistency(v1::Consistency::Linearizable);
            let answer = self.table(id).await?.get(request).await;
            let flows = answer.map_err(|status| Error::Fleet(status.to_string()))?.into_inner().flows;
            let packets: Vec<(u64, u64)> = flows.iter().map(|flow| (flow.low_packets, flow.high_packets)).collect();
            if packets != [(3, 2)] {
                self.report.violations.push(format!("instance {}: a batch that came again counts: {packets:?}", id.0));
            }
        }
        Ok(())
    }

    /// Every flow counts what the sniffer without faults counted, at every instance.
    async fn compare(&mut self) -> Result<()> {
        let truth = truth(&self.log("truth"))?;
        self.report.flows = truth.len();
        self.report.packets = truth.values().map(|(packets, _)| packets).sum();
        for id in (0..INSTANCES).map(InstanceId) {
            let mut found: BTreeMap<Ends, Totals> = BTreeMap::new();
            for flow in self.flows(id).await? {
                let totals = (flow.low_packets + flow.high_packets, flow.low_bytes + flow.high_bytes);
                found.insert(ends_of(&flow)?, totals);
            }
            for (ends, totals) in &truth {
                if found.get(ends) != Some(totals) {
                    let text =
                        format!("instance {}: {ends:?} counts {:?}, and should {totals:?}", id.0, found.get(ends));
                    self.report.violations.push(text);
                }
            }
            for ends in found.keys().filter(|ends| !truth.contains_key(*ends)) {
                self.report.violations.push(format!("instance {}: {ends:?} is in the table, and was not there", id.0));
            }
        }
        Ok(())
    }
}

/// Whether a flow of this client says that it is at that server, and at no other.
fn is_at(flow: &v1::Flow, client: Ipv4Addr, name: &str) -> bool {
    let mut backends = flow.backends.iter();
    backends.next().is_some_and(|at| at.server == name && at.client == client.to_string()) && backends.next().is_none()
}

/// Asks for ten bytes and takes them.
async fn converse(stream: &mut TcpStream) -> Result<()> {
    let talk = async {
        stream.write_all(b"who\n").await?;
        let mut answer = [0; 64];
        match stream.read(&mut answer).await? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    };
    let talked = tokio::time::timeout(ASK_DEADLINE, talk).await;
    talked.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())).map_err(Error::io("a lasting connection"))
}

/// A line of `sniffer capture --json`.
#[derive(Deserialize)]
struct Line {
    event: String,
    #[serde(default)]
    src: Option<IpAddr>,
    #[serde(default)]
    sport: u16,
    #[serde(default)]
    dst: Option<IpAddr>,
    #[serde(default)]
    dport: u16,
    #[serde(default)]
    packets_fwd: u64,
    #[serde(default)]
    packets_rev: u64,
    #[serde(default)]
    bytes_wire: u64,
}

/// What the sniffer that tells nobody counted of each flow.
fn truth(log: &Path) -> Result<BTreeMap<Ends, Totals>> {
    let text = std::fs::read_to_string(log).map_err(Error::io("reading what a sniffer wrote"))?;
    let mut truth: BTreeMap<Ends, Totals> = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with('{')) {
        let line: Line = serde_json::from_str(line)
            .map_err(|error| Error::Fleet(format!("a sniffer wrote {line:?}, which is not as expected: {error}")))?;
        let (Some(from), Some(to), "end" | "short") = (line.src, line.dst, line.event.as_str()) else { continue };
        let mut ends = [(from, line.sport), (to, line.dport)];
        ends.sort_unstable();
        let totals = truth.entry(ends).or_default();
        totals.0 += line.packets_fwd + line.packets_rev;
        totals.1 += line.bytes_wire;
    }
    if truth.is_empty() {
        return Err(Error::Fleet("the sniffer that tells nobody saw nothing".to_owned()));
    }
    Ok(truth)
}

fn ends_of(flow: &v1::Flow) -> Result<Ends> {
    let key = flow.key.as_ref().ok_or_else(|| Error::Fleet("a flow without its key".to_owned()))?;
    let end = |address: &[u8], port: u32| -> Result<(IpAddr, u16)> {
        let address = match address.len() {
            4 => <[u8; 4]>::try_from(address).map(IpAddr::from).ok(),
            _ => <[u8; 16]>::try_from(address).map(IpAddr::from).ok(),
        };
        let end = address.zip(u16::try_from(port).ok());
        end.ok_or_else(|| Error::Fleet("the key of a flow makes no sense".to_owned()))
    };
    let mut ends = [end(&key.low, key.low_port)?, end(&key.high, key.high_port)?];
    ends.sort_unstable();
    Ok(ends)
}

/// Looks again and again until it is so.
async fn until(what: &str, within: Duration, mut is_so: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !is_so().await? {
        if start.elapsed() > within {
            return Err(Error::Fleet(format!("{what}, {} s on", within.as_secs())));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// The report for people.
#[must_use]
pub fn table(report: &Report) -> String {
    let mut text = format!(
        "{} flows were on all instances with their backends after {} ms; {} flows of {} packets compared with a capture \
         without faults\n",
        report.flows_seen, report.seen_after_ms, report.flows, report.packets
    );
    for violation in report.violations.iter().take(SHOWN_MAX) {
        text += &format!("VIOLATION {violation}\n");
    }
    if report.violations.len() > SHOWN_MAX {
        text += &format!("... and {} more\n", report.violations.len() - SHOWN_MAX);
    }
    text += if report.passed() { "PASS\n" } else { "FAIL\n" };
    text
}

const INSTANCES: u8 = 3;
/// Where clients live.
const CLIENTS_NET: &str = "127.64.0.0/10";
const CLIENTS_FIRST: u32 = 0x7f40_0000;
/// For the fleet; a flow that goes on is told of every second.
const TELLING: &[&str] = &["--config", "pool.toml", "--name", "judged", "--quiet"];
const WAIT: Duration = Duration::from_secs(60);
/// A flow that is later than this is not there.
const SEEN_WITHIN: Duration = Duration::from_secs(10);
/// A flow that goes on is told of every second: what has not changed for so long will not.
const ALL_IS_TOLD: Duration = Duration::from_millis(1_500);
const ASK_DEADLINE: Duration = Duration::from_secs(3);
const SNIFFER_DEADLINE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);
const SHOWN_MAX: usize = 20;
/// Pages of a thousand flows are large.
const MESSAGE_MAX: usize = 32 << 20;
