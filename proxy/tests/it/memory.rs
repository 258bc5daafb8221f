//! A fleet of one that lives in memory: a [`Control`] to test the servers and the command line against.

pub mod flows;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use flow::{
    BackendId, Balance, Bind, Commit, Detector, Epoch, HealthKind, HealthSpec, Incarnation, InstanceId, MemberAddress,
    OnIsolation, PoolSpec, Protocol, Request, Revision, ServerChange, ServerSpec, ServerState, SessionId, Tuning, View,
    flows::{FlowCommand, FlowOutcome, FlowRecord, Observed},
};
use proxy::control::{
    Applied, BackupWriter, Configured, Consistency, Control, ControlError, Event, EventKind, Fresh, GroupStatus,
    KvItem, KvPage, KvQuery, LogEntry, LogRange, LogSize, Member, Pin, PinPage, PinState, PoolStatus, PoolsView,
    Readiness, Result, Role, ServerStatus, Standing, Status, TableStatus, Terms, VipBind, VipStatus, Vote,
    flows::{FlowBackend, FlowTables},
};
use tokio::sync::watch;

use flows::Flows;

/// Instance `a` of a fleet in memory; clones share it.
#[derive(Clone)]
pub struct MemoryControl {
    state: Arc<Mutex<State>>,
}

struct State {
    entries: Vec<LogEntry>,
    epoch: u64,
    kv: BTreeMap<String, (Bytes, u64)>,
    sessions: BTreeMap<u64, BTreeMap<u64, Result<Applied>>>,
    pools: Vec<PoolSpec>,
    pins: BTreeMap<(String, IpAddr), Pin>,
    members: Vec<Member>,
    leader: String,
    not_ready: Vec<String>,
    vip: Option<VipStatus>,
    failure: Option<ControlError>,
    failed: usize,
    silent: bool,
    unanswered: usize,
    linearizable_reads: u64,
    events: Vec<Event>,
    tuning: Option<Tuning>,
    flows: Flows,
    has_flows: bool,
    /// What comes before the next annotations.
    disturbances: Vec<Observed>,
}

impl MemoryControl {
    /// The pool `web` with servers `s1` and `s2`, members `a` and `b`, and 250 pins.
    pub fn new() -> Self {
        let mut state = State {
            entries: Vec::new(),
            epoch: 1,
            kv: BTreeMap::new(),
            sessions: BTreeMap::new(),
            pools: vec![pool("web", 9001)],
            pins: BTreeMap::new(),
            members: vec![member("a", 1, true), member("b", 2, true)],
            leader: "a".into(),
            not_ready: Vec::new(),
            vip: None,
            failure: None,
            failed: 0,
            silent: false,
            unanswered: 0,
            linearizable_reads: 0,
            events: Vec::new(),
            tuning: None,
            flows: Flows::new(),
            has_flows: true,
            disturbances: Vec::new(),
        };
        state.commit("members", "a b");
        for n in 0..250_u8 {
            let client = IpAddr::from([127, 64, 0, n]);
            state.pins.insert(("web".into(), client), pin(client));
        }
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Every request that may fail now does, with this; `None` ends it.
    pub fn fail(&self, failure: Option<ControlError>) {
        self.state.lock().unwrap().failure = failure;
    }

    /// How many requests were told a failure.
    pub fn failed(&self) -> usize {
        self.state.lock().unwrap().failed
    }

    /// Whether the instance serves.
    pub fn not_ready(&self, reasons: &[&str]) {
        self.state.lock().unwrap().not_ready = reasons.iter().map(|reason| (*reason).into()).collect();
    }

    /// It announces VIPs, of which one is not here.
    pub fn announces(&self, wanted: bool, announced: Option<bool>, error: Option<&str>) {
        let bind = |address: &str, problem: Option<&str>| VipBind {
            address: address.parse().unwrap(),
            problem: problem.map(str::to_owned),
        };
        self.state.lock().unwrap().vip = Some(VipStatus {
            wanted,
            announced,
            since_unix_ms: 1_700_000_000_000,
            reasons: if wanted { Vec::new() } else { vec!["the instance is not ready".to_owned()] },
            error: error.map(str::to_owned),
            binds: vec![bind("192.0.2.1:80", None), bind("[2001:db8::1]:80", Some("it is on no interface"))],
        });
    }

    /// Requests that may fail are never answered from now on.
    pub fn silence(&self, silent: bool) {
        self.state.lock().unwrap().silent = silent;
    }

    /// How many requests came while [`MemoryControl::silence`] was on.
    pub fn unanswered(&self) -> usize {
        self.state.lock().unwrap().unanswered
    }

    /// How many reads asked for a quorum.
    pub fn linearizable_reads(&self) -> u64 {
        self.state.lock().unwrap().linearizable_reads
    }

    /// A sniffer of that name saw these.
    pub fn report(&self, sniffer: &str, events: &[Observed]) {
        self.state.lock().unwrap().flows.report(sniffer, events);
    }

    /// Time passes in the log of the flows.
    pub fn pass(&self, ms: u64) {
        self.state.lock().unwrap().flows.pass(ms);
    }

    /// Before each of the next annotations one of these is seen.
    pub fn disturb(&self, events: Vec<Observed>) {
        self.state.lock().unwrap().disturbances = events;
    }

    /// The fleet was born without a table of flows.
    pub fn without_flows(&self) {
        self.state.lock().unwrap().has_flows = false;
    }

    /// The pools.
    pub fn specs(&self) -> Vec<PoolSpec> {
        self.state.lock().unwrap().pools.clone()
    }

    async fn with<T>(&self, act: impl FnOnce(&mut State) -> Result<T> + Send) -> Result<T> {
        let silent = {
            let mut state = self.state.lock().unwrap();
            state.unanswered += usize::from(state.silent);
            state.silent
        };
        if silent {
            std::future::pending::<()>().await;
        }
        let mut state = self.state.lock().unwrap();
        match state.failure.clone() {
            Some(failure) => {
                state.failed += 1;
                Err(failure)
            }
            None => act(&mut state),
        }
    }

    async fn read<T>(
        &self,
        consistency: Consistency,
        act: impl FnOnce(&mut State) -> Result<T> + Send,
    ) -> Result<Fresh<T>> {
        self.with(|state| {
            state.linearizable_reads += u64::from(consistency == Consistency::Linearizable);
            Ok(Fresh { value: act(state)?, applied_index: state.last() })
        })
        .await
    }
}

impl State {
    fn last(&self) -> u64 {
        self.entries.len() as u64
    }

    fn commit(&mut self, kind: &str, text: impl Into<String>) -> Applied {
        let index = self.last() + 1;
        self.entries.push(LogEntry { group: 0, index, term: 3, kind: kind.into(), text: text.into() });
        Applied { index, epoch: Epoch(self.epoch) }
    }

    fn commit_epoch(&mut self, kind: &str, text: impl Into<String>) -> Applied {
        self.epoch += 1;
        self.commit(kind, text)
    }

    fn pool(&mut self, name: &str) -> Result<&mut PoolSpec> {
        let missing = || ControlError::NotFound(format!("there is no pool {name:?}"));
        self.pools.iter_mut().find(|pool| pool.name == name).ok_or_else(missing)
    }

    fn member(&mut self, label: &str) -> Result<&mut Member> {
        let missing = || ControlError::NotFound(format!("there is no instance {label:?}"));
        self.members.iter_mut().find(|member| member.address.label == label).ok_or_else(missing)
    }

    /// Does what a request of a session asks, unless that was done before.
    fn once(&mut self, request: Option<Request>, act: impl FnOnce(&mut Self) -> Result<Applied>) -> Result<Applied> {
        let Some(Request { session, sequence, answered_below }) = request else { return act(self) };
        let gone = || ControlError::NoSession(format!("there is no session {session}"));
        let outcomes = self.sessions.get_mut(&session.0).ok_or_else(gone)?;
        outcomes.retain(|number, _| *number >= answered_below);
        if let Some(outcome) = outcomes.get(&sequence) {
            return outcome.clone();
        }
        let outcome = act(self);
        self.sessions.entry(session.0).or_default().insert(sequence, outcome.clone());
        outcome
    }

    fn check_revision(found: u64, wanted: Option<Revision>) -> Result<()> {
        match wanted {
            Some(Revision(wanted)) if wanted != found => {
                Err(ControlError::Conflict(format!("the revision is {found}, not {wanted}")))
            }
            _ => Ok(()),
        }
    }

    fn view(&self) -> PoolsView {
        let pools = self.pools.iter().map(|spec| PoolStatus {
            spec: spec.clone(),
            pins: self.pins.keys().filter(|(pool, _)| *pool == spec.name).count() as u64,
            connections: 0,
            servers: spec.servers.iter().map(|server| self.server_view(spec, server)).collect(),
        });
        PoolsView { epoch: Epoch(self.epoch), pools: pools.collect() }
    }

    fn server_view(&self, spec: &PoolSpec, server: &ServerSpec) -> ServerStatus {
        let vote = |instance: &str, view| Vote { instance: instance.into(), view };
        ServerStatus {
            backend: spec.backend_id(server),
            verdict: View::Up,
            votes: vec![vote("a", View::Up), vote("b", View::Down)],
            pins: self.pins.values().filter(|pin| pin.server == server.name).count() as u64,
        }
    }

    fn standing(&self) -> Standing {
        let role = if self.leader == "a" { Role::Leader } else { Role::Follower };
        Standing { role, term: 3, leader: Some(self.leader.clone()) }
    }
}

impl Configured for MemoryControl {
    fn configured_tuning(&self) -> Tuning {
        Tuning { heartbeat_ms: 500, election_ms: 5_000, detector: Detector::Phi(95), spread: true, shuffle_ms: 0 }
    }
}

impl Control for MemoryControl {
    fn standing(&self) -> Standing {
        self.state.lock().unwrap().standing()
    }

    fn readiness(&self) -> Readiness {
        let state = self.state.lock().unwrap();
        Readiness { reasons: state.not_ready.clone(), vip: state.vip.clone() }
    }

    async fn status(&self) -> Status {
        let readiness = self.readiness();
        let state = self.state.lock().unwrap();
        let table = TableStatus { name: "kv".into(), rows: state.kv.len() as u64, digest: 0xfeed };
        Status {
            instance: "a".into(),
            id: Some(InstanceId(1)),
            version: "0.0.0".into(),
            fleet: "test".into(),
            fleet_id: Some(flows::FLEET),
            standing: state.standing(),
            readiness,
            groups: vec![GroupStatus {
                group: 0,
                standing: state.standing(),
                first_index: 1,
                last_index: state.last(),
                committed_index: state.last(),
                applied_index: state.last(),
                lease_ms: Some(2_500),
                tables: vec![table],
            }],
            members: state.members.clone(),
            pools: state.view(),
        }
    }

    async fn kv(&self, key: String, consistency: Consistency) -> Result<Fresh<Option<KvItem>>> {
        self.read(consistency, |state| {
            let item = state.kv.get(&key).map(|(value, revision)| (value.clone(), Revision(*revision)));
            Ok(item.map(|(value, revision)| KvItem { key, value, revision }))
        })
        .await
    }

    async fn kv_list(&self, query: KvQuery, consistency: Consistency) -> Result<Fresh<KvPage>> {
        self.read(consistency, |state| {
            let after = query.after.unwrap_or_default();
            let wanted = state.kv.iter().filter(|(key, _)| key.starts_with(&query.prefix) && **key > after);
            let mut items: Vec<KvItem> = wanted
                .map(|(key, (value, revision))| KvItem {
                    key: key.clone(),
                    value: value.clone(),
                    revision: Revision(*revision),
                })
                .collect();
            let more = items.len() > query.limit;
            items.truncate(query.limit);
            Ok(KvPage { items, more })
        })
        .await
    }

    async fn kv_put(&self, key: String, value: Bytes, terms: Terms) -> Result<Applied> {
        self.with(|state| {
            state.once(terms.request, |state| {
                let revision = state.kv.get(&key).map_or(0, |(_, revision)| *revision);
                State::check_revision(revision, terms.if_revision)?;
                let applied = state.commit("put", key.clone());
                state.kv.insert(key, (value, applied.index));
                Ok(applied)
            })
        })
        .await
    }

    async fn kv_delete(&self, key: String, terms: Terms) -> Result<Applied> {
        self.with(|state| {
            state.once(terms.request, |state| {
                let Some((_, revision)) = state.kv.get(&key) else {
                    return Err(ControlError::NotFound(format!("there is no key {key:?}")));
                };
                State::check_revision(*revision, terms.if_revision)?;
                state.kv.remove(&key);
                Ok(state.commit("delete", key))
            })
        })
        .await
    }

    async fn session_open(&self) -> Result<SessionId> {
        self.with(|state| {
            let id = state.commit("session", "open").index;
            state.sessions.insert(id, BTreeMap::new());
            Ok(SessionId(id))
        })
        .await
    }

    async fn session_close(&self, id: SessionId) -> Result<Applied> {
        self.with(|state| {
            state.sessions.remove(&id.0);
            Ok(state.commit("session", "close"))
        })
        .await
    }

    async fn pools(&self, consistency: Consistency) -> Result<Fresh<PoolsView>> {
        self.read(consistency, |state| Ok(state.view())).await
    }

    async fn apply(&self, pools: Vec<PoolSpec>, expected: Epoch) -> Result<Applied> {
        self.with(|state| {
            if expected.0 != state.epoch {
                return Err(ControlError::Conflict(format!("the epoch is {}, not {expected}", state.epoch)));
            }
            state.pools = pools;
            Ok(state.commit_epoch("apply", "pools"))
        })
        .await
    }

    async fn server_change(&self, pool: String, change: ServerChange) -> Result<Applied> {
        self.with(|state| {
            let spec = state.pool(&pool)?;
            let missing = |name: &str| ControlError::NotFound(format!("pool {pool:?} has no server {name:?}"));
            let place = |name: &str| spec.servers.iter().position(|server| server.name == name);
            match &change {
                ServerChange::Add(server) if place(&server.name).is_some() => {
                    return Err(ControlError::Conflict(format!("pool {pool:?} has a server {:?}", server.name)));
                }
                ServerChange::Add(server) => spec.servers.push(server.clone()),
                ServerChange::Remove(name) => {
                    let at = place(name).ok_or_else(|| missing(name))?;
                    spec.servers.remove(at);
                }
                ServerChange::Drain(name) => {
                    let at = place(name).ok_or_else(|| missing(name))?;
                    spec.servers[at].state = ServerState::Draining;
                }
                ServerChange::Enable(name) => {
                    let at = place(name).ok_or_else(|| missing(name))?;
                    spec.servers[at].state = ServerState::Enabled;
                }
            }
            Ok(state.commit_epoch("server", format!("{change:?}")))
        })
        .await
    }

    async fn pins(
        &self,
        pool: String,
        after: Option<IpAddr>,
        limit: usize,
        consistency: Consistency,
    ) -> Result<Fresh<PinPage>> {
        self.read(consistency, |state| {
            state.pool(&pool)?;
            let wanted = state.pins.iter().filter(|((name, client), _)| *name == pool && Some(*client) > after);
            let mut pins: Vec<Pin> = wanted.map(|(_, pin)| pin.clone()).collect();
            let more = pins.len() > limit;
            pins.truncate(limit);
            let next = if more { pins.last().map(|pin| pin.client) } else { None };
            Ok(PinPage { pins, next })
        })
        .await
    }

    async fn pin(&self, pool: String, client: IpAddr, consistency: Consistency) -> Result<Fresh<Option<Pin>>> {
        self.read(consistency, |state| {
            state.pool(&pool)?;
            Ok(state.pins.get(&(pool, client)).cloned())
        })
        .await
    }

    async fn pin_delete(&self, pool: String, client: IpAddr, if_revision: Option<Revision>) -> Result<Applied> {
        self.with(|state| {
            let key = (pool, client);
            let Some(pin) = state.pins.get(&key) else {
                return Err(ControlError::NotFound(format!("{client} has no pin in pool {:?}", key.0)));
            };
            State::check_revision(pin.revision.0, if_revision)?;
            state.pins.remove(&key);
            Ok(state.commit("unpin", client.to_string()))
        })
        .await
    }

    async fn member_add(&self, address: MemberAddress) -> Result<Applied> {
        self.with(|state| {
            if state.member(&address.label).is_ok() {
                return Err(ControlError::Conflict(format!("there is an instance {:?}", address.label)));
            }
            let id = InstanceId(state.members.len() as u64 + 1);
            let label = address.label.clone();
            state.members.push(Member { id, address, voter: false, incarnation: None, reachable: false });
            Ok(state.commit("member", label))
        })
        .await
    }

    async fn member_remove(&self, label: String) -> Result<Applied> {
        self.with(|state| {
            state.member(&label)?;
            state.members.retain(|member| member.address.label != label);
            Ok(state.commit("member", label))
        })
        .await
    }

    async fn member_promote(&self, label: String) -> Result<Applied> {
        self.with(|state| {
            state.member(&label)?.voter = true;
            Ok(state.commit("member", label))
        })
        .await
    }

    fn events(&self, after: u64, limit: usize) -> Vec<Event> {
        let state = self.state.lock().unwrap();
        state.events.iter().filter(|event| event.number > after).take(limit).cloned().collect()
    }

    fn tuning(&self) -> Option<Tuning> {
        self.state.lock().unwrap().tuning
    }

    async fn tune(&self, tuning: Option<Tuning>) -> Result<Applied> {
        if let Some(Err(text)) = tuning.as_ref().map(Tuning::check) {
            return Err(ControlError::Invalid(text));
        }
        self.with(|state| {
            state.tuning = tuning;
            Ok(state.commit("tune", String::new()))
        })
        .await
    }

    async fn set_grpc(&self, open: bool) -> Result<()> {
        self.with(|state| {
            let number = state.events.len() as u64 + 1;
            let text = if open { "open" } else { "shut" }.to_owned();
            let kind = EventKind::Grpc;
            state.events.push(Event { number, unix_ms: 1_000, kind, subject: "a".into(), text });
            Ok(())
        })
        .await
    }

    async fn stop_instance(&self, who: String) -> Result<()> {
        self.with(|state| state.member(&who).map(drop)).await
    }

    async fn backup(&self) -> Result<BackupWriter> {
        Ok(Box::new(|out| out.write_all(&[7; 200_000])))
    }

    async fn transfer(&self, label: String) -> Result<()> {
        self.with(|state| {
            state.member(&label)?;
            state.leader = label;
            Ok(())
        })
        .await
    }

    async fn flows(&self, consistency: Consistency) -> Result<FlowTables> {
        let read = self.read(consistency, |state| match state.has_flows {
            true => Ok(state.flows.tables()),
            false => Err(ControlError::Unsupported("this fleet has no table of flows".to_owned())),
        });
        Ok(read.await?.value)
    }

    fn flows_changed(&self) -> watch::Receiver<()> {
        self.state.lock().unwrap().flows.changed()
    }

    async fn flow_report(&self, shard: u32, command: Bytes) -> Result<FlowOutcome> {
        let command = FlowCommand::decode(&command).map_err(|error| ControlError::Invalid(error.to_string()))?;
        self.with(|state| {
            if let Some(event) = state.disturbances.pop() {
                state.flows.report("tap", &[event]);
            }
            Ok(state.flows.apply(shard, &command))
        })
        .await
    }

    /// Whoever has a pin in the pool `web` is its client.
    fn flow_backends(&self, record: &FlowRecord) -> Vec<FlowBackend> {
        let state = self.state.lock().unwrap();
        let ends = [record.key.low, record.key.high].map(|end| end.ip(record.key.version));
        let pins = ends.iter().filter_map(|end| state.pins.get(&("web".to_owned(), *end)));
        let backend = |pin: &Pin| FlowBackend {
            pool: "web".to_owned(),
            client: Some(pin.client),
            server: pin.server.clone(),
            address: pin.address,
        };
        pins.map(backend).collect()
    }

    async fn log_size(&self, group: u32) -> Result<LogSize> {
        self.with(|state| match group {
            0 => Ok(LogSize { first_index: 1, last_index: state.last(), committed_index: state.last() }),
            _ => Err(ControlError::NotFound(format!("there is no group {group}"))),
        })
        .await
    }

    async fn log(&self, range: LogRange) -> Result<Vec<LogEntry>> {
        self.with(|state| {
            let wanted = state.entries.iter().filter(|entry| entry.index >= range.from);
            Ok(wanted.take(range.limit).cloned().collect())
        })
        .await
    }
}

/// A pool with two servers.
pub fn pool(name: &str, port: u16) -> PoolSpec {
    PoolSpec {
        name: name.into(),
        bind: Bind::Own(port),
        protocol: Protocol::Tcp,
        balance: Balance::SourceHash,
        commit: Commit::FirstContact,
        pin_ttl_ms: 1_800_000,
        on_isolation: OnIsolation::Refuse,
        decide_timeout_ms: 1_000,
        retry_for_ms: 1_000,
        connect_timeout_ms: 2_000,
        idle_timeout_ms: 300_000,
        max_connections: 10_000,
        send_proxy: false,
        transparent: false,
        health: HealthSpec { kind: HealthKind::Tcp, interval_ms: 1_000, timeout_ms: 500, rise: 2, fall: 2 },
        servers: vec![server("s1", 8887), server("s2", 8888)],
    }
}

fn server(name: &str, port: u16) -> ServerSpec {
    ServerSpec { name: name.into(), address: [127, 0, 0, 1].into(), port, weight: 100, state: ServerState::Enabled }
}

fn member(label: &str, id: u8, voter: bool) -> Member {
    Member {
        id: InstanceId(id.into()),
        address: MemberAddress {
            label: label.into(),
            host: format!("127.0.0.{id}"),
            grpc: 35001,
            rest: 8001,
            metrics: 2112,
        },
        voter,
        incarnation: Some(Incarnation(id.into())),
        reachable: true,
    }
}

fn pin(client: IpAddr) -> Pin {
    Pin {
        client,
        backend: BackendId(7),
        server: "s1".into(),
        address: "127.0.0.1:8887".parse().unwrap(),
        state: PinState::Settled,
        epoch: Epoch(1),
        revision: Revision(1),
        expires_in_ms: 1_799_400,
    }
}
