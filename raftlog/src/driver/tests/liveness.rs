//! Old entries from disk, silent leaders, spread leaderships, and fleets on bad networks.

use super::*;

/// Fleets of several groups, with a delay and a loss on every wire.
struct Net {
    drivers: BTreeMap<NodeId, Driver>,
    /// By arrival: when, to whom, from whom, what.
    wires: BTreeMap<(u64, u64), (NodeId, NodeId, Bytes)>,
    sequence: u64,
    now_ms: u64,
    delay_ms: u64,
    loss_percent: usize,
    silent: BTreeSet<NodeId>,
    /// Whose disk takes nothing, and the last round that it was given.
    stalled: BTreeMap<NodeId, u64>,
    /// Messages of Raft that were sent.
    messages: u64,
    random: Random,
}

impl Net {
    fn new(count: u64, groups: u32, tuning: &Tuning) -> Self {
        let ids: Vec<u64> = (1..=count).collect();
        let start = |group| GroupStart { group: GroupId(group), ..founder(&ids) };
        let driver = |id: &u64| {
            let config = DriverConfig { tuning: tuning.clone(), ..config(*id) };
            (NodeId(*id), Driver::new(config, (0..groups).map(start).collect()).unwrap())
        };
        Self {
            drivers: ids.iter().map(driver).collect(),
            wires: BTreeMap::new(),
            sequence: 0,
            now_ms: 0,
            delay_ms: 0,
            loss_percent: 0,
            silent: BTreeSet::new(),
            stalled: BTreeMap::new(),
            messages: 0,
            random: Random::new(7),
        }
    }

    fn run(&mut self, ticks: u64) {
        for _ in 0..ticks {
            self.now_ms += TICK_MS;
            for driver in self.drivers.values_mut() {
                driver.set_now(self.now_ms);
                driver.handle_tick();
            }
            self.carry();
        }
    }

    /// Until nothing is left that arrives by now.
    fn carry(&mut self) {
        loop {
            let ids: Vec<NodeId> = self.drivers.keys().copied().collect();
            for id in ids {
                for action in self.drivers.get_mut(&id).map(Driver::poll).unwrap_or_default() {
                    self.carry_out(id, action);
                }
            }
            let Some(entry) = self.wires.first_entry().filter(|entry| entry.key().0 <= self.now_ms) else { return };
            let (to, from, frame) = entry.remove();
            if let Some(driver) = self.drivers.get_mut(&to) {
                driver.handle_frame(from, &frame);
            }
        }
    }

    fn carry_out(&mut self, id: NodeId, action: Action) {
        match action {
            Action::Persist { round, .. } => match self.stalled.get_mut(&id) {
                Some(last) => *last = round,
                None => self.drivers.get_mut(&id).unwrap().handle_persisted(round),
            },
            Action::Send { to, frame } => {
                let items = frame::decode(&frame).unwrap();
                self.messages += items.iter().filter(|(_, item)| matches!(item, Item::Raft(_))).count() as u64;
                let lost = self.random.up_to(99) < self.loss_percent;
                if !lost && !self.silent.contains(&id) && !self.silent.contains(&to) {
                    self.sequence += 1;
                    self.wires.insert((self.now_ms + self.delay_ms, self.sequence), (to, id, frame));
                }
            }
            Action::Broken { why, .. } => panic!("{id}: {why}"),
            _ => {}
        }
    }

    fn leader(&self, group: u32) -> Option<NodeId> {
        let leads = |(_, driver): &(&NodeId, &Driver)| driver.leads(GroupId(group));
        self.drivers.iter().filter(|(id, _)| !self.silent.contains(id)).find(leads).map(|(id, _)| *id)
    }

    fn highest_term(&self) -> u64 {
        self.drivers.values().map(|driver| driver.status(GROUP).unwrap().term.0).max().unwrap()
    }
}

#[test]
fn groups_at_rest_keep_their_leaders_without_messages_of_their_own() {
    let mut net = Net::new(3, 100, &Tuning::default());
    net.run(1000);
    let leaders: Vec<NodeId> = (0..100).map(|group| net.leader(group).unwrap()).collect();
    let terms = |net: &Net| -> Vec<Term> {
        (0..100).map(|group| net.drivers[&NodeId(1)].status(GroupId(group)).unwrap().term).collect()
    };
    let (before, terms_before) = (net.messages, terms(&net));
    net.run(1000);
    assert_eq!(net.messages, before, "nothing but heartbeats and their answers");
    assert_eq!((0..100).map(|group| net.leader(group).unwrap()).collect::<Vec<_>>(), leaders);
    assert_eq!(terms(&net), terms_before);
    // Whoever hears no answer any more leads no more, and the others lead.
    let lonely = leaders[1];
    net.silent.insert(lonely);
    net.run(100);
    assert!((0..100).all(|group| !net.drivers[&lonely].leads(GroupId(group))), "no majority answers it");
    assert!((0..100).all(|group| net.leader(group).is_some()), "a majority goes on");
    // Back again, it follows, and all is at rest.
    net.silent.clear();
    net.run(1000);
    let before = net.messages;
    net.run(100);
    assert_eq!(net.messages, before);
}

#[test]
fn a_heartbeat_at_rest_is_answered_only_by_who_stands_as_it_says() {
    let mut net = Net::new(3, 2, &Tuning { spread: false, ..Tuning::default() });
    net.run(200);
    let leader = net.leader(1).unwrap();
    let follower = *net.drivers.keys().find(|id| **id != leader).unwrap();
    let status = net.drivers[&leader].status(GroupId(1)).unwrap();
    let said = Heartbeat { group: GroupId(1), term: status.term, commit: status.committed };
    let mut answers_of = |to: NodeId, heartbeat: Heartbeat| {
        let mut builder = FrameBuilder::default();
        builder.add(GroupId(0), &Item::Heartbeats(to, vec![heartbeat]));
        let driver = net.drivers.get_mut(&follower).unwrap();
        driver.handle_frame(leader, &builder.finish()[0]);
        let sent = driver.poll().into_iter().filter_map(|action| match action {
            Action::Send { frame, .. } => Some(frame::decode(&frame).unwrap()),
            _ => None,
        });
        sent.flatten().filter(|(_, item)| matches!(item, Item::HeartbeatAnswers(to, _) if *to == leader)).count()
    };
    assert_eq!(answers_of(NodeId(9), said), 0, "for who was here before");
    let mut answers = |heartbeat| answers_of(follower, heartbeat);
    assert_eq!(answers(said), 1);
    assert_eq!(answers(Heartbeat { term: Term(said.term.0 - 1), ..said }), 0, "of an older term");
    assert_eq!(answers(Heartbeat { commit: Index(said.commit.0 - 1), ..said }), 0, "of another commit index");
    assert_eq!(answers(Heartbeat { group: GroupId(2), ..said }), 0, "of no group");
    assert_eq!(answers(Heartbeat { term: Term(said.term.0 + 1), ..said }), 0, "of a term that is not on disk");
}

#[test]
fn a_majority_of_disks_that_stall_does_not_depose_the_leader() {
    let mut net = Net::new(3, 1, &Tuning { spread: false, ..Tuning::default() });
    net.run(200);
    let leader = net.leader(0).unwrap();
    let term = net.highest_term();
    let followers: Vec<NodeId> = net.drivers.keys().copied().filter(|id| *id != leader).collect();
    net.stalled = followers.iter().map(|id| (*id, 0)).collect();
    let propose = |net: &mut Net, token| {
        net.drivers.get_mut(&leader).unwrap().propose(GROUP, token, Bytes::from_static(b"x"));
    };
    let committed = |net: &Net| net.drivers[&leader].status(GROUP).unwrap().committed;
    let before = committed(&net);
    for token in 0..20 {
        propose(&mut net, token);
        net.run(20);
    }
    assert_eq!((net.leader(0), net.highest_term()), (Some(leader), term), "everybody hears of it");
    assert_eq!(committed(&net), before, "nothing is acknowledged that is not stored");
    for (id, round) in std::mem::take(&mut net.stalled) {
        net.drivers.get_mut(&id).unwrap().handle_persisted(round);
    }
    net.run(10);
    assert_eq!(committed(&net), Index(before.0 + 20));
    assert_eq!(net.highest_term(), term);
}

#[test]
fn entries_that_are_only_on_disk_are_read_for_who_needs_them() {
    let mut fleet = Fleet::new(&[1, 2, 3]);
    let keep_all = |id| DriverConfig { compact_entries: 10_000, memory_bytes: 0, ..config(id) };
    for id in 1..=3 {
        fleet.drivers.insert(NodeId(id), Driver::new(keep_all(id), vec![founder(&[1, 2, 3])]).unwrap());
    }
    let leader = fleet.elect();
    let late = fleet.others(leader)[0];
    fleet.cut.insert(late);
    let expected: Vec<String> = (0..2000).map(|number| format!("entry-{number}")).collect();
    for (number, text) in expected.iter().enumerate() {
        fleet.propose(leader, number as u64, text);
    }
    let status = fleet.drivers[&leader].status(GROUP).unwrap();
    assert_eq!(status.first, Index(2), "the log was not cut");
    assert!(status.held_bytes < 20_000, "{} bytes in memory", status.held_bytes);
    fleet.cut.clear();
    fleet.run(100);
    assert_eq!(fleet.applied[&late], expected);
    assert!(!fleet.restored.contains(&late), "no snapshot was needed");
    assert!(fleet.drivers[&leader].counters().entries_read > 1000);
}

#[test]
fn a_log_on_disk_that_lacks_what_it_should_have_ends_the_process() {
    let mut fleet = Fleet::new(&[1, 2, 3]);
    let keep_all = |id| DriverConfig { compact_entries: 10_000, memory_bytes: 0, ..config(id) };
    for id in 1..=3 {
        fleet.drivers.insert(NodeId(id), Driver::new(keep_all(id), vec![founder(&[1, 2, 3])]).unwrap());
    }
    let leader = fleet.elect();
    for number in 0..1000 {
        fleet.propose(leader, number, "entry");
    }
    fleet.driver(leader).handle_log_read(GROUP, Index(5), &[]);
    assert!(matches!(fleet.driver(leader).poll()[..], [Action::Broken { .. }]));
}

#[test]
fn reads_of_one_round_share_a_proof() {
    let mut fleet = Fleet::new(&[1, 2, 3]);
    let leader = fleet.elect();
    fleet.propose(leader, 1, "a");
    let follower = fleet.others(leader)[0];
    for id in [leader, follower] {
        for context in 100..300 {
            assert!(fleet.driver(id).read_index(GROUP, context));
        }
        let frames = fleet.driver(id).poll().into_iter().filter_map(|action| match action {
            Action::Send { to, frame } => Some((to, frame)),
            _ => None,
        });
        let frames: Vec<_> = frames.collect();
        let questions: usize = frames.iter().map(|(_, frame)| frame::decode(frame).unwrap().len()).sum();
        assert!(questions <= 2, "{questions} messages");
        for (to, frame) in frames {
            fleet.driver(to).handle_frame(id, &frame);
        }
        fleet.drain();
        let mut proven: Vec<u64> =
            std::mem::take(&mut fleet.proven).into_iter().filter(|(by, ..)| *by == id).map(|(_, c, _)| c).collect();
        proven.sort_unstable();
        assert_eq!(proven, (100..300).collect::<Vec<u64>>());
    }
}

#[test]
fn a_silent_leader_is_replaced_sooner_than_its_election_timeout() {
    let tuning = Tuning { election_ticks: 500, jitter_ticks: 100, ..Tuning::default() };
    for (detector, most_ms) in [(DetectorKind::default(), 600), (DetectorKind::Fixed { timeout_ms: 1000 }, 1500)] {
        let mut net = Net::new(3, 3, &Tuning { detector, ..tuning.clone() });
        net.run(1500);
        let old = net.leader(0).unwrap();
        net.silent.insert(old);
        let began = net.now_ms;
        while net.leader(0).is_none() {
            net.run(1);
            assert!(net.now_ms - began < most_ms, "{detector:?}: nobody leads after {} ms", net.now_ms - began);
        }
    }
}

#[test]
fn a_fleet_that_loses_a_tenth_of_its_messages_has_no_election_storm() {
    let mut net = Net::new(5, 4, &Tuning { spread: false, ..Tuning::default() });
    net.run(200);
    net.loss_percent = 10;
    let before = net.highest_term();
    net.run(60_000);
    let elections = net.highest_term() - before;
    assert!(elections <= 3, "{elections} terms in ten minutes");
    assert!(net.leader(0).is_some());
}

#[test]
fn a_fleet_with_round_trips_of_200_ms_elects_and_keeps_its_leader() {
    let mut net = Net::new(3, 4, &Tuning { spread: false, ..Tuning::default() });
    net.delay_ms = 100;
    net.run(1000);
    let (leader, term) = (net.leader(0).unwrap(), net.highest_term());
    net.run(60_000);
    assert_eq!((net.leader(0), net.highest_term()), (Some(leader), term), "ten minutes under one leader");
    net.silent.insert(leader);
    net.run(500);
    assert!(net.leader(0).is_some_and(|new| new != leader), "and another within five seconds, once it is gone");
}

#[test]
fn leaderships_are_spread_and_return_when_their_replica_does() {
    let mut net = Net::new(3, 10, &Tuning::default());
    net.run(2000);
    let count = |net: &Net, id| (1..10).filter(|group| net.leader(*group) == Some(NodeId(id))).count();
    assert_eq!([1, 2, 3].map(|id| count(&net, id)), [3, 3, 3]);
    net.silent.insert(NodeId(2));
    net.run(300);
    assert_eq!(count(&net, 1) + count(&net, 3), 9);
    net.silent.clear();
    net.run(2000);
    assert_eq!([1, 2, 3].map(|id| count(&net, id)), [3, 3, 3]);
    // One that may not lead is given none, and those it had find another.
    net.drivers.get_mut(&NodeId(2)).unwrap().set_may_lead(false);
    net.run(2000);
    assert_eq!(count(&net, 2), 0);
}

#[test]
fn leaders_are_shuffled_where_chaos_is_wanted_and_settings_change_while_it_runs() {
    let mut net = Net::new(3, 4, &Tuning::default());
    net.run(1000);
    let shuffle = Tuning { shuffle_ticks: 50, ..Tuning::default() };
    for driver in net.drivers.values_mut() {
        driver.tune(shuffle.clone());
    }
    let mut led: BTreeSet<NodeId> = BTreeSet::new();
    for _ in 0..40 {
        net.run(50);
        led.extend(net.leader(0));
    }
    assert_eq!(led.len(), 3, "everybody led group 0 at some time");
    let moved: u64 = net.drivers.values().map(|driver| driver.counters().leaders_moved).sum();
    assert!(moved >= 20, "{moved}");
}
#[test]
fn whoever_follows_a_dead_leader_does_not_split_the_votes() {
    for (delay_ms, most_ms) in [(1, 400), (20, 1000), (100, 5000)] {
        for seed in 0..50 {
            let mut net = Net::new(3, 4, &Tuning { spread: false, ..Tuning::default() });
            for (id, driver) in &mut net.drivers {
                driver.random = Random::new(seed * 1000 + id.0);
            }
            net.delay_ms = delay_ms;
            net.run(700);
            net.silent.insert(net.leader(0).unwrap());
            let began = net.now_ms;
            while net.leader(0).is_none() {
                net.run(1);
                let ms = net.now_ms - began;
                assert!(ms < most_ms, "seed {seed}, messages that take {delay_ms} ms: nobody leads after {ms} ms");
            }
        }
    }
}
