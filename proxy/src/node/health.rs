//! Health checks of this instance: probes every backend, counts rise and fall, and votes.
//!
//! One task owns all counters; probes are tasks of their own that end within their timeout. An unknown backend is
//! probed quickly, so that a fleet that starts does not wait out its intervals. A check that this instance could not
//! make, for want of ports or descriptors, says nothing of the backend: it is counted, and made again.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{SyncSender, TrySendError},
    },
    time::Duration,
};

use flow::{BackendId, HealthCounter, HealthKind, HealthSpec, PoolSpec, View, control::identity};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Handle,
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tracing::{debug, info, warn};

use super::input::Input;
use crate::traffic::socket::{self, Blame, Source};

/// Asks the health task for more than its rhythm. Cheap to clone.
#[derive(Clone)]
pub struct Health {
    requests: mpsc::Sender<Request>,
    not_made: Arc<AtomicU64>,
}

#[derive(Clone, Copy, Debug)]
enum Request {
    ProbeNow(BackendId),
    ConnectFailed(BackendId),
}

impl Health {
    /// Starts the task.
    pub fn start(
        runtime: &Handle,
        own: IpAddr,
        pools: watch::Receiver<Arc<Vec<PoolSpec>>>,
        inputs: SyncSender<Input>,
    ) -> Self {
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        let (results, results_receiver) = mpsc::channel(REQUESTS_MAX);
        let not_made = Arc::new(AtomicU64::new(0));
        let task = Task {
            own,
            inputs,
            backends: HashMap::new(),
            lives: 0,
            untold: BTreeMap::new(),
            results,
            not_made: Arc::clone(&not_made),
            warned: None,
        };
        runtime.spawn(task.run(pools, receiver, results_receiver));
        Self { requests, not_made }
    }

    /// How many checks this instance could not make, for want of ports, descriptors or memory.
    pub fn not_made(&self) -> u64 {
        self.not_made.load(Ordering::Relaxed)
    }

    /// Looks at a backend at once.
    pub fn probe_now(&self, backend: BackendId) {
        // Full: so many are being looked at that this one's turn comes with them.
        self.requests.try_send(Request::ProbeNow(backend)).ok();
    }

    /// A connect of the data path failed: that counts as a failed check that needs no second one. In a transparent pool it
    /// asks for a check at once: the connect came from a client's address, and a server that a client is not to reach, or
    /// has no way back to, is well for all others.
    pub fn connect_failed(&self, backend: BackendId) {
        self.requests.try_send(Request::ConnectFailed(backend)).ok();
    }
}

struct Task {
    own: IpAddr,
    inputs: SyncSender<Input>,
    backends: HashMap<BackendId, Backend>,
    /// How many backends were ever followed.
    lives: u64,
    /// Views that the replica has yet to hear of, the newest of each backend: its queue may be full for a moment.
    untold: BTreeMap<BackendId, View>,
    results: mpsc::Sender<Probed>,
    not_made: Arc<AtomicU64>,
    /// When it was last said that a check could not be made.
    warned: Option<Instant>,
}

/// What came of a probe.
struct Probed {
    backend: BackendId,
    life: u64,
    urgent: bool,
    seen: Seen,
}

enum Seen {
    Good,
    Bad,
    /// This instance could not look.
    Nothing(std::io::Error),
}

struct Backend {
    /// Whether connects of the data path come from clients' addresses.
    transparent: bool,
    /// Tells it from an earlier one of the same identity, whose probes may still be on their way.
    life: u64,
    name: String,
    address: SocketAddr,
    spec: HealthSpec,
    counter: HealthCounter,
    next: Instant,
    /// Probes on their way.
    probing: bool,
    urgent: bool,
}

impl Task {
    async fn run(
        mut self,
        mut pools: watch::Receiver<Arc<Vec<PoolSpec>>>,
        mut requests: mpsc::Receiver<Request>,
        mut results: mpsc::Receiver<Probed>,
    ) {
        self.follow(&pools.borrow_and_update().clone());
        loop {
            let next = self.backends.values().filter(|backend| !backend.probing).map(|backend| backend.next).min();
            let next = next.unwrap_or_else(|| Instant::now() + IDLE);
            let next = if self.untold.is_empty() { next } else { next.min(Instant::now() + TELL_AGAIN) };
            tokio::select! {
                changed = pools.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let pools = pools.borrow_and_update().clone();
                    self.follow(&pools);
                }
                request = requests.recv() => match request {
                    Some(Request::ProbeNow(id)) => self.probe(id, true),
                    Some(Request::ConnectFailed(id)) => self.failed(id),
                    None => return,
                },
                Some(probed) = results.recv() => self.result(probed),
                () = sleep_until(next) => {
                    let now = Instant::now();
                    let due: Vec<BackendId> = self.backends.iter()
                        .filter(|(_, backend)| !backend.probing && backend.next <= now)
                        .map(|(id, _)| *id)
                        .collect();
                    for id in due {
                        self.probe(id, false);
                    }
                    self.tell();
                }
            }
        }
    }

    /// Keeps a counter for each member backend.
    fn follow(&mut self, pools: &[PoolSpec]) {
        let mut members = HashMap::new();
        for pool in pools {
            for server in &pool.servers {
                members.insert(identity(pool, server), (pool, server));
            }
        }
        // What was seen of one that is gone is no vote for it, should it come back.
        let gone = self.backends.keys().filter(|id| !members.contains_key(id)).copied();
        self.untold.extend(gone.map(|id| (id, View::Unknown)).collect::<Vec<_>>());
        self.backends.retain(|id, backend| members.get(id).is_some_and(|(pool, _)| pool.health == backend.spec));
        // One that came and went between two looks is said again: the replica has forgotten it meanwhile.
        let kept = self.backends.iter().map(|(id, backend)| (*id, backend.counter.view()));
        self.untold.extend(kept.filter(|(_, view)| *view != View::Unknown));
        for (id, (pool, server)) in members {
            let backend = self.backends.entry(id).or_insert_with(|| {
                self.lives += 1;
                Backend {
                    transparent: pool.transparent,
                    life: self.lives,
                    name: format!("{}/{}", pool.name, server.name),
                    address: server.socket_address(),
                    counter: HealthCounter::new(pool.health.rise, pool.health.fall),
                    spec: pool.health.clone(),
                    next: Instant::now(),
                    probing: false,
                    urgent: false,
                }
            });
            backend.transparent = pool.transparent;
        }
        self.tell();
    }

    fn probe(&mut self, id: BackendId, urgent: bool) {
        let Some(backend) = self.backends.get_mut(&id) else { return };
        if urgent {
            if backend.urgent {
                return;
            }
            backend.urgent = true;
        } else {
            backend.probing = true;
        }
        let (own, address, spec, life) = (self.own, backend.address, backend.spec.clone(), backend.life);
        let results = self.results.clone();
        tokio::spawn(async move {
            let seen = look(own, address, &spec).await;
            // The task is gone only at the end.
            results.send(Probed { backend: id, life, urgent, seen }).await.ok();
        });
    }

    fn result(&mut self, probed: Probed) {
        let Probed { backend: id, life, urgent, seen } = probed;
        let Some(backend) = self.backends.get_mut(&id).filter(|backend| backend.life == life) else { return };
        let change = match seen {
            Seen::Good => backend.counter.observe(true),
            Seen::Bad if urgent => backend.counter.fail_now(),
            Seen::Bad => backend.counter.observe(false),
            Seen::Nothing(error) => {
                self.not_made.fetch_add(1, Ordering::Relaxed);
                if self.warned.is_none_or(|warned| warned.elapsed() >= NOT_MADE_WARNING) {
                    self.warned = Some(Instant::now());
                    warn!(
                        backend = backend.name,
                        %error,
                        "a health check could not be made: this instance lacks ports, descriptors or its own address"
                    );
                }
                None
            }
        };
        if urgent {
            backend.urgent = false;
        } else {
            backend.probing = false;
            let interval = Duration::from_millis(backend.spec.interval_ms);
            let unsure = backend.counter.view() == View::Unknown;
            backend.next = Instant::now() + if unsure { interval.min(UNSURE_INTERVAL) } else { interval };
        }
        self.say(id, change);
    }

    fn failed(&mut self, id: BackendId) {
        match self.backends.get_mut(&id) {
            Some(backend) if backend.transparent => self.probe(id, true),
            Some(backend) => {
                let change = backend.counter.fail_now();
                self.say(id, change);
            }
            None => {}
        }
    }

    fn say(&mut self, id: BackendId, change: Option<View>) {
        let Some(view) = change else { return };
        let Some(backend) = self.backends.get(&id) else { return };
        info!(backend = backend.name, address = %backend.address, ?view, "this instance's view of a backend changed");
        self.untold.insert(id, view);
        self.tell();
    }

    /// Tells the replica what it has not heard yet. Nothing is lost and nothing overtaken: a view that arrived after a
    /// newer one would be this instance's vote until the next change.
    fn tell(&mut self) {
        while let Some((id, view)) = self.untold.pop_first() {
            match self.inputs.try_send(Input::View(id, view)) {
                // The replica thread is gone only at the end.
                Ok(()) | Err(TrySendError::Disconnected(_)) => {}
                Err(TrySendError::Full(_)) => {
                    self.untold.insert(id, view);
                    return;
                }
            }
        }
    }
}

/// One look at a backend, within its timeout.
async fn look(own: IpAddr, address: SocketAddr, spec: &HealthSpec) -> Seen {
    let limit = Duration::from_millis(spec.timeout_ms);
    match timeout(limit, check(own, address, limit, &spec.kind)).await {
        Ok(Ok(())) => Seen::Good,
        Ok(Err(error)) if socket::blame(&error) == Blame::Us => Seen::Nothing(error),
        Ok(Err(_)) | Err(_) => Seen::Bad,
    }
}

/// One check, from the instance's own address.
async fn check(own: IpAddr, address: SocketAddr, limit: Duration, kind: &HealthKind) -> std::io::Result<()> {
    let mut stream = socket::connect(Source::Own(own), address, limit).await?;
    // Whoever closes first keeps the port for a minute, and hundreds of checks a second would use all of them up.
    socket::reset_on_close(&stream);
    match kind {
        HealthKind::Tcp => Ok(()),
        HealthKind::Http { path, expect } => {
            let status = ask(&mut stream, address, path).await?;
            if expect.iter().any(|(low, high)| (*low..=*high).contains(&status)) {
                Ok(())
            } else {
                debug!(%address, status, "a health check got an unexpected status");
                Err(std::io::Error::other("unexpected status"))
            }
        }
    }
}

/// `GET path`; the status of the answer.
async fn ask(stream: &mut TcpStream, address: SocketAddr, path: &str) -> std::io::Result<u16> {
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: rocinante-check\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    let mut buffer = [0; 512];
    while head.len() < STATUS_LINE_BYTES {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            break;
        }
        head.extend_from_slice(buffer.get(..count).unwrap_or_default());
    }
    // "HTTP/1.1 200"
    let status = head.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|text| text.parse().ok());
    match status {
        Some(status) if head.starts_with(b"HTTP/1.") => Ok(status),
        _ => Err(std::io::Error::other("not an HTTP answer")),
    }
}

/// Most requests and results that wait for the task.
const REQUESTS_MAX: usize = 4096;

/// How often a backend is checked that nothing is known of yet, unless its interval is shorter.
const UNSURE_INTERVAL: Duration = Duration::from_millis(100);

const IDLE: Duration = Duration::from_secs(1);

/// When a view is told again that the replica's full queue did not take.
const TELL_AGAIN: Duration = Duration::from_millis(10);

/// The start of an answer that is enough to read its status.
const STATUS_LINE_BYTES: usize = 12;

/// How often it is said that checks cannot be made, at most.
const NOT_MADE_WARNING: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
