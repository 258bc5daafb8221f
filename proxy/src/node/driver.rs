//! The replica thread: one loop over one queue of inputs, with a tick.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use flow::{ControlCommand, InstanceId, SlotTable};
use raftlog::{
    GroupId, Index, NodeId, Term,
    driver::{Install, TICK_MS},
    net::{Event, PeerAddress, SnapshotSendError, Transport},
    wal::Received,
};
use replica::{Chosen, GroupRole, Output, Replica, Reported, Submitted, Ticket};
use tokio::{runtime::Handle, sync::oneshot};
use tracing::{debug, error, info, warn};

use super::{
    clock::now_ms,
    disk::{Reading, Round, Stall, Work},
    gate::Doorkeeper,
    health::Health,
    input::Input,
    shared::Shared,
    snapshots::{self, Unsent},
};
use crate::control::EventKind;

/// The loop and what it reaches.
pub struct Loop {
    pub replica: Replica,
    pub label: String,
    pub inputs: Receiver<Input>,
    pub input_sender: SyncSender<Input>,
    pub shared: Arc<Shared>,
    pub log: Sender<Work>,
    pub snapshots: Sender<snapshots::Job>,
    /// Snapshots that came in and are about to be installed.
    pub received: HashMap<(GroupId, Index, Term), Received>,
    pub transport: Transport,
    pub doorkeeper: Arc<Doorkeeper>,
    pub health: Health,
    pub runtime: Handle,
    pub choices: HashMap<Ticket, oneshot::Sender<Chosen>>,
    pub submits: HashMap<Ticket, oneshot::Sender<Submitted>>,
    pub reports: HashMap<Ticket, oneshot::Sender<Reported>>,
    pub next_ticket: u64,
    pub peers: Vec<PeerAddress>,
}

impl Loop {
    pub fn run(mut self) {
        let mut next_tick = Instant::now() + TICK;
        loop {
            // Batches of flows that are still to be applied do not wait for anybody, and let pass who came meanwhile.
            let wait = match self.replica.has_put_off() {
                true => Duration::ZERO,
                false => next_tick.saturating_duration_since(Instant::now()),
            };
            match self.inputs.recv_timeout(wait) {
                Ok(first) => {
                    self.replica.set_now(now_ms());
                    let mut bytes = payload_bytes(&first);
                    if self.take(first) {
                        break;
                    }
                    for _ in 0..INPUTS_PER_ROUND_MAX {
                        if bytes >= INPUT_BYTES_PER_ROUND_MAX {
                            break;
                        }
                        let Ok(next) = self.inputs.try_recv() else { break };
                        bytes += payload_bytes(&next);
                        if self.take(next) {
                            return;
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let now = Instant::now();
            if now >= next_tick {
                self.replica.set_now(now_ms());
                self.replica.handle_tick();
                // After a pause the ticks that were missed are not made up for.
                next_tick = (next_tick + TICK).max(now);
            }
            self.carry_out();
        }
    }

    /// Puts one input to the replica; true ends the loop.
    fn take(&mut self, input: Input) -> bool {
        match input {
            Input::Net(event, _held) => self.hear(event),
            Input::PeerSeen(id, incarnation) => self.replica.handle_peer_seen(id, incarnation),
            Input::Snapshot { from, group, message, content, received } => {
                if self.replica.handle_snapshot(from, group, &message, received.term(), *content) {
                    // The core takes the newest of those that wait: an earlier one is never named any more.
                    self.received.retain(|(of, ..), _| *of != group);
                    let text = format!("a snapshot of group {group} at index {} came in", received.index());
                    self.shared.events.add(EventKind::Snapshot, &self.label, text);
                    self.received.insert((group, received.index(), received.term()), *received);
                }
            }
            Input::SnapshotStored { group, index, stored } => {
                self.replica.handle_snapshot_stored(group, index, stored);
            }
            Input::LogRead { group, from, entries } => self.replica.handle_log_read(group, from, &entries),
            Input::SnapshotUnreadable { group, index, term } => {
                self.replica.handle_snapshot_unreadable(group, (index, term));
            }
            Input::SnapshotSent { group, to, arrived } => self.replica.handle_snapshot_sent(group, to, arrived),
            Input::Persisted { round, holding_back } => {
                self.replica.handle_persisted(round);
                if let Some((group, through)) = holding_back {
                    self.replica.request_snapshot(group, through);
                }
            }
            Input::Stalled(stall) => {
                let text = match stall {
                    Some(Stall::Full) => "the disk is full",
                    Some(Stall::Starved) => "the log has no descriptor or memory",
                    None => "the log is stored again",
                };
                self.shared.events.add(EventKind::Disk, &self.label, text.to_owned());
                self.shared.disk_full.store(stall == Some(Stall::Full), Ordering::Relaxed);
                self.replica.set_may_lead(stall.is_none());
            }
            Input::Choose { key, avoid, patience, answer } => {
                let ticket = self.ticket();
                self.choices.insert(ticket, answer);
                self.replica.choose(ticket, key, avoid, now_ms() + millis(patience));
            }
            Input::Touch(key) => self.replica.touch(key),
            Input::View(backend, view) => self.replica.handle_view(backend, view),
            Input::AskForProbes(backend) => self.replica.ask_for_probes(backend),
            Input::Slots { pool, members, table } => self.replica.slots_built(pool, &members, *table),
            Input::Submit { command, patience, again, request, answer } => {
                let ticket = self.ticket();
                self.submits.insert(ticket, answer);
                self.replica.submit(ticket, &command, now_ms() + millis(patience), again, request);
            }
            Input::Unpin { key, revision, patience, answer } => {
                let ticket = self.ticket();
                self.submits.insert(ticket, answer);
                self.replica.unpin(ticket, key, revision, now_ms() + millis(patience));
            }
            Input::Report { shard, command, patience, answer } => {
                let ticket = self.ticket();
                self.reports.insert(ticket, answer);
                self.replica.report(ticket, shard, command, now_ms() + millis(patience));
            }
            Input::CatchUp { group, patience, answer } => {
                let ticket = self.ticket();
                self.submits.insert(ticket, answer);
                self.replica.catch_up(ticket, group, now_ms() + millis(patience));
            }
            Input::FollowPeers => {
                self.transport.close_inbound();
                let table = flow::ControlTable::clone(&self.shared.control());
                self.follow_members(&table);
            }
            Input::StopInstance(id) => {
                // That it is no member was told; one that left since need not be stopped.
                self.replica.ask_to_stop(id);
            }
            Input::HandOver(to) => {
                // Who gives all away is about to end: others shall not hand them back.
                self.replica.set_willing(to.is_some());
                self.replica.hand_over(to);
            }
            Input::Look(look) => look(&self.replica),
            Input::Stop => return true,
        }
        false
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Frame { from, bytes } => self.replica.handle_frame(from, &bytes),
            Event::LinkUp { peer, label } => {
                info!(peer = peer.0, %label, "the link to a peer is up");
                self.shared.events.add(EventKind::LinkUp, &label, format!("the link to {label} is up"));
                self.shared.let_in_by(&label);
            }
            Event::LinkDown { peer, label, refused } => {
                warn!(%label, refused, "the link to a peer is down");
                let why = if refused { ": nobody listens there" } else { "" };
                self.shared.events.add(EventKind::LinkDown, &label, format!("the link to {label} is down{why}"));
                if let Some(peer) = peer {
                    self.replica.handle_peer_down(peer, refused);
                }
            }
            Event::Refused { label, refused, .. } => super::start::note_refusal(&self.shared, &label, &refused),
        }
    }

    fn carry_out(&mut self) {
        // Taking the inputs took time, and what they say may be younger than the time they were taken at.
        self.replica.set_now(now_ms());
        loop {
            let outputs = self.replica.poll();
            if outputs.is_empty() {
                return;
            }
            let lease = self.replica.control_lease();
            self.shared.control_lease_until_ms.store(lease.until_ms, Ordering::Relaxed);
            for output in outputs {
                self.one(output);
            }
            if self.replica.has_put_off() {
                return;
            }
        }
    }

    fn one(&mut self, output: Output) {
        match output {
            Output::PublishControl(table) => {
                if let Some(birth) = table.birth() {
                    self.doorkeeper.born(birth.fleet);
                }
                // Before the links that follow from it: whoever answers there is known by it.
                self.shared.publish_control(table.clone());
                self.shared.events.follow_members(&table);
                self.follow_members(&table);
            }
            Output::PublishGroup(group, view) => self.shared.publish_group(group, *view),
            Output::PublishFlows(group, table) => self.shared.publish_flows(group, *table),
            Output::Reported(ticket, answer) => {
                if let Some(asker) = self.reports.remove(&ticket) {
                    asker.send(answer).ok();
                }
            }
            Output::Chosen(ticket, answer) => {
                if let Some(asker) = self.choices.remove(&ticket) {
                    // An asker that has gone away needs no answer.
                    asker.send(answer).ok();
                }
            }
            Output::Submitted(ticket, answer) => {
                if let Some(asker) = self.submits.remove(&ticket) {
                    asker.send(answer).ok();
                }
            }
            Output::Persist { round, records, installs, sync } => {
                let mut received = Vec::with_capacity(installs.len());
                for Install { group, index, term } in installs {
                    let Some(file) = self.received.remove(&(group, index, term)) else {
                        error!(
                            group = group.0,
                            "the snapshot at {index} is to be installed, and is not here: stopping at once"
                        );
                        std::process::abort();
                    };
                    received.push(file);
                }
                self.to_log(Work::Store(Round { round, records, received, sync }));
            }
            Output::ReadLog { group, from, to, max_bytes } => {
                self.to_log(Work::Read(Reading { group, from, to, max_bytes }));
            }
            Output::StoreSnapshot { group, index, term, meta, state } => {
                if self.snapshots.send(snapshots::Job { group, index, term, meta, state }).is_err() {
                    error!("the snapshots thread is gone: stopping at once");
                    std::process::abort();
                }
            }
            Output::Send { to, frame } => {
                // A frame that does not fit is dropped and counted by the transport; Raft sends again.
                self.transport.send(to, frame);
            }
            Output::SendSnapshot { to, group, index, term, message } => {
                self.send_snapshot(to, (group, index, term), message);
            }
            Output::ProbeNow(backend) => self.health.probe_now(backend),
            Output::BuildSlots { pool, key, members } => {
                let inputs = self.input_sender.clone();
                self.runtime.spawn_blocking(move || {
                    let table = Box::new(SlotTable::build(&key, &members));
                    drop(inputs.send(Input::Slots { pool, members, table }));
                });
            }
            Output::Role(role) => {
                debug!(group = role.group.0, role = ?role.role, term = role.term.0, leader = ?role.leader, "role");
                if role.group.0 == 0 {
                    info!(role = ?role.role, term = role.term.0, leader = ?role.leader.map(|id| id.0), "role in group 0");
                }
                self.tell_leader(&role);
                self.shared.publish_role(role);
            }
            Output::Broken { group, why } => {
                error!(group = group.0, %why, "this instance's state cannot be trusted any more: stopping at once");
                std::process::abort();
            }
            Output::OtherLease { configured_ms, fleet_ms } => warn!(
                "fleet.lease is {configured_ms} ms here, and {fleet_ms} ms since the fleet's birth: the fleet's counts"
            ),
            Output::Leaving(ids) => {
                self.shared.set_leaving(ids);
                let table = self.shared.control();
                self.follow_members(&table);
            }
            Output::Stop => {
                info!("an operator wants this instance to stop");
                self.shared.stop_asked.send_replace(true);
            }
            Output::Removed => {
                self.shared.removed.store(true, Ordering::Relaxed);
                error!(
                    "this instance was removed from the fleet: it serves nothing any more, and stops in {} s",
                    REMOVED_GRACE.as_secs()
                );
                // Until then it helps the groups to let go of it: of two voters both must agree.
                let stop = Arc::clone(&self.shared);
                self.runtime.spawn(async move {
                    tokio::time::sleep(REMOVED_GRACE).await;
                    stop.stop_asked.send_replace(true);
                });
            }
        }
    }

    /// Another leader of group 0 is an event.
    fn tell_leader(&self, role: &GroupRole) {
        let before = self.shared.role(GroupId(0)).and_then(|role| role.leader);
        let Some(leader) = role.leader.filter(|leader| role.group.0 == 0 && before != Some(*leader)) else { return };
        let control = self.shared.control();
        let label =
            control.member(InstanceId(leader.0)).map_or(leader.to_string(), |member| member.address.label.clone());
        self.shared.events.add(EventKind::Leader, &label, format!("{label} leads in term {}", role.term));
    }

    fn to_log(&self, work: Work) {
        // While the instance stops it may have given up on a full disk; nothing is acknowledged any more.
        if self.log.send(work).is_err() && !self.shared.draining.load(Ordering::Relaxed) {
            error!("the log thread is gone: stopping at once");
            std::process::abort();
        }
    }

    fn send_snapshot(&self, to: NodeId, place: (GroupId, Index, Term), message: Bytes) {
        let (transport, store) = (self.transport.clone(), Arc::clone(&self.doorkeeper.snapshots));
        let inputs = self.input_sender.clone();
        self.runtime.spawn(async move {
            let meta = snapshots::meta(place, &message);
            let (group, index, term) = place;
            let sent = match tokio::task::spawn_blocking(move || snapshots::open(&store, place)).await {
                Ok(Ok(file)) => match transport.send_snapshot(to, meta, file).await {
                    // Another group's is on its way to this peer: this one is asked for again.
                    Ok(Err(SnapshotSendError::Busy)) => Err(None),
                    Ok(Err(SnapshotSendError::Unreadable(error))) => Err(Some(Unsent::Unreadable(error))),
                    Ok(sent) => sent.map_err(|error| Some(Unsent::Passing(error.to_string()))),
                    Err(error) => Err(Some(Unsent::Passing(error.to_string()))),
                },
                Ok(Err(error)) => Err(Some(error)),
                Err(error) => Err(Some(Unsent::Passing(error.to_string()))),
            };
            let mut news = Vec::new();
            match &sent {
                Err(Some(Unsent::Unreadable(error))) => {
                    warn!(error, group = group.0, to = to.0, "a stored snapshot cannot be sent: it is stored anew");
                    news.push(Input::SnapshotUnreadable { group, index, term });
                }
                Err(Some(Unsent::Passing(error))) => {
                    warn!(error, group = group.0, to = to.0, "a snapshot did not arrive");
                }
                Err(None) | Ok(()) => {}
            }
            news.push(Input::SnapshotSent { group, to, arrived: sent.is_ok() });
            let telling = move || news.into_iter().try_for_each(|input| inputs.send(input));
            // The replica thread is gone only when the process is about to end.
            drop(tokio::task::spawn_blocking(telling).await);
        });
    }

    /// The transport's peers are the members, once there are any.
    fn follow_members(&mut self, table: &flow::ControlTable) {
        if table.birth().is_none() {
            return;
        }
        // A removed member is still a peer until the groups have let go of it.
        let leaving = self.shared.leaving();
        let departed = table.departed().filter(|(id, member)| {
            let label = &member.address.label;
            let bears = |other: &flow::control::Member| other.address.label == *label;
            // One link a label: to the newest of those that bore it.
            let newer = table.departed().any(|(other, by)| other > *id && leaving.contains(&other) && bears(by));
            leaving.contains(id) && !newer && table.member_by_label(label).is_none()
        });
        let shut = self.shared.grpc_shut.load(Ordering::Relaxed);
        let peers: Vec<PeerAddress> = table
            .members()
            .chain(departed)
            .filter(|(_, member)| member.address.label != self.label && !shut)
            .map(|(_, member)| PeerAddress::new(&member.address.label, &member.address.host, member.address.grpc))
            .collect();
        if peers == self.peers {
            return;
        }
        match self.transport.set_peers(peers.clone()) {
            Ok(()) => {
                self.forget_snapshots(table);
                self.shared.keep_refusals(|label| peers.iter().any(|peer| &*peer.label == label));
                self.peers = peers;
            }
            Err(error) => error!(%error, "the transport does not take the fleet's members"),
        }
    }

    /// Who is no peer any more does not go on with what it was sending.
    fn forget_snapshots(&self, table: &flow::ControlTable) {
        for (id, _) in table.departed() {
            self.doorkeeper.incoming.forget(NodeId(id.0));
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }
}

/// The bytes of an input that may end up in the log.
fn payload_bytes(input: &Input) -> usize {
    match input {
        Input::Net(Event::Frame { bytes, .. }, _) => bytes.len(),
        Input::Submit { command, .. } => match command.as_ref() {
            ControlCommand::KvPut { value, .. } => value.len(),
            _ => 0,
        },
        Input::Report { command, .. } => command.len(),
        _ => 0,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 2)
}

/// How long an instance that was removed goes on, serving nothing.
const REMOVED_GRACE: Duration = Duration::from_secs(30);

/// The driver's tick.
pub const TICK: Duration = Duration::from_millis(TICK_MS);

/// After so many bytes of input the round at hand is stored and sent before more is taken.
pub const INPUT_BYTES_PER_ROUND_MAX: usize = 32 << 20;

/// Most inputs that are put to the replica before what follows from them is carried out.
const INPUTS_PER_ROUND_MAX: usize = 1024;
