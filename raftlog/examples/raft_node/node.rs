//! The replica thread: one loop over one queue of inputs, with a tick; it carries out what the driver says.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use raftlog::{
    Action, Driver, DriverConfig, GroupId, Index, NodeId, Term,
    driver::{Content, GroupStart, Install, MemberChange, Members, SnapshotStart, TICK_MS},
    net::Event,
    wal::{Received, SnapshotStore},
};
use tokio::sync::oneshot;

use crate::{
    Result,
    arguments::Setup,
    disk::{FIRST, Log, Round, Work},
    load::{Asker, Askers, Load},
    orders::{Order, Reply},
    serve::{Client, Doors},
    snapshots::{Job, Place, Stored, meta},
    table::{Table, fill},
};

/// What comes in.
pub enum Input {
    /// From the transport.
    Net(Event),
    /// A round and all before it are on disk.
    Persisted { round: u64, holding_back: Option<(GroupId, Index)> },
    /// Old entries, as asked for.
    LogRead { group: GroupId, from: Index, entries: Vec<(Index, Term, Bytes)> },
    /// A snapshot file was written, or not.
    SnapshotStored { group: GroupId, index: Index, stored: bool },
    /// A snapshot was sent, or not.
    SnapshotSent { group: GroupId, to: NodeId, arrived: bool },
    /// A snapshot came in.
    Snapshot { from: NodeId, place: Place, message: Bytes, meta: Bytes, table: Box<Table>, received: Box<Received> },
    /// A unary proposal.
    Call { data: Bytes, answer: oneshot::Sender<bool> },
    /// Proposals of a stream, by its numbers.
    Stream { client: Client, proposals: Vec<(u64, Bytes)> },
    /// An order of whoever runs the bench.
    Order(Order, SyncSender<Reply>),
    /// The bench is over.
    Stop,
}

/// The loop and what it reaches.
pub struct Node {
    pub driver: Driver,
    pub tables: Vec<Table>,
    pub log: Log,
    pub doors: Doors,
    pub askers: Askers,
    pub load: Option<Load>,
    /// Whether this node shall lead all groups.
    pub wants_to_lead: bool,
    /// Changes of role in any group.
    pub role_changes: u64,
    pub snapshots_sent: u64,
    pub snapshots_failed: u64,
    /// The log is as long as the command line says, however many segments it takes.
    keeps_log: bool,
    store: Arc<SnapshotStore>,
    snapshots: Sender<Job>,
    inputs: SyncSender<Input>,
    /// Snapshots that came in: until they are restored, and until the log installs them.
    states: HashMap<(GroupId, Index), Box<Table>>,
    received: HashMap<Place, Received>,
    /// What streams are to be told with this round.
    outcomes: HashMap<u64, (Client, Vec<u64>, Vec<u64>)>,
    began: Instant,
    ticks: u64,
    turn: u32,
}

impl Node {
    /// A node of empty groups.
    ///
    /// # Errors
    /// If the driver refuses the start.
    pub fn new(
        setup: &Setup,
        store: Arc<SnapshotStore>,
        log: Log,
        snapshots: Sender<Job>,
        doors: Doors,
        inputs: SyncSender<Input>,
    ) -> Result<Self> {
        let mut config = DriverConfig::new(setup.id, setup.id.0);
        // The load is where the leaders are: they must not wander off.
        config.tuning.spread = false;
        config.compact_entries = setup.compact_entries.unwrap_or(config.compact_entries);
        if setup.compact_entries.is_some() {
            config.compact_bytes = u64::MAX / 8;
        }
        let start = |group| start(GroupId(group), &setup.founders);
        Ok(Self {
            driver: Driver::new(config, (0..setup.groups).map(start).collect())?,
            tables: (0..setup.groups).map(|_| Table::at(FIRST.0.0)).collect(),
            log,
            doors,
            askers: Askers::default(),
            load: None,
            wants_to_lead: false,
            role_changes: 0,
            snapshots_sent: 0,
            snapshots_failed: 0,
            keeps_log: setup.compact_entries.is_some(),
            store,
            snapshots,
            inputs,
            states: HashMap::new(),
            received: HashMap::new(),
            outcomes: HashMap::new(),
            began: Instant::now(),
            ticks: 0,
            turn: 0,
        })
    }

    /// Runs until it is told to stop; then waits for the log.
    ///
    /// # Errors
    /// If the log or the snapshots thread is gone, or the driver says that something is wrong beyond repair.
    pub fn run(mut self, queue: &Receiver<Input>) -> Result<()> {
        let mut next_tick = Instant::now() + TICK;
        'running: loop {
            match queue.recv_timeout(next_tick.saturating_duration_since(Instant::now())) {
                Ok(first) => {
                    self.set_now();
                    let rest = std::iter::from_fn(|| queue.try_recv().ok()).take(INPUTS_PER_ROUND_MAX);
                    for input in std::iter::once(first).chain(rest) {
                        if matches!(input, Input::Stop) {
                            break 'running;
                        }
                        self.take(input)?;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let now = Instant::now();
            if now >= next_tick {
                self.tick();
                next_tick = (next_tick + TICK).max(now);
            }
            self.carry_out()?;
        }
        let Self { log, doors, .. } = self;
        doors.runtime.shutdown_background();
        drop(log.work);
        log.thread.join().map_err(|_| "the log thread panicked".into())
    }

    fn set_now(&mut self) {
        self.driver.set_now(self.began.elapsed().as_millis() as u64);
    }

    fn tick(&mut self) {
        self.set_now();
        self.driver.handle_tick();
        self.ticks += 1;
        if self.ticks.is_multiple_of(LEAD_TICKS) && self.wants_to_lead {
            let me = self.driver.id();
            for group in (0..self.driver.groups()).map(GroupId) {
                if !self.driver.leads(group) && self.driver.leader(group).is_some() {
                    self.driver.transfer(group, me);
                }
            }
        }
        if let Some(load) = &mut self.load {
            load.due += std::mem::take(&mut load.refused_due);
            if self.ticks.is_multiple_of(GIVE_UP_TICKS)
                && let Some(long_ago) = Instant::now().checked_sub(PATIENCE)
            {
                (0..self.askers.give_up(long_ago)).for_each(|_| load.refuse());
            }
        }
    }

    fn take(&mut self, input: Input) -> Result<()> {
        match input {
            Input::Net(Event::Frame { from, bytes }) => self.driver.handle_frame(from, &bytes),
            Input::Net(Event::LinkDown { peer: Some(peer), refused, .. }) => {
                self.driver.handle_peer_down(peer, refused)
            }
            Input::Net(Event::Refused { label, refused, .. }) => eprintln!("raft_node: {label} refused: {refused}"),
            Input::Net(Event::LinkUp { .. } | Event::LinkDown { .. }) | Input::Stop => {}
            Input::Persisted { round, holding_back } => {
                self.driver.handle_persisted(round);
                if let Some((group, through)) = holding_back.filter(|_| !self.keeps_log) {
                    self.driver.request_snapshot(group, through);
                }
            }
            Input::LogRead { group, from, entries } => self.driver.handle_log_read(group, from, &entries),
            Input::SnapshotStored { group, index, stored } => self.driver.handle_snapshot_stored(group, index, stored),
            Input::SnapshotSent { group, to, arrived } => {
                self.snapshots_sent += u64::from(arrived);
                self.snapshots_failed += u64::from(!arrived);
                self.driver.handle_snapshot_sent(group, to, arrived);
            }
            Input::Snapshot { from, place, message, meta, table, received } => {
                if self.driver.handle_snapshot(from, place.0, &message, (place.1, place.2), &meta) {
                    self.states.insert((place.0, place.1), table);
                    self.received.insert(place, *received);
                }
            }
            Input::Call { data, answer } => self.propose_next(Asker::Call(answer), data),
            Input::Stream { client, proposals } => {
                for (token, data) in proposals {
                    self.propose_next(Asker::Stream(client.clone(), token), data);
                }
            }
            Input::Order(order, answer) => {
                let reply = self.obey(order)?;
                // Whoever gave the order waits for the reply, or the process is about to end.
                drop(answer.send(reply));
            }
        }
        Ok(())
    }

    fn obey(&mut self, order: Order) -> Result<Reply> {
        match order {
            Order::Lead => self.wants_to_lead = true,
            Order::Load { in_flight, bytes } => self.load = Some(Load::new(in_flight, bytes, self.driver.groups())?),
            Order::Rest => self.load.iter_mut().for_each(|load| load.on = false),
            Order::Fill { bytes } => {
                let token = self.askers.add(Asker::Nobody);
                self.driver.propose(GroupId(0), token, fill(bytes).into());
            }
            Order::Learner(id) => {
                if !self.driver.propose_members(GroupId(0), MemberChange::AddLearner(id)) {
                    return Ok(serde_json::json!({ "error": "the change cannot be taken now" }));
                }
            }
            Order::Look => return Ok(self.look()),
            Order::Mark => return Ok(self.mark()),
        }
        Ok(serde_json::json!({}))
    }

    /// To the next group in turn.
    fn propose_next(&mut self, asker: Asker, data: Bytes) {
        self.turn = (self.turn + 1) % self.driver.groups();
        let token = self.askers.add(asker);
        self.driver.propose(GroupId(self.turn), token, data);
    }

    fn carry_out(&mut self) -> Result<()> {
        loop {
            self.propose_load();
            let actions = self.driver.poll();
            if actions.is_empty() && self.load.as_ref().is_none_or(|load| load.due == 0) {
                return Ok(());
            }
            for action in actions {
                self.one(action)?;
            }
            self.tell_streams();
        }
    }

    /// Replaces what was committed of the load.
    fn propose_load(&mut self) {
        let Some(load) = &mut self.load else { return };
        let now = Instant::now();
        let now_due = load.due.min(PROPOSALS_PER_ROUND_MAX);
        load.due -= now_due;
        for _ in 0..now_due {
            let token = self.askers.add(Asker::Load(now));
            self.driver.propose(load.group(), token, load.data.clone());
        }
    }

    fn one(&mut self, action: Action) -> Result<()> {
        match action {
            Action::Apply { group, entries } => {
                let (me, now) = (self.driver.id(), Instant::now());
                for entry in entries {
                    let table = &mut self.tables[group.0 as usize];
                    table.applied = entry.index.0;
                    let Content::Data { origin, token, data } = entry.content else { continue };
                    table.apply(entry.index.0, &data);
                    if origin == me {
                        self.answer(token, true, now);
                    }
                }
            }
            Action::Restore { group, index } => {
                let table = self.states.remove(&(group, index)).ok_or("a state to be restored is not there")?;
                self.tables[group.0 as usize] = *table;
            }
            Action::Snapshot { group } => {
                let table = self.tables[group.0 as usize].clone();
                self.driver.snapshot(group, Index(table.applied), Arc::new(table));
            }
            Action::StoreSnapshot { group, index, term, meta, state } => {
                self.snapshots.send(Job { place: (group, index, term), meta, state })?;
            }
            Action::Persist { round, records, installs, sync } => {
                let of = |install: Install| self.received.remove(&(install.group, install.index, install.term));
                let received = installs.into_iter().filter_map(of).collect();
                self.log.work.send(Work::Store(Round { round, records, received, sync }))?;
            }
            Action::ReadLog { group, from, to, max_bytes } => {
                self.log.work.send(Work::Read { group, from, to, max_bytes })?;
            }
            Action::Send { to, frame } => {
                // A frame that does not fit is dropped and counted by the transport; Raft sends again.
                self.doors.transport.send(to, frame);
            }
            Action::SendSnapshot { to, group, index, term, message } => {
                self.send_snapshot(to, (group, index, term), message);
            }
            Action::Rejected { token, .. } => self.answer(token, false, Instant::now()),
            Action::Role { .. } => self.role_changes += 1,
            Action::Broken { group, why } => return Err(format!("group {group}: {why}").into()),
            Action::ReadReady { .. } | Action::Word { .. } => {}
        }
        Ok(())
    }

    fn answer(&mut self, token: u64, committed: bool, now: Instant) {
        match self.askers.take(token) {
            Some(Asker::Load(since)) => {
                if let Some(load) = &mut self.load {
                    if committed { load.done(since, now) } else { load.refuse() }
                }
            }
            // Who asked may be gone.
            Some(Asker::Call(answer)) => drop(answer.send(committed)),
            Some(Asker::Stream(client, token)) => {
                let entry = self.outcomes.entry(client.number);
                let (_, done, refused) = entry.or_insert_with(|| (client, Vec::new(), Vec::new()));
                if committed { done.push(token) } else { refused.push(token) }
            }
            Some(Asker::Nobody) | None => {}
        }
    }

    fn tell_streams(&mut self) {
        for (_, (client, committed, refused)) in self.outcomes.drain() {
            client.tell(committed, refused);
        }
    }

    fn send_snapshot(&self, to: NodeId, place: Place, message: Bytes) {
        let (transport, store, inputs) = (self.doors.transport.clone(), self.store.clone(), self.inputs.clone());
        self.doors.runtime.spawn(async move {
            let meta = meta(place, &message);
            let sent = match tokio::task::spawn_blocking(move || Stored::open(&store, place)).await {
                Ok(Ok(file)) => match transport.send_snapshot(to, meta, file).await {
                    Ok(sent) => sent.map_err(|error| error.to_string()),
                    Err(error) => Err(error.to_string()),
                },
                Ok(Err(error)) => Err(error),
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = &sent {
                eprintln!("raft_node: a snapshot for {to} did not arrive: {error}");
            }
            let input = Input::SnapshotSent { group: place.0, to, arrived: sent.is_ok() };
            drop(tokio::task::spawn_blocking(move || inputs.send(input)).await);
        });
    }
}

fn start(group: GroupId, founders: &[NodeId]) -> GroupStart {
    let first = SnapshotStart { index: FIRST.0, term: FIRST.1, meta: Members::founders(founders) };
    let snapshot = (!founders.is_empty()).then_some(first);
    let commit = snapshot.as_ref().map_or(Index(0), |first| first.index);
    GroupStart { group, term: Term(0), vote: None, commit, snapshot, entries: Vec::new() }
}

const TICK: Duration = Duration::from_millis(TICK_MS);

/// How often proposals are looked through for lost ones.
const GIVE_UP_TICKS: u64 = 50;

/// A proposal of the load without an answer for so long is lost.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often a node that shall lead asks for it.
const LEAD_TICKS: u64 = 20;

/// Most proposals of the load that share a round: as proposals that come in one by one do, later ones find the first on
/// their way already.
const PROPOSALS_PER_ROUND_MAX: usize = 256;

/// Most inputs that wait for the node.
pub const INPUTS_MAX: usize = 65_536;

/// Most inputs that are put to the driver before what follows from them is carried out.
const INPUTS_PER_ROUND_MAX: usize = 1024;
