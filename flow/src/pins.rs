//! The table of one pin group: who was given which backend.
//!
//! What must stay true:
//! 1. Apply reads nothing but this table, the entry, its index and its log time: equal logs make equal tables.
//! 2. A key has one pin. It changes its backend only after its move was *settled*: `moving since <= settled`.
//! 3. A move starts when a backend dies or is removed (one entry for all its pins) or with `Unpin` (one pin).
//! 4. Pins that expired are never answered; at most [`EXPIRE_PER_ENTRY`] are swept out with each entry.
//!
//! ```text
//!   (none) --Assign--> held --backend dies / Unpin--> moving --Settle--> free to be assigned anew
//!      ^                 |  <----backend returns------   |                    |
//!      +----expires------+                               +---- Assign --------+--> held
//! ```

use std::collections::BTreeSet;

use siphasher::sip::SipHasher24;
use std::hash::Hasher;

use crate::{
    command::{EpochCopy, Pin, PinCommand, PinOutcome, Standing},
    ids::{BackendId, DIGEST_KEY, Epoch, LogTime, PinKey, PoolId, Revision},
    plant::{self, Plant},
};

/// One pin group's state. A clone is cheap (shared structure) and is what readers and snapshots look at.
#[derive(Clone, Debug)]
pub struct PinTable {
    pub(crate) applied: Revision,
    pub(crate) time: LogTime,
    pub(crate) epoch: Epoch,
    pub(crate) last_move: Revision,
    pub(crate) settled: Revision,
    pub(crate) pools: imbl::OrdMap<PoolId, u64>,
    pub(crate) backends: imbl::OrdMap<BackendId, BackendState>,
    pub(crate) pins: imbl::GenericHashMap<PinKey, Pin, PinHasher, imbl::shared_ptr::DefaultSharedPtr>,
    /// Sum of the pins' hashes: equal tables have equal digests, whatever the order of their making.
    digest: u64,
}

/// The hasher of the map in memory: never stored, never sent, never compared between instances.
type PinHasher = ahash::RandomState;

/// How a backend stands in this group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendState {
    /// As the group's epoch has it.
    pub standing: Standing,
    /// The index of the entry that took it down or out, if it is.
    pub since: Revision,
    /// How many pins lead to it.
    pub pins: u64,
}

/// What a reader of the table is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The pin holds until its time.
    Held(Pin),
    /// The pin is moving and not settled: wait.
    Moving,
    /// No pin, or one that is free to be assigned anew.
    Free,
}

impl Default for PinTable {
    fn default() -> Self {
        Self::new()
    }
}

/// Index of expiry, kept by the one who applies and not by readers.
pub type Expiry = BTreeSet<(LogTime, PinKey)>;

impl PinTable {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self {
            applied: Revision(0),
            time: LogTime(0),
            epoch: Epoch(0),
            last_move: Revision(0),
            settled: Revision(0),
            pools: imbl::OrdMap::new(),
            backends: imbl::OrdMap::new(),
            pins: imbl::GenericHashMap::with_hasher(PinHasher::new()),
            digest: 0,
        }
    }

    /// The index of the last entry applied.
    #[must_use]
    pub fn applied(&self) -> Revision {
        self.applied
    }

    /// The log time of the last entry applied.
    #[must_use]
    pub fn time(&self) -> LogTime {
        self.time
    }

    /// The epoch that was copied last.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The index of the newest entry that started a move.
    #[must_use]
    pub fn last_move(&self) -> Revision {
        self.last_move
    }

    /// Moves up to here are settled.
    #[must_use]
    pub fn settled(&self) -> Revision {
        self.settled
    }

    /// How many pins there are, expired ones that were not swept yet included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pins.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pins.is_empty()
    }

    /// The pin of a key as it is stored, whatever may be done with it.
    #[must_use]
    pub fn stored(&self, key: &PinKey) -> Option<&Pin> {
        self.pins.get(key)
    }

    /// All pins, in no meaningful order.
    pub fn iter(&self) -> impl Iterator<Item = (&PinKey, &Pin)> {
        self.pins.iter()
    }

    /// How `backend` stands in this group.
    #[must_use]
    pub fn backend(&self, backend: BackendId) -> Option<BackendState> {
        self.backends.get(&backend).copied()
    }

    /// All backends that are members or still have pins.
    pub fn backends(&self) -> impl Iterator<Item = (&BackendId, &BackendState)> {
        self.backends.iter()
    }

    /// How long a pin of `pool` lasts, in milliseconds; none if the pool is unknown here.
    #[must_use]
    pub fn pin_ttl_ms(&self, pool: PoolId) -> Option<u64> {
        self.pools.get(&pool).copied()
    }

    /// A digest of everything in the table; equal on all replicas at equal index.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut hasher = SipHasher24::new_with_key(DIGEST_KEY);
        for number in [self.applied.0, self.time.0, self.epoch.0, self.last_move.0, self.settled.0, self.digest] {
            hasher.write_u64(number.to_be());
        }
        for (id, state) in &self.backends {
            hasher.write_u64(id.0.to_be());
            hasher.write(&[state.standing as u8]);
            hasher.write_u64(state.since.0.to_be());
            hasher.write_u64(state.pins.to_be());
        }
        for (id, ttl) in &self.pools {
            hasher.write_u64(id.0.to_be());
            hasher.write_u64(ttl.to_be());
        }
        hasher.finish()
    }

    /// What the table says of `key`, by its own log time. Readers must also mind how far behind the table may be.
    #[must_use]
    pub fn lookup(&self, key: &PinKey) -> Lookup {
        let Some(pin) = self.pins.get(key) else { return Lookup::Free };
        if pin.expires <= self.time {
            return Lookup::Free;
        }
        match self.moving_since(pin) {
            None => Lookup::Held(*pin),
            Some(since) if since <= self.settled => Lookup::Free,
            Some(_) => Lookup::Moving,
        }
    }

    /// Applies one entry. `expiry` belongs to this table alone and is kept in step with it.
    pub fn apply(&mut self, index: Revision, time: LogTime, command: &PinCommand, expiry: &mut Expiry) -> PinOutcome {
        debug_assert!(index > self.applied, "entries are applied once, in order");
        self.applied = index;
        self.time = self.time.max(time);
        self.sweep(expiry);
        match command {
            PinCommand::Epoch(copy) => self.take_epoch(index, copy),
            PinCommand::Assign { key, backend, .. } => self.assign(index, *key, *backend, expiry),
            PinCommand::Touch(pins) => {
                for (key, revision) in pins {
                    self.touch(key, *revision, expiry);
                }
                PinOutcome::Done
            }
            PinCommand::Unpin { key, revision } => self.unpin(index, key, *revision),
            PinCommand::Settle(through) => {
                self.settled = self.settled.max((*through).min(self.last_move));
                PinOutcome::Done
            }
            PinCommand::Tick => PinOutcome::Done,
        }
    }

    /// Marks an entry without a command (a leader's first, a membership change) as applied.
    pub fn skip(&mut self, index: Revision, time: LogTime, expiry: &mut Expiry) {
        self.applied = index;
        self.time = self.time.max(time);
        self.sweep(expiry);
    }

    /// When the next pin expires.
    #[must_use]
    pub fn next_expiry(expiry: &Expiry) -> Option<LogTime> {
        expiry.first().map(|(time, _)| *time)
    }

    fn take_epoch(&mut self, index: Revision, copy: &EpochCopy) -> PinOutcome {
        if copy.epoch <= self.epoch {
            return PinOutcome::Done;
        }
        self.epoch = copy.epoch;
        self.pools = copy.pools.iter().copied().collect();
        let mut gone: BTreeSet<BackendId> = self.backends.keys().copied().collect();
        for (id, standing) in &copy.backends {
            gone.remove(id);
            self.restand(index, *id, *standing);
        }
        for id in gone {
            self.restand(index, id, Standing::Gone);
        }
        let left = |state: &BackendState| state.standing == Standing::Gone && state.pins == 0;
        self.backends = std::mem::take(&mut self.backends).into_iter().filter(|(_, state)| !left(state)).collect();
        PinOutcome::Done
    }

    fn restand(&mut self, index: Revision, id: BackendId, standing: Standing) {
        let old = self.backends.get(&id).copied();
        let mut state = old.unwrap_or(BackendState { standing, since: Revision(0), pins: 0 });
        let served = old.is_some_and(|state| state.standing.serves());
        if served && !standing.serves() {
            state.since = index;
            self.last_move = index;
        }
        state.standing = standing;
        self.backends.insert(id, state);
    }

    fn assign(&mut self, index: Revision, key: PinKey, backend: BackendId, expiry: &mut Expiry) -> PinOutcome {
        match self.lookup(&key) {
            Lookup::Held(pin) if !plant::on(Plant::LastCommitWins) => {
                self.touch(&key, pin.revision, expiry);
                return self.pins.get(&key).map_or(PinOutcome::Done, |pin| PinOutcome::Holds(*pin));
            }
            Lookup::Moving => {
                let since = self.pins.get(&key).and_then(|pin| self.moving_since(pin));
                return PinOutcome::Moving(since.unwrap_or(self.last_move));
            }
            Lookup::Held(_) | Lookup::Free => {}
        }
        let live = self.backends.get(&backend).is_some_and(|state| state.standing == Standing::Live);
        let Some(ttl) = self.pin_ttl_ms(key.pool) else { return PinOutcome::NotLive(self.epoch) };
        if !live && !plant::on(Plant::AssignToDead) {
            return PinOutcome::NotLive(self.epoch);
        }
        self.remove(&key, expiry);
        let pin = Pin { backend, revision: index, epoch: self.epoch, expires: self.time.plus(ttl), moving: None };
        self.insert(key, pin, expiry);
        PinOutcome::Holds(pin)
    }

    fn touch(&mut self, key: &PinKey, revision: Revision, expiry: &mut Expiry) {
        let Lookup::Held(mut pin) = self.lookup(key) else { return };
        let Some(ttl) = self.pin_ttl_ms(key.pool) else { return };
        if pin.revision != revision {
            return;
        }
        self.remove(key, expiry);
        pin.expires = pin.expires.max(self.time.plus(ttl));
        self.insert(*key, pin, expiry);
    }

    fn unpin(&mut self, index: Revision, key: &PinKey, revision: Revision) -> PinOutcome {
        let Lookup::Held(mut pin) = self.lookup(key) else { return PinOutcome::Done };
        if pin.revision != revision && !plant::on(Plant::UnpinAny) {
            return PinOutcome::Holds(pin);
        }
        self.digest = self.digest.wrapping_sub(hash_pin(key, &pin));
        pin.moving = Some(index);
        self.digest = self.digest.wrapping_add(hash_pin(key, &pin));
        self.pins.insert(*key, pin);
        self.last_move = index;
        PinOutcome::Done
    }

    /// Since when the pin is moving, if it is: it alone, or all pins to its backend.
    fn moving_since(&self, pin: &Pin) -> Option<Revision> {
        let backend = self.backends.get(&pin.backend);
        let with_backend = backend.filter(|state| !state.standing.serves()).map(|state| state.since);
        pin.moving.max(with_backend)
    }

    fn sweep(&mut self, expiry: &mut Expiry) {
        for _ in 0..EXPIRE_PER_ENTRY {
            match expiry.first() {
                Some((time, key)) if *time <= self.time => {
                    let key = *key;
                    self.remove(&key, expiry);
                }
                _ => break,
            }
        }
    }

    fn insert(&mut self, key: PinKey, pin: Pin, expiry: &mut Expiry) {
        self.digest = self.digest.wrapping_add(hash_pin(&key, &pin));
        expiry.insert((pin.expires, key));
        let absent = BackendState { standing: Standing::Gone, since: Revision(0), pins: 0 };
        let mut state = self.backends.get(&pin.backend).copied().unwrap_or(absent);
        state.pins += 1;
        self.backends.insert(pin.backend, state);
        self.pins.insert(key, pin);
    }

    fn remove(&mut self, key: &PinKey, expiry: &mut Expiry) {
        let Some(pin) = self.pins.remove(key) else { return };
        self.digest = self.digest.wrapping_sub(hash_pin(key, &pin));
        expiry.remove(&(pin.expires, *key));
        if let Some(mut state) = self.backends.get(&pin.backend).copied() {
            state.pins = state.pins.saturating_sub(1);
            if state.pins == 0 && state.standing == Standing::Gone {
                self.backends.remove(&pin.backend);
            } else {
                self.backends.insert(pin.backend, state);
            }
        }
    }

    /// Puts a pin of a snapshot back into the table and the expiry index; `false` if its key is there already.
    pub(crate) fn restore(&mut self, key: PinKey, pin: Pin, expiry: &mut Expiry) -> bool {
        self.digest = self.digest.wrapping_add(hash_pin(&key, &pin));
        expiry.insert((pin.expires, key));
        self.pins.insert(key, pin).is_none()
    }

    /// Panics where the table contradicts itself. For tests and the simulator.
    ///
    /// # Panics
    /// When an invariant does not hold.
    pub fn check_invariants(&self, expiry: &Expiry) {
        assert_eq!(expiry.len(), self.pins.len(), "each pin has one place in the expiry index");
        assert!(self.settled <= self.last_move, "nothing is settled that did not move");
        let mut counts = std::collections::BTreeMap::<BackendId, u64>::new();
        for (key, pin) in &self.pins {
            assert!(expiry.contains(&(pin.expires, *key)), "the index knows every pin's time");
            *counts.entry(pin.backend).or_default() += 1;
        }
        for (id, state) in &self.backends {
            assert_eq!(state.pins, counts.get(id).copied().unwrap_or(0), "pin counts of {id:?}");
        }
        let sum = self.pins.iter().fold(0u64, |sum, (key, pin)| sum.wrapping_add(hash_pin(key, pin)));
        assert_eq!(sum, self.digest, "the running digest is the sum of the pins");
    }
}

fn hash_pin(key: &PinKey, pin: &Pin) -> u64 {
    let mut hasher = SipHasher24::new_with_key(DIGEST_KEY);
    hasher.write(&key.to_bytes());
    for number in
        [pin.backend.0, pin.revision.0, pin.epoch.0, pin.expires.0, pin.moving.map_or(0, |revision| revision.0)]
    {
        hasher.write_u64(number.to_be());
    }
    hasher.finish()
}

/// At most this many expired pins leave with one entry, so that no entry takes long to apply.
pub const EXPIRE_PER_ENTRY: usize = 256;

#[cfg(test)]
mod tests;
