//! The instance as its operators see it: `Control` over the replica.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use flow::{
    BackendId, ControlCommand, ControlOutcome, ControlTable, Epoch, InstanceId, MemberAddress, PinKey, PoolId,
    PoolSpec, Request, Revision, ServerChange, SessionId, SessionRefusal, Tuning,
    control::{Pool, identity},
    flows::{FlowOutcome, FlowRecord},
};
use raftlog::{GroupId, Index, driver::Rejection};
use replica::{Replica, SubmitError, Submitted};
use tokio::sync::{oneshot, watch};

use super::{
    clock::now_ms,
    fleet::Fleet,
    input::Input,
    seen::{Glance, Holds, entry_bytes, leads, log_entry, standing},
};
use crate::{
    control::{
        Applied, BackupWriter, Consistency, Control, ControlError, Event, Fresh, KvItem, KvPage, KvQuery, LogEntry,
        LogRange, LogSize, Member, Pin, PinPage, PinState, PoolStatus, PoolsView, Readiness, Result, ServerStatus,
        Standing, Status, Terms, Vote, blocking,
        check::{check_for_fleet, check_newcomer},
        flows::{FlowBackend, FlowTables},
    },
    metrics::NodeCounters,
};

impl Control for Fleet {
    fn standing(&self) -> Standing {
        let control = self.inner.shared.control();
        standing(&control, self.inner.shared.role(GroupId(0)))
    }

    fn readiness(&self) -> Readiness {
        Readiness { reasons: self.reasons_not_ready(), vip: self.inner.vip.get().map(|status| status()) }
    }

    async fn status(&self) -> Status {
        let groups = match self.look(Glance::at).await {
            Ok(glance) => blocking(move || glance.groups()).await.unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        let control = self.inner.shared.control();
        let members = self.members(&control);
        Status {
            instance: self.inner.label.clone(),
            id: control.member_by_label(&self.inner.label).map(|(id, _)| id),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            fleet: self.inner.fleet_name.clone(),
            fleet_id: control.birth().map(|birth| birth.fleet),
            standing: self.standing(),
            readiness: self.readiness(),
            groups,
            members,
            pools: self.pools_view(&control),
        }
    }

    async fn kv(&self, key: String, consistency: Consistency) -> Result<Fresh<Option<KvItem>>> {
        self.fresh(GroupId(0), consistency).await?;
        let control = self.inner.shared.control();
        let value = control.kv(&key).map(|entry| KvItem {
            key: key.clone(),
            value: Bytes::copy_from_slice(&entry.value),
            revision: entry.revision,
        });
        Ok(Fresh { value, applied_index: control.applied().0 })
    }

    async fn kv_list(&self, query: KvQuery, consistency: Consistency) -> Result<Fresh<KvPage>> {
        self.fresh(GroupId(0), consistency).await?;
        let control = Arc::clone(&self.inner.shared.control());
        let applied_index = control.applied().0;
        // A million keys take a while, and peers' links live on the threads of this runtime.
        let page = blocking(move || {
            let rows = control
                .kv_list(&query.prefix)
                .filter(|(key, _)| query.after.as_ref().is_none_or(|after| *key > after))
                .map(|(key, entry)| KvItem {
                    key: key.clone(),
                    value: Bytes::copy_from_slice(&entry.value),
                    revision: entry.revision,
                });
            let (items, more) = page(rows, query.limit, |item| item.key.len() + item.value.len());
            KvPage { items, more }
        });
        Ok(Fresh { value: page.await?, applied_index })
    }

    async fn kv_put(&self, key: String, value: Bytes, terms: Terms) -> Result<Applied> {
        // Carried out once: a second time could undo what others were acknowledged in between, be it by a value or, where
        // the key must not exist, by bringing it back. With a revision it would say "conflict" of what was done.
        let Terms { if_revision, request } = terms;
        self.request(ControlCommand::KvPut { key, value: value.to_vec(), if_revision }, request).await
    }

    async fn kv_delete(&self, key: String, terms: Terms) -> Result<Applied> {
        let Terms { if_revision, request } = terms;
        if request.is_some() {
            // It may have removed the key before, so the table does not tell whether there was one.
            return self.request(ControlCommand::KvDelete { key, if_revision }, request).await;
        }
        self.fresh(GroupId(0), Consistency::Linearizable).await?;
        let there = self.inner.shared.control().kv(&key).map(|entry| entry.revision);
        let Some(revision) = there else {
            return Err(ControlError::NotFound(format!("there is no key {key}")));
        };
        let condition = Some(if_revision.unwrap_or(revision));
        self.submit(ControlCommand::KvDelete { key, if_revision: condition }, false).await
    }

    async fn session_open(&self) -> Result<SessionId> {
        // Once: each copy would open a session of its own, which nobody closes.
        let opened = self.submit(ControlCommand::OpenSession(None), false).await?;
        Ok(SessionId(opened.index))
    }

    async fn session_close(&self, id: SessionId) -> Result<Applied> {
        self.submit(ControlCommand::CloseSession(id), true).await
    }

    async fn pools(&self, consistency: Consistency) -> Result<Fresh<PoolsView>> {
        self.fresh(GroupId(0), consistency).await?;
        let control = self.inner.shared.control();
        Ok(Fresh { value: self.pools_view(&control), applied_index: control.applied().0 })
    }

    async fn apply(&self, pools: Vec<PoolSpec>, expected: Epoch) -> Result<Applied> {
        check_for_fleet(&self.inner.shared.control(), &pools)?;
        let applied = self.submit(ControlCommand::Apply { pools, expected }, false).await?;
        self.effective(applied).await
    }

    async fn server_change(&self, pool: String, change: ServerChange) -> Result<Applied> {
        self.fresh(GroupId(0), Consistency::Linearizable).await?;
        let id = PoolId::of(&pool);
        missing(&self.inner.shared.control(), &pool, &change).map_or(Ok(()), Err)?;
        if let ServerChange::Add(server) = &change {
            check_newcomer(&self.inner.shared.control(), id, server)?;
        }
        let command = ControlCommand::Server { pool: id, change: change.clone() };
        match self.submit(command, false).await {
            Ok(applied) => self.effective(applied).await,
            // It may have gone in between.
            Err(ControlError::Invalid(text)) => {
                Err(missing(&self.inner.shared.control(), &pool, &change).unwrap_or(ControlError::Invalid(text)))
            }
            Err(error) => Err(error),
        }
    }

    async fn pins(
        &self,
        pool: String,
        after: Option<IpAddr>,
        limit: usize,
        consistency: Consistency,
    ) -> Result<Fresh<PinPage>> {
        let id = self.pool_id(&pool)?;
        self.fresh_pins(consistency).await?;
        let after = after.map(|client| PinKey::new(id, client).to_bytes());
        let views: Vec<_> = self.inner.shared.groups().iter().map(|group| group.load_full()).collect();
        // Millions of pins take a while, and peers' links live on the threads of this runtime.
        let page = blocking(move || {
            // The smallest keys behind `after`, one more than asked: to know whether there are more.
            let mut page = BTreeSet::new();
            for view in views {
                for (key, _) in view.table.iter() {
                    let bytes = key.to_bytes();
                    if key.pool == id && after.is_none_or(|after| bytes > after) {
                        page.insert(bytes);
                        if page.len() > limit + 1 {
                            page.pop_last();
                        }
                    }
                }
            }
            page
        });
        let page = page.await?;
        let mut pins: Vec<Pin> = Vec::new();
        for bytes in page.iter().take(limit) {
            pins.extend(PinKey::from_bytes(bytes).and_then(|key| self.pin_of(&key)));
        }
        let next = if page.len() > limit { pins.last().map(|pin| pin.client) } else { None };
        let applied_index = self.inner.shared.control().applied().0;
        Ok(Fresh { value: PinPage { pins, next }, applied_index })
    }

    async fn pin(&self, pool: String, client: IpAddr, consistency: Consistency) -> Result<Fresh<Option<Pin>>> {
        let key = PinKey::new(self.pool_id(&pool)?, client);
        let group = replica::group_of(&key, self.inner.shared.groups().len() as u32);
        self.fresh(group, consistency).await?;
        let applied_index = self.inner.shared.view(&key).map_or(0, |view| view.table.applied().0);
        Ok(Fresh { value: self.pin_of(&key), applied_index })
    }

    async fn pin_delete(&self, pool: String, client: IpAddr, if_revision: Option<Revision>) -> Result<Applied> {
        let key = PinKey::new(self.pool_id(&pool)?, client);
        let group = replica::group_of(&key, self.inner.shared.groups().len() as u32);
        self.fresh(group, Consistency::Linearizable).await?;
        let Some(pin) = self.pin_of(&key) else {
            return Err(ControlError::NotFound(format!("client {client} has no pin in pool {pool}")));
        };
        if let Some(expected) = if_revision.filter(|expected| *expected != pin.revision) {
            return Err(ControlError::Conflict(format!("the pin is at revision {}, not {expected}", pin.revision)));
        }
        let (answer, answered) = oneshot::channel();
        let unpin = Input::Unpin { key, revision: pin.revision, patience: PATIENCE, answer };
        self.put(unpin).await?;
        self.applied(answered.await)?;
        let index = self.inner.shared.view(&key).map_or(0, |view| view.table.applied().0);
        Ok(Applied { index, epoch: self.inner.shared.control().epoch() })
    }

    async fn member_add(&self, member: MemberAddress) -> Result<Applied> {
        let leaving = self.inner.shared.leaving();
        let control = self.inner.shared.control();
        if control.departed().any(|(id, old)| leaving.contains(&id) && old.address.label == member.label) {
            let text = format!("some groups still count the old {}: ask again in a moment", member.label);
            return Err(ControlError::Conflict(text));
        }
        drop(control);
        self.submit(ControlCommand::MemberAdd(member), false).await
    }

    async fn member_remove(&self, label: String) -> Result<Applied> {
        let id = self.member_id(&label).await?;
        if label == self.inner.label {
            // It would not be told how that ends.
            let text = format!("{label} cannot see its own removal through: ask another instance");
            return Err(ControlError::Conflict(text));
        }
        let applied = self.submit(ControlCommand::MemberRemove(id), true).await?;
        // Where two vote, both must run until the groups have let go of the one that leaves.
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.inner.shared.leaving().contains(&id) {
            if tokio::time::Instant::now() >= deadline {
                let text = format!(
                    "{label} is no member any more, but some groups still count it, which a majority that includes it \
                     has to change: if it runs, leave it running for a while longer"
                );
                return Err(ControlError::UnknownOutcome(text));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(applied)
    }

    async fn member_promote(&self, label: String) -> Result<Applied> {
        let id = self.member_id(&label).await?;
        self.submit(ControlCommand::MemberPromote(id), true).await
    }

    fn events(&self, after: u64, limit: usize) -> Vec<Event> {
        self.events_after(after, limit)
    }

    fn tuning(&self) -> Option<Tuning> {
        self.inner.shared.control().tuning()
    }

    async fn tune(&self, tuning: Option<Tuning>) -> Result<Applied> {
        if let Some(Err(text)) = tuning.as_ref().map(Tuning::check) {
            return Err(ControlError::Invalid(text));
        }
        // Once: a late copy would undo what was acknowledged in between.
        self.submit(ControlCommand::Tune(tuning), false).await
    }

    async fn set_grpc(&self, open: bool) -> Result<()> {
        self.open_grpc(open).await
    }

    async fn stop_instance(&self, who: String) -> Result<()> {
        self.stop_one(&who).await
    }

    async fn backup(&self) -> Result<BackupWriter> {
        self.all_tables()
    }

    async fn transfer(&self, label: String) -> Result<()> {
        let id = self.member_id(&label).await?;
        if self.inner.shared.control().member(id).is_some_and(|member| !member.voter) {
            let text = format!("{label} is a learner and cannot lead: `rocinante member promote {label}` comes first");
            return Err(ControlError::Conflict(text));
        }
        self.put(Input::HandOver(Some(id))).await?;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.standing().leader.as_ref() != Some(&label) {
            if tokio::time::Instant::now() >= deadline {
                let text = format!("{label} was asked to lead and does not yet: does it run, and keep up?");
                return Err(ControlError::UnknownOutcome(text));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    async fn flows(&self, consistency: Consistency) -> Result<FlowTables> {
        self.flow_tables(consistency).await
    }

    fn flows_changed(&self) -> watch::Receiver<()> {
        self.inner.shared.flows_changed()
    }

    async fn flow_report(&self, shard: u32, command: Bytes) -> Result<FlowOutcome> {
        self.report(shard, command).await
    }

    fn flow_backends(&self, record: &FlowRecord) -> Vec<FlowBackend> {
        self.backends_of(record)
    }

    async fn log_size(&self, group: u32) -> Result<LogSize> {
        let status = self.look(move |replica| replica.status(GroupId(group))).await?;
        let status = status.ok_or_else(|| no_group(group))?;
        Ok(LogSize { first_index: status.first.0, last_index: status.last.0, committed_index: status.committed.0 })
    }

    async fn log(&self, range: LogRange) -> Result<Vec<LogEntry>> {
        let LogRange { group, from, limit } = range;
        let entries = self.look(move |replica| {
            // What is only on disk is not shown.
            let from = from.max(replica.status(GroupId(group))?.held.0);
            let indexes = from..from.saturating_add(limit as u64);
            let entries = indexes.map_while(|index| replica.entry(GroupId(group), Index(index)));
            Some(page(entries, limit, entry_bytes).0)
        });
        let entries = entries.await?.ok_or_else(|| no_group(group))?;
        let holds = match group {
            0 => Holds::Control,
            _ if self.inner.shared.group(GroupId(group)).is_some() => Holds::Pins,
            _ => Holds::Flows,
        };
        let rows = blocking(move || {
            let rows = entries.iter().map(|entry| log_entry(group, holds, entry));
            page(rows, limit, |row| row.text.len()).0
        });
        rows.await
    }
}

impl Fleet {
    /// The replica's numbers, for a scrape; waits for the replica thread for a moment.
    pub fn counters(&self) -> NodeCounters {
        let (sender, receiver) = std::sync::mpsc::channel();
        let look = Input::Look(Box::new(move |replica: &Replica| {
            drop(sender.send((replica.counters().clone(), Glance::at(replica))));
        }));
        let control = self.inner.shared.control();
        let mut counters = NodeCounters {
            epoch: control.epoch(),
            ready: self.reasons_not_ready().is_empty(),
            disk_full: self.inner.shared.disk_full.load(Ordering::Relaxed),
            log: self.inner.usage.counters(),
            links: self.inner.link_counters(),
            checks_not_made: self.inner.health.not_made(),
            lookups_failed: self.inner.lookups_failed.load(Ordering::Relaxed),
            flows: self.inner.shared.flows().iter().map(|(_, table)| table.load().counters()).collect(),
            peers: self
                .members(&control)
                .into_iter()
                .filter(|member| member.address.label != self.inner.label)
                .map(|member| (member.address.label, member.reachable))
                .collect(),
            ..NodeCounters::default()
        };
        if self.inner.inputs.try_send(look).is_ok()
            && let Ok((driver, glance)) = receiver.recv_timeout(SCRAPE_PATIENCE)
        {
            counters.elections = driver.elections;
            counters.appends_sent = driver.appends_sent;
            counters.appends_received = driver.appends_received;
            counters.votes_sent = driver.votes_sent;
            counters.votes_received = driver.votes_received;
            counters.submitted = driver.proposed;
            counters.committed = driver.committed;
            counters.snapshots_taken = driver.snapshots_taken;
            counters.snapshots_installed = driver.snapshots_installed;
            counters.suspicions = driver.suspicions;
            counters.leaders_moved = driver.leaders_moved;
            counters.entries_read = driver.entries_read;
            counters.messages_dropped = driver.messages_dropped;
            counters.groups = glance.groups();
            let now_ms = now_ms();
            for group in &mut counters.groups {
                group.standing.leader = None;
                group.lease_ms = self.lease_ms(GroupId(group.group), now_ms);
            }
        }
        counters
    }

    /// The committed pools, once this instance knows them and is in step with the fleet.
    pub(crate) async fn committed_pools(&self) -> Option<Vec<PoolSpec>> {
        let mut controls = self.inner.shared.controls();
        while !self.reasons_not_ready().is_empty() {
            controls.changed().await.ok()?;
        }
        let control = self.inner.shared.control();
        Some(control.pools().map(|(_, pool)| pool.spec.clone()).collect())
    }

    /// Hands all leaderships to others, before this instance goes.
    pub(crate) async fn hand_over(&self) {
        // The thread may be gone already; then there is nothing to hand over.
        drop(self.put(Input::HandOver(None)).await);
    }

    /// Whether this instance leads any group.
    pub(crate) async fn leads_any(&self) -> bool {
        self.look(|replica| (0..replica.group_count()).any(|group| leads(replica, group))).await == Ok(true)
    }

    async fn look<T: Send + 'static>(&self, look: impl FnOnce(&Replica) -> T + Send + 'static) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let look = Input::Look(Box::new(move |replica: &Replica| drop(answer.send(look(replica)))));
        self.put(look).await?;
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(Ok(seen)) => Ok(seen),
            // Until it is decided what this instance is, what comes in is dropped.
            Ok(Err(_)) if self.inner.shared.groups().is_empty() => Err(starting()),
            Ok(Err(_)) => Err(ControlError::Unavailable("this instance is stopping".to_owned())),
            Err(_) => Err(ControlError::Unavailable("the replica of this instance did not answer in time".to_owned())),
        }
    }

    async fn submit(&self, command: ControlCommand, again: bool) -> Result<Applied> {
        self.propose(command, again, None).await
    }

    /// A command that is carried out once: as a request of a client's session, or of this instance's own.
    async fn request(&self, command: ControlCommand, request: Option<Request>) -> Result<Applied> {
        self.propose(command, false, request).await
    }

    async fn propose(&self, command: ControlCommand, again: bool, request: Option<Request>) -> Result<Applied> {
        if self.inner.shared.groups().is_empty() {
            return Err(starting());
        }
        let (answer, answered) = oneshot::channel();
        let command = Box::new(command);
        self.put(Input::Submit { command, patience: PATIENCE, again, request, answer }).await?;
        self.applied(answered.await)
    }

    /// What became of a change.
    fn applied(&self, answer: std::result::Result<Submitted, oneshot::error::RecvError>) -> Result<Applied> {
        match applied(answer) {
            Err(ControlError::Unavailable(_)) if self.inner.shared.disk_full.load(Ordering::Relaxed) => {
                let text = "the disk of this instance is full, and nobody else leads. Nothing was done".to_owned();
                Err(ControlError::DiskFull(text))
            }
            other => other,
        }
    }

    /// Waits until a change of pools is in force in every pin group here; gives up silently when it takes long, as the
    /// change is committed in any case and takes effect as soon as it can.
    async fn effective(&self, applied: Applied) -> Result<Applied> {
        let deadline = tokio::time::Instant::now() + EFFECTIVE_PATIENCE;
        while self.inner.shared.groups().iter().any(|group| group.load().table.epoch() < applied.epoch) {
            if tokio::time::Instant::now() >= deadline {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(applied)
    }

    /// Makes sure that what is read next is as new as asked.
    pub(super) async fn fresh(&self, group: GroupId, consistency: Consistency) -> Result<()> {
        let began_ms = now_ms();
        match consistency {
            Consistency::Local => return Ok(()),
            Consistency::Bounded(most) => {
                let bound_ms = began_ms.saturating_sub(most.as_millis() as u64);
                if self.inner.shared.proven_ms(group).is_some_and(|proven_ms| proven_ms >= bound_ms) {
                    return Ok(());
                }
            }
            Consistency::Linearizable => {}
        }
        if self.inner.shared.groups().is_empty() {
            return Err(starting());
        }
        let (answer, answered) = oneshot::channel();
        self.put(Input::CatchUp { group, patience: PATIENCE, answer }).await?;
        match self.applied(answered.await) {
            Ok(_) => {
                self.inner.shared.note_proof(group, began_ms);
                Ok(())
            }
            // A read changes nothing.
            Err(ControlError::UnknownOutcome(_)) => {
                Err(ControlError::Unavailable("the replica of this instance gave no answer".to_owned()))
            }
            Err(error) => Err(error),
        }
    }

    async fn fresh_pins(&self, consistency: Consistency) -> Result<()> {
        for group in 1..=self.inner.shared.groups().len() {
            self.fresh(GroupId(group as u32), consistency).await?;
        }
        Ok(())
    }

    fn pool_id(&self, name: &str) -> Result<PoolId> {
        let control = self.inner.shared.control();
        let id = PoolId::of(name);
        if control.pool(id).is_none() {
            return Err(no_pool(&control, name));
        }
        Ok(id)
    }

    async fn member_id(&self, label: &str) -> Result<InstanceId> {
        self.fresh(GroupId(0), Consistency::Linearizable).await?;
        let control = self.inner.shared.control();
        control.member_by_label(label).map(|(id, _)| id).ok_or_else(|| {
            let labels: Vec<&str> = control.members().map(|(_, member)| member.address.label.as_str()).collect();
            ControlError::NotFound(format!("no member is called {label}; there are {}", labels.join(", ")))
        })
    }

    fn pin_of(&self, key: &PinKey) -> Option<Pin> {
        let view = self.inner.shared.view(key)?;
        let pin = view.table.stored(key)?;
        let control = self.inner.shared.control();
        let (_, server) = control.backend(pin.backend)?;
        let state = match view.table.lookup(key) {
            flow::Lookup::Held(_) => PinState::Settled,
            flow::Lookup::Moving | flow::Lookup::Free => PinState::Moving,
        };
        Some(Pin {
            client: key.client(),
            backend: pin.backend,
            server: server.name.clone(),
            address: server.socket_address(),
            state,
            epoch: pin.epoch,
            revision: pin.revision,
            expires_in_ms: pin.expires.0.saturating_sub(view.table.time().0),
        })
    }

    fn members(&self, control: &ControlTable) -> Vec<Member> {
        let links = self.inner.links();
        control
            .members()
            .map(|(id, member)| Member {
                id,
                address: member.address.clone(),
                voter: member.voter,
                incarnation: member.incarnation,
                reachable: member.address.label == self.inner.label
                    || links.iter().any(|(label, up)| *label == member.address.label && *up),
            })
            .collect()
    }

    fn pools_view(&self, control: &ControlTable) -> PoolsView {
        let pools = control.pools().map(|(_, pool)| self.pool_status(control, pool)).collect();
        PoolsView { epoch: control.epoch(), pools }
    }

    fn pool_status(&self, control: &ControlTable, pool: &Pool) -> PoolStatus {
        let pins_of = |backend: BackendId| -> u64 {
            let groups = self.inner.shared.groups().iter();
            groups.filter_map(|group| group.load().table.backend(backend)).map(|state| state.pins).sum()
        };
        let servers: Vec<ServerStatus> = pool
            .spec
            .servers
            .iter()
            .map(|server| {
                let backend = identity(&pool.spec, server);
                let votes = control
                    .votes(backend)
                    .filter_map(|(voter, vote)| {
                        let instance = control.member(voter)?.address.label.clone();
                        Some(Vote { instance, view: vote.view })
                    })
                    .collect();
                ServerStatus { backend, verdict: control.verdict(backend).view, votes, pins: pins_of(backend) }
            })
            .collect();
        PoolStatus {
            spec: pool.spec.clone(),
            pins: servers.iter().map(|server| server.pins).sum(),
            connections: self.inner.connections(&pool.spec.name),
            servers,
        }
    }

    fn lease_ms(&self, group: GroupId, now_ms: u64) -> Option<u64> {
        let shared = &self.inner.shared;
        let until_ms = match group.0 {
            0 => shared.control_lease_until_ms.load(Ordering::Relaxed),
            _ => shared.group(group)?.load().lease.until_ms,
        };
        until_ms.checked_sub(now_ms).filter(|left| *left > 0)
    }
}

fn applied(answer: std::result::Result<Submitted, oneshot::error::RecvError>) -> Result<Applied> {
    match answer {
        Ok(Ok(ControlOutcome::Done { revision, epoch })) => Ok(Applied { index: revision.0, epoch }),
        Ok(Ok(ControlOutcome::Conflict(text))) => Err(ControlError::Conflict(text)),
        Ok(Ok(ControlOutcome::Invalid(text))) => Err(ControlError::Invalid(text)),
        Ok(Ok(ControlOutcome::Refused(refusal))) => Err(refused(&refusal)),
        Ok(Err(SubmitError::NotDone(Rejection::NoLeader))) => Err(ControlError::Unavailable(
            "there is no leader, or it does not answer: a majority of the fleet is needed. Nothing was done".to_owned(),
        )),
        Ok(Err(SubmitError::NotDone(Rejection::Overloaded))) => Err(overloaded()),
        Ok(Err(SubmitError::NotDone(Rejection::TooLarge))) => {
            Err(ControlError::Invalid("the change is larger than an entry may be".to_owned()))
        }
        Ok(Err(SubmitError::NoMember)) => Err(ControlError::Unavailable(
            "this instance is no member of the fleet, or the fleet is not born yet. Nothing was done".to_owned(),
        )),
        Ok(Err(SubmitError::Unknown)) | Err(_) => Err(ControlError::UnknownOutcome(
            "the change was proposed and its outcome is unknown: it may or may not take effect".to_owned(),
        )),
    }
}

/// What the session of a request did not allow.
fn refused(refusal: &SessionRefusal) -> ControlError {
    let text = refusal.to_string();
    match refusal {
        SessionRefusal::NoSession(_) => ControlError::NoSession(text),
        SessionRefusal::Answered { .. } => ControlError::Answered(text),
        SessionRefusal::WindowFull(_) | SessionRefusal::TooMany | SessionRefusal::OutOfBytes => {
            ControlError::Overloaded(text)
        }
    }
}

fn no_pool(control: &ControlTable, name: &str) -> ControlError {
    let names: Vec<&str> = control.pools().map(|(_, pool)| pool.spec.name.as_str()).collect();
    ControlError::NotFound(format!("there is no pool {name}; there are {}", names.join(", ")))
}

/// The pool or server that a change names and that is not there.
fn missing(control: &ControlTable, name: &str, change: &ServerChange) -> Option<ControlError> {
    let Some(pool) = control.pool(PoolId::of(name)) else { return Some(no_pool(control, name)) };
    let (ServerChange::Remove(server) | ServerChange::Drain(server) | ServerChange::Enable(server)) = change else {
        return None;
    };
    if pool.spec.servers.iter().any(|one| one.name == *server) {
        return None;
    }
    let names: Vec<&str> = pool.spec.servers.iter().map(|server| server.name.as_str()).collect();
    Some(ControlError::NotFound(format!("pool {name} has no server {server}; it has {}", names.join(", "))))
}

fn no_group(group: u32) -> ControlError {
    ControlError::NotFound(format!("there is no group {group}"))
}

pub(super) fn starting() -> ControlError {
    ControlError::Unavailable("this instance is starting".to_owned())
}

/// Rows up to `limit` and [`PAGE_BYTES_MAX`], the first one in any case; and whether there are more.
fn page<T>(rows: impl Iterator<Item = T>, limit: usize, bytes: impl Fn(&T) -> usize) -> (Vec<T>, bool) {
    let (mut page, mut total) = (Vec::new(), 0);
    for row in rows {
        total += bytes(&row) + ROW_BYTES;
        if page.len() == limit || (total > PAGE_BYTES_MAX && !page.is_empty()) {
            return (page, true);
        }
        page.push(row);
    }
    (page, false)
}

pub(super) fn overloaded() -> ControlError {
    ControlError::Overloaded("the replica has more to do than it can take".to_owned())
}

/// How long a change or a proof may take; below the servers' own limit.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Most bytes of one page: what gRPC clients take by default, 4 MiB, less what a message adds.
const PAGE_BYTES_MAX: usize = (4 << 20) - (64 << 10);

/// What a row takes beside its texts, at most.
const ROW_BYTES: usize = 64;

/// How long an answer waits for a change to be in force in every group.
const EFFECTIVE_PATIENCE: Duration = Duration::from_secs(2);

/// How often it is looked whether a new leader is there.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How long a scrape waits for the replica thread.
const SCRAPE_PATIENCE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests;
