//! Sniffers that tell a fleet of new flows: how many it acknowledges, how soon, where the time goes, and what that costs
//! clients that come for the first time.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use api::v1::{self, flow_ack::Kind, flows_client::FlowsClient};
use flow::flows::{Counts, FlowId, Observed, Standing, shard_of};
use flow::tuple::{Endpoint, FlowKey};
use flow::wire::encode_report;
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::cores::Shares;
use super::figures::{histogram, short};
use super::subject::Subject;
use super::{Machine, cpu, micros};
use crate::ask::{self, Door, Reply};
use crate::error::{Error, Result};
use crate::farm::Farm;
use crate::fleet::Server;
use crate::fleet::site::{GRPC_PORT, Site};
use crate::judge::InstanceId;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How long.
    pub seconds: u64,
    /// How many sniffers push at once, each to another instance.
    pub sniffers: u8,
    /// Events of a batch, at most.
    pub events: usize,
    /// Our binary.
    pub rocinante: PathBuf,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// Instances of the fleet.
    pub instances: u8,
    /// Sniffers that pushed.
    pub sniffers: u8,
    /// Events of a batch, at most.
    pub events: usize,
    /// How long it lasted.
    pub seconds: f64,
    /// New flows acknowledged per second.
    pub flows_per_second: f64,
    /// Batches acknowledged per second.
    pub batches_per_second: f64,
    /// From the sending of a batch to its acknowledgement, in microseconds: the median.
    pub batch_p50_us: f64,
    /// The same for the slowest hundredth.
    pub batch_p99_us: f64,
    /// CPU time of all instances together per flow, in microseconds.
    pub instances_cpu_us: f64,
    /// That of the sniffers, which make flows up here, find their shards, and encode them.
    pub sniffers_cpu_us: f64,
    /// Batches that had to be sent again.
    pub refused: u64,
    /// What clients met that were never there before, in a small closed loop, while no flow was told.
    pub contacts_quiet: Contacts,
    /// The same while all this came in.
    pub contacts_flooded: Contacts,
    /// Flows in the table of the first instance at the end, and in the others': equal.
    pub flows_in_tables: Vec<u64>,
}

/// TCP first contacts, each a choice that has to be committed.
#[derive(Clone, Debug, Serialize)]
pub struct Contacts {
    /// Clients answered per second.
    pub per_second: f64,
    /// Clients that were sent away, or not answered in time: their time is in none of the figures below.
    pub refused: u64,
    /// From before the connect to the answer, in microseconds: the median.
    pub p50_us: f64,
    /// The same for the slowest hundredth.
    pub p99_us: f64,
}

/// Measures a fleet of three.
pub async fn run(plan: &Plan, watch: &dyn Fn(&str)) -> Result<Report> {
    let shares = Shares::find()?;
    let machine = Machine::look(&shares)?;
    let site = Site::new()?;
    let farm = Farm::new(None)?;
    let backend = farm.add("s1", site.backend(0)).await?;
    let servers = [Server { name: "s1".to_owned(), address: backend.address, weight: 100 }];
    watch("starting a fleet of three");
    let fleet = Subject::fleet(&plan.rocinante, INSTANCES, &site, &servers, &shares.all).await?;
    watch("first contacts alone");
    let entrances: Vec<_> = fleet.iter().flat_map(|instance| instance.entrances(Door::Tcp)).collect();
    let clients = Arc::new(Clients { entrances, ..Clients::default() });
    let contacts_quiet = contacts(&clients, plan.seconds).await?;
    watch("sniffers push, and first contacts come in");
    let shared = Arc::new(Shared::default());
    let mut pushers = Vec::new();
    for number in 0..plan.sniffers {
        let to = (site.instance(InstanceId(number % INSTANCES)), GRPC_PORT).into();
        pushers.push(tokio::spawn(push(number, to, plan.events, Arc::clone(&shared))));
    }
    let flooded = tokio::spawn({
        let (clients, seconds) = (Arc::clone(&clients), plan.seconds);
        async move { contacts(&clients, seconds).await }
    });
    tokio::time::sleep(WARM_UP).await;
    let groups: Vec<i32> = fleet.iter().filter_map(Subject::group).collect();
    let used = || -> Result<Duration> { groups.iter().map(|group| cpu::of_group(*group)).sum() };
    let (instances, own, started) = (used()?, cpu::of_this_process()?, Instant::now());
    shared.counts.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(plan.seconds)).await;
    shared.counts.store(false, Ordering::Relaxed);
    let elapsed = started.elapsed();
    let (instances, own) = (cpu::since(instances, used()?), cpu::since(own, cpu::of_this_process()?));
    let flooded = flooded.await.map_err(|error| Error::Fleet(format!("the clients broke: {error}")))?;
    shared.stop.store(true, Ordering::Relaxed);
    let contacts_flooded = flooded?;
    let mut times = histogram()?;
    for pusher in pushers {
        let found = pusher.await.map_err(|error| Error::Fleet(format!("a sniffer broke: {error}")))??;
        times.add(found).map_err(|error| Error::Fleet(error.to_string()))?;
    }
    let flows = shared.flows.load(Ordering::Relaxed);
    if flows == 0 {
        return Err(Error::Fleet("no flow was acknowledged".to_owned()));
    }
    let mut flows_in_tables = Vec::new();
    for id in (0..INSTANCES).map(InstanceId) {
        flows_in_tables.push(in_table((site.instance(id), GRPC_PORT).into()).await?);
    }
    for subject in fleet {
        subject.stop().await?;
    }
    let per_flow = |time: Duration| time.as_secs_f64() * 1e6 / flows as f64;
    Ok(Report {
        machine,
        instances: INSTANCES,
        sniffers: plan.sniffers,
        events: plan.events,
        seconds: elapsed.as_secs_f64(),
        flows_per_second: flows as f64 / elapsed.as_secs_f64(),
        batches_per_second: shared.batches.load(Ordering::Relaxed) as f64 / elapsed.as_secs_f64(),
        batch_p50_us: micros(times.value_at_quantile(0.5)),
        batch_p99_us: micros(times.value_at_quantile(0.99)),
        instances_cpu_us: per_flow(instances),
        sniffers_cpu_us: per_flow(own),
        refused: shared.refused.load(Ordering::Relaxed),
        contacts_quiet,
        contacts_flooded,
        flows_in_tables,
    })
}

/// Who was never there before.
#[derive(Default)]
struct Clients {
    entrances: Vec<std::net::SocketAddr>,
    /// How many came so far.
    came: AtomicU32,
}

/// Clients come, each for the first time, [`CLIENTS`] at once.
async fn contacts(clients: &Arc<Clients>, seconds: u64) -> Result<Contacts> {
    let counts = Instant::now() + WARM_UP;
    let ends = counts + Duration::from_secs(seconds);
    let mut loops = Vec::new();
    for number in 0..CLIENTS {
        let clients = Arc::clone(clients);
        loops.push(tokio::spawn(async move {
            let (mut times, mut refused) = (histogram()?, 0_u64);
            let entrance = clients.entrances[number % clients.entrances.len()];
            while Instant::now() < ends {
                let came = clients.came.fetch_add(1, Ordering::Relaxed) % ADDRESSES;
                let source = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 64, 0, 0)) + 1 + came);
                let begun = Instant::now();
                let reply = ask::ask(source, entrance, Door::Tcp, CONTACT_DEADLINE).await;
                match reply.map_err(Error::io("a client"))? {
                    _ if begun < counts => {}
                    Reply::Name(..) => times.saturating_record(begun.elapsed().as_nanos() as u64),
                    Reply::Refused | Reply::Silent | Reply::Garbled => refused += 1,
                }
            }
            Ok::<_, Error>((times, refused))
        }));
    }
    let (mut times, mut refused) = (histogram()?, 0);
    for client in loops {
        let (found, sent_away) = client.await.map_err(|error| Error::Fleet(format!("a client broke: {error}")))??;
        times.add(found).map_err(|error| Error::Fleet(error.to_string()))?;
        refused += sent_away;
    }
    Ok(Contacts {
        per_second: times.len() as f64 / seconds as f64,
        refused,
        p50_us: micros(times.value_at_quantile(0.5)),
        p99_us: micros(times.value_at_quantile(0.99)),
    })
}

/// What the sniffers count together.
#[derive(Default)]
struct Shared {
    counts: AtomicBool,
    stop: AtomicBool,
    flows: AtomicU64,
    batches: AtomicU64,
    refused: AtomicU64,
}

/// A batch on its way.
struct Sent {
    at: Instant,
    events: u64,
    batch: v1::FlowBatch,
}

/// One sniffer: keeps as many batches on their way as it may, each of flows that nobody has seen.
async fn push(number: u8, to: std::net::SocketAddr, events: usize, shared: Arc<Shared>) -> Result<Histogram<u64>> {
    let failed = |error: tonic::Status| Error::Fleet(format!("{to}: {error}"));
    let mut client =
        FlowsClient::connect(format!("http://{to}")).await.map_err(|error| Error::Fleet(format!("{to}: {error}")))?;
    let (batches, stream) = mpsc::channel(QUEUE);
    let mut acks = client.push(ReceiverStream::new(stream)).await.map_err(failed)?.into_inner();
    let Some(Kind::Hello(hello)) = acks.message().await.map_err(failed)?.and_then(|ack| ack.kind) else {
        return Err(Error::Fleet(format!("{to} does not begin with its hello")));
    };
    let name = format!("bench-{number}");
    // Events as bytes, as a sniffer has them.
    let mut shards: Vec<Vec<Vec<u8>>> = vec![Vec::new(); hello.shards as usize];
    let mut sequences = vec![0_u64; shards.len()];
    let mut sent = std::collections::HashMap::new();
    let mut open = vec![0_u32; shards.len()];
    let mut times = histogram()?;
    let mut next = 0_u32;
    loop {
        // Each shard has its share on its way.
        while !shared.stop.load(Ordering::Relaxed)
            && let Some(shard) = (0..shards.len()).find(|shard| open[*shard] < hello.in_flight)
        {
            while shards[shard].len() < events {
                next += 1;
                let event = observed(number, next);
                let place = shard_of(FlowId(event.key.id()), hello.shards) as usize;
                shards[place].push(event.encode_event());
            }
            let rest = shards[shard].split_off(events);
            let batch = std::mem::replace(&mut shards[shard], rest);
            sequences[shard] += 1;
            let (sequence, count) = (sequences[shard], batch.len() as u64);
            let report = encode_report(&name, 1, sequence, &batch.concat());
            let batch = v1::FlowBatch { shard: shard as u32, report: report.into() };
            let entry = Sent { at: Instant::now(), events: count, batch: batch.clone() };
            sent.insert((shard, sequence), entry);
            open[shard] += 1;
            batches.send(batch).await.map_err(|_| Error::Fleet(format!("{to} takes no more")))?;
        }
        if sent.is_empty() {
            return Ok(times);
        }
        match acks.message().await.map_err(failed)?.and_then(|ack| ack.kind) {
            Some(Kind::Acked(acked)) => {
                let Some(entry) = sent.remove(&(acked.shard as usize, acked.sequence)) else { continue };
                open[acked.shard as usize] -= 1;
                if shared.counts.load(Ordering::Relaxed) {
                    shared.flows.fetch_add(entry.events, Ordering::Relaxed);
                    shared.batches.fetch_add(1, Ordering::Relaxed);
                    times.saturating_record(entry.at.elapsed().as_nanos() as u64);
                }
            }
            Some(Kind::Refused(refused)) => {
                shared.refused.fetch_add(1, Ordering::Relaxed);
                match refused.why {
                    Some(v1::flow_refused::Why::Expected(_) | v1::flow_refused::Why::Later(_)) => {
                        if let Some(entry) = sent.get(&(refused.shard as usize, refused.sequence)) {
                            let batch = entry.batch.clone();
                            batches.send(batch).await.map_err(|_| Error::Fleet(format!("{to} takes no more")))?;
                        }
                    }
                    why => return Err(Error::Fleet(format!("{to} refuses a batch: {why:?}"))),
                }
            }
            Some(Kind::Hello(_)) | None => return Err(Error::Fleet(format!("{to} broke off"))),
        }
    }
}

/// The first packet of a flow that nobody has seen.
fn observed(sniffer: u8, number: u32) -> Observed {
    let client = Ipv4Addr::from(0x0a00_0000 | u32::from(sniffer) << 20 | number >> 12);
    let (version, source) = Endpoint::new(IpAddr::V4(client), 10_000 + (number & 0xfff) as u16);
    let (_, destination) = Endpoint::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 443);
    let (key, from_low) = FlowKey::of(version, 6, source, destination);
    let now_us = u64::from(number);
    Observed {
        key,
        seventh: None,
        from_low,
        standing: Standing::New,
        end: None,
        first_us: now_us,
        last_us: now_us,
        counts: [Counts { packets: 1, bytes: 74 }, Counts::default()],
        tcp_flags: [2, 0],
        vlan: None,
        sample: 1,
        label: None,
    }
}

/// How many flows an instance has, once its tables stand still.
async fn in_table(at: std::net::SocketAddr) -> Result<u64> {
    let failed = |error: tonic::Status| Error::Fleet(format!("{at}: {error}"));
    let mut client =
        FlowsClient::connect(format!("http://{at}")).await.map_err(|error| Error::Fleet(format!("{at}: {error}")))?;
    let mut request = v1::FlowsListRequest { limit: 1, ..v1::FlowsListRequest::default() };
    request.set_consistency(v1::Consistency::Linearizable);
    client.list(request).await.map_err(failed)?;
    let stats = client.stats(v1::FlowStatsRequest {}).await.map_err(failed)?.into_inner();
    Ok(stats.shards.iter().map(|shard| shard.flows).sum())
}

/// The report for people.
pub fn table(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!("{}, {} cores, kernel {}\n", machine.processor, machine.cores, machine.kernel);
    text += &format!(
        "{} instances, {} sniffers that make new flows up, batches of {} events, {:.0} s\n",
        report.instances, report.sniffers, report.events, report.seconds
    );
    for (what, figure) in [
        ("new flows acknowledged per second", report.flows_per_second),
        ("batches acknowledged per second", report.batches_per_second),
        ("a batch, p50, us", report.batch_p50_us),
        ("a batch, p99, us", report.batch_p99_us),
        ("CPU of all instances per flow, us", report.instances_cpu_us),
        ("CPU of the sniffers per flow, us", report.sniffers_cpu_us),
        ("batches sent again", report.refused as f64),
        ("first contacts alone, per second", report.contacts_quiet.per_second),
        ("  refused", report.contacts_quiet.refused as f64),
        ("  p50, us", report.contacts_quiet.p50_us),
        ("  p99, us", report.contacts_quiet.p99_us),
        ("first contacts beside it, per second", report.contacts_flooded.per_second),
        ("  refused", report.contacts_flooded.refused as f64),
        ("  p50, us", report.contacts_flooded.p50_us),
        ("  p99, us", report.contacts_flooded.p99_us),
    ] {
        text += &format!("{what:<38}{:>12}\n", short(figure));
    }
    let tables: Vec<String> = report.flows_in_tables.iter().map(u64::to_string).collect();
    text += &format!("flows in the instances' tables at the end: {}\n", tables.join(", "));
    text
}

const INSTANCES: u8 = 3;
/// Clients that were never there before, each with one question in flight.
const CLIENTS: usize = 4;
/// Addresses that clients come from: 127.64.0.0/10.
const ADDRESSES: u32 = (1 << 22) - 2;
/// A client waits no longer.
const CONTACT_DEADLINE: Duration = Duration::from_secs(10);
/// Not measured.
const WARM_UP: Duration = Duration::from_secs(1);
/// Batches that wait for the connection.
const QUEUE: usize = 64;
