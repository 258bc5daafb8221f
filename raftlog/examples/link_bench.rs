//! Measures a link on loopback, plain and with TLS: `cargo run --release -p raftlog --features net --example link_bench
//! [SECONDS]`.

#[path = "raft_node/authority.rs"]
mod authority;

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use authority::{Authority, PREFIX};
use bytes::Bytes;
use raftlog::NodeId;
use raftlog::net::{
    Event, Gate, Inbox, Options, PeerAddress, Refused, SnapshotOffer, SnapshotSink, Tls, Transport, server,
};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let seconds = std::env::args().nth(1).map_or(Ok(2), |text| text.parse())?;
    let span = Duration::from_secs(seconds);
    println!("one connection, two runtimes of one thread each, {} s per row", span.as_secs());
    for authority in [None, Some(Authority::new()?)] {
        println!("{}", if authority.is_some() { "mutual TLS 1.3" } else { "plaintext" });
        measure(authority.as_ref(), span)?;
    }
    Ok(())
}

fn measure(authority: Option<&Authority>, span: Duration) -> Result<()> {
    let (news, links) = sync_channel(64);
    let counted = Arc::new(AtomicU64::new(0));
    let (stamps, arrivals) = sync_channel(64);
    let start = Instant::now();
    let count = Count { start, counted: counted.clone(), stamps, news: news.clone() };
    let receiver = Node::start(2, authority, Arc::new(count))?;
    let sender = Node::start(1, authority, Arc::new(News { news }))?;
    sender.transport.set_peers(vec![PeerAddress::new("n2", "127.0.0.2", receiver.address.port())])?;
    wait_for_link(&links)?;
    latency(&sender, &arrivals, start, span)?;
    for size in [130, 1 << 10, 16 << 10, 256 << 10] {
        throughput(&sender, &counted, size, span);
    }
    sender.runtime.block_on(sender.transport.shutdown());
    receiver.runtime.block_on(receiver.transport.shutdown());
    Ok(())
}

/// One frame at a time, from the caller of `send` to the receiver's inbox.
fn latency(sender: &Node, arrivals: &Receiver<Duration>, start: Instant, span: Duration) -> Result<()> {
    let mut times = Vec::new();
    let cpu = cpu_seconds();
    let begin = Instant::now();
    while begin.elapsed() < span {
        let mut frame = vec![STAMPED; 130];
        let sent = start.elapsed();
        frame[1..9].copy_from_slice(&u64::try_from(sent.as_nanos())?.to_be_bytes());
        sender.transport.send(NodeId(2), Bytes::from(frame));
        times.push(arrivals.recv_timeout(Duration::from_secs(5))?);
    }
    let cpu = (cpu_seconds() - cpu) / times.len() as f64;
    times.sort();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    println!(
        "one way, 130 bytes: p50 {:?}, p99 {:?}, {} frames, {:.1} us CPU per frame",
        at(0.5),
        at(0.99),
        times.len(),
        cpu * 1e6
    );
    Ok(())
}

/// As many frames as the queue takes.
fn throughput(sender: &Node, counted: &AtomicU64, size: usize, span: Duration) {
    let frame = Bytes::from(vec![0; size]);
    let messages = || sender.transport.counters().messages_sent.load(Ordering::Relaxed);
    let (before, cpu, sent_messages) = (counted.load(Ordering::Relaxed), cpu_seconds(), messages());
    let begin = Instant::now();
    let mut sent = 0;
    while begin.elapsed() < span {
        for _ in 0..64 {
            if sender.transport.send(NodeId(2), frame.clone()) {
                sent += 1;
            } else {
                std::thread::sleep(Duration::from_micros(200)); // the queue is full
            }
        }
    }
    while counted.load(Ordering::Relaxed) < before + sent && begin.elapsed() < span * 4 {
        std::thread::yield_now();
    }
    let arrived = (counted.load(Ordering::Relaxed) - before) as f64;
    let time = begin.elapsed().as_secs_f64();
    println!(
        "{size:>7} bytes: {:>9.0} frames/s, {:>6.0} MB/s, {:>6.2} us CPU per frame, {:>6.1} frames per message",
        arrived / time,
        arrived * size as f64 / time / 1e6,
        (cpu_seconds() - cpu) / arrived * 1e6,
        arrived / (messages() - sent_messages) as f64,
    );
}

struct Node {
    runtime: Runtime,
    transport: Transport,
    address: SocketAddr,
}

impl Node {
    fn start(id: u8, authority: Option<&Authority>, inbox: Arc<dyn Inbox>) -> Result<Node> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let ip = IpAddr::V4(Ipv4Addr::new(127, 0, 0, id));
        let identity = |authority: &Authority| -> Result<Arc<Tls>> {
            let label = format!("n{id}");
            Ok(Arc::new(Tls::new(PREFIX, &label, &authority.issue(&label)?)?))
        };
        let tls = authority.map(identity).transpose()?;
        let options = Options { tls, local_address: Some(ip), ..Options::default() };
        let gate = Arc::new(Open { id: NodeId(id.into()) });
        let transport = Transport::start(options.clone(), runtime.handle().clone(), gate, inbox);
        let listener = runtime.block_on(TcpListener::bind((ip, 0)))?;
        let address = listener.local_addr()?;
        let incoming = {
            let _entered = runtime.enter();
            transport.incoming(listener, 64, options.hello_timeout)
        };
        let router = server(&options).add_service(transport.service());
        runtime.spawn(async move {
            if let Err(error) = router.serve_with_incoming(incoming).await {
                eprintln!("{error}");
            }
        });
        Ok(Node { runtime, transport, address })
    }
}

/// Lets everybody in.
struct Open {
    id: NodeId,
}

impl Gate for Open {
    fn hello(&self, _to: &PeerAddress) -> Bytes {
        Bytes::copy_from_slice(&self.id.0.to_be_bytes())
    }

    fn admit(&self, hello: &[u8], _remote: SocketAddr) -> std::result::Result<(NodeId, Bytes), Refused> {
        Ok((node(hello)?, Bytes::copy_from_slice(&self.id.0.to_be_bytes())))
    }

    fn label_of(&self, hello: &[u8]) -> std::result::Result<String, Refused> {
        node(hello).map(|node| format!("n{node}"))
    }

    fn accepted(&self, _to: &PeerAddress, reply: &[u8]) -> std::result::Result<NodeId, Refused> {
        node(reply)
    }

    fn receive(&self, _from: NodeId, _offer: SnapshotOffer) -> std::result::Result<Box<dyn SnapshotSink>, Refused> {
        Err(Refused::new(1, "no snapshots here"))
    }
}

fn node(bytes: &[u8]) -> std::result::Result<NodeId, Refused> {
    bytes.try_into().map(|bytes| NodeId(u64::from_be_bytes(bytes))).map_err(|_| Refused::new(1, "not an id"))
}

/// Counts frames; for stamped ones it says how long they took.
struct Count {
    start: Instant,
    counted: Arc<AtomicU64>,
    stamps: SyncSender<Duration>,
    news: SyncSender<Event>,
}

impl Inbox for Count {
    fn offer(&self, event: Event) -> std::result::Result<(), Event> {
        let Event::Frame { bytes, .. } = &event else { return self.news.offer(event) };
        if let Some((&STAMPED, rest)) = bytes.split_first() {
            let sent = rest.first_chunk().map_or(0, |stamp| u64::from_be_bytes(*stamp));
            let took = self.start.elapsed().saturating_sub(Duration::from_nanos(sent));
            return self.stamps.try_send(took).map_err(|_| event);
        }
        self.counted.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Passes news of links on.
struct News {
    news: SyncSender<Event>,
}

impl Inbox for News {
    fn offer(&self, event: Event) -> std::result::Result<(), Event> {
        self.news.offer(event)
    }
}

fn wait_for_link(links: &Receiver<Event>) -> Result<()> {
    while !matches!(links.recv_timeout(Duration::from_secs(5))?, Event::LinkUp { .. }) {}
    Ok(())
}

/// User and system time of this process.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The first byte of a frame that carries a time.
const STAMPED: u8 = 1;
