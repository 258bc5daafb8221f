//! Clients over gRPC: a closed loop of proposals, by single puts as etcd's clients make them, or on one stream.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::generated::etcd::{PutRequest, StatusRequest, kv_client::KvClient, maintenance_client::MaintenanceClient};
use super::generated::stream::{Proposal, Proposals, stream_client::StreamClient};
use super::{ENTRY_BYTES, WARM_UP};
use crate::bench::cpu;
use crate::bench::figures::histogram;
use crate::error::{Error, Result};

/// What came of a load.
pub struct Sample {
    /// Answers while it counted.
    pub commits: u64,
    /// How long it counted.
    pub elapsed: Duration,
    /// From request to answer, in nanoseconds.
    pub latency: Histogram<u64>,
    /// CPU time of this process meanwhile.
    pub cpu: Duration,
}

/// Puts `in_flight` keys at a time, each by a call of its own, for `span` after a warm-up; `began` is called between
/// the two.
pub async fn puts(
    address: SocketAddr,
    in_flight: u32,
    span: Duration,
    began: impl AsyncFnOnce() -> Result<()>,
) -> Result<Sample> {
    let mut connections = Vec::new();
    for _ in 0..in_flight.min(CONNECTIONS_MAX) {
        connections.push(connect(address).await?);
    }
    let watch = Watch::default();
    let mut tasks = JoinSet::new();
    for client in 0..in_flight {
        let channel = connections[client as usize % connections.len()].clone();
        tasks.spawn(put_again_and_again(KvClient::new(channel), client, watch.clone()));
    }
    let (elapsed, cpu) = watch.over(span, began).await?;
    let mut latency = histogram()?;
    while let Some(done) = tasks.join_next().await {
        let own = done.map_err(|error| Error::Fleet(format!("a client broke off: {error}")))??;
        latency.add(own).map_err(|error| Error::Fleet(error.to_string()))?;
    }
    Ok(Sample { commits: latency.len(), elapsed, latency, cpu })
}

async fn put_again_and_again(mut client: KvClient<Channel>, number: u32, watch: Watch) -> Result<Histogram<u64>> {
    let mut latency = histogram()?;
    let value = bytes(ENTRY_BYTES);
    let mut turn = 0;
    while !watch.0.over.load(Ordering::Relaxed) {
        turn = (turn + 1) % KEYS_PER_CLIENT;
        let key = format!("bench/{number:06}/{turn:04}").into_bytes().into();
        let begun = Instant::now();
        let put = client.put(PutRequest { key, value: value.clone() });
        let answer =
            tokio::time::timeout(PATIENCE, put).await.map_err(|_| Error::Fleet("a put has no answer".into()))?;
        answer.map_err(|status| Error::Fleet(format!("a put was refused: {status}")))?;
        if watch.0.counting.load(Ordering::Relaxed) {
            latency.saturating_record(begun.elapsed().as_nanos() as u64);
        }
    }
    Ok(latency)
}

/// Keeps `in_flight` proposals under way on one stream. What is answered together is replaced together.
pub async fn stream(
    address: SocketAddr,
    in_flight: u32,
    span: Duration,
    began: impl AsyncFnOnce() -> Result<()>,
) -> Result<Sample> {
    let watch = Watch::default();
    let client = tokio::spawn(propose_again_and_again(connect(address).await?, in_flight, watch.clone()));
    let (elapsed, cpu) = watch.over(span, began).await?;
    let latency = client.await.map_err(|error| Error::Fleet(format!("the client broke off: {error}")))??;
    Ok(Sample { commits: latency.len(), elapsed, latency, cpu })
}

async fn propose_again_and_again(channel: Channel, in_flight: u32, watch: Watch) -> Result<Histogram<u64>> {
    let refused = |status| Error::Fleet(format!("the stream was refused: {status}"));
    // A message under way for each answer at most.
    let (requests, queue) = mpsc::channel(in_flight as usize + 1);
    let data = bytes(ENTRY_BYTES);
    let mut latency = histogram()?;
    // When each was proposed; a token is a place in it.
    let mut since = vec![Instant::now(); in_flight as usize];
    let first: Vec<u64> = (0..u64::from(in_flight)).collect();
    let message = |tokens: &[u64]| Proposals {
        proposals: tokens.iter().map(|token| Proposal { token: *token, data: data.clone() }).collect(),
    };
    let gone = |_| Error::Fleet("the stream ended".to_owned());
    requests.send(message(&first)).await.map_err(gone)?;
    let mut answers =
        StreamClient::new(channel).propose(ReceiverStream::new(queue)).await.map_err(refused)?.into_inner();
    while !watch.0.over.load(Ordering::Relaxed) {
        let answer = tokio::time::timeout(PATIENCE, answers.message()).await;
        let answer = answer.map_err(|_| Error::Fleet("the stream has no answer".to_owned()))?.map_err(refused)?;
        let mut outcomes = answer.ok_or_else(|| Error::Fleet("the stream ended".to_owned()))?;
        if !outcomes.refused.is_empty() {
            return Err(Error::Fleet(format!("{} proposals were refused", outcomes.refused.len())));
        }
        let (now, counts) = (Instant::now(), watch.0.counting.load(Ordering::Relaxed));
        for token in &outcomes.committed {
            let begun = usize::try_from(*token).ok().and_then(|place| since.get_mut(place));
            let begun = begun.ok_or_else(|| Error::Fleet("an answer to nothing".to_owned()))?;
            if counts {
                latency.saturating_record(now.duration_since(*begun).as_nanos() as u64);
            }
            *begun = now;
        }
        requests.send(message(&std::mem::take(&mut outcomes.committed))).await.map_err(gone)?;
    }
    Ok(latency)
}

/// Whether this member of etcd leads.
pub async fn leads(address: SocketAddr) -> Result<bool> {
    let refused = |status| Error::Fleet(format!("etcd does not say who leads: {status}"));
    let status = MaintenanceClient::new(connect(address).await?).status(StatusRequest {}).await.map_err(refused)?;
    let status = status.into_inner();
    Ok(status.leader != 0 && status.header.is_some_and(|header| header.member_id == status.leader))
}

async fn connect(address: SocketAddr) -> Result<Channel> {
    let failed = |error| Error::Fleet(format!("connecting to {address}: {error}"));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(failed)?;
    endpoint.tcp_nodelay(true).connect_timeout(PATIENCE).connect().await.map_err(failed)
}

/// What all clients of a load look at.
#[derive(Clone, Default)]
struct Watch(Arc<Flags>);

#[derive(Default)]
struct Flags {
    counting: AtomicBool,
    over: AtomicBool,
}

impl Watch {
    /// Warms up, counts for `span`, ends; how long it counted, and the CPU time of this process meanwhile.
    async fn over(&self, span: Duration, began: impl AsyncFnOnce() -> Result<()>) -> Result<(Duration, Duration)> {
        tokio::time::sleep(WARM_UP).await;
        let begun = began().await;
        let (start, before) = (Instant::now(), cpu::of_this_process()?);
        self.0.counting.store(true, Ordering::Relaxed);
        if begun.is_ok() {
            tokio::time::sleep(span).await;
        }
        self.0.counting.store(false, Ordering::Relaxed);
        let elapsed = start.elapsed();
        self.0.over.store(true, Ordering::Relaxed);
        begun?;
        Ok((elapsed, cpu::since(before, cpu::of_this_process()?)))
    }
}

fn bytes(count: usize) -> bytes::Bytes {
    vec![b'x'; count].into()
}

/// Calls share this many connections: a single one holds etcd back, more brings nothing on two cores.
const CONNECTIONS_MAX: u32 = 8;
const KEYS_PER_CLIENT: u32 = 1000;
const PATIENCE: Duration = Duration::from_secs(10);
