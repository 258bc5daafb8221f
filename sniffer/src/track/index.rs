//! Where each flow is, by the hash of its key: open addressing with linear probing. A slot is eight bytes, and a cache line of
//! slots can be fetched before it is needed.

/// Places by hash. Its memory grows with what is in it: between 10.7 and 21.4 bytes for each.
pub struct Index {
    /// The hash in the upper half, the place and one in the lower; 0: nothing. A power of two.
    slots: Box<[u64]>,
    /// A hash shifted right by so many bits is where the search begins, so growing moves slots in their order.
    shift: u32,
    len: usize,
}

impl Index {
    pub fn new() -> Self {
        Self { slots: vec![0; 1 << BITS_MIN].into(), shift: u32::BITS - BITS_MIN, len: 0 }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Has the cache fetch what a search for this hash looks at first.
    #[inline]
    pub fn prefetch(&self, hash: u32) {
        prefetch(&self.slots[self.home(hash)]);
    }

    /// The first place of that hash: nearly always the one, of its key.
    #[inline]
    pub fn first(&self, hash: u32) -> Option<u32> {
        self.find(hash, |_| true)
    }

    /// The place of that hash which is the one.
    #[inline]
    pub fn find(&self, hash: u32, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let mut at = self.home(hash);
        loop {
            let slot = self.slots[at];
            if slot == 0 {
                return None;
            }
            if hash_of(slot) == hash && is_it(place_of(slot)) {
                return Some(place_of(slot));
            }
            at = self.after(at);
        }
    }

    /// Adds a place, which is less than [`PLACES_MAX`] and not in it.
    pub fn insert(&mut self, hash: u32, place: u32) {
        if (self.len + 1) * 4 > self.slots.len() * 3 {
            self.grow();
        }
        self.put(u64::from(hash) << 32 | u64::from(place + 1));
        self.len += 1;
    }

    /// Takes a place away. What stands behind it moves up, so nothing is left of it.
    pub fn remove(&mut self, hash: u32, place: u32) {
        let mut hole = self.home(hash);
        loop {
            let slot = self.slots[hole];
            if slot == 0 {
                return;
            }
            if place_of(slot) == place && hash_of(slot) == hash {
                break;
            }
            hole = self.after(hole);
        }
        self.len -= 1;
        let mut next = self.after(hole);
        while self.slots[next] != 0 {
            let from = |begin: usize| next.wrapping_sub(begin) & (self.slots.len() - 1);
            if from(self.home(hash_of(self.slots[next]))) >= from(hole) {
                self.slots[hole] = self.slots[next];
                hole = next;
            }
            next = self.after(next);
        }
        self.slots[hole] = 0;
    }

    fn grow(&mut self) {
        let larger = vec![0; self.slots.len() * 2].into();
        self.shift -= 1;
        for slot in std::mem::replace(&mut self.slots, larger).iter().filter(|slot| **slot != 0) {
            self.put(*slot);
        }
    }

    fn put(&mut self, slot: u64) {
        let mut at = self.home(hash_of(slot));
        while self.slots[at] != 0 {
            at = self.after(at);
        }
        self.slots[at] = slot;
    }

    #[inline]
    fn home(&self, hash: u32) -> usize {
        (hash >> self.shift) as usize
    }

    #[inline]
    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.slots.len() - 1)
    }
}

#[inline]
fn hash_of(slot: u64) -> u32 {
    (slot >> 32) as u32
}

/// Of a slot that is not empty.
#[inline]
fn place_of(slot: u64) -> u32 {
    (slot as u32).wrapping_sub(1)
}

/// Has the cache fetch the line in which this begins.
#[inline]
pub fn prefetch<T>(what: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint, which reads nothing and faults on no address; SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(what).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = what;
}

/// Most places: beyond it a hash of 32 bits would no longer spread them.
pub const PLACES_MAX: usize = 1 << 30;

/// 64 slots to begin with.
const BITS_MIN: u32 = 6;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Against a map, with hashes that often collide and often stand at the end, where slots wrap around.
    #[test]
    fn it_finds_what_is_in_it_and_nothing_else_whatever_came_and_went() {
        for spread in [1_u32, 3, 1 << 20, u32::MAX] {
            let mut index = Index::new();
            let mut model = BTreeMap::new();
            let mut random = u64::from(spread);
            for step in 0..60_000_u32 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let place = (random >> 33) as u32 % 3000;
                let hash = u32::MAX - (place.wrapping_mul(0x9e37_79b9) % spread);
                // It fills up, empties again, and so on.
                let fills = step / 10_000 % 2 == 0;
                if model.contains_key(&place) && !(fills && random & 64 != 0) {
                    index.remove(hash, place);
                    model.remove(&place);
                } else if !model.contains_key(&place) && (fills || random & 64 != 0) {
                    index.insert(hash, place);
                    model.insert(place, hash);
                }
                assert_eq!(index.len(), model.len());
                assert_eq!(index.find(hash, |found| found == place), model.get(&place).map(|_| place));
            }
            for place in 0..3000_u32 {
                let hash = u32::MAX - (place.wrapping_mul(0x9e37_79b9) % spread);
                assert_eq!(index.find(hash, |found| found == place).is_some(), model.contains_key(&place));
            }
            let most = model.len().max(1);
            assert!(index.slots.len() >= most && index.slots.iter().filter(|slot| **slot != 0).count() == model.len());
        }
    }

    #[test]
    fn removing_what_is_not_there_changes_nothing() {
        let mut index = Index::new();
        index.remove(7, 1);
        index.insert(7, 1);
        index.remove(7, 2);
        index.remove(8, 1);
        assert_eq!((index.len(), index.first(7)), (1, Some(1)));
    }
}
