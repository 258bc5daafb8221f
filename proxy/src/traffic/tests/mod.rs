//! Real sockets on loopback, both ends in the hands of the test; every test has addresses of its own.

mod http;
mod life;
mod relay;
mod tcp;
mod transparent;
mod trouble;

use std::{
    collections::HashMap,
    future::Future,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use flow::{BackendId, Balance, Bind, Commit, Epoch, HealthKind, HealthSpec, OnIsolation, PinKey, PoolSpec, Protocol};
use prometheus::Registry;
use raftlog::net::Connector;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};

use super::{Config, Limits, Traffic};
use crate::choice::{Choice, Chooser, Member, Refusal, Source};

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// Fails instead of hanging.
async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} took too long"))
}

/// Waits until `condition` holds.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come true");
        tokio::time::sleep(Duration::from_millis(2)).await; // between two looks
    }
}

/// A fleet that answers as the test says.
#[derive(Clone, Default)]
struct Script(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// The answer of `choose`; `None` refuses with `refusal`.
    choice: Mutex<Option<Choice>>,
    refusal: Mutex<Option<Refusal>>,
    /// The answer of `choose_again`, once there is one.
    again: watch::Sender<Option<Choice>>,
    /// Choices that no longer stand.
    lapsed: Mutex<Vec<BackendId>>,
    /// What takes the lapsed one's place.
    anew: Mutex<Option<Choice>>,
    relays: Mutex<Vec<SocketAddr>>,
    members: Mutex<HashMap<BackendId, Member>>,
    failed: Mutex<Vec<BackendId>>,
    touched: AtomicUsize,
}

impl Script {
    /// A fleet that gives everyone `backend`.
    fn choosing(name: &str, address: SocketAddr) -> Self {
        let script = Self::default();
        script.choose(choice(name, address));
        script
    }

    fn refusing(refusal: Refusal) -> Self {
        let script = Self::default();
        *script.0.refusal.lock().unwrap() = Some(refusal);
        script
    }

    fn choose(&self, choice: Choice) {
        *self.0.choice.lock().unwrap() = Some(choice);
    }

    fn settle(&self, choice: Choice) {
        self.0.again.send_replace(Some(choice));
    }

    fn failed(&self) -> Vec<BackendId> {
        self.0.failed.lock().unwrap().clone()
    }
}

impl Chooser for Script {
    fn choose_now(&self, _key: &PinKey) -> Option<Choice> {
        self.0.choice.lock().unwrap().clone()
    }

    async fn choose(&self, _key: PinKey, _deadline: Instant) -> Result<Choice, Refusal> {
        Err(self.0.refusal.lock().unwrap().unwrap_or(Refusal::Timeout))
    }

    fn still_stands(&self, _key: &PinKey, choice: &Choice) -> bool {
        let stands = !self.0.lapsed.lock().unwrap().contains(&choice.backend);
        if !stands && let Some(anew) = self.0.anew.lock().unwrap().take() {
            self.choose(anew);
        }
        stands
    }

    fn connect_failed(&self, choice: &Choice) {
        self.0.failed.lock().unwrap().push(choice.backend);
    }

    async fn choose_again(&self, _key: PinKey, _failed: &Choice, deadline: Instant) -> Result<Choice, Refusal> {
        let mut again = self.0.again.subscribe();
        match tokio::time::timeout_at(deadline.into(), again.wait_for(Option::is_some)).await {
            Ok(Ok(choice)) => Ok(choice.clone().unwrap()),
            _ => Err(Refusal::Timeout),
        }
    }

    fn relays(&self, _backend: BackendId) -> Vec<SocketAddr> {
        self.0.relays.lock().unwrap().clone()
    }

    fn member(&self, backend: BackendId) -> Option<Member> {
        self.0.members.lock().unwrap().get(&backend).copied()
    }

    fn touch(&self, _key: &PinKey) {
        self.0.touched.fetch_add(1, Ordering::Relaxed);
    }
}

/// The choice of `name`; its identity is that of the pool `p`, whatever the address.
fn choice(name: &str, address: SocketAddr) -> Choice {
    let identity = BackendId::of(pool("p", Protocol::Tcp).id(), name, "127.0.0.1:1".parse().unwrap());
    Choice { backend: identity, name: name.into(), address, epoch: Epoch(1), source: Source::Cache }
}

/// A pool on the instance's own address, at a port of the kernel's choice, with patient timeouts.
fn pool(name: &str, protocol: Protocol) -> PoolSpec {
    PoolSpec {
        name: name.to_owned(),
        bind: Bind::Own(0),
        protocol,
        balance: Balance::SourceHash,
        commit: Commit::FirstContact,
        pin_ttl_ms: 1_800_000,
        on_isolation: OnIsolation::Refuse,
        decide_timeout_ms: 1_000,
        retry_for_ms: 10_000,
        connect_timeout_ms: 5_000,
        idle_timeout_ms: 60_000,
        max_connections: 1_000,
        send_proxy: false,
        transparent: false,
        health: HealthSpec { kind: HealthKind::Tcp, interval_ms: 1000, timeout_ms: 500, rise: 2, fall: 2 },
        servers: Vec::new(),
    }
}

/// Opens connections to peers from `own`.
fn connector(own: IpAddr) -> Connector {
    Connector::plain(Some(own))
}

/// An instance's data path, with what it needs.
struct Instance {
    traffic: Traffic<Script>,
    pools: watch::Sender<Arc<Vec<PoolSpec>>>,
    registry: Registry,
    own: IpAddr,
}

impl Instance {
    fn start(own: &str, script: &Script, pools: Vec<PoolSpec>) -> Self {
        Self::limited(own, script, pools, Limits::default())
    }

    fn limited(own: &str, script: &Script, pools: Vec<PoolSpec>, limits: Limits) -> Self {
        let own = own.parse().unwrap();
        let (sender, receiver) = watch::channel(Arc::new(pools));
        let registry = Registry::new();
        let traffic = Traffic::start(
            Config { own, workers: 2, limits, peers: connector(own) },
            script.clone(),
            receiver,
            &registry,
        )
        .unwrap();
        Self { traffic, pools: sender, registry, own }
    }

    /// Where `pool` listens, once it does.
    async fn address(&self, pool: &str) -> SocketAddr {
        let mut listeners = self.traffic.listeners();
        let found =
            soon("listening", listeners.wait_for(|all| all.iter().any(|l| l.pool == pool && l.error.is_none())));
        found.await.unwrap().iter().find(|listener| listener.pool == pool).unwrap().address
    }

    /// A client's connection to `pool`.
    async fn connect(&self, pool: &str) -> TcpStream {
        soon("connect", TcpStream::connect(self.address(pool).await)).await.unwrap()
    }

    /// The value of a row of the metrics; 0 when there is none.
    fn metric(&self, row: &str) -> u64 {
        let text = prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap();
        let found = text.lines().find_map(|line| line.strip_prefix(row)?.strip_prefix(' ')?.parse().ok());
        found.unwrap_or(0)
    }

    async fn metric_becomes(&self, row: &str, value: u64) {
        until(&format!("{row} = {value}"), || self.metric(row) == value).await;
    }

    /// The sockets of this process that are bound to the instance's address.
    fn sockets(&self) -> usize {
        use std::os::fd::BorrowedFd;
        let numbers = std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().into_string().unwrap().parse::<i32>().ok());
        let ours = |number: &i32| {
            // SAFETY: only asks the kernel for a name; a number that was closed meanwhile gives an error.
            let descriptor = unsafe { BorrowedFd::borrow_raw(*number) };
            rustix::net::getsockname(descriptor)
                .ok()
                .and_then(|name| SocketAddr::try_from(name).ok())
                .is_some_and(|name| name.ip() == self.own)
        };
        numbers.filter(ours).count()
    }
}

/// A backend: a listener whose connections the test takes one by one.
struct Backend {
    listener: TcpListener,
    address: SocketAddr,
}

impl Backend {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    async fn accept(&self) -> TcpStream {
        soon("accept", self.listener.accept()).await.unwrap().0
    }

    /// Echoes every connection from now on.
    fn echo(self) -> SocketAddr {
        let address = self.address;
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = self.listener.accept().await {
                tokio::spawn(async move {
                    let (mut reader, mut writer) = stream.split();
                    if tokio::io::copy(&mut reader, &mut writer).await.is_ok() {
                        writer.shutdown().await.ok();
                    }
                });
            }
        });
        address
    }
}

/// An address where nobody listens, nor will: its port is taken by a socket that never does.
fn dead_address() -> SocketAddr {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    // It is closed with the process.
    std::mem::forget(socket);
    address
}

async fn read_exactly(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    soon("reading", stream.read_exact(&mut bytes)).await.unwrap();
    bytes
}

async fn read_to_end(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    soon("reading to the end", stream.read_to_end(&mut bytes)).await?;
    Ok(bytes)
}

/// A new connection to `pool` is reset, at once or once it is open.
async fn assert_refused(instance: &Instance, pool: &str) {
    match soon("connect", TcpStream::connect(instance.address(pool).await)).await {
        Ok(mut stream) => assert_reset(&mut stream).await,
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

/// The stream's end is a reset.
async fn assert_reset(stream: &mut TcpStream) {
    let error = read_to_end(stream).await.expect_err("a reset, not an end");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

/// `count` bytes that no other `seed` gives.
fn pattern(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_be_bytes());
    }
    bytes.truncate(count);
    bytes
}

/// Sends `bytes`, ends, and returns everything that comes back meanwhile.
async fn exchange(stream: TcpStream, bytes: Vec<u8>) -> Vec<u8> {
    let (mut reader, mut writer) = stream.into_split();
    let sending = tokio::spawn(async move {
        writer.write_all(&bytes).await.unwrap();
        writer.shutdown().await.unwrap();
        writer
    });
    let mut back = Vec::new();
    soon("the exchange", reader.read_to_end(&mut back)).await.unwrap();
    sending.await.unwrap();
    back
}
