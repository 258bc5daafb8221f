//! Peers as a whole: whether they run, who hands leadership to whom, and when elections are held.

use std::collections::BTreeMap;

use super::{
    Driver, TICK_MS, Tuning,
    detector::{Detector, detector},
    frame::{HEARTBEATS_PER_ITEM_MAX, Heartbeat, Item},
    group::Ticks,
};
use crate::types::{GroupId, NodeId};

/// What is known of the other replicas.
#[derive(Default)]
pub struct Peers {
    known: BTreeMap<NodeId, Peer>,
    /// Milliseconds for which this process ran, as far as it looked: while it stands still nobody can be heard.
    ran_ms: u64,
    seen_ms: Option<u64>,
}

/// How often a group's leadership was handed over lately, and when it may be again.
pub struct Moved {
    times: u32,
    not_before: u64,
}

struct Peer {
    detector: Box<dyn Detector>,
    suspect: bool,
    may_lead: bool,
    /// Since when it has been heard without a break.
    steady_since_ms: u64,
}

impl Peers {
    /// A tick: time goes on.
    pub fn run(&mut self, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.seen_ms.replace(now_ms).unwrap_or(now_ms));
        self.ran_ms += passed.min(STEP_MS_MAX);
    }

    /// Something of that peer came in; a beat says whether it may lead.
    pub fn heard(&mut self, from: NodeId, beat: Option<bool>) {
        let ran_ms = self.ran_ms;
        let Some(peer) = self.known.get_mut(&from) else { return };
        peer.detector.heard(ran_ms, beat.is_some());
        peer.may_lead = beat.unwrap_or(peer.may_lead);
        if std::mem::take(&mut peer.suspect) {
            peer.steady_since_ms = ran_ms;
        }
    }

    /// Other settings: everybody is looked at anew.
    pub fn forget(&mut self) {
        self.known.clear();
    }

    /// Keeps exactly these peers.
    fn follow(&mut self, peers: &[NodeId], tuning: &Tuning, beat_ms: u64) {
        self.known.retain(|id, _| peers.contains(id));
        for id in peers {
            let ran_ms = self.ran_ms;
            self.known.entry(*id).or_insert_with(|| Peer {
                detector: detector(tuning.detector, beat_ms, ran_ms),
                suspect: false,
                may_lead: false,
                steady_since_ms: ran_ms,
            });
        }
    }

    /// Those that fell silent since the last look.
    fn newly_silent(&mut self) -> Vec<NodeId> {
        let ran_ms = self.ran_ms;
        let mut found = Vec::new();
        for (id, peer) in &mut self.known {
            if !peer.suspect && peer.detector.suspects(ran_ms) {
                peer.suspect = true;
                found.push(*id);
            }
        }
        found
    }

    /// Whether it has been there for a while, and may lead.
    fn is_steady(&self, id: NodeId) -> bool {
        let steady = |peer: &Peer| {
            !peer.suspect && peer.may_lead && self.ran_ms.saturating_sub(peer.steady_since_ms) >= STEADY_MS
        };
        self.known.get(&id).is_some_and(steady)
    }
}

impl Peer {
    fn is_willing(&self) -> bool {
        !self.suspect && self.may_lead
    }
}

impl Driver {
    /// The peers that this replica finds silent.
    #[must_use]
    pub fn suspects(&self) -> Vec<NodeId> {
        self.peers.known.iter().filter(|(_, peer)| peer.suspect).map(|(id, _)| *id).collect()
    }

    /// Who can take over a group that this replica leads: the voter with most of its log among those that run and are willing.
    #[must_use]
    pub fn heir(&self, group: GroupId) -> Option<NodeId> {
        let found = self.groups.get(group.0 as usize)?;
        let matched = found.status().matched;
        let can = |id: &NodeId| {
            *id != self.config.id && found.may_inherit(*id) && self.peers.known.get(id).is_some_and(Peer::is_willing)
        };
        matched.into_iter().filter(|(id, _)| can(id)).max_by_key(|(_, index)| *index).map(|(id, _)| id)
    }

    pub(super) fn ticks(&mut self) -> Ticks {
        let tuning = &self.config.tuning;
        let patience = tuning.election_ticks + self.random.up_to(tuning.jitter_ticks);
        Ticks { tick: self.tick, patience: patience as u64 }
    }

    /// Looks at all groups: leaders' clocks go on, and elections that come near are noted.
    pub(super) fn scan(&mut self) {
        let now_ms = self.now_ms;
        for (place, group) in self.groups.iter_mut().enumerate() {
            if group.wants_snapshot(now_ms) {
                self.dirty.insert(place);
            }
            if group.leads() {
                group.advance_clock(now_ms);
            } else if let Some(due) = group.election_due().filter(|due| *due <= self.tick + super::SCAN_TICKS) {
                self.elections.insert((due, place));
            }
        }
    }

    /// Leaders' heartbeats of all groups and this replica's own beat, one frame to each peer. Those of groups at rest take a
    /// few bytes each, and the core is not asked.
    pub(super) fn beat(&mut self) {
        let mut peers: Vec<NodeId> = Vec::new();
        let mut resting: BTreeMap<NodeId, Vec<Heartbeat>> = BTreeMap::new();
        for (place, group) in self.groups.iter_mut().enumerate() {
            if group.leads() && !group.rest(&mut resting) {
                group.heartbeat();
                self.dirty.insert(place);
            }
            for peer in group.peers() {
                if !peers.contains(&peer) {
                    peers.push(peer);
                }
            }
        }
        let beat_ms = self.config.tuning.heartbeat_ticks as u64 * TICK_MS;
        self.peers.follow(&peers, &self.config.tuning, beat_ms);
        let may_lead = self.may_lead && self.willing;
        for peer in peers {
            self.outbox.add(peer, GroupId(0), Item::Beat { may_lead });
        }
        for (peer, heartbeats) in resting {
            for some in heartbeats.chunks(HEARTBEATS_PER_ITEM_MAX) {
                self.outbox.add(peer, GroupId(0), Item::Heartbeats(peer, some.to_vec()));
            }
        }
    }

    /// Peers that fell silent lose their leaderships, as far as a majority sees it the same.
    pub(super) fn suspect(&mut self) {
        for peer in self.peers.newly_silent() {
            self.counters.suspicions += 1;
            self.lose_leader(peer);
        }
    }

    pub(super) fn lose_leader(&mut self, peer: NodeId) {
        for (place, group) in self.groups.iter_mut().enumerate() {
            let turn = group.turn_after(peer) * GONE_TURN_TICKS + self.random.up_to(GONE_JITTER_TICKS);
            let deadline = self.tick + 1 + turn as u64;
            if group.lose_leader(peer, deadline) {
                self.elections.insert((deadline, place));
                self.dirty.insert(place);
            }
        }
    }

    /// Starts the elections whose tick has come.
    pub(super) fn hold_elections(&mut self) {
        while let Some((due, place)) = self.elections.first().copied().filter(|(due, _)| *due <= self.tick) {
            self.elections.remove(&(due, place));
            let Some(group) = self.groups.get_mut(place) else { continue };
            let now_due = group.election_due().filter(|now_due| *now_due <= self.tick && self.may_lead);
            if now_due.is_some() {
                // What could not be started comes again with the next scan.
                group.campaign(self.tick, &mut self.random, &mut self.counters);
                self.dirty.insert(place);
            }
        }
    }

    /// Hands leaderships over: to where they belong, one at a time; or to anybody, for the sake of chaos.
    pub(super) fn move_leaders(&mut self) {
        let Tuning { spread, shuffle_ticks, .. } = self.config.tuning;
        if shuffle_ticks > 0 && self.tick.is_multiple_of(shuffle_ticks) {
            for place in 0..self.groups.len() {
                let number = self.random.next();
                if let Some(heir) = self.groups[place].any_heir(number).filter(|heir| self.peers.is_steady(*heir)) {
                    self.move_leader(place, heir);
                }
            }
        } else if spread && shuffle_ticks == 0 && self.tick.is_multiple_of(SPREAD_TICKS) {
            // Group 0 stays where it is: its leader is the one that people see.
            let tick = self.tick;
            let away = (1..self.groups.len()).find_map(|place| {
                if self.moved.get(&place).is_some_and(|moved| tick < moved.not_before) {
                    return None;
                }
                let heir = self.groups[place].home().filter(|home| *home != self.config.id)?;
                (self.groups[place].may_inherit(heir) && self.peers.is_steady(heir)).then_some((place, heir))
            });
            if let Some((place, heir)) = away {
                // An heir that others do not hear leads for nobody, and this replica is elected again.
                let before = self.moved.get(&place).filter(|moved| tick < moved.not_before + FORGIVEN_TICKS);
                let times = before.map_or(0, |moved| moved.times + 1);
                let not_before = tick + (SPREAD_TICKS << times.min(MOVES_DOUBLED));
                self.moved.insert(place, Moved { times, not_before });
                self.move_leader(place, heir);
            }
        }
    }

    fn move_leader(&mut self, place: usize, heir: NodeId) {
        self.groups[place].transfer(heir);
        self.dirty.insert(place);
        self.counters.leaders_moved += 1;
    }
}

/// Time between two ticks that goes beyond this does not count: this process did not run.
const STEP_MS_MAX: u64 = 50;

/// Those who could follow a leader whose process is gone, or seems so, ask for votes one after the other, so many ticks
/// apart: who asks at the same time as another splits the votes.
const GONE_TURN_TICKS: usize = 3;

/// Jitter before each of them.
const GONE_JITTER_TICKS: usize = 1;

/// Leaderships are handed only to who has been there for so long.
const STEADY_MS: u64 = 3000;

/// The wait before a leadership is handed over once more doubles so many times.
const MOVES_DOUBLED: u32 = 8;

/// So long after that wait it is as if it had never been handed over.
const FORGIVEN_TICKS: u64 = 6000;

/// One leadership at most is handed over to spread them in so many ticks.
const SPREAD_TICKS: u64 = 20;
