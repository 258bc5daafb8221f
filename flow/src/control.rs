//! The table of group 0: members, pools, votes, verdicts, sessions, and the key-value store.
//!
//! Every change of pools or verdicts makes a new epoch. Pin groups get copies of epochs as entries of their own logs,
//! so that no apply ever reads another group.

use std::{hash::Hasher, sync::Arc};

use siphasher::sip::SipHasher24;

use crate::{
    command::{
        Birth, ControlCommand, ControlOutcome, EpochCopy, MemberAddress, Request, ServerChange, SessionOwner, Standing,
    },
    health::View,
    ids::{BackendId, DIGEST_KEY, Epoch, FleetId, Incarnation, InstanceId, LogTime, PoolId, Revision, SessionId},
    plant::{self, Plant},
    pool::{PoolSpec, ServerSpec, ServerState},
    sessions::Sessions,
    tuning::Tuning,
};

/// The state of group 0. A clone is cheap and is what readers and snapshots look at.
#[derive(Clone, Debug, Default)]
pub struct ControlTable {
    pub(crate) applied: Revision,
    pub(crate) time: LogTime,
    pub(crate) epoch: Epoch,
    pub(crate) birth: Option<Arc<Birth>>,
    pub(crate) next_instance: u64,
    pub(crate) members: imbl::OrdMap<InstanceId, Arc<Member>>,
    /// Members that were removed lately: groups may still need them to agree on just that.
    pub(crate) departed: imbl::OrdMap<InstanceId, Arc<Member>>,
    pub(crate) pools: imbl::OrdMap<PoolId, Arc<Pool>>,
    /// Where each backend stands in `pools`; made anew with every change of them, and not part of a snapshot.
    pub(crate) backends: imbl::OrdMap<BackendId, (PoolId, usize)>,
    pub(crate) verdicts: imbl::OrdMap<BackendId, Verdict>,
    pub(crate) votes: imbl::OrdMap<(BackendId, InstanceId), Vote>,
    pub(crate) kv: imbl::OrdMap<String, KvEntry>,
    /// What all keys and values come to.
    pub(crate) kv_bytes: usize,
    /// Sum of the hashes of keys and values: a digest of the table must not have to look at all of them.
    pub(crate) kv_digest: u64,
    pub(crate) tuning: Option<Tuning>,
    pub(crate) sessions: Box<Sessions>,
}

/// A member of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it is reached.
    pub address: MemberAddress,
    /// The life of its data directory, once it was seen.
    pub incarnation: Option<Incarnation>,
    /// Whether it shall vote; each group gives it its vote once it has caught up there.
    pub voter: bool,
}

/// A committed pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// As the operator means it.
    pub spec: PoolSpec,
    /// The index of its last change.
    pub revision: Revision,
}

/// The fleet's word on a backend's health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The word.
    pub view: View,
    /// The index of its last change.
    pub revision: Revision,
}

/// What an instance said of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// What it saw.
    pub view: View,
    /// In which life it said so.
    pub incarnation: Incarnation,
}

/// A stored value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvEntry {
    /// The bytes.
    pub value: Arc<[u8]>,
    /// The index of its last change.
    pub revision: Revision,
}

impl ControlTable {
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

    /// The version of pools and verdicts.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The fleet's first word, once it was spoken.
    #[must_use]
    pub fn birth(&self) -> Option<&Arc<Birth>> {
        self.birth.as_ref()
    }

    /// All members by id.
    pub fn members(&self) -> impl Iterator<Item = (InstanceId, &Member)> {
        self.members.iter().map(|(id, member)| (*id, member.as_ref()))
    }

    /// The member of that id.
    #[must_use]
    pub fn member(&self, id: InstanceId) -> Option<&Member> {
        self.members.get(&id).map(AsRef::as_ref)
    }

    /// Members that were removed lately, [`DEPARTED_MAX`] at most.
    pub fn departed(&self) -> impl Iterator<Item = (InstanceId, &Member)> {
        self.departed.iter().map(|(id, member)| (*id, member.as_ref()))
    }

    /// The id that the next new member gets; lower ones were members at some time.
    #[must_use]
    pub fn next_instance(&self) -> InstanceId {
        InstanceId(self.next_instance)
    }

    /// The member of that label.
    #[must_use]
    pub fn member_by_label(&self, label: &str) -> Option<(InstanceId, &Member)> {
        self.members().find(|(_, member)| member.address.label == label)
    }

    /// All pools by id.
    pub fn pools(&self) -> impl Iterator<Item = (PoolId, &Arc<Pool>)> {
        self.pools.iter().map(|(id, pool)| (*id, pool))
    }

    /// The pool of that id.
    #[must_use]
    pub fn pool(&self, id: PoolId) -> Option<&Arc<Pool>> {
        self.pools.get(&id)
    }

    /// All members' backends, in order of their ids.
    pub fn backends(&self) -> impl Iterator<Item = BackendId> {
        self.backends.keys().copied()
    }

    /// The pool and server of a backend.
    #[must_use]
    pub fn backend(&self, id: BackendId) -> Option<(&Arc<Pool>, &ServerSpec)> {
        let (pool, server) = self.backends.get(&id)?;
        let pool = self.pools.get(pool)?;
        Some((pool, pool.spec.servers.get(*server)?))
    }

    /// The fleet's word on a backend.
    #[must_use]
    pub fn verdict(&self, backend: BackendId) -> Verdict {
        self.verdicts.get(&backend).copied().unwrap_or_default()
    }

    /// Everybody's votes on a backend.
    pub fn votes(&self, backend: BackendId) -> impl Iterator<Item = (InstanceId, Vote)> {
        let range = (backend, InstanceId(0))..=(backend, InstanceId(u64::MAX));
        self.votes.range(range).map(|((_, voter), vote)| (*voter, *vote))
    }

    /// The value of a key.
    #[must_use]
    pub fn kv(&self, key: &str) -> Option<&KvEntry> {
        self.kv.get(key)
    }

    /// How many keys there are.
    #[must_use]
    pub fn kv_len(&self) -> usize {
        self.kv.len()
    }

    /// Keys that start with `prefix`, in order.
    pub fn kv_list<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a KvEntry)> {
        self.kv.range(prefix.to_owned()..).take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// Settings of the log; none: each instance goes by its configuration.
    #[must_use]
    pub fn tuning(&self) -> Option<Tuning> {
        self.tuning
    }

    /// The sessions of clients.
    #[must_use]
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// How a member backend stands.
    #[must_use]
    pub fn standing(&self, backend: BackendId, server: &ServerSpec) -> Standing {
        match (self.verdict(backend).view, server.state) {
            (View::Unknown, _) if !plant::on(Plant::BornHealthy) => Standing::Unknown,
            (View::Down, _) => Standing::Dead,
            (_, ServerState::Draining) => Standing::Draining,
            (_, ServerState::Enabled) => Standing::Live,
        }
    }

    /// What pin groups must know of this epoch.
    #[must_use]
    pub fn epoch_copy(&self) -> EpochCopy {
        let mut copy = EpochCopy { epoch: self.epoch, pools: Vec::new(), backends: Vec::new() };
        for (id, pool) in &self.pools {
            copy.pools.push((*id, pool.spec.pin_ttl_ms));
            for server in &pool.spec.servers {
                let backend = identity(&pool.spec, server);
                copy.backends.push((backend, self.standing(backend, server)));
            }
        }
        copy
    }

    /// Applies one entry.
    pub fn apply(&mut self, index: Revision, time: LogTime, command: &ControlCommand) -> ControlOutcome {
        debug_assert!(index > self.applied, "entries are applied once, in order");
        self.skip(index, time);
        if self.birth.is_none() && !matches!(command, ControlCommand::Birth(_) | ControlCommand::Tick) {
            return invalid("the fleet is not born yet: ask again".to_owned());
        }
        self.carry_out(index, command)
    }

    fn carry_out(&mut self, index: Revision, command: &ControlCommand) -> ControlOutcome {
        let changed = match command {
            ControlCommand::Birth(birth) => self.be_born(index, birth),
            ControlCommand::MemberAdd(address) => self.add_member(address),
            ControlCommand::MemberPromote(id) => self.promote_member(*id),
            ControlCommand::MemberRemove(id) => self.remove_member(*id),
            ControlCommand::MemberSeen(id, incarnation) => self.see_member(*id, *incarnation),
            ControlCommand::Apply { pools, expected } => self.apply_pools(index, pools, *expected),
            ControlCommand::Server { pool, change } => self.change_server(index, *pool, change),
            ControlCommand::Vote { voter, incarnation, backend, view } => {
                self.vote(*voter, *incarnation, *backend, *view)
            }
            ControlCommand::Verdict { backend, view, revision } => self.judge(index, *backend, *view, *revision),
            ControlCommand::KvPut { key, value, if_revision } => self.put(index, key, value, *if_revision),
            ControlCommand::KvDelete { key, if_revision } => self.delete(key, *if_revision),
            ControlCommand::OpenSession(owner) => return self.open_session(index, *owner),
            ControlCommand::CloseSession(id) => self.sessions.close_client(*id).map_err(ControlOutcome::Refused),
            ControlCommand::Once { request, owner, command } => return self.once(index, request, *owner, command),
            ControlCommand::Tune(tuning) => self.tune(*tuning),
            ControlCommand::Tick => Ok(()),
        };
        match changed {
            Ok(()) => ControlOutcome::Done { revision: index, epoch: self.epoch },
            Err(outcome) => outcome,
        }
    }

    /// Makes this the table of another fleet, of these members, that begins with all that was there: what hangs on the old
    /// members (votes, sessions, lives) is left behind. For restoring a backup.
    ///
    /// Nothing is done where the old fleet was not born yet.
    pub fn become_fleet(&mut self, fleet: FleetId, founders: &[(InstanceId, MemberAddress)]) {
        let Some(birth) = &self.birth else { return };
        let mut birth = Birth::clone(birth);
        (birth.fleet, birth.founders) = (fleet, founders.to_vec());
        self.birth = Some(Arc::new(birth));
        let member = |(id, address): &(InstanceId, MemberAddress)| {
            (*id, Arc::new(Member { address: address.clone(), incarnation: None, voter: true }))
        };
        self.members = founders.iter().map(member).collect();
        self.next_instance = founders.iter().map(|(id, _)| id.0 + 1).max().unwrap_or(1);
        self.departed = imbl::OrdMap::new();
        self.votes = imbl::OrdMap::new();
        *self.sessions = Sessions::default();
    }

    fn tune(&mut self, tuning: Option<Tuning>) -> Result<(), ControlOutcome> {
        if let Some(Err(text)) = tuning.as_ref().map(Tuning::check) {
            return Err(invalid(text));
        }
        self.tuning = tuning;
        Ok(())
    }

    fn open_session(&mut self, index: Revision, owner: Option<SessionOwner>) -> ControlOutcome {
        if let Some(SessionOwner { instance, .. }) = owner.filter(|owner| !self.members.contains_key(&owner.instance)) {
            return invalid(format!("instance {instance} is no member and has no session"));
        }
        match self.sessions.open(SessionId(index.0), self.time, owner) {
            Ok(id) => ControlOutcome::Done { revision: Revision(id.0), epoch: self.epoch },
            Err(refusal) => ControlOutcome::Refused(refusal),
        }
    }

    fn once(
        &mut self,
        index: Revision,
        request: &Request,
        owner: Option<SessionOwner>,
        command: &ControlCommand,
    ) -> ControlOutcome {
        match self.sessions.begin(self.time, request, owner) {
            Err(refusal) => ControlOutcome::Refused(refusal),
            Ok(Some(outcome)) if !plant::on(Plant::AppliedTwice) => outcome,
            Ok(_) => {
                let outcome = self.carry_out(index, command);
                self.sessions.keep(request, outcome)
            }
        }
    }

    /// Panics where the table contradicts itself. For tests and the simulator.
    ///
    /// # Panics
    /// When an invariant does not hold.
    pub fn check_invariants(&self) {
        let bytes: usize = self.kv.iter().map(|(key, entry)| key.len() + entry.value.len()).sum();
        assert_eq!(bytes, self.kv_bytes, "the running size is that of all keys and values");
        let sum = self.kv.iter().fold(0_u64, |sum, (key, entry)| sum.wrapping_add(entry.hash(key)));
        assert_eq!(sum, self.kv_digest, "the running digest is the sum of keys and values");
        self.sessions.check_invariants();
    }

    /// Marks an entry without a command as applied.
    pub fn skip(&mut self, index: Revision, time: LogTime) {
        self.applied = index;
        self.time = self.time.max(time);
        self.sessions.sweep(self.time);
    }

    fn be_born(&mut self, index: Revision, birth: &Birth) -> Result<(), ControlOutcome> {
        if self.birth.is_some() && !plant::on(Plant::SecondBirth) {
            return Ok(());
        }
        for (id, address) in &birth.founders {
            self.members.insert(*id, Arc::new(Member { address: address.clone(), incarnation: None, voter: true }));
            self.next_instance = self.next_instance.max(id.0 + 1);
        }
        self.birth = Some(Arc::new(birth.clone()));
        self.set_pools(index, &birth.pools);
        Ok(())
    }

    fn add_member(&mut self, address: &MemberAddress) -> Result<(), ControlOutcome> {
        if let Some((_, member)) = self.member_by_label(&address.label) {
            return if member.address == *address && member.incarnation.is_none() {
                Ok(())
            } else {
                Err(conflict(format!("instance {} is a member already: remove it first", address.label)))
            };
        }
        if self.members.len() >= MEMBERS_MAX {
            return Err(invalid(format!("a fleet has at most {MEMBERS_MAX} members")));
        }
        let id = InstanceId(self.next_instance);
        self.next_instance += 1;
        self.members.insert(id, Arc::new(Member { address: address.clone(), incarnation: None, voter: false }));
        Ok(())
    }

    fn promote_member(&mut self, id: InstanceId) -> Result<(), ControlOutcome> {
        let Some(member) = self.members.get_mut(&id) else {
            return Err(invalid(format!("no member has id {id}")));
        };
        Arc::make_mut(member).voter = true;
        Ok(())
    }

    fn remove_member(&mut self, id: InstanceId) -> Result<(), ControlOutcome> {
        let others_vote = self.members().any(|(other, member)| other != id && member.voter);
        if self.members.contains_key(&id) && !others_vote {
            return Err(invalid("the last voter cannot be removed".to_owned()));
        }
        if let Some(member) = self.members.remove(&id) {
            self.departed.insert(id, member);
            if self.departed.len() > DEPARTED_MAX {
                self.departed = self.departed.without_min().1;
            }
            self.votes = keep(&self.votes, |(_, voter)| *voter != id);
            self.sessions.close_of(id);
        }
        Ok(())
    }

    fn see_member(&mut self, id: InstanceId, incarnation: Incarnation) -> Result<(), ControlOutcome> {
        let Some(member) = self.members.get_mut(&id) else {
            return Err(invalid(format!("no member has id {id}")));
        };
        match member.incarnation {
            Some(known) if known != incarnation => {
                Err(conflict(format!("instance {} is known by another data directory", member.address.label)))
            }
            Some(_) => Ok(()),
            None => {
                Arc::make_mut(member).incarnation = Some(incarnation);
                Ok(())
            }
        }
    }

    fn apply_pools(&mut self, index: Revision, pools: &[PoolSpec], expected: Epoch) -> Result<(), ControlOutcome> {
        if expected != self.epoch {
            return Err(conflict(format!(
                "the pools changed meanwhile: the difference was computed from epoch {expected}, now it is {}",
                self.epoch
            )));
        }
        let servers = pools.iter().map(|pool| pool.servers.len()).sum();
        few_enough(servers)?;
        self.set_pools(index, pools);
        Ok(())
    }

    /// Puts `pools` in the place of all pools; verdicts and votes of backends that stay are kept.
    fn set_pools(&mut self, index: Revision, pools: &[PoolSpec]) {
        let old = std::mem::take(&mut self.pools);
        for spec in pools {
            let kept = old.get(&spec.id()).filter(|pool| pool.spec == *spec).cloned();
            let pool = kept.unwrap_or_else(|| Arc::new(Pool { spec: spec.clone(), revision: index }));
            self.pools.insert(spec.id(), pool);
        }
        self.index_backends();
        self.epoch.0 += 1;
    }

    fn change_server(&mut self, index: Revision, pool: PoolId, change: &ServerChange) -> Result<(), ControlOutcome> {
        let Some(found) = self.pools.get(&pool) else {
            return Err(invalid("there is no such pool".to_owned()));
        };
        let mut spec = found.spec.clone();
        let changed = change_servers(&mut spec, change)?;
        if changed && spec.servers.len() > found.spec.servers.len() {
            few_enough(self.backends.len() + 1)?;
        }
        if changed {
            self.pools.insert(pool, Arc::new(Pool { spec, revision: index }));
            self.index_backends();
            self.epoch.0 += 1;
        }
        Ok(())
    }

    /// Finds all backends anew; verdicts and votes are kept for them only.
    pub(crate) fn index_backends(&mut self) {
        let places = self.pools.iter().flat_map(|(id, pool)| {
            let servers = pool.spec.servers.iter().enumerate();
            servers.map(move |(place, server)| (identity(&pool.spec, server), (*id, place)))
        });
        self.backends = places.collect();
        self.verdicts = keep(&self.verdicts, |backend| self.backends.contains_key(backend));
        self.votes = keep(&self.votes, |(backend, _)| self.backends.contains_key(backend));
    }

    fn vote(
        &mut self,
        voter: InstanceId,
        incarnation: Incarnation,
        backend: BackendId,
        view: View,
    ) -> Result<(), ControlOutcome> {
        if !self.members.contains_key(&voter) {
            return Err(invalid(format!("instance {voter} is no member and has no vote")));
        }
        if self.backend(backend).is_none() {
            return Err(invalid("the backend is not in any pool".to_owned()));
        }
        if view == View::Unknown {
            self.votes.remove(&(backend, voter));
        } else {
            self.votes.insert((backend, voter), Vote { view, incarnation });
        }
        Ok(())
    }

    fn judge(
        &mut self,
        index: Revision,
        backend: BackendId,
        view: View,
        revision: Revision,
    ) -> Result<(), ControlOutcome> {
        let current = self.verdict(backend);
        if current.revision != revision || self.backend(backend).is_none() {
            return Err(conflict("the verdict changed meanwhile".to_owned()));
        }
        if current.view != view {
            self.verdicts.insert(backend, Verdict { view, revision: index });
            self.epoch.0 += 1;
        }
        Ok(())
    }

    fn put(
        &mut self,
        index: Revision,
        key: &str,
        value: &[u8],
        if_revision: Option<Revision>,
    ) -> Result<(), ControlOutcome> {
        self.check_revision(key, if_revision)?;
        if self.kv.len() >= KV_KEYS_MAX && !self.kv.contains_key(key) {
            return Err(invalid(format!("the store holds at most {KV_KEYS_MAX} keys")));
        }
        let old = self.kv.get(key).map_or(0, |entry| key.len() + entry.value.len());
        let bytes = self.kv_bytes - old + key.len() + value.len();
        if bytes > KV_BYTES_MAX {
            return Err(invalid(format!("the store holds at most {KV_BYTES_MAX} bytes of keys and values")));
        }
        self.kv_bytes = bytes;
        let entry = KvEntry { value: value.into(), revision: index };
        self.kv_digest = self.kv_digest.wrapping_add(entry.hash(key));
        if let Some(old) = self.kv.insert(key.to_owned(), entry) {
            self.kv_digest = self.kv_digest.wrapping_sub(old.hash(key));
        }
        Ok(())
    }

    fn delete(&mut self, key: &str, if_revision: Option<Revision>) -> Result<(), ControlOutcome> {
        self.check_revision(key, if_revision)?;
        if let Some(entry) = self.kv.remove(key) {
            self.kv_bytes -= key.len() + entry.value.len();
            self.kv_digest = self.kv_digest.wrapping_sub(entry.hash(key));
        }
        Ok(())
    }

    fn check_revision(&self, key: &str, if_revision: Option<Revision>) -> Result<(), ControlOutcome> {
        let current = self.kv.get(key).map_or(Revision(0), |entry| entry.revision);
        match if_revision {
            Some(expected) if expected != current => {
                Err(conflict(format!("{key} is at revision {current}, not {expected}")))
            }
            _ => Ok(()),
        }
    }
}

impl KvEntry {
    /// What the entry adds to the table's running digest.
    pub(crate) fn hash(&self, key: &str) -> u64 {
        let mut hasher = SipHasher24::new_with_key(DIGEST_KEY);
        hasher.write_u64((key.len() as u64).to_be());
        hasher.write(key.as_bytes());
        hasher.write_u64(self.revision.0.to_be());
        hasher.write(&self.value);
        hasher.finish()
    }
}

/// Changes the servers of a pool as asked; `false` if it is so already.
fn change_servers(spec: &mut PoolSpec, change: &ServerChange) -> Result<bool, ControlOutcome> {
    let (name, state) = match change {
        ServerChange::Add(server) => return add_server(spec, server),
        ServerChange::Remove(name) => {
            let before = spec.servers.len();
            spec.servers.retain(|server| server.name != *name);
            return if spec.servers.len() == before { Err(no_server(spec, name)) } else { Ok(true) };
        }
        ServerChange::Drain(name) => (name, ServerState::Draining),
        ServerChange::Enable(name) => (name, ServerState::Enabled),
    };
    let Some(server) = spec.servers.iter_mut().find(|server| server.name == *name) else {
        return Err(no_server(spec, name));
    };
    let changed = server.state != state;
    server.state = state;
    Ok(changed)
}

fn add_server(spec: &mut PoolSpec, server: &ServerSpec) -> Result<bool, ControlOutcome> {
    if let Some(existing) = spec.servers.iter().find(|existing| existing.name == server.name) {
        return if existing == server {
            Ok(false)
        } else {
            Err(conflict(format!(
                "pool {} has a server {} at {} already: remove it first, or choose another name",
                spec.name,
                server.name,
                existing.socket_address()
            )))
        };
    }
    if let Some(existing) = spec.servers.iter().find(|other| other.socket_address() == server.socket_address()) {
        return Err(conflict(format!(
            "{} is server {} of pool {} already",
            server.socket_address(),
            existing.name,
            spec.name
        )));
    }
    if spec.servers.len() >= SERVERS_MAX {
        return Err(invalid(format!("a pool has at most {SERVERS_MAX} servers")));
    }
    spec.servers.push(server.clone());
    Ok(true)
}

/// The identity of a server; every decision takes it from here.
#[must_use]
pub fn identity(spec: &PoolSpec, server: &ServerSpec) -> BackendId {
    if plant::on(Plant::NameOnly) {
        return BackendId::of(spec.id(), &server.name, ([0, 0, 0, 0], 0).into());
    }
    spec.backend_id(server)
}

fn keep<K: Ord + Copy, V: Copy>(map: &imbl::OrdMap<K, V>, wanted: impl Fn(&K) -> bool) -> imbl::OrdMap<K, V> {
    map.iter().filter(|(key, _)| wanted(key)).map(|(key, value)| (*key, *value)).collect()
}

fn few_enough(servers: usize) -> Result<(), ControlOutcome> {
    if servers > SERVERS_TOTAL_MAX {
        return Err(invalid(format!("all pools have at most {SERVERS_TOTAL_MAX} servers together")));
    }
    Ok(())
}

fn no_server(spec: &PoolSpec, name: &str) -> ControlOutcome {
    let names: Vec<&str> = spec.servers.iter().map(|server| server.name.as_str()).collect();
    invalid(format!("pool {} has no server {name}; it has {}", spec.name, names.join(", ")))
}

fn conflict(text: String) -> ControlOutcome {
    ControlOutcome::Conflict(text)
}

fn invalid(text: String) -> ControlOutcome {
    ControlOutcome::Invalid(text)
}

/// Most members of a fleet.
pub const MEMBERS_MAX: usize = 64;

/// Most removed members that are remembered.
pub const DEPARTED_MAX: usize = 64;

/// Most servers of a pool.
pub const SERVERS_MAX: usize = crate::pick::MAX_SERVERS_PER_POOL;

/// Most servers of all pools: a copy of an epoch names each of them, and must fit into one entry of the log.
pub const SERVERS_TOTAL_MAX: usize = 10_000;

/// Most keys of the key-value store.
pub const KV_KEYS_MAX: usize = 1_000_000;

/// Most bytes of its keys and values: a snapshot of group 0 holds them all.
pub const KV_BYTES_MAX: usize = 256 << 20;

#[cfg(test)]
pub(crate) mod tests;
