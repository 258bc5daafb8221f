//! Whole transports on loopback: each node has a runtime of its own, so that dropping it is the death of a process.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::NodeId;

mod limits;
mod links;
mod memory;
mod snapshots;
mod tls;

/// Nothing here takes as long, however busy the machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// A transport with its server and what its owner would hold.
struct Node {
    id: NodeId,
    address: SocketAddr,
    transport: Transport,
    gate: Arc<TestGate>,
    events: Receiver<Event>,
    runtime: Option<Runtime>,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
}

/// Lets everybody in whose hello is an id, unless told otherwise.
struct TestGate {
    id: NodeId,
    network: Subnet,
    refuse_hello: Mutex<Option<Refused>>,
    /// How many hellos were judged, and what holds up the word on them.
    judged: AtomicU64,
    judging: Barrier,
    refuse_reply: Mutex<Option<Refused>>,
    refuse_snapshot: Mutex<Option<Refused>>,
    snapshots: SyncSender<(NodeId, Bytes, Bytes)>,
    arrived: Mutex<Receiver<(NodeId, Bytes, Bytes)>>,
    installing: Arc<Barrier>,
    refuse_offer: Mutex<Option<Refused>>,
    partials: Partials,
    /// How many bytes a snapshot may have.
    room: Mutex<usize>,
}

impl Gate for TestGate {
    fn hello(&self, _to: &PeerAddress) -> Bytes {
        Bytes::copy_from_slice(&self.id.0.to_be_bytes())
    }

    fn admit(&self, hello: &[u8], remote: SocketAddr) -> Result<(NodeId, Bytes), Refused> {
        let from = u64::from_be_bytes(hello.try_into().map_err(|_| Refused::new(1, "not a hello"))?);
        assert_eq!(remote.ip(), self.network.ip(from), "peers come from their own address");
        let refused = self.refuse_hello.lock().unwrap().clone();
        self.judged.fetch_add(1, Ordering::Relaxed);
        self.judging.pass();
        refused.map_or_else(|| Ok((NodeId(from), self.hello_bytes())), Err)
    }

    fn label_of(&self, hello: &[u8]) -> Result<String, Refused> {
        let id = u64::from_be_bytes(hello.try_into().map_err(|_| Refused::new(1, "not a hello"))?);
        Ok(format!("n{id}"))
    }

    fn accepted(&self, _to: &PeerAddress, reply: &[u8]) -> Result<NodeId, Refused> {
        match &*self.refuse_reply.lock().unwrap() {
            Some(refused) => Err(refused.clone()),
            None => Ok(NodeId(u64::from_be_bytes(reply.try_into().unwrap()))),
        }
    }

    fn receive(&self, from: NodeId, offer: SnapshotOffer) -> Result<Box<dyn SnapshotSink>, Refused> {
        if let Some(refused) = &*self.refuse_offer.lock().unwrap() {
            return Err(refused.clone());
        }
        let partial = self.partials.lock().unwrap().remove(&(from, offer.transfer)).unwrap_or_default();
        let room = *self.room.lock().unwrap();
        let sink = TestSink {
            from,
            offer,
            bytes: partial,
            room,
            partials: self.partials.clone(),
            refuse: self.refuse_snapshot.lock().unwrap().clone(),
            installing: self.installing.clone(),
            snapshots: self.snapshots.clone(),
        };
        Ok(Box::new(sink))
    }
}

/// The bytes of transfers that broke.
type Partials = Arc<Mutex<HashMap<(NodeId, u64), Vec<u8>>>>;

/// Collects a snapshot in memory; what came of a broken transfer is kept.
struct TestSink {
    from: NodeId,
    offer: SnapshotOffer,
    bytes: Vec<u8>,
    room: usize,
    partials: Partials,
    refuse: Option<Refused>,
    installing: Arc<Barrier>,
    snapshots: SyncSender<(NodeId, Bytes, Bytes)>,
}

impl SnapshotSink for TestSink {
    fn have_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        if self.bytes.len() + bytes.len() > self.room {
            return Err(Refused::new(28, "the disk is full"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), Refused> {
        self.installing.pass();
        if let Some(refused) = self.refuse.take() {
            return Err(refused);
        }
        let body = std::mem::take(&mut self.bytes).into();
        self.snapshots.send((self.from, self.offer.meta.clone(), body)).unwrap();
        Ok(())
    }
}

impl Drop for TestSink {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.partials.lock().unwrap().insert((self.from, self.offer.transfer), bytes);
    }
}

impl TestGate {
    fn new(id: NodeId) -> TestGate {
        let (snapshots, arrived) = sync_channel(16);
        TestGate {
            id,
            network: Subnet::mine(),
            refuse_hello: Mutex::default(),
            judged: AtomicU64::new(0),
            judging: Barrier::default(),
            refuse_reply: Mutex::default(),
            refuse_snapshot: Mutex::default(),
            snapshots,
            arrived: Mutex::new(arrived),
            installing: Arc::default(),
            refuse_offer: Mutex::default(),
            partials: Partials::default(),
            room: Mutex::new(usize::MAX),
        }
    }

    fn hello_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(&self.id.0.to_be_bytes())
    }
}

/// Lets everybody pass unless it is down.
#[derive(Default)]
struct Barrier {
    is_down: Mutex<bool>,
    raised: Condvar,
}

impl Barrier {
    fn set_down(&self, is_down: bool) {
        *self.is_down.lock().unwrap() = is_down;
        self.raised.notify_all();
    }

    fn pass(&self) {
        let guard = self.is_down.lock().unwrap();
        let (_guard, wait) = self.raised.wait_timeout_while(guard, DEADLINE, |is_down| *is_down).unwrap();
        assert!(!wait.timed_out(), "nobody raised the barrier");
    }
}

/// An inbox that breaks the rule and blocks while its barrier is down, as a stalled process would.
struct Stalling {
    barrier: Arc<Barrier>,
    events: SyncSender<Event>,
}

impl Inbox for Stalling {
    fn offer(&self, event: Event) -> Result<(), Event> {
        self.barrier.pass();
        self.events.offer(event)
    }
}

/// Options for a busy machine: nothing is declared dead unless the test wants it.
fn options() -> Options {
    Options {
        connect_timeout: DEADLINE,
        hello_timeout: DEADLINE,
        keepalive_timeout: DEADLINE,
        snapshot_idle_timeout: DEADLINE,
        pings_unanswered_max: 1000,
        ..Options::default()
    }
}

/// The addresses of a test: a port that one of its nodes leaves is not taken by the nodes of another.
#[derive(Clone, Copy)]
struct Subnet([u8; 2]);

impl Subnet {
    /// That of the test that this thread runs.
    fn mine() -> Subnet {
        static NETWORKS: AtomicU16 = AtomicU16::new(0);
        thread_local! {
            static MINE: Subnet = {
                let processes = 230 + u8::try_from(std::process::id() % 20).unwrap();
                let tests = 1 + u8::try_from(NETWORKS.fetch_add(1, Ordering::Relaxed) % 250).unwrap();
                Subnet([processes, tests])
            };
        }
        MINE.with(|network| *network)
    }

    /// The address of node `id`: each has its own, so that no connection can meet itself.
    fn ip(self, id: u64) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(127, self.0[0], self.0[1], u8::try_from(id).unwrap()))
    }
}

/// The address of node `id` of this test.
fn ip(id: u64) -> IpAddr {
    Subnet::mine().ip(id)
}

impl Node {
    fn start(id: u64) -> Node {
        Node::start_with(id, options(), 1 << 16)
    }

    fn start_with(id: u64, options: Options, inbox_len: usize) -> Node {
        let (sender, events) = sync_channel(inbox_len);
        Node::start_at(id, (ip(id), 0).into(), options, Arc::new(sender), events)
    }

    fn start_at(
        id: u64,
        address: SocketAddr,
        options: Options,
        inbox: Arc<dyn Inbox>,
        events: Receiver<Event>,
    ) -> Node {
        let silence = options.hello_timeout;
        Node::start_patient(id, address, options, silence, inbox, events)
    }

    /// Connections that say nothing at all are closed after `silence`.
    fn start_patient(
        id: u64,
        address: SocketAddr,
        options: Options,
        silence: Duration,
        inbox: Arc<dyn Inbox>,
        events: Receiver<Event>,
    ) -> Node {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let options = Options { local_address: Some(ip(id)), ..options };
        let (listener, address) = match &options.network {
            Network::Tcp => {
                let listener = runtime.block_on(TcpListener::bind(address)).unwrap();
                let address = listener.local_addr().unwrap();
                (Listener::from(listener), address)
            }
            Network::Memory(network) => {
                (network.listen(&address.ip().to_string(), address.port()).unwrap().into(), address)
            }
        };
        let gate = Arc::new(TestGate::new(NodeId(id)));
        let transport = Transport::start(options.clone(), runtime.handle().clone(), gate.clone(), inbox);
        let incoming = {
            let _entered = runtime.enter();
            transport.incoming(listener, CONNECTIONS_MAX, silence)
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let router = server(&options).add_service(transport.service());
        let serving = runtime.spawn(async move {
            router.serve_with_incoming_shutdown(incoming, told(stopped)).await.unwrap();
        });
        let id = NodeId(id);
        Node { id, address, transport, gate, events, runtime: Some(runtime), stop: Some(stop), serving }
    }

    fn label(&self) -> String {
        format!("n{}", self.id)
    }

    fn peer_address(&self) -> PeerAddress {
        PeerAddress::new(&self.label(), &self.address.ip().to_string(), self.address.port())
    }

    fn set_peers(&self, peers: &[&Node]) {
        self.transport.set_peers(peers.iter().map(|node| node.peer_address()).collect()).unwrap();
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().unwrap()
    }

    fn counters(&self) -> Arc<Counters> {
        self.transport.counters()
    }

    /// Waits for the next event that `pick` takes; others are forgotten.
    fn until<T>(&self, what: &str, mut pick: impl FnMut(Event) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) => {
                    if let Some(found) = pick(event) {
                        return found;
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("{}: {what} did not come", self.label())
                }
            }
        }
    }

    fn until_up(&self, other: &Node) {
        self.until("LinkUp", |event| matches!(event, Event::LinkUp { peer, .. } if peer == other.id).then_some(()));
    }

    fn until_down(&self, is_refused: bool) -> Event {
        self.until("LinkDown", |event| {
            matches!(event, Event::LinkDown { refused, .. } if refused == is_refused).then_some(event)
        })
    }

    fn until_frame(&self) -> (NodeId, Bytes) {
        self.until("a frame", |event| match event {
            Event::Frame { from, bytes } => Some((from, bytes)),
            _ => None,
        })
    }

    /// Dies as a process does: all sockets close at once, nobody says goodbye.
    fn kill(mut self) -> SocketAddr {
        self.runtime.take().unwrap().shutdown_timeout(DEADLINE);
        self.address
    }

    /// Closes the transport and then its server, in order.
    fn shutdown(&mut self) {
        let stop = self.stop.take().unwrap();
        let transport = self.transport.clone();
        let runtime = self.runtime.as_ref().unwrap();
        let all = async {
            transport.shutdown().await;
            stop.send(()).unwrap();
            (&mut self.serving).await.unwrap();
        };
        runtime.block_on(async { tokio::time::timeout(DEADLINE, all).await.unwrap() });
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Returns when told to; a node that is dropped tells nothing.
async fn told(stop: oneshot::Receiver<()>) {
    if stop.await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Two nodes that are linked both ways.
fn pair(one: u64, other: u64) -> (Node, Node) {
    let (one, other) = (Node::start(one), Node::start(other));
    link(&one, &other);
    (one, other)
}

fn link(one: &Node, other: &Node) {
    one.set_peers(&[other]);
    other.set_peers(&[one]);
    one.until_up(other);
    other.until_up(one);
}

/// Waits for a condition that no event tells of.
fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_true() {
        assert!(Instant::now() < deadline, "{what} did not come true");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

fn value(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Frames can still be sent from `one` to `other`.
fn check_alive(one: &Node, other: &Node) {
    assert!(one.transport.send(other.id, Bytes::from_static(b"still there")));
    let (from, bytes) = other.until_frame();
    assert_eq!((from, &bytes[..]), (one.id, &b"still there"[..]));
}

const CONNECTIONS_MAX: usize = 16;
