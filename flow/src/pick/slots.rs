//! The slot table of `source-hash`: 65 536 slots, each with a backend and a backup, by weighted rendezvous hashing.
//!
//! 1. Every slot ranks all backends by `-log2(u) / weight`, where `u` is SipHash-2-4 of (slot, backend) under the
//!    fleet's key (highest random weight, Thaler & Ravishankar 1998; the weights after Schindelhauer & Schomaker 2005).
//!    The lowest cost wins. A backend that comes or goes changes only the slots that it wins.
//! 2. That is even to about 1 %. To be exact, each backend gets its weight's share of the slots by largest remainder:
//!    those over their share give up the slots that cost least to give, each slot once, to those under theirs.
//!
//! All of it is integers in a fixed order, so two instances with the same members hold the same table to the bit.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    fmt,
    hash::Hasher,
};

use siphasher::sip::SipHasher24;

use super::log2::minus_log2;
use crate::ids::{BackendId, PinKey};

/// How many slots a table has.
pub const SLOTS: usize = 1 << 16;

/// Most servers that a pool may have; building a table of so many takes less than two seconds.
pub const MAX_SERVERS_PER_POOL: usize = 256;

/// For each slot the backend that new clients of the slot get, and the one they get while that is not live.
///
/// Invariants: `primary` and `backup` have [`SLOTS`] entries each, or none if there are no members; an entry is an index
/// into `members` or (only in `backup`, only with a single member) [`NOBODY`]; each backend is primary of exactly its
/// weight's share of slots; a slot's two backends differ.
#[derive(Clone, PartialEq, Eq)]
pub struct SlotTable {
    key: [u8; 16],
    members: Vec<Member>,
    primary: Box<[u16]>,
    backup: Box<[u16]>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Member {
    id: BackendId,
    weight: u32,
}

/// The slot of a client, by the fleet's key.
#[must_use]
pub fn slot_of(key: &[u8; 16], pin: &PinKey) -> u16 {
    (SipHasher24::new_with_key(key).hash(&pin.to_bytes()) >> 48) as u16
}

impl SlotTable {
    /// The table of `members`, the backends that take new clients, with their weights. The order does not matter;
    /// weight 0 takes none; of an id given twice the greater weight counts. Meant for up to [`MAX_SERVERS_PER_POOL`].
    #[must_use]
    pub fn build(key: &[u8; 16], members: &[(BackendId, u32)]) -> Self {
        let weights: BTreeMap<BackendId, u32> = {
            let mut sorted: Vec<_> = members.iter().copied().filter(|(_, weight)| *weight > 0).collect();
            sorted.sort_unstable();
            sorted.into_iter().collect()
        };
        // Entries are 16 bits wide; NOBODY is one of them.
        let members = weights.into_iter().take(usize::from(NOBODY)).map(|(id, weight)| Member { id, weight }).collect();
        let mut table = Self { key: *key, members, primary: Box::default(), backup: Box::default() };
        if !table.members.is_empty() {
            table.rank();
            table.level();
            debug_assert_eq!(table.counts(), table.shares(), "shares must be exact");
        }
        table
    }

    /// The backend for `pin` among those that are `live`: the slot's own, else its backup, else the next of the slot's
    /// ranking. `None` if no member is live.
    pub fn pick(&self, pin: &PinKey, live: impl Fn(BackendId) -> bool) -> Option<BackendId> {
        let slot = slot_of(&self.key, pin);
        let listed = [self.primary(slot), self.backup(slot)];
        listed.into_iter().flatten().find(|id| live(*id)).or_else(|| {
            let alive = self.members.iter().filter(|member| live(member.id));
            alive.min_by_key(|member| (self.cost(slot, member), member.id)).map(|member| member.id)
        })
    }

    /// The backend that new clients of `slot` get.
    #[must_use]
    pub fn primary(&self, slot: u16) -> Option<BackendId> {
        self.at(&self.primary, slot)
    }

    /// The backend that new clients of `slot` get while [`SlotTable::primary`] is not live.
    #[must_use]
    pub fn backup(&self, slot: u16) -> Option<BackendId> {
        self.at(&self.backup, slot)
    }

    /// How many slots each member has, by id. Sums to [`SLOTS`] unless there are no members.
    pub fn slots_by_backend(&self) -> impl Iterator<Item = (BackendId, usize)> {
        self.members.iter().map(|member| member.id).zip(self.counts())
    }

    /// SipHash-2-4 of the whole table under its key: equal on all instances that agree.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        for slot in 0..=u16::MAX {
            for backend in [self.primary(slot), self.backup(slot)] {
                hasher.write(&backend.map_or(0, |id| id.0).to_be_bytes());
            }
        }
        hasher.finish()
    }

    fn at(&self, entries: &[u16], slot: u16) -> Option<BackendId> {
        let index = *entries.get(usize::from(slot))?;
        self.members.get(usize::from(index)).map(|member| member.id)
    }

    /// What it costs to give `slot` to `member`; the lowest wins. Weights are at most 2^32, costs fit 2^62.
    fn cost(&self, slot: u16, member: &Member) -> u64 {
        let mut message = [0; 10];
        message[..2].copy_from_slice(&slot.to_be_bytes());
        message[2..].copy_from_slice(&member.id.0.to_be_bytes());
        let hash = SipHasher24::new_with_key(&self.key).hash(&message);
        (minus_log2(hash) << 16) / u64::from(member.weight)
    }

    /// Gives each slot to the backend of least cost, and its backup to the next. Members are sorted by id, so the
    /// smaller id wins a tie.
    fn rank(&mut self) {
        let mut primary = Vec::with_capacity(SLOTS);
        let mut backup = Vec::with_capacity(SLOTS);
        for slot in 0..=u16::MAX {
            let (mut first, mut second) = ((u64::MAX, NOBODY), (u64::MAX, NOBODY));
            for (index, member) in (0u16..).zip(&self.members) {
                let offer = (self.cost(slot, member), index);
                if offer < first {
                    (first, second) = (offer, first);
                } else if offer < second {
                    second = offer;
                }
            }
            primary.push(first.1);
            backup.push(second.1);
        }
        self.primary = primary.into();
        self.backup = backup.into();
    }

    /// Moves slots from backends that have more than their share to those that have less, the cheapest move first. Each
    /// slot moves at most once, and only from over to under: no table with these shares differs from the ranking less.
    fn level(&mut self) {
        let mut balance: Vec<i64> =
            self.counts().iter().zip(self.shares()).map(|(count, share)| *count as i64 - share as i64).collect();
        let mut moves: BinaryHeap<Reverse<Move>> = (0..=u16::MAX)
            .filter(|slot| balance[self.owner(*slot)] > 0)
            .filter_map(|slot| self.cheapest_move(slot, &balance))
            .map(Reverse)
            .collect();
        // A move in the heap may be out of date: its giver no longer over (drop it) or its taker no longer under (find
        // the slot another taker; that costs no less, so the order holds).
        while let Some(Reverse(best)) = moves.pop() {
            let giver = self.owner(best.slot);
            let taker = usize::from(best.taker);
            if balance[giver] <= 0 {
                continue;
            }
            if balance[taker] >= 0 {
                moves.extend(self.cheapest_move(best.slot, &balance).map(Reverse));
                continue;
            }
            balance[giver] -= 1;
            balance[taker] += 1;
            // The ranking's winner becomes the backup: nobody ranks higher.
            let slot = usize::from(best.slot);
            self.backup[slot] = self.primary[slot];
            self.primary[slot] = best.taker;
        }
    }

    /// The cheapest way to give `slot` to a backend that is under its share.
    fn cheapest_move(&self, slot: u16, balance: &[i64]) -> Option<Move> {
        let (taken, taker) = (0u16..)
            .zip(&self.members)
            .filter(|(index, _)| balance[usize::from(*index)] < 0)
            .map(|(index, member)| (self.cost(slot, member), index))
            .min()?;
        let given = self.cost(slot, &self.members[self.owner(slot)]);
        Some(Move { regret: taken.saturating_sub(given), slot, taker })
    }

    fn owner(&self, slot: u16) -> usize {
        usize::from(self.primary[usize::from(slot)])
    }

    fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.members.len()];
        for index in &self.primary {
            counts[usize::from(*index)] += 1;
        }
        counts
    }

    /// Each member's exact number of slots: the whole part of its weight's share, and one more for those with the
    /// largest remainders (of equal ones the smaller ids) until all slots are given.
    fn shares(&self) -> Vec<usize> {
        let total: u64 = self.members.iter().map(|member| u64::from(member.weight)).sum();
        let scaled = |member: &Member| SLOTS as u64 * u64::from(member.weight);
        let mut shares: Vec<usize> = self.members.iter().map(|member| (scaled(member) / total) as usize).collect();
        let left = SLOTS - shares.iter().sum::<usize>();
        let mut order: Vec<usize> = (0..self.members.len()).collect();
        order.sort_by_key(|index| Reverse(scaled(&self.members[*index]) % total));
        for index in order.into_iter().take(left) {
            shares[index] += 1;
        }
        shares
    }
}

impl fmt::Debug for SlotTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.slots_by_backend()).finish()
    }
}

/// A slot that can go to `taker`, for `regret` more than it costs where it is. Ordered by cost, then slot, then taker.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Move {
    regret: u64,
    slot: u16,
    taker: u16,
}

/// No member: a single server has no backup.
const NOBODY: u16 = u16::MAX;
