//! Events that wait to be put into a batch: one for each flow, in the order in which they came, and the one to give up first
//! at hand.
//!
//! What must stay true:
//! 1. A newer event of the same flow (id and first packet) takes the place of the older one: counters are those since its
//!    beginning. Another flow of the same key waits behind, so the first one's end is told before.
//! 2. Each event is in two lists: that of its shard, by age, and that of its rank, by age. Everything is O(1).

use std::collections::{HashMap, hash_map::Entry};

use ahash::RandomState;
use flow::flows::{FlowId, shard_of};

use super::{Rank, Seen};

/// The events that wait.
pub(super) struct Pending {
    nodes: Vec<Node>,
    /// Places that are free.
    free: Vec<u32>,
    /// The newest event of each flow that waits.
    newest: HashMap<FlowId, u32, RandomState>,
    shards: Vec<Queue>,
    ranks: [List; Rank::ALL.len()],
}

/// What wait in one shard.
#[derive(Clone, Copy, Default)]
struct Queue {
    list: List,
    bytes: usize,
}

struct Node {
    flow: FlowId,
    /// The id of its 5-tuple, from which its shard follows.
    five: u64,
    first_us: u64,
    rank: Rank,
    /// When the event came whose place it has.
    at_ms: u64,
    /// As [`flow::flows::Observed::encode_event`] makes them.
    bytes: Vec<u8>,
    links: [Links; 2],
}

#[derive(Clone, Copy)]
struct Links {
    before: u32,
    after: u32,
}

#[derive(Clone, Copy)]
struct List {
    first: u32,
    last: u32,
    len: usize,
}

impl Default for List {
    fn default() -> Self {
        Self { first: NONE, last: NONE, len: 0 }
    }
}

/// What became of an event that was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// It waits in this shard.
    Waits(usize),
    /// It took the place of an older one.
    Coalesced,
}

/// Events that leave together.
pub(super) struct Taken {
    pub events: usize,
    pub bytes: Vec<u8>,
}

impl Pending {
    /// Nothing, in one place: shards are not known yet.
    pub fn new() -> Self {
        Self {
            nodes: Vec::new(),
            free: Vec::new(),
            newest: HashMap::with_hasher(RandomState::new()),
            shards: vec![Queue::default()],
            ranks: Default::default(),
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    /// How many wait in a shard.
    pub fn count(&self, shard: usize) -> usize {
        self.shards[shard].list.len
    }

    /// Their bytes.
    pub fn bytes(&self, shard: usize) -> usize {
        self.shards[shard].bytes
    }

    /// Since when the oldest one of a shard waits.
    pub fn oldest_ms(&self, shard: usize) -> Option<u64> {
        self.nodes.get(self.shards[shard].list.first as usize).map(|node| node.at_ms)
    }

    /// Sorts what waits into so many shards.
    pub fn split(&mut self, shards: usize) {
        let mut order = Vec::with_capacity(self.len());
        for queue in &self.shards {
            let mut at = queue.list.first;
            while at != NONE {
                order.push(at);
                at = self.nodes[at as usize].links[SHARD].after;
            }
        }
        self.shards = vec![Queue::default(); shards];
        for at in order {
            self.enter_shard(at);
        }
    }

    /// Takes an event in.
    pub fn put(&mut self, now_ms: u64, seen: &Seen) -> Put {
        let flow = seen.observed.id();
        let bytes = seen.observed.encode_event();
        let first_us = seen.observed.first_us;
        let known = self.newest.get(&flow).copied();
        if let Some(at) = known.filter(|at| self.nodes[*at as usize].first_us == first_us) {
            self.replace(at, Rank::of(seen.kind), bytes);
            return Put::Coalesced;
        }
        let five = if seen.observed.seventh.is_none() { flow.0 } else { seen.observed.key.id() };
        let links = [Links { before: NONE, after: NONE }; 2];
        let node = Node { flow, five, first_us, rank: Rank::of(seen.kind), at_ms: now_ms, bytes, links };
        let at = match self.free.pop() {
            Some(at) => {
                self.nodes[at as usize] = node;
                at
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() as u32 - 1
            }
        };
        let shard = self.enter_shard(at);
        self.enter_rank(at);
        self.newest.insert(flow, at);
        Put::Waits(shard)
    }

    /// Gives up the oldest event of those that matter least.
    pub fn shed(&mut self) -> Option<Rank> {
        let rank = Rank::ALL.into_iter().find(|rank| self.ranks[*rank as usize].len > 0)?;
        self.leave(self.ranks[rank as usize].first);
        Some(rank)
    }

    /// Takes the oldest events of a shard, as many as fit; one fits always. None: nothing waits.
    pub fn take(&mut self, shard: usize, events_max: usize, bytes_max: usize) -> Option<Taken> {
        let mut taken = Taken { events: 0, bytes: Vec::with_capacity(self.shards[shard].bytes.min(bytes_max)) };
        while taken.events < events_max {
            let at = self.shards[shard].list.first;
            let Some(node) = self.nodes.get(at as usize) else { break };
            if taken.events > 0 && taken.bytes.len() + node.bytes.len() > bytes_max {
                break;
            }
            taken.bytes.extend_from_slice(&node.bytes);
            taken.events += 1;
            self.leave(at);
        }
        (taken.events > 0).then_some(taken)
    }

    /// A flow that was not told of stays so: what is new is part of its first event. A flow that is over is over.
    fn replace(&mut self, at: u32, rank: Rank, bytes: Vec<u8>) {
        let shard = self.shard_of(at);
        let node = &mut self.nodes[at as usize];
        self.shards[shard].bytes = self.shards[shard].bytes - node.bytes.len() + bytes.len();
        node.bytes = bytes;
        if rank > node.rank {
            self.leave_rank(at);
            self.nodes[at as usize].rank = rank;
            self.enter_rank(at);
        }
    }

    fn leave(&mut self, at: u32) {
        let shard = self.shard_of(at);
        unlink(&mut self.nodes, &mut self.shards[shard].list, SHARD, at);
        self.leave_rank(at);
        let node = &mut self.nodes[at as usize];
        self.shards[shard].bytes -= std::mem::take(&mut node.bytes).len();
        if let Entry::Occupied(newest) = self.newest.entry(node.flow)
            && *newest.get() == at
        {
            newest.remove();
        }
        self.free.push(at);
    }

    fn enter_shard(&mut self, at: u32) -> usize {
        let shard = self.shard_of(at);
        let queue = &mut self.shards[shard];
        queue.bytes += self.nodes[at as usize].bytes.len();
        link(&mut self.nodes, &mut queue.list, SHARD, at);
        shard
    }

    fn enter_rank(&mut self, at: u32) {
        let rank = self.nodes[at as usize].rank;
        link(&mut self.nodes, &mut self.ranks[rank as usize], RANK, at);
    }

    fn leave_rank(&mut self, at: u32) {
        let rank = self.nodes[at as usize].rank;
        unlink(&mut self.nodes, &mut self.ranks[rank as usize], RANK, at);
    }

    fn shard_of(&self, at: u32) -> usize {
        shard_of(FlowId(self.nodes[at as usize].five), self.shards.len() as u32) as usize
    }

    /// Panics where the lists contradict each other. For tests.
    #[cfg(test)]
    pub fn check_invariants(&self) {
        let mut seen = vec![[false; 2]; self.nodes.len()];
        let mut walk = |list: &List, which: usize, fits: &dyn Fn(&Node) -> bool| {
            let (mut at, mut before, mut count, mut bytes) = (list.first, NONE, 0, 0);
            while at != NONE {
                let node = &self.nodes[at as usize];
                assert!(!std::mem::replace(&mut seen[at as usize][which], true), "it is in one list of a kind");
                assert!(node.links[which].before == before && fits(node));
                (before, at, count, bytes) = (at, node.links[which].after, count + 1, bytes + node.bytes.len());
            }
            assert_eq!((list.last, list.len), (before, count));
            bytes
        };
        for (shard, queue) in self.shards.iter().enumerate() {
            let fits = |node: &Node| shard_of(FlowId(node.five), self.shards.len() as u32) as usize == shard;
            assert_eq!(walk(&queue.list, SHARD, &fits), queue.bytes);
        }
        for rank in Rank::ALL {
            walk(&self.ranks[rank as usize], RANK, &|node| node.rank == rank);
        }
        let waiting = seen.iter().filter(|lists| **lists == [true; 2]).count();
        assert_eq!(waiting, self.len());
        assert_eq!(seen.iter().filter(|lists| **lists == [false; 2]).count(), self.free.len());
        for (flow, at) in &self.newest {
            assert!(self.nodes[*at as usize].flow == *flow && seen[*at as usize][SHARD]);
        }
    }
}

fn link(nodes: &mut [Node], list: &mut List, which: usize, at: u32) {
    nodes[at as usize].links[which] = Links { before: list.last, after: NONE };
    match nodes.get_mut(list.last as usize) {
        Some(last) => last.links[which].after = at,
        None => list.first = at,
    }
    list.last = at;
    list.len += 1;
}

fn unlink(nodes: &mut [Node], list: &mut List, which: usize, at: u32) {
    let Links { before, after } = nodes[at as usize].links[which];
    match nodes.get_mut(before as usize) {
        Some(node) => node.links[which].after = after,
        None => list.first = after,
    }
    match nodes.get_mut(after as usize) {
        Some(node) => node.links[which].before = before,
        None => list.last = before,
    }
    list.len -= 1;
}

/// No place.
const NONE: u32 = u32::MAX;

/// Which of a node's links.
const SHARD: usize = 0;
const RANK: usize = 1;
