//! What an instance asks of the world: rounds stored, snapshots written and sent, frames, probes.

use super::*;

impl World {
    pub(super) fn carry_out(&mut self, node: usize, output: Output) {
        let life = self.machines[node].life;
        match output {
            Output::PublishControl(table) => {
                self.judge.control(node, &table, self.now_us);
                self.save_birth(node, &table);
                self.probe_newcomers(node, &table);
                if let Some(running) = self.machines[node].running() {
                    running.control = table;
                }
            }
            Output::PublishGroup(group, view) => {
                self.judge.group(group, &view, self.now_us);
                if let Some(running) = self.machines[node].running() {
                    running.views[group.0 as usize - 1] = *view;
                }
            }
            Output::PublishFlows(group, table) => {
                self.judge.digest(group, table.applied(), table.digest());
                if let Some(running) = self.machines[node].running() {
                    running.flows.insert(group, *table);
                }
            }
            Output::Reported(ticket, answer) => self.reported(node, ticket, answer),
            Output::Chosen(ticket, answer) => self.chosen(node, ticket, answer),
            Output::Submitted(ticket, answer) => self.submitted(node, ticket, answer),
            Output::Persist { round, records, installs, sync } => {
                let slow = self.machines[node].disk_slow;
                let delay = if slow { self.random.range(5_000, 80_000) } else { self.random.range(100, 2_000) };
                let delay = delay.max(self.machines[node].stalled_until_us.saturating_sub(self.now_us));
                let hasty = flow::plant::on(flow::plant::Plant::AckBeforeSync);
                let Some(running) = self.machines[node].running() else { return };
                let taken = |install: Install| running.received.remove(&(install.group, install.index, install.term));
                let received = installs.into_iter().filter_map(taken).collect();
                running.rounds.push(Round { round, records, received, sync });
                if hasty {
                    running.replica.handle_persisted(round);
                    self.after(50_000 + delay, Event::Persisted { node, life, round });
                } else {
                    self.after(delay, Event::Persisted { node, life, round });
                }
            }
            Output::StoreSnapshot { group, index, term, meta, state } => {
                let delay = self.random.range(500, 50_000);
                self.after(delay, Event::Store { node, life, place: (group, index, term), meta, state });
            }
            Output::ReadLog { group, from, to, max_bytes } => {
                let Some(running) = self.machines[node].running() else { return };
                match running.storage.read_log(group, from, to, max_bytes) {
                    Ok(entries) => running.replica.handle_log_read(group, from, &entries),
                    Err(error) => self.judge.blame(format!("the log of {}: {error}", self.machines[node].label)),
                }
            }
            Output::Send { to, frame } => self.send(node, to, Packet::Frame(frame)),
            Output::SendSnapshot { to, group, index, term, message } => {
                let lost = self.random.chance(self.loss_per_mille * 2);
                let delay = self.random.range(2_000, 20_000);
                let Some(running) = self.machines[node].running() else { return };
                let file = running.storage.snapshots().open_raw(group, index, term).and_then(|raw| {
                    let mut bytes = vec![0; raw.length() as usize];
                    raw.read_at(0, &mut bytes).map(|()| Bytes::from(bytes))
                });
                if file.is_err() {
                    running.replica.handle_snapshot_unreadable(group, (index, term));
                }
                let arrived = !lost && file.is_ok();
                if let Some(file) = file.ok().filter(|_| !lost) {
                    self.send(node, to, Packet::Snapshot { group, index, term, message, file });
                }
                self.after(delay, Event::SnapshotSent { node, life, group, to, arrived });
            }
            Output::ProbeNow(backend) => {
                let delay = self.random.range(200, 3_000);
                self.after(delay, Event::Probe { node, life, backend, now: true });
            }
            Output::BuildSlots { pool, key, members } => {
                let delay = self.random.range(500, 20_000);
                self.after(delay, Event::Slots { node, life, pool, members, key });
            }
            Output::Role(role) => {
                self.mix(role.term.0 ^ u64::from(role.group.0) << 32);
                if role.role == Role::Leader {
                    let id = self.machines[node].running().map(|running| running.replica.status(role.group));
                    if let Some(Some(status)) = id
                        && let Some(leader) = status.leader
                    {
                        self.judge.leader(role.group, role.term, leader);
                    }
                    self.say(|| {
                        format!("{} leads group {} in term {}", self.machines[node].label, role.group, role.term)
                    });
                }
            }
            Output::Broken { group, why } => {
                self.judge.blame(format!("{}, group {group}: {why}", self.machines[node].label));
            }
            Output::OtherLease { configured_ms, fleet_ms } => {
                self.say(|| {
                    format!("{} is configured to {configured_ms} ms, not {fleet_ms}", self.machines[node].label)
                });
            }
            // Who is let in is asked of the replica itself.
            Output::Leaving(_) => {}
            Output::Stop => {
                self.judge.blame(format!("{} is told to stop, and nobody asked", self.machines[node].label))
            }
            Output::Removed => self.say(|| format!("{} was removed", self.machines[node].label)),
        }
    }

    pub(super) fn persisted(&mut self, node: usize, life: u64, round: u64) {
        if self.asleep(node) {
            let until = self.machines[node].paused_until_us;
            self.at(until + 1, Event::Persisted { node, life, round });
            return;
        }
        let mut failed = None;
        self.with(node, life, |running| {
            // Rounds are stored in order; one that is done has those before it done.
            while running.rounds.first().is_some_and(|first| first.round <= round) {
                let first = running.rounds.remove(0);
                let Round { round, records, mut received, sync } = first;
                if let Err(error) = running.storage.persist(&records, &mut received, sync) {
                    failed.get_or_insert(error.to_string());
                }
                if !flow::plant::on(flow::plant::Plant::AckBeforeSync) {
                    running.replica.handle_persisted(round);
                }
            }
            if let Some((group, through)) = running.storage.holding_back() {
                running.replica.request_snapshot(group, through);
            }
        });
        if let Some(error) = failed {
            self.judge.blame(format!("the log of {} failed: {error}", self.machines[node].label));
        }
    }

    pub(super) fn store(
        &mut self,
        node: usize,
        life: u64,
        place: (GroupId, Index, Term),
        meta: Bytes,
        state: Arc<dyn State>,
    ) {
        if self.asleep(node) {
            let until = self.machines[node].paused_until_us;
            self.at(until + 1, Event::Store { node, life, place, meta, state });
            return;
        }
        let mut failed = None;
        self.with(node, life, |running| {
            let stored = store_snapshot(running.storage.snapshots(), place, &meta, state.as_ref());
            running.replica.handle_snapshot_stored(place.0, place.1, stored.is_ok());
            // One of a peer that was installed meanwhile is newer.
            failed = stored.err().filter(|error| !matches!(error, WalError::Refused(_)));
        });
        if let Some(error) = failed {
            self.judge.blame(format!("{} cannot store a snapshot: {error}", self.machines[node].label));
        }
    }
}
