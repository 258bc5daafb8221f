//! What must be so at the end, when all was healed a while ago.

use super::*;

impl World {
    pub(super) fn judge_end(&mut self) {
        for machine in &self.machines {
            let Some(Process { core: Core::Running(running), identity, .. }) = &machine.process else {
                self.say(|| format!("{} does not run", machine.label));
                continue;
            };
            for id in 0..running.replica.group_count() {
                self.say(|| {
                    let status = running.replica.status(GroupId(id));
                    format!(
                        "{} {:?} group {id}: {status:?} leaving {:?}",
                        machine.label,
                        identity.id,
                        running.replica.leaving()
                    )
                });
            }
        }
        let (asks, answered) = (self.asks_after, self.answered_after);
        if asks == 0 || answered * 1000 < asks * 995 {
            self.judge.blame(format!("only {answered} of {asks} asks were answered after all was healed"));
        }
        self.judge_flows();
        self.newcomers_serve();
        self.pick_agreement();
        for node in 0..self.machines.len() {
            let table = self.machines[node].running().map(|running| running.control.clone());
            if let Some(table) = table {
                self.judge.nothing_twice(&table);
            }
        }
    }

    /// Who was replaced a while ago holds leases as everybody does.
    fn newcomers_serve(&mut self) {
        for (node, since_us) in self.replaced.clone() {
            let machine = &mut self.machines[node];
            let now_ms = machine.now_ms(self.now_us);
            let serves =
                machine.running().is_some_and(|running| running.views.iter().all(|view| view.lease.holds(now_ms)));
            if !serves && since_us.max(self.healed_at_us) + SETTLE_US < self.now_us {
                self.judge.blame(format!("{} was replaced, and serves nothing", machine.label));
            }
        }
    }

    /// Instances of one epoch must pick alike.
    fn pick_agreement(&mut self) {
        let mut picks: BTreeMap<(flow::Epoch, PinKey), BackendId> = BTreeMap::new();
        for node in 0..self.machines.len() {
            let Some(running) = self.machines[node].running() else { continue };
            let epoch = running.control.epoch();
            for client in 0..20 {
                let key = PinKey::new(PoolId::of(POOLS[0]), [10, 9, 9, client].into());
                let Some(pick) = running.replica.pick_of(&key) else { continue };
                let known = *picks.entry((epoch, key)).or_insert(pick);
                if known != pick {
                    self.judge.blame(format!("two picks for {} in epoch {epoch}", key.client()));
                    return;
                }
            }
        }
    }
}
