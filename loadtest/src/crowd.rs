//! The crowd: clients, each with a source address of its own, that ask all instances at the same moment, again and again.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::{JoinError, JoinSet};

use crate::ask::{self, Door, Reply};
use crate::chance::Chance;
use crate::farm::Farm;
use crate::fleet::{Fleet, POOLS};
use crate::judge::{Ask, BackendId, ClientId, InstanceId, Judge, Outage, Outcome};
use crate::moment::{Clock, Moment};

/// How the crowd behaves.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// So many clients come back again and again.
    pub clients: u32,
    /// Visits per second, when the machine can.
    pub visits_per_second: u32,
    /// So many percent of the visits are made by clients that were never there; each sends an old one home.
    pub fresh_percent: u32,
    /// Connections a client opens to each instance at its first visit, as browsers do; later visits open one.
    pub first_connections: usize,
    /// Chance follows from it.
    pub seed: u64,
}

/// Everything a visit needs: whom to ask, whom to tell.
pub struct Ground {
    /// The fleet under test.
    pub fleet: Arc<dyn Fleet>,
    /// The backends.
    pub farm: Arc<Farm>,
    /// The clock of the run.
    pub clock: Clock,
    judge: Mutex<Judge>,
    landings: Mutex<HashMap<(usize, BackendId), Moment>>,
    next_client: AtomicU32,
    first_client: Ipv4Addr,
    address_offset: u32,
    own_faults: Mutex<Vec<io::Error>>,
}

impl Ground {
    /// A ground on which nothing happened yet.
    pub fn new(fleet: Arc<dyn Fleet>, farm: Arc<Farm>, first_client: Ipv4Addr, clock: Clock, seed: u64) -> Arc<Ground> {
        let mut judge = Judge::default();
        judge.timeline.instances = fleet.size();
        Arc::new(Ground {
            fleet,
            farm,
            clock,
            judge: Mutex::new(judge),
            landings: Mutex::default(),
            next_client: AtomicU32::new(0),
            first_client,
            address_offset: Chance::new(seed).below(CLIENT_ADDRESSES),
            own_faults: Mutex::default(),
        })
    }

    /// The judge, for a moment.
    pub fn judge(&self) -> MutexGuard<'_, Judge> {
        self.judge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client that was never there.
    pub fn fresh_client(&self) -> ClientId {
        ClientId(self.next_client.fetch_add(1, Ordering::Relaxed))
    }

    /// The source address of a client.
    pub fn address(&self, client: ClientId) -> Ipv4Addr {
        let index = client.0.wrapping_add(self.address_offset) % CLIENT_ADDRESSES;
        Ipv4Addr::from(u32::from(self.first_client) + index)
    }

    /// The latest start of an ask with which a fresh client came to this backend.
    pub fn landed(&self, pool: usize, backend: BackendId) -> Option<Moment> {
        let landings = self.landings.lock().unwrap_or_else(PoisonError::into_inner);
        landings.get(&(pool, backend)).copied()
    }

    /// What the judge itself failed at: no sockets, no addresses. Each such ask was not counted.
    pub fn own_faults(&self) -> Vec<String> {
        let faults = self.own_faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.iter().map(ToString::to_string).collect()
    }

    /// One visit: the client asks each of `instances` at the same moment, `connections` times each; behind a VIP it opens as
    /// many connections to that, and which of them leads to which instance is the network's choice. The judge is told; returned
    /// are the asks.
    pub async fn visit(&self, client: ClientId, instances: &[InstanceId], connections: usize) -> Vec<Ask> {
        let pool = pool_of(client);
        let fresh = self.judge().is_new(client);
        let questions = instances.iter().flat_map(|instance| std::iter::repeat_n(*instance, connections));
        let asks = join_all(questions.map(|instance| self.ask(client, instance, pool))).await;
        let asks: Vec<Ask> = asks.into_iter().flatten().collect();
        if fresh {
            let mut landings = self.landings.lock().unwrap_or_else(PoisonError::into_inner);
            for ask in &asks {
                if let Outcome::Answered(backend) = ask.outcome {
                    let latest = landings.entry((pool, backend)).or_default();
                    *latest = (*latest).max(ask.start);
                }
            }
        }
        self.judge().visit(client, pool as u8, &asks);
        asks
    }

    async fn ask(&self, client: ClientId, mut instance: InstanceId, pool: usize) -> Option<Ask> {
        let door = POOLS.get(pool).map_or(Door::Tcp, |pool| pool.door);
        let entrance = self.fleet.entrance(instance, pool);
        let anywhere = self.fleet.is_anycast();
        if anywhere {
            instance = InstanceId::ANY;
        }
        let start = self.clock.now();
        let reply = ask::ask(self.address(client), entrance, door, ASK_DEADLINE).await;
        let end = self.clock.now();
        let outcome = match reply {
            Ok(Reply::Name(name, from)) => {
                if anywhere {
                    instance = from.and_then(|from| self.fleet.instance_at(from)).unwrap_or(instance);
                }
                self.farm.id(&name).map_or(Outcome::Garbled, Outcome::Answered)
            }
            Ok(Reply::Refused) => Outcome::Refused,
            Ok(Reply::Silent) => Outcome::Silent,
            Ok(Reply::Garbled) => Outcome::Garbled,
            Err(error) => {
                let mut faults = self.own_faults.lock().unwrap_or_else(PoisonError::into_inner);
                if faults.len() < OWN_FAULTS_KEPT {
                    faults.push(error);
                }
                return None;
            }
        };
        Some(Ask { instance, start, end, outcome })
    }

    /// The instances that the judge has not taken down. One that is cut off from its peers is still among them.
    pub fn reachable(&self) -> Vec<InstanceId> {
        let now = self.clock.now();
        let judge = self.judge();
        let down = |instance: &InstanceId| judge.timeline.outage(*instance, now, now) == Some(Outage::Down);
        self.instances().into_iter().filter(|instance| !down(instance)).collect()
    }

    /// Every instance of the fleet.
    pub fn instances(&self) -> Vec<InstanceId> {
        (0..self.fleet.size()).map(|index| InstanceId(index as u8)).collect()
    }
}

/// Keeps clients coming until `stop` resolves, then waits for those on their way.
pub async fn run(ground: Arc<Ground>, habits: Habits, stop: impl Future<Output = ()>) {
    let mut chance = Chance::new(habits.seed);
    let mut at_home: VecDeque<ClientId> = VecDeque::new();
    let mut on_the_way: JoinSet<ClientId> = JoinSet::new();
    let mut pace = tokio::time::interval(TICK);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut owed = 0.0;
    let mut last = ground.clock.now();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            _ = pace.tick() => {}
        }
        while let Some(back) = on_the_way.try_join_next() {
            at_home.push_back(home(back));
        }
        let now = ground.clock.now();
        let due = now.since(last).as_secs_f64() * f64::from(habits.visits_per_second);
        // What could not be done in time is dropped rather than done in a burst.
        owed = (owed + due).min(f64::from(habits.visits_per_second) * BURST_SECONDS_MAX);
        last = now;
        while owed >= 1.0 && on_the_way.len() < VISITS_IN_FLIGHT_MAX {
            owed -= 1.0;
            let known = at_home.len() + on_the_way.len();
            let crowd_is_whole = known >= habits.clients as usize;
            let fresh = !crowd_is_whole || chance.percent(habits.fresh_percent);
            let (client, connections) = if fresh {
                if crowd_is_whole && let Some(old) = at_home.pop_front() {
                    ground.judge().forget(old);
                }
                (ground.fresh_client(), habits.first_connections)
            } else {
                match at_home.pop_front() {
                    Some(client) => (client, 1),
                    None => break,
                }
            };
            let ground = ground.clone();
            on_the_way.spawn(async move {
                let asked = if client.0 % STUBBORN == 0 { ground.instances() } else { ground.reachable() };
                ground.visit(client, &asked, connections).await;
                client
            });
        }
    }
    while let Some(back) = on_the_way.join_next().await {
        home(back);
    }
}

/// The client that came back; a panic on the way is a panic here.
fn home(back: Result<ClientId, JoinError>) -> ClientId {
    match back.map_err(JoinError::into_panic) {
        Ok(client) => client,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The number of a client's pool: every third one asks over HTTP.
pub fn pool_of(client: ClientId) -> usize {
    usize::from(client.0 % 3 == 2)
}

/// An ask that takes longer is lost.
pub const ASK_DEADLINE: Duration = Duration::from_secs(3);
const TICK: Duration = Duration::from_millis(4);
const BURST_SECONDS_MAX: f64 = 0.1;
/// Each visit holds a socket per instance here and as many at the farm.
const VISITS_IN_FLIGHT_MAX: usize = 2_000;
const CLIENT_ADDRESSES: u32 = 1 << 22;
/// One client of so many goes on asking an instance that is down, as if it had not heard that the address was withdrawn:
/// it shows what an instance answers when it wakes up. The others leave it alone, so that waiting for it does not idle them.
const STUBBORN: u32 = 8;
const OWN_FAULTS_KEPT: usize = 5;
