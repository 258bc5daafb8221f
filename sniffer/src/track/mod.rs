//! Flows: packets counted by key and direction, ended by silence, by TCP or by want of room. Time is that of the packets, or
//! of whoever says that it passed.

mod config;
mod flow;
#[cfg(test)]
mod tests;

use ahash::RandomState;
use hashbrown::HashTable;

pub use config::{Config, Timeouts};
pub use flow::{Counts, End, Flow, State};

use ::flow::tuple::FlowKey;

use crate::{
    classify::{self, Verdict},
    decode::Packet,
};

/// Something happened to a flow. Counters are those since its beginning.
#[derive(Clone, Debug)]
pub struct Event {
    /// What.
    pub kind: Kind,
    /// How the flow stands.
    pub flow: Flow,
}

/// What happened to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It began: both sides were seen, or it has lasted a while.
    Start,
    /// It goes on, or its label is known now.
    Update,
    /// It is over, and was told of.
    End(End),
    /// It is over, and was not told of before.
    Short(End),
}

/// What was counted. `packets` is the sum of `tracked` and `unsampled`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets handed in.
    pub packets: u64,
    /// Packets that were counted in a flow.
    pub tracked: u64,
    /// Packets of flows that the sample leaves out.
    pub unsampled: u64,
    /// Flows that began.
    pub flows: u64,
    /// Flows whose place was needed.
    pub evicted: u64,
}

/// All flows that go on.
pub struct Tracker {
    config: Config,
    hash: RandomState,
    /// Places of flows, by key.
    index: HashTable<u32>,
    flows: Vec<Flow>,
    /// The first free place.
    free: u32,
    /// The first flow of each slot that is to be looked at when its time comes.
    wheel: Box<[u32]>,
    /// The last slot that was looked at, in ticks since 1970.
    tick: u64,
    /// Where the search for a flow to give up goes on.
    hand: usize,
    counters: Counters,
    events: Vec<Event>,
}

/// What makes a flow of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Identity {
    key: FlowKey,
    tos: u8,
    ingress: Option<u16>,
}

impl Tracker {
    /// An empty one. Its memory grows with the flows.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            hash: RandomState::new(),
            index: HashTable::new(),
            flows: Vec::new(),
            free: NONE,
            wheel: vec![NONE; WHEEL_SLOTS].into(),
            tick: 0,
            hand: 0,
            counters: Counters::default(),
            events: Vec::new(),
        }
    }

    /// A packet of a frame that had so many bytes on the wire.
    pub fn handle_packet(&mut self, now_us: u64, wire_bytes: u32, packet: &Packet<'_>) {
        self.counters.packets += 1;
        self.handle_time(now_us);
        let (key, low_to_high) = packet.key();
        let identity = if self.config.seven {
            Identity { key, tos: packet.tos, ingress: packet.vlan }
        } else {
            Identity { key, tos: 0, ingress: None }
        };
        if self.config.sample > 1 && !key.id().is_multiple_of(self.config.sample.into()) {
            self.counters.unsampled += 1;
            return;
        }
        self.counters.tracked += 1;
        let hash = self.hash.hash_one(identity);
        let (seven, flows) = (self.config.seven, &self.flows);
        let found = self.index.find(hash, |place| identity_of(&flows[*place as usize], seven) == identity).copied();
        let place = match found {
            Some(place) => {
                let flow = &self.flows[place as usize];
                let silent = now_us.saturating_sub(flow.last_us) > self.config.timeouts.of(flow);
                let again =
                    self.config.split_closed && flow.state == State::Closed && packet.tcp_flags & (SYN | ACK) == SYN;
                if silent || again {
                    self.end(place, if silent { idle_or_closed(flow.state) } else { End::Reused });
                    self.flows[place as usize] =
                        begin(now_us, packet, key, low_to_high, self.flows[place as usize].next);
                    self.counters.flows += 1;
                }
                place
            }
            None => {
                let place = self.place(now_us, packet, key, low_to_high);
                let (seven, flows, state) = (self.config.seven, &self.flows, &self.hash);
                let hasher = |place: &u32| state.hash_one(identity_of(&flows[*place as usize], seven));
                self.index.insert_unique(hash, place, hasher);
                place
            }
        };
        self.count(place, now_us, wire_bytes, packet, low_to_high);
    }

    /// Time has passed: flows that were silent for too long end, others are told of again.
    pub fn handle_time(&mut self, now_us: u64) {
        let now = now_us / TICK_US;
        if now <= self.tick {
            return;
        }
        // All slots at most, however long it was.
        let first = if self.tick == 0 { now } else { self.tick + 1 };
        let first = first.max(now.saturating_sub(WHEEL_SLOTS as u64 - 1));
        self.tick = now;
        for tick in first..=now {
            let mut place = std::mem::replace(&mut self.wheel[slot(tick)], NONE);
            while place != NONE {
                let next = self.flows[place as usize].next;
                self.visit(place, now_us);
                place = next;
            }
        }
    }

    /// What happened since the last call, in order.
    pub fn poll_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Ends all flows: the capture is over.
    pub fn finish(&mut self) {
        for head in &mut self.wheel {
            *head = NONE;
        }
        for flow in self.flows.iter_mut().filter(|flow| flow.counts[0].packets > 0) {
            let end = if flow.state == State::Closed { End::Closed } else { End::Finished };
            self.events.push(ended(flow, end));
        }
        self.flows.clear();
        self.index.clear();
        self.free = NONE;
    }

    /// How many flows go on.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether none does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Counts a packet of a flow, and looks at what it carries while that is not known.
    fn count(&mut self, place: u32, now_us: u64, wire_bytes: u32, packet: &Packet<'_>, low_to_high: bool) {
        let flow = &mut self.flows[place as usize];
        let side = usize::from(low_to_high != flow.from_low);
        flow.counts[side].packets += 1;
        flow.counts[side].bytes += u64::from(wire_bytes);
        flow.last_us = flow.last_us.max(now_us);
        let both = flow.counts[0].packets > 0 && flow.counts[1].packets > 0;
        if packet.protocol == TCP {
            flow.tcp_flags[side] |= packet.tcp_flags;
            let over = flow.tcp_flags[0] & flow.tcp_flags[1] & FIN != 0 || packet.tcp_flags & RST != 0;
            let closing = (flow.tcp_flags[0] | flow.tcp_flags[1]) & FIN != 0;
            flow.state = match flow.state {
                State::Closed => State::Closed,
                _ if over => State::Closed,
                _ if closing => State::Closing,
                _ if both => State::Established,
                state => state,
            };
        } else if both {
            flow.state = State::Established;
        }
        let mut labelled = false;
        if flow.looked_at < self.config.limits.packets && !packet.payload.is_empty() {
            flow.looked_at += 1;
            match classify::examine(&mut flow.pending, packet, side == 0, &self.config.limits) {
                Verdict::Known(label) => {
                    labelled = true;
                    flow.label = Some(label.into());
                    flow.looked_at = u8::MAX;
                }
                Verdict::Partly(label) => flow.label = Some(label.into()),
                Verdict::More => {}
            }
            if flow.looked_at >= self.config.limits.packets {
                flow.pending = None;
            }
        }
        if flow.told && labelled || !flow.told && both {
            self.tell(place, now_us);
        }
    }

    /// A flow's time in the wheel has come: it has ended, or is to be looked at again.
    fn visit(&mut self, place: u32, now_us: u64) {
        let flow = &self.flows[place as usize];
        let silent = now_us.saturating_sub(flow.last_us);
        let timeout = self.config.timeouts.of(flow);
        if silent > timeout {
            let end = idle_or_closed(flow.state);
            let hash = self.hash.hash_one(identity_of(flow, self.config.seven));
            self.end(place, end);
            if let Ok(entry) = self.index.find_entry(hash, |found| *found == place) {
                entry.remove();
            }
            let flow = &mut self.flows[place as usize];
            (flow.counts, flow.label, flow.pending) = (Default::default(), None, None);
            flow.next = std::mem::replace(&mut self.free, place);
            return;
        }
        let due = if flow.told { flow.told_us + self.config.active_us } else { flow.first_us + LINGER_US };
        if now_us >= due {
            self.tell(place, now_us);
        }
        let flow = &self.flows[place as usize];
        self.arm(place, flow.last_us.saturating_add(timeout).min(flow.told_us + self.config.active_us), now_us);
    }

    fn tell(&mut self, place: u32, now_us: u64) {
        let flow = &mut self.flows[place as usize];
        let kind = if flow.told { Kind::Update } else { Kind::Start };
        (flow.told, flow.told_us) = (true, now_us);
        self.events.push(Event { kind, flow: told(flow) });
    }

    fn end(&mut self, place: u32, end: End) {
        let event = ended(&mut self.flows[place as usize], end);
        self.events.push(event);
    }

    /// A place for a new flow, in the wheel already.
    fn place(&mut self, now_us: u64, packet: &Packet<'_>, key: FlowKey, low_to_high: bool) -> u32 {
        self.counters.flows += 1;
        if self.free != NONE {
            let place = self.free;
            self.free = self.flows[place as usize].next;
            self.flows[place as usize] = begin(now_us, packet, key, low_to_high, NONE);
            self.arm(place, now_us + LINGER_US, now_us);
            return place;
        }
        if self.flows.len() < self.config.flows_max.min(NONE as usize) {
            let place = self.flows.len() as u32;
            self.flows.push(begin(now_us, packet, key, low_to_high, NONE));
            self.arm(place, now_us + LINGER_US, now_us);
            return place;
        }
        self.evict(now_us, packet, key, low_to_high)
    }

    /// The place of the flow that was silent longest, of a few; it stays where it is in the wheel.
    fn evict(&mut self, now_us: u64, packet: &Packet<'_>, key: FlowKey, low_to_high: bool) -> u32 {
        let few = (0..EVICTION_CANDIDATES).map(|step| (self.hand + step) % self.flows.len());
        let place = few.min_by_key(|place| self.flows[*place].last_us).unwrap_or_default();
        self.hand = (self.hand + EVICTION_CANDIDATES) % self.flows.len();
        let hash = self.hash.hash_one(identity_of(&self.flows[place], self.config.seven));
        if let Ok(entry) = self.index.find_entry(hash, |found| *found as usize == place) {
            entry.remove();
        }
        self.counters.evicted += 1;
        self.end(place as u32, End::Evicted);
        self.flows[place] = begin(now_us, packet, key, low_to_high, self.flows[place].next);
        place as u32
    }

    /// Has a flow looked at once that time has come, or as late as the wheel allows.
    fn arm(&mut self, place: u32, due_us: u64, now_us: u64) {
        let now = (now_us / TICK_US).max(self.tick);
        let due = (due_us / TICK_US + 1).clamp(now + 1, now + WHEEL_SLOTS as u64 - 1);
        let head = &mut self.wheel[slot(due)];
        self.flows[place as usize].next = std::mem::replace(head, place);
    }
}

fn begin(now_us: u64, packet: &Packet<'_>, key: FlowKey, low_to_high: bool, next: u32) -> Flow {
    Flow {
        key,
        from_low: low_to_high,
        state: State::New,
        tos: packet.tos,
        tcp_flags: [0; 2],
        vlan: packet.vlan,
        looked_at: 0,
        told: false,
        first_us: now_us,
        last_us: now_us,
        told_us: now_us,
        counts: Default::default(),
        label: None,
        pending: None,
        next,
    }
}

fn identity_of(flow: &Flow, seven: bool) -> Identity {
    if seven {
        Identity { key: flow.key, tos: flow.tos, ingress: flow.vlan }
    } else {
        Identity { key: flow.key, tos: 0, ingress: None }
    }
}

fn ended(flow: &mut Flow, end: End) -> Event {
    let kind = if flow.told { Kind::End(end) } else { Kind::Short(end) };
    Event { kind, flow: told(flow) }
}

/// As it is told of: without what classification remembers.
fn told(flow: &mut Flow) -> Flow {
    let pending = flow.pending.take();
    let told = flow.clone();
    flow.pending = pending;
    told
}

fn idle_or_closed(state: State) -> End {
    if state == State::Closed { End::Closed } else { End::Idle }
}

fn slot(tick: u64) -> usize {
    (tick % WHEEL_SLOTS as u64) as usize
}

/// No place.
const NONE: u32 = u32::MAX;

/// The wheel's step, and how many it has: about 100 seconds. What is due later is looked at once in between.
const TICK_US: u64 = 100_000;
const WHEEL_SLOTS: usize = 1024;

/// A flow of which only one side was seen is told of after so long.
const LINGER_US: u64 = 200_000;

/// So many flows are looked at for one to give up.
const EVICTION_CANDIDATES: usize = 16;

const TCP: u8 = 6;
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
