//! Fleets that begin with a backup, on some of their machines or on all: the others have empty directories.

use std::sync::Arc;

use flow::{ControlTable, FleetId, LogTime, PinTable, Revision, pins::Expiry};
use raftlog::disk::Disk;
use replica::{
    GroupState,
    backup::{Backup, Head, restore},
};

use super::*;

impl World {
    /// In some seeds the fleet is a restored one. Says when each machine starts, and restored ones do so first: two empty
    /// ones that hear of nothing may found a fleet.
    pub(super) fn restore_some(&mut self) -> Vec<u64> {
        let count = self.machines.len();
        if count < 2 || !self.random.chance(150) {
            return (0..count).map(|_| self.random.below(300_000)).collect();
        }
        let (first, restored) =
            (self.random.below(count as u64) as usize, self.random.below(count as u64) as usize + 1);
        let mut starts_us: Vec<u64> = (0..count).map(|_| self.random.range(50_000, 300_000)).collect();
        for node in (first..first + restored).map(|node| node % count) {
            starts_us[node] = self.random.below(50_000);
            self.restore(node);
        }
        starts_us
    }

    fn restore(&mut self, node: usize) {
        let life = Incarnation(self.random.next() | 1);
        let machine = &self.machines[node];
        let disk: Arc<dyn Disk> = Arc::new(machine.disk.clone());
        let (backup, written) = self.backup();
        match restore(&disk, &self.founding, &machine.label, life, backup) {
            Ok(_) => self.judge.acked(KEY.to_owned(), written),
            Err(error) => self.judge.blame(format!("{} cannot be restored: {error}", machine.label)),
        }
        self.say(|| format!("{} is restored", self.machines[node].label));
    }

    /// What is left of a fleet that had the same instances, and at which revision it has its key.
    fn backup(&self) -> (Backup, Revision) {
        let founders = self.founding.founders();
        let birth = flow::Birth {
            fleet: FleetId(7),
            pick_key: *b"the-simulators-k",
            pin_groups: self.founding.pin_groups,
            lease_ms: self.founding.lease_ms,
            founders,
            pools: pools(),
        };
        let mut control = ControlTable::default();
        control.apply(Revision(2), LogTime(10), &ControlCommand::Birth(birth));
        let written = Revision(90);
        let put = ControlCommand::KvPut { key: KEY.to_owned(), value: b"v".to_vec(), if_revision: None };
        control.apply(written, LogTime(20), &put);
        let mut states = BTreeMap::from([(GroupId(0), GroupState::Control(Box::new(control)))]);
        for group in 1..=self.founding.pin_groups {
            let (mut pins, mut expiry) = (PinTable::new(), Expiry::new());
            pins.skip(Revision(40), LogTime(30), &mut expiry);
            states.insert(GroupId(group), GroupState::Pins(Box::new((pins, expiry))));
        }
        let head = Head {
            fleet_name: self.founding.fleet_name.clone(),
            fleet: 7_u128.to_be_bytes().to_vec(),
            groups: self.founding.pin_groups + 1,
            ..Head::default()
        };
        (Backup { head, states }, written)
    }
}

/// What the backup has.
const KEY: &str = "restored";
