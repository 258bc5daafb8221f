//! Health checks against real listeners on loopback; every test has an address of its own.

use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};

use flow::{Balance, Bind, Commit, OnIsolation, Protocol, ServerSpec, ServerState};
use tokio::net::TcpListener;

use super::*;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

struct Fixture {
    runtime: tokio::runtime::Runtime,
    pools: watch::Sender<Arc<Vec<PoolSpec>>>,
    inputs: Receiver<Input>,
    health: Health,
}

impl Fixture {
    /// Checks from `own`, of no pool yet.
    fn start(own: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (pools, receiver) = watch::channel(Arc::new(Vec::new()));
        let (sender, inputs) = sync_channel(64);
        let health = Health::start(runtime.handle(), own.parse().unwrap(), receiver, sender);
        Self { runtime, pools, inputs, health }
    }

    /// A backend that takes every connection, and counts them.
    fn backend(&self) -> (SocketAddr, Arc<AtomicU64>) {
        let listener = self.runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let (address, taken) = (listener.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
        let count = Arc::clone(&taken);
        self.runtime.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                // Until the check closes: whoever closes first is seen in the table of sockets.
                tokio::spawn(async move { stream.read(&mut [0]).await });
            }
        });
        (address, taken)
    }

    fn follow(&self, pools: Vec<PoolSpec>) {
        self.pools.send_replace(Arc::new(pools));
    }

    fn next_view(&self) -> View {
        loop {
            match self.inputs.recv_timeout(PATIENCE) {
                Ok(Input::View(_, view)) => return view,
                Ok(_) => {}
                Err(error) => panic!("no view: {error}"),
            }
        }
    }
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come true");
        std::thread::sleep(Duration::from_millis(2)); // between two looks
    }
}

fn pool(address: SocketAddr) -> PoolSpec {
    let state = ServerState::Enabled;
    PoolSpec {
        name: "p".to_owned(),
        bind: Bind::Own(1),
        protocol: Protocol::Tcp,
        balance: Balance::SourceHash,
        commit: Commit::FirstContact,
        pin_ttl_ms: 1_800_000,
        on_isolation: OnIsolation::Refuse,
        decide_timeout_ms: 1_000,
        retry_for_ms: 1_000,
        connect_timeout_ms: 1_000,
        idle_timeout_ms: 60_000,
        max_connections: 1_000,
        send_proxy: false,
        transparent: false,
        health: HealthSpec { kind: HealthKind::Tcp, interval_ms: 50, timeout_ms: 10_000, rise: 2, fall: 2 },
        servers: vec![ServerSpec {
            name: "s".to_owned(),
            address: address.ip(),
            port: address.port(),
            weight: 100,
            state,
        }],
    }
}

/// The sockets of `own` in TIME_WAIT (state 06 of `/proc/net/tcp`).
fn lingering(own: [u8; 4]) -> usize {
    let prefix = format!("{:08X}:", u32::from_ne_bytes(own));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let of_own = |line: &&str| {
        let mut fields = line.split_whitespace();
        fields.nth(1).is_some_and(|local| local.starts_with(&prefix)) && fields.nth(1) == Some("06")
    };
    table.lines().filter(of_own).count()
}

#[test]
fn checks_leave_no_port_behind() {
    // An address of this process alone: what earlier ones broke off may linger for a minute.
    let [.., high, low] = std::process::id().to_be_bytes();
    let own = [127, 61, high, low];
    let fixture = Fixture::start(&std::net::Ipv4Addr::from(own).to_string());
    let (address, taken) = fixture.backend();
    fixture.follow(vec![pool(address)]);
    assert_eq!(fixture.next_view(), View::Up);
    until("ten checks", || taken.load(Ordering::Relaxed) >= 10);
    assert_eq!(lingering(own), 0);
    assert_eq!(fixture.health.not_made(), 0);
}

#[test]
fn a_check_that_could_not_be_made_is_no_failed_check() {
    // An address that this machine does not have: every bind fails, whatever the backend is.
    let fixture = Fixture::start("192.0.2.1");
    let (address, taken) = fixture.backend();
    fixture.follow(vec![pool(address)]);
    until("five checks that fall away", || fixture.health.not_made() >= 5);
    assert!(matches!(fixture.inputs.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Timeout)), "nothing was seen");
    assert_eq!(taken.load(Ordering::Relaxed), 0);
}

/// A client that a server turns away, or has no way back to, is no word about the server.
#[test]
fn a_failed_connect_from_a_clients_address_asks_for_a_check_and_is_no_vote() {
    let fixture = Fixture::start("127.62.0.3");
    let (address, taken) = fixture.backend();
    let mut spec = pool(address);
    spec.health.interval_ms = 3_600_000;
    let id = identity(&spec, &spec.servers[0]);
    fixture.follow(vec![spec.clone()]);
    assert_eq!(fixture.next_view(), View::Up);
    fixture.health.connect_failed(id);
    assert_eq!(fixture.next_view(), View::Down);

    spec.transparent = true;
    spec.name = "q".to_owned();
    let id = identity(&spec, &spec.servers[0]);
    fixture.follow(vec![spec]);
    // The one that went, and the one that came.
    assert_eq!((fixture.next_view(), fixture.next_view()), (View::Unknown, View::Up));
    let looks = taken.load(Ordering::Relaxed);
    fixture.health.connect_failed(id);
    until("a check", || taken.load(Ordering::Relaxed) > looks);
    assert!(matches!(fixture.inputs.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Timeout)), "it is still up");
}

#[test]
fn a_server_that_is_removed_and_added_again_is_unknown_in_between() {
    let fixture = Fixture::start("127.62.0.2");
    let (address, _) = fixture.backend();
    fixture.follow(vec![pool(address)]);
    assert_eq!(fixture.next_view(), View::Up);
    fixture.follow(Vec::new());
    assert_eq!(fixture.next_view(), View::Unknown);
    fixture.follow(vec![pool(address)]);
    assert_eq!(fixture.next_view(), View::Up);
}
