//! Flows: packets counted by key and direction, ended by silence, by TCP or by want of room. Time is that of the packets, or
//! of whoever says that it passed.

mod config;
mod entry;
mod flow;
mod index;
mod queue;
mod sample;
#[cfg(test)]
mod tests;

use ahash::RandomState;

pub use config::{Config, Timeouts};
pub use flow::{Counts, End, Flow, State};
pub use index::PLACES_MAX as FLOWS_MAX;
pub use sample::takes;

use crate::{
    classify::{self, Payload, Pending, Verdict},
    decode::Packet,
};
use entry::{Entry, FIVE, Identity, SEVEN, Slab};
use index::Index;
use queue::{Queue, Waiting};

/// Something happened to a flow. Counters are those since its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// It goes on, its label is known now, or TCP has said that it is over: what still comes, comes with its end.
    Update,
    /// It is over, and was told of.
    End(End),
    /// It is over, and was not told of before.
    Short(End),
}

/// What was counted. `packets` is the sum of `tracked` and `unsampled`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets handled.
    pub packets: u64,
    /// Packets that were counted in a flow.
    pub tracked: u64,
    /// Packets of flows that the sample leaves out.
    pub unsampled: u64,
    /// Flows that began.
    pub flows: u64,
    /// Flows whose place was needed: the table was full.
    pub evicted: u64,
    /// Flows that gave their place after a tenth of their timeout: the table was nearly full.
    pub hurried: u64,
    /// Flows that were not classified to the end: too much is remembered of all together.
    pub unclassified: u64,
}

/// All flows that go on.
pub struct Tracker {
    config: Config,
    /// What of an identity tells flows apart.
    mask: u64,
    hash: RandomState,
    index: Index,
    flows: Slab,
    /// The first free place.
    free: u32,
    /// The first flow of each slot that is to be looked at when its time comes.
    wheel: Box<[u32]>,
    /// The last slot that was looked at, in ticks since 1970.
    tick: u64,
    /// How many times in a row the time was long before that.
    behind: u32,
    /// Where the search for a flow to give up goes on.
    hand: u32,
    /// Bytes that classification remembers of all flows.
    pending_bytes: usize,
    queue: Queue,
    counters: Counters,
    events: Vec<Event>,
}

impl Tracker {
    /// An empty one. Its memory grows with the flows.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            mask: if config.seven { SEVEN } else { FIVE },
            config,
            hash: RandomState::new(),
            index: Index::new(),
            flows: Slab::default(),
            free: NONE,
            wheel: vec![NONE; WHEEL_SLOTS].into(),
            tick: 0,
            behind: 0,
            hand: 0,
            pending_bytes: 0,
            queue: Queue::default(),
            counters: Counters::default(),
            events: Vec::new(),
        }
    }

    /// How it was made.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A packet of a frame that had so many bytes on the wire, handled at once.
    pub fn handle_packet(&mut self, now_us: u64, wire_bytes: u32, packet: &Packet<'_>) {
        self.queue_packet(now_us, wire_bytes, packet);
        self.flush();
    }

    /// The same for one that is handled together with others: as soon as there are some of them, with [`Tracker::flush`],
    /// and before anything else is. The result is the same as one by one, several times as fast.
    #[inline]
    pub fn queue_packet(&mut self, now_us: u64, wire_bytes: u32, packet: &Packet<'_>) {
        let (identity, from_low) = Identity::of(packet);
        let hash = identity.hash(&self.hash, self.mask);
        self.index.prefetch(hash);
        let (sequence, tcp_flags) = (packet.sequence, packet.tcp_flags);
        let payload = classify::of_interest(packet, &self.config.limits);
        let (place, nothing) = (NONE, Default::default());
        let waiting =
            Waiting { identity, now_us, hash, wire_bytes, sequence, place, payload: nothing, tcp_flags, from_low };
        self.queue.push(waiting, payload);
        if self.queue.is_full() {
            self.flush();
        }
    }

    /// Handles all packets that wait.
    pub fn flush(&mut self) {
        let mut queue = std::mem::take(&mut self.queue);
        for packet in &mut queue.packets {
            if let Some(place) = self.index.first(packet.hash) {
                packet.place = place;
                self.flows.at(place).prefetch();
            }
        }
        for packet in &queue.packets {
            self.handle(packet, queue.payload(packet));
        }
        queue.clear();
        self.queue = queue;
    }

    /// Time has passed: flows that were silent for too long end, others are told of again.
    pub fn handle_time(&mut self, now_us: u64) {
        self.flush();
        self.pass(now_us);
    }

    /// What happened since the last call, in order; packets that wait have not happened.
    pub fn poll_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Whether anything did.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Ends all flows: the capture is over.
    pub fn finish(&mut self) {
        self.flush();
        self.wheel.fill(NONE);
        for flow in self.flows.iter().filter(|flow| !flow.is_free()) {
            let end = if flow.state == State::Closed { End::Closed } else { End::Finished };
            self.events.push(ended(flow, end));
        }
        self.flows = Slab::default();
        self.index = Index::new();
        (self.free, self.hand, self.pending_bytes) = (NONE, 0, 0);
    }

    /// How many flows go on.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether none does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was counted, without packets that wait.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn handle(&mut self, packet: &Waiting, payload: &[u8]) {
        self.counters.packets += 1;
        let now_us = packet.now_us;
        self.pass(now_us);
        if self.config.sample > 1 && !takes(&packet.identity.key(), self.config.sample) {
            self.counters.unsampled += 1;
            return;
        }
        self.counters.tracked += 1;
        let place = match self.find(packet) {
            Some(place) => {
                let flow = self.flows.at(place);
                let silent = now_us.saturating_sub(flow.last_us) > self.config.timeouts.of(flow);
                let again =
                    self.config.split_closed && flow.state == State::Closed && packet.tcp_flags & (SYN | ACK) == SYN;
                if silent || again {
                    let end = if silent { idle_or_closed(flow.state) } else { End::Reused };
                    self.end(place, end);
                    self.begin(place, packet);
                }
                place
            }
            None => self.add(packet),
        };
        self.count(place, packet, payload);
    }

    #[inline]
    fn find(&self, packet: &Waiting) -> Option<u32> {
        let is_it = |place: u32| self.flows.at(place).identity.is(&packet.identity, self.mask);
        // Where it was when the batch began, unless it has ended since.
        if packet.place != NONE && !self.flows.at(packet.place).is_free() && is_it(packet.place) {
            return Some(packet.place);
        }
        self.index.find(packet.hash, is_it)
    }

    /// Looks at the flows whose time has come.
    #[inline]
    fn pass(&mut self, now_us: u64) {
        let now = now_us / TICK_US;
        if now != self.tick {
            self.turn(now, now_us);
        }
    }

    fn turn(&mut self, now: u64, now_us: u64) {
        if now < self.tick {
            // Packets are not in exact order, and one wrong time must not stop the clock for ever: one that stays behind was
            // set back.
            self.behind = if self.tick - now > WHEEL_SLOTS as u64 { self.behind + 1 } else { 0 };
            if self.behind > BEHIND_MAX {
                (self.tick, self.behind) = (now, 0);
            }
            return;
        }
        self.behind = 0;
        // All slots at most, however long it was.
        let first = if self.tick == 0 { now } else { self.tick + 1 };
        let first = first.max(now.saturating_sub(WHEEL_SLOTS as u64 - 1));
        self.tick = now;
        for tick in first..=now {
            let mut place = std::mem::replace(&mut self.wheel[slot(tick)], NONE);
            while place != NONE {
                let next = self.flows.at(place).next;
                self.visit(place, now_us);
                place = next;
            }
        }
    }

    /// Counts a packet of a flow, and looks at what it carries while that is not known.
    fn count(&mut self, place: u32, packet: &Waiting, payload: &[u8]) {
        let flow = self.flows.at_mut(place);
        let side = usize::from(packet.from_low != flow.from_low);
        flow.counts[side].packets += 1;
        flow.counts[side].bytes += u64::from(packet.wire_bytes);
        flow.last_us = flow.last_us.max(packet.now_us);
        let both = flow.counts[1].packets > 0;
        let open = flow.state != State::Closed;
        if packet.identity.protocol() == TCP {
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
        let tell_first = !flow.told && both;
        let closed = open && flow.state == State::Closed;
        let labelled =
            !payload.is_empty() && flow.looked_at < self.config.limits.packets && self.classify(place, packet, payload);
        if tell_first || (labelled || closed) && self.flows.at(place).told {
            self.tell(place, packet.now_us);
        }
    }

    /// Looks at a payload; whether all is known now.
    fn classify(&mut self, place: u32, packet: &Waiting, payload: &[u8]) -> bool {
        let limits = &self.config.limits;
        let flow = self.flows.at_mut(place);
        let (low, high) = packet.identity.ports();
        let payload = Payload {
            protocol: packet.identity.protocol(),
            ports: if packet.from_low { (low, high) } else { (high, low) },
            sequence: packet.sequence,
            bytes: payload,
        };
        flow.looked_at += 1;
        let before = footprint(flow.pending.as_deref());
        let mut known = false;
        match classify::examine(&mut flow.pending, &payload, packet.from_low == flow.from_low, limits) {
            Verdict::Known(label) => {
                known = true;
                flow.label = Some(label.into());
                flow.looked_at = u8::MAX;
            }
            Verdict::Partly(label) => flow.label = Some(label.into()),
            Verdict::More => {}
        }
        let all = self.pending_bytes - before + footprint(flow.pending.as_deref());
        if all > limits.bytes_of_all && flow.looked_at < limits.packets {
            flow.looked_at = u8::MAX;
            self.counters.unclassified += 1;
        }
        if flow.looked_at >= limits.packets {
            flow.pending = None;
        }
        self.pending_bytes = self.pending_bytes - before + footprint(flow.pending.as_deref());
        known
    }

    /// A flow's time in the wheel has come: it has ended, or is to be looked at again.
    fn visit(&mut self, place: u32, now_us: u64) {
        let flow = self.flows.at(place);
        // Before its last packet as well as after: the clock was set back.
        let silent = now_us.abs_diff(flow.last_us);
        let timeout = self.config.timeouts.of(flow);
        if silent > timeout {
            self.end(place, idle_or_closed(flow.state));
            self.forget(place);
            let flow = self.flows.at_mut(place);
            (flow.counts, flow.next) = (Default::default(), self.free);
            self.free = place;
            return;
        }
        if now_us >= self.due_us(flow) {
            self.tell(place, now_us);
        }
        let flow = self.flows.at(place);
        self.arm(place, flow.last_us.saturating_add(timeout).min(self.due_us(flow)), now_us);
    }

    /// When a flow is to be told of next, if nothing happens.
    fn due_us(&self, flow: &Entry) -> u64 {
        if flow.told {
            flow.told_us.saturating_add(self.config.active_us)
        } else {
            flow.first_us.saturating_add(LINGER_US)
        }
    }

    fn tell(&mut self, place: u32, now_us: u64) {
        let flow = self.flows.at_mut(place);
        let kind = if flow.told { Kind::Update } else { Kind::Start };
        (flow.told, flow.told_us) = (true, now_us);
        self.events.push(Event { kind, flow: flow.flow() });
    }

    /// Tells of a flow's end, and lets go of what belongs to it but its place.
    fn end(&mut self, place: u32, end: End) {
        let flow = self.flows.at_mut(place);
        self.events.push(ended(flow, end));
        self.pending_bytes -= footprint(flow.pending.as_deref());
        (flow.pending, flow.label) = (None, None);
    }

    /// Takes a flow out of the index.
    fn forget(&mut self, place: u32) {
        self.index.remove(self.flows.at(place).hash, place);
    }

    /// A new flow, in the index and in the wheel.
    fn add(&mut self, packet: &Waiting) -> u32 {
        let most = self.config.flows_max.clamp(1, FLOWS_MAX);
        let crowded = self.len() >= most - most / 10;
        let place = match if crowded { self.hurry(packet.now_us) } else { None } {
            Some(place) => place,
            None if self.free != NONE => {
                let place = self.free;
                self.free = self.flows.at(place).next;
                self.begin(place, packet);
                self.arm(place, packet.now_us.saturating_add(LINGER_US), packet.now_us);
                self.index.insert(packet.hash, place);
                return place;
            }
            None if self.flows.len() < most => {
                let place = self.flows.len() as u32;
                self.flows.push(empty(packet));
                self.begin(place, packet);
                self.arm(place, packet.now_us.saturating_add(LINGER_US), packet.now_us);
                self.index.insert(packet.hash, place);
                return place;
            }
            None => self.evict(),
        };
        // It stays where the one before it was in the wheel.
        self.end(place, End::Evicted);
        self.forget(place);
        self.begin(place, packet);
        self.index.insert(packet.hash, place);
        place
    }

    /// One of a few flows that was silent for a tenth of its timeout.
    fn hurry(&mut self, now_us: u64) -> Option<u32> {
        let flows = self.flows.len() as u32;
        for _ in 0..HURRY_CANDIDATES.min(flows) {
            let place = self.hand % flows;
            self.hand = (place + 1) % flows;
            let flow = self.flows.at(place);
            if !flow.is_free() && now_us.saturating_sub(flow.last_us) > self.config.timeouts.of(flow) / 10 {
                self.counters.hurried += 1;
                return Some(place);
            }
        }
        None
    }

    /// Of a few flows the one that was silent longest. No place is free.
    fn evict(&mut self) -> u32 {
        self.counters.evicted += 1;
        let flows = self.flows.len() as u32;
        let few = (0..EVICTION_CANDIDATES.min(flows)).map(|step| (self.hand + step) % flows);
        let place = few.min_by_key(|place| self.flows.at(*place).last_us).unwrap_or_default();
        self.hand = (self.hand + EVICTION_CANDIDATES) % flows;
        place
    }

    /// Writes a flow without packets over what was at a place.
    fn begin(&mut self, place: u32, packet: &Waiting) {
        self.counters.flows += 1;
        let flow = self.flows.at_mut(place);
        *flow = Entry { next: flow.next, ..empty(packet) };
    }

    /// Has a flow looked at once that time has come, or as late as the wheel allows.
    fn arm(&mut self, place: u32, due_us: u64, now_us: u64) {
        let now = (now_us / TICK_US).max(self.tick);
        let due = (due_us / TICK_US + 1).clamp(now + 1, now + WHEEL_SLOTS as u64 - 1);
        let head = &mut self.wheel[slot(due)];
        self.flows.at_mut(place).next = std::mem::replace(head, place);
    }
}

/// The flow of a packet, which is not counted yet.
fn empty(packet: &Waiting) -> Entry {
    Entry {
        identity: packet.identity,
        counts: Default::default(),
        first_us: packet.now_us,
        last_us: packet.now_us,
        told_us: packet.now_us,
        hash: packet.hash,
        next: NONE,
        tcp_flags: [0; 2],
        looked_at: 0,
        state: State::New,
        from_low: packet.from_low,
        told: false,
        label: None,
        pending: None,
    }
}

fn footprint(pending: Option<&Pending>) -> usize {
    pending.map_or(0, Pending::bytes)
}

fn ended(flow: &Entry, end: End) -> Event {
    Event { kind: if flow.told { Kind::End(end) } else { Kind::Short(end) }, flow: flow.flow() }
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

/// After so many packets in a row that are older than the wheel is long, time is what they say.
const BEHIND_MAX: u32 = 1024;

/// A flow of which only one side was seen is told of after so long.
const LINGER_US: u64 = 200_000;

/// So many flows are looked at for one to give up, and for one that was silent for a tenth of its timeout.
const EVICTION_CANDIDATES: u32 = 16;
const HURRY_CANDIDATES: u32 = 4;

const TCP: u8 = 6;
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
