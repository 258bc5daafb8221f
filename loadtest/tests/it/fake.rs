//! A fleet in this process that keeps the promise, or breaks it in one chosen way.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use loadtest::error::Result;
use loadtest::farm::{Backend, Cut};
use loadtest::fleet::site::{POOL_PORTS, Site};
use loadtest::fleet::{Change, Fleet, Server};
use loadtest::http::connect_from;
use loadtest::judge::InstanceId;
use loadtest::scenario::Maker;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How a fake fleet behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// One committed choice per client.
    Honest,
    /// The last instance chooses for itself.
    Splits,
    /// Now and then a client is given another backend.
    Moves,
    /// No pins: a plain hash over whoever is alive and a member.
    Hashes,
    /// Now and then a connection is closed without an answer.
    Loses,
    /// An instance that was killed comes back without its pins and asks nobody.
    Forgets,
    /// An instance that is cut off goes on with what it knew, and says that it is ready.
    GoesOnAlone,
    /// Removed servers go on getting clients.
    IgnoresRemoval,
    /// An instance that cannot reach a backend picks another one.
    TrustsItsOwnEyes,
    /// Everybody is refused.
    RefusesAll,
}

/// Makes fake fleets of one manner.
pub struct Fakes(pub Manner);

#[async_trait]
impl Maker for Fakes {
    async fn make(&self, site: Arc<Site>, instances: u8, servers: &[Server]) -> Result<Arc<dyn Fleet>> {
        let minds: Vec<Mind> = (0..2).map(|_| Mind { members: servers.to_vec(), ..Mind::default() }).collect();
        let common = Arc::new(Mutex::new(minds));
        let instances = (0..instances)
            .map(|index| Instance {
                shared: Arc::new(Shared {
                    manner: self.0,
                    index,
                    size: instances,
                    site: site.clone(),
                    common: common.clone(),
                    own: Mutex::default(),
                    paused: watch::Sender::new(false),
                    isolated: watch::Sender::new(false),
                }),
                tasks: Mutex::default(),
            })
            .collect();
        Ok(Arc::new(FakeFleet { instances, common }))
    }
}

/// What a fleet, or an instance that has parted from it, knows of one pool.
#[derive(Clone, Debug, Default)]
struct Mind {
    members: Vec<Server>,
    drained: Vec<String>,
    pins: HashMap<IpAddr, SocketAddr>,
}

impl Mind {
    /// The pin of a client, or a new one to somebody who is not in `dead`.
    fn decide(&mut self, client: IpAddr, dead: &[SocketAddr]) -> Option<SocketAddr> {
        let member = |address: &SocketAddr| self.members.iter().any(|server| server.address == *address);
        if let Some(pin) = self.pins.get(&client).filter(|pin| member(pin) && !dead.contains(pin)) {
            return Some(*pin);
        }
        let pick = self.pick(client, dead, 0)?;
        self.pins.insert(client, pick);
        Some(pick)
    }

    /// Rendezvous: the best of the members that may take new clients.
    fn pick(&self, client: IpAddr, dead: &[SocketAddr], salt: u64) -> Option<SocketAddr> {
        let able = self.members.iter().filter(|server| {
            !dead.contains(&server.address) && !self.drained.contains(&server.name) && server.weight > 0
        });
        let score = |server: &&Server| {
            let mut hasher = DefaultHasher::new();
            (client, server.address, salt).hash(&mut hasher);
            let unit = (hasher.finish() >> 11) as f64 / (1_u64 << 53) as f64;
            f64::from(server.weight) / -unit.ln()
        };
        able.max_by(|one, other| score(one).total_cmp(&score(other))).map(|server| server.address)
    }
}

struct FakeFleet {
    instances: Vec<Instance>,
    common: Arc<Mutex<Vec<Mind>>>,
}

struct Instance {
    shared: Arc<Shared>,
    tasks: Mutex<Option<JoinSet<()>>>,
}

struct Shared {
    manner: Manner,
    index: u8,
    size: u8,
    site: Arc<Site>,
    common: Arc<Mutex<Vec<Mind>>>,
    /// What an instance that has parted from the others believes.
    own: Mutex<Option<Vec<Mind>>>,
    paused: watch::Sender<bool>,
    isolated: watch::Sender<bool>,
}

impl Shared {
    fn address(&self) -> IpAddr {
        self.site.instance(InstanceId(self.index))
    }

    fn decide(&self, pool: usize, client: IpAddr, dead: &[SocketAddr], chance: u64) -> Option<SocketAddr> {
        if let Some(minds) = self.own.lock().unwrap().as_mut() {
            return minds[pool].decide(client, dead);
        }
        let mut common = self.common.lock().unwrap();
        let mind = &mut common[pool];
        match self.manner {
            Manner::Splits if self.index + 1 == self.size => mind.pick(client, dead, 1),
            Manner::Moves if chance.is_multiple_of(50) => {
                let pick = mind.pick(client, dead, chance);
                mind.pins.extend(pick.map(|pick| (client, pick)));
                pick
            }
            Manner::Hashes => mind.pick(client, dead, 0),
            _ => mind.decide(client, dead),
        }
    }

    /// Carries one connection to the backend of its client.
    async fn serve(&self, pool: usize, mut near: TcpStream, client: IpAddr, chance: u64) {
        self.paused.subscribe().wait_for(|paused| !paused).await.unwrap();
        let alone = self.manner == Manner::GoesOnAlone;
        if self.manner == Manner::RefusesAll
            || *self.isolated.borrow() && !alone
            || self.manner == Manner::Loses && chance.is_multiple_of(20)
        {
            return;
        }
        let mut question = vec![0; 2048];
        let Ok(count) = near.read(&mut question).await else { return };
        let mut dead = Vec::new();
        for _ in 0..TRIES {
            let Some(backend) = self.decide(pool, client, &dead, chance) else { return };
            match self.ask_backend(backend, &question[..count]).await {
                Ok(answer) => {
                    // The client may be gone by now, which is its own affair.
                    near.write_all(&answer).await.ok();
                    return;
                }
                // Slow is not dead: only a backend that refuses has its clients taken away.
                Err(error)
                    if error.kind() == std::io::ErrorKind::TimedOut && self.manner != Manner::TrustsItsOwnEyes =>
                {
                    return;
                }
                Err(_) => dead.push(backend),
            }
        }
    }

    /// Asks from the instance's own address, and by way of the others where that one cannot reach it.
    async fn ask_backend(&self, backend: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut failure = std::io::Error::from(std::io::ErrorKind::TimedOut);
        for offset in 0..self.size {
            let source = self.site.instance(InstanceId((self.index + offset) % self.size));
            let IpAddr::V4(source) = source else { unreachable!("sites are IPv4") };
            match tokio::time::timeout(REACH, exchange(source, backend, question)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => return Err(error),
                Err(_) if self.manner == Manner::TrustsItsOwnEyes => break,
                Err(_) => failure = std::io::ErrorKind::TimedOut.into(),
            }
        }
        Err(failure)
    }
}

async fn exchange(source: Ipv4Addr, backend: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut far = connect_from(source, backend).await?;
    far.write_all(question).await?;
    let mut answer = vec![0; 4096];
    match far.read(&mut answer).await? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        count => {
            answer.truncate(count);
            Ok(answer)
        }
    }
}

#[async_trait]
impl Fleet for FakeFleet {
    fn product(&self) -> &'static str {
        "fake"
    }

    fn size(&self) -> usize {
        self.instances.len()
    }

    fn label(&self, instance: InstanceId) -> String {
        format!("i{}", instance.0)
    }

    fn entrance(&self, instance: InstanceId, pool: usize) -> SocketAddr {
        (self.at(instance).shared.address(), POOL_PORTS[pool]).into()
    }

    fn is_anycast(&self) -> bool {
        false
    }

    fn instance_at(&self, source: IpAddr) -> Option<InstanceId> {
        let index = self.instances.iter().position(|instance| instance.shared.address() == source)?;
        Some(InstanceId(index as u8))
    }

    async fn start(&self, instance: InstanceId) -> Result<()> {
        let it = self.at(instance);
        it.shared.paused.send_replace(false);
        let mut tasks = JoinSet::new();
        for (pool, port) in POOL_PORTS.into_iter().enumerate() {
            let listener = listen((it.shared.address(), port).into());
            tasks.spawn(accept(it.shared.clone(), pool, listener));
        }
        *it.tasks.lock().unwrap() = Some(tasks);
        Ok(())
    }

    async fn obituary(&self, _instance: InstanceId) -> Option<String> {
        None
    }

    async fn is_ready(&self, instance: InstanceId) -> bool {
        let it = self.at(instance);
        let shut = *it.shared.isolated.borrow() && it.shared.manner != Manner::GoesOnAlone;
        it.tasks.lock().unwrap().is_some() && !*it.shared.paused.borrow() && !shut
    }

    async fn is_announced(&self, _instance: InstanceId) -> bool {
        true
    }

    async fn kill(&self, instance: InstanceId) -> Result<()> {
        let it = self.at(instance);
        let tasks = it.tasks.lock().unwrap().take();
        if let Some(mut tasks) = tasks {
            tasks.shutdown().await;
        }
        if it.shared.manner == Manner::Forgets {
            let mut minds = it.shared.common.lock().unwrap().clone();
            for mind in &mut minds {
                mind.pins.clear();
                mind.members.rotate_left(1);
                let addresses: Vec<SocketAddr> = mind.members.iter().map(|server| server.address).collect();
                mind.drained = mind.members.iter().map(|server| server.name.clone()).take(1).collect();
                assert!(addresses.len() > 1);
            }
            *it.shared.own.lock().unwrap() = Some(minds);
        }
        Ok(())
    }

    async fn terminate(&self, instance: InstanceId) -> Result<()> {
        self.kill(instance).await
    }

    async fn pause(&self, instance: InstanceId) -> Result<()> {
        self.at(instance).shared.paused.send_replace(true);
        Ok(())
    }

    async fn resume(&self, instance: InstanceId) -> Result<()> {
        self.at(instance).shared.paused.send_replace(false);
        Ok(())
    }

    async fn leader(&self) -> Result<Option<InstanceId>> {
        for index in 0..self.instances.len() {
            let instance = InstanceId(index as u8);
            if self.is_ready(instance).await {
                return Ok(Some(instance));
            }
        }
        Ok(None)
    }

    async fn isolate(&self, instance: InstanceId) -> Result<()> {
        let shared = &self.at(instance).shared;
        shared.isolated.send_replace(true);
        if shared.manner == Manner::GoesOnAlone {
            *shared.own.lock().unwrap() = Some(self.common.lock().unwrap().clone());
        }
        Ok(())
    }

    async fn rejoin(&self, instance: InstanceId) -> Result<()> {
        let shared = &self.at(instance).shared;
        shared.isolated.send_replace(false);
        *shared.own.lock().unwrap() = None;
        Ok(())
    }

    async fn skew(&self, instance: InstanceId, backend: &Backend, cut: Option<Cut>) -> Result<()> {
        match cut {
            Some(cut) => backend.cut(self.at(instance).shared.address(), cut).await,
            None => backend.heal().await,
        }
    }

    async fn change(&self, pool: usize, change: &Change, _via: &[InstanceId]) -> Result<()> {
        let manner = self.instances[0].shared.manner;
        let mind = &mut self.common.lock().unwrap()[pool];
        match change {
            Change::Add(server) => mind.members.push(server.clone()),
            Change::Remove(_) if manner == Manner::IgnoresRemoval => {}
            Change::Remove(name) => mind.members.retain(|server| server.name != *name),
            Change::Drain(name) => mind.drained.push(name.clone()),
            Change::Enable(name) => mind.drained.retain(|drained| drained != name),
        }
        Ok(())
    }

    fn knows_isolation(&self) -> bool {
        true
    }

    async fn stop(&self) {
        for instance in &self.instances {
            let tasks = instance.tasks.lock().unwrap().take();
            drop(tasks);
        }
    }

    fn logs(&self) -> Option<PathBuf> {
        None
    }
}

impl FakeFleet {
    fn at(&self, instance: InstanceId) -> &Instance {
        &self.instances[usize::from(instance.0)]
    }
}

async fn accept(shared: Arc<Shared>, pool: usize, listener: TcpListener) {
    let mut connections = JoinSet::new();
    let mut chance = u64::from(shared.index) * 17;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, peer) = accepted.unwrap();
                chance += 1;
                let shared = shared.clone();
                connections.spawn(async move { shared.serve(pool, stream, peer.ip(), chance).await });
            }
            Some(served) = connections.join_next(), if !connections.is_empty() => served.unwrap(),
        }
    }
}

fn listen(address: SocketAddr) -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(1024).unwrap();
    TcpListener::from_std(socket.into()).unwrap()
}

const TRIES: usize = 4;
const REACH: Duration = Duration::from_millis(700);
