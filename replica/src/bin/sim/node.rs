//! One simulated instance: the real replica, front and storage behind simulated doors.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    sync::Arc,
};

use bytes::Bytes;
use flow::{
    BackendId, ControlTable, GroupView, HealthCounter, Incarnation, InstanceId, PinKey,
    cache::Cache,
    flows::{FlowLimits, FlowTable},
    plant::{self, Plant},
};
use raftlog::{
    GroupId, Index, NodeId, Record, Term,
    disk::MemDisk,
    driver::{DriverConfig, Tuning},
    wal::{Received, WalError, WalOptions},
};
use replica::{
    Admission, Birthing, Decision, Founding, Hello, Identity, Known, Refused, Replica, ReplicaConfig, Reply,
    storage::{Storage, load_identity, load_known, read_received, save_identity, save_known},
};

/// What outlives a crash: the disk, and the hardware's clock.
pub struct Machine {
    pub label: String,
    pub disk: MemDisk,
    /// This clock runs fast (or slow) by so many parts in a million.
    pub clock_ppm: i64,
    /// Where this clock stood when the simulation began, in milliseconds.
    pub clock_base_ms: u64,
    pub wall_offset_ms: u64,
    /// Counts starts, so that what was meant for an earlier life is known.
    pub life: u64,
    pub paused_until_us: u64,
    pub disk_slow: bool,
    /// What is written before then is stored then.
    pub stalled_until_us: u64,
    /// The time for which it was paused by now.
    pub slept_us: u64,
    /// What is sent to it while it is paused is lost.
    pub deaf: bool,
    pub compact_entries: u64,
    /// The lease in this machine's configuration.
    pub lease_ms: u64,
    pub process: Option<Process>,
}

/// A running process.
pub struct Process {
    pub identity: Identity,
    pub known: Known,
    /// The instances it has let in, by label.
    pub admitted: BTreeMap<String, NodeId>,
    pub core: Core,
}

/// Newborn, or an instance.
pub enum Core {
    Newborn(Box<Birthing>),
    Running(Box<Running>),
}

pub struct Running {
    pub replica: Replica,
    pub storage: Storage,
    pub cache: Cache<Target>,
    pub control: ControlTable,
    pub views: Vec<GroupView>,
    pub flows: BTreeMap<GroupId, FlowTable>,
    pub health: BTreeMap<BackendId, HealthCounter>,
    /// Rounds on their way to the disk, in order.
    pub rounds: Vec<Round>,
    /// Snapshots that came in and are about to be installed.
    pub received: BTreeMap<(GroupId, Index, Term), Received>,
}

pub struct Target {
    pub backend: BackendId,
}

pub struct Round {
    pub round: u64,
    pub records: Vec<Record>,
    pub received: Vec<Received>,
    pub sync: bool,
}

impl Machine {
    pub fn now_ms(&self, world_us: u64) -> u64 {
        let world_us = match plant::on(Plant::ClockStops) {
            true => world_us.saturating_sub(self.slept_us),
            false => world_us,
        };
        let skewed = world_us as i128 * (1_000_000 + i128::from(self.clock_ppm)) / 1_000_000;
        self.clock_base_ms + (skewed / 1000) as u64
    }

    /// Whether its directory knows of a fleet.
    pub fn is_of_a_fleet(&self) -> bool {
        load_identity(&self.disk).is_ok_and(|identity| identity.is_some_and(|identity| identity.fleet.is_some()))
    }

    /// The id of the running instance.
    pub fn id(&self) -> Option<NodeId> {
        self.process.as_ref().and_then(|process| process.identity.id).map(|id| NodeId(id.0))
    }

    /// Starts a process on what the disk holds.
    pub fn start(&mut self, founding: &Founding, seed: u64) -> Result<(), String> {
        self.life += 1;
        self.disk.restart();
        let disk = Arc::new(self.disk.clone());
        let identity = match load_identity(disk.as_ref()).map_err(|error| error.to_string())? {
            Some(identity) => identity,
            None => {
                let identity = Identity {
                    fleet_name: founding.fleet_name.clone(),
                    label: self.label.clone(),
                    incarnation: Incarnation(seed | 1),
                    id: None,
                    fleet: None,
                    pin_groups: 0,
                    flow_groups: 0,
                    founders: Vec::new(),
                    restored: false,
                };
                save_identity(disk.as_ref(), &identity).map_err(|error| error.to_string())?;
                identity
            }
        };
        let known = load_known(disk.as_ref()).map_err(|error| error.to_string())?;
        let core = if identity.id.is_some() {
            Core::Running(Box::new(self.open(&identity, founding, seed)?))
        } else {
            let founding = Founding { lease_ms: self.lease_ms, ..founding.clone() };
            Core::Newborn(Box::new(Birthing::new(identity.clone(), founding)))
        };
        self.process = Some(Process { identity, known, admitted: BTreeMap::new(), core });
        Ok(())
    }

    fn open(&self, identity: &Identity, founding: &Founding, seed: u64) -> Result<Running, String> {
        let disk = Arc::new(self.disk.clone());
        let options = WalOptions { segment_bytes: 64 << 10, prefill_bytes: 4 << 10, salt: 7 };
        let (storage, found) = Storage::open(disk, identity, options).map_err(|error| error.to_string())?;
        let id = identity.id.unwrap_or(InstanceId(0));
        let founder = !identity.founders.is_empty();
        let config = ReplicaConfig {
            driver: DriverConfig {
                tuning: Tuning { election_ticks: 20, jitter_ticks: 15, ..Tuning::default() },
                compact_entries: self.compact_entries,
                compact_bytes: 1 << 20,
                // Old entries are read from disk as soon as they are applied, in half of the seeds.
                memory_bytes: if seed.is_multiple_of(2) { 0 } else { 1 << 20 },
                tail_entries: self.compact_entries / 10,
                ..DriverConfig::new(NodeId(id.0), seed)
            },
            incarnation: identity.incarnation,
            lease_ms: self.lease_ms,
            pins_per_group_max: 10_000,
            flow_groups: identity.flow_groups,
            flow_limits: FlowLimits { flows: 1000, ttl_ms: 60_000, ended_ttl_ms: 1_500 },
            choosing_max: 1000,
            birth: founder.then(|| flow::Birth {
                fleet: flow::FleetId(u128::from(seed)),
                // One key for all seeds, so that slot tables are built once.
                pick_key: *b"the-simulators-k",
                pin_groups: identity.pin_groups,
                lease_ms: founding.lease_ms,
                founders: founding.founders(),
                pools: crate::world::pools(),
            }),
            token_start: seed.rotate_left(17) ^ (self.life << 40),
        };
        let groups = found.starts.len() as u32 - 1;
        let replica = Replica::new(config, found.starts, found.states).map_err(|error| error.to_string())?;
        let views = (1..=groups).filter_map(|group| replica.view(GroupId(group)).cloned()).collect();
        Ok(Running {
            control: replica.control().clone(),
            replica,
            storage,
            cache: Cache::new(NonZeroUsize::new(64).unwrap_or(NonZeroUsize::MIN)),
            views,
            flows: BTreeMap::new(),
            health: BTreeMap::new(),
            rounds: Vec::new(),
            received: BTreeMap::new(),
        })
    }

    /// A newborn asks and may become something.
    pub fn become_decided(&mut self, founding: &Founding, seed: u64) -> Result<bool, String> {
        let Some(process) = &mut self.process else { return Ok(false) };
        let Core::Newborn(birthing) = &process.core else { return Ok(false) };
        let Decision::Become(identity) = birthing.decide() else { return Ok(false) };
        save_identity(&self.disk, &identity).map_err(|error| error.to_string())?;
        process.identity = identity.clone();
        let running = self.open(&identity, founding, seed)?;
        if let Some(process) = &mut self.process {
            process.core = Core::Running(Box::new(running));
        }
        Ok(true)
    }

    /// Power loss: what was not synced may be gone or torn.
    pub fn crash(&mut self, seed: u64) {
        if let Some(Process { core: Core::Running(mut running), .. }) = self.process.take()
            && !running.rounds.is_empty()
        {
            let next = running.rounds.remove(0);
            // It was being written; how much of it got to the disk is the seed's affair.
            drop(running.storage.write_only(&next.records, next.received));
        }
        self.disk.crash(seed);
        self.life += 1;
    }

    /// Whether it leads that group.
    pub fn leads(&self, group: GroupId) -> bool {
        let Some(Process { core: Core::Running(running), .. }) = &self.process else { return false };
        running.replica.status(group).is_some_and(|status| status.role == raftlog::driver::Role::Leader)
    }

    pub fn running(&mut self) -> Option<&mut Running> {
        match &mut self.process {
            Some(Process { core: Core::Running(running), .. }) => Some(running),
            _ => None,
        }
    }
}

impl Process {
    pub fn hello(&self, founding: &Founding) -> Hello {
        Hello { identity: self.identity.clone(), founding_hash: founding.hash() }
    }

    /// Lets a peer in, having remembered it on disk; or says why not.
    pub fn admit(&mut self, hello: &Hello, founding: &Founding, disk: &MemDisk) -> Result<Reply, Refused> {
        let control = match &self.core {
            Core::Running(running) => Some(running.replica.control()),
            Core::Newborn(_) => None,
        };
        let nobody = BTreeSet::new();
        let leaving = match &self.core {
            Core::Running(running) => running.replica.leaving(),
            Core::Newborn(_) => &nobody,
        };
        let admission = Admission { me: &self.identity, founding, control, known: &self.known, leaving };
        let admitted = admission.admit(hello)?;
        if admitted.new {
            self.known.0.insert(admitted.id, admitted.incarnation);
            if save_known(disk, &self.known).is_err() {
                return Err(Refused {
                    code: replica::birth::RefusedCode::Malformed,
                    text: "cannot remember you now".to_owned(),
                });
            }
        }
        self.admitted.insert(hello.identity.label.clone(), NodeId(admitted.id.0));
        if let Core::Running(running) = &mut self.core {
            running.replica.handle_peer_seen(admitted.id, admitted.incarnation);
        }
        Ok(admitted.reply)
    }
}

impl Running {
    /// A snapshot came in: kept until it is installed, if it is wanted.
    pub fn take_snapshot(
        &mut self,
        from: NodeId,
        place: (GroupId, Index, Term),
        message: &Bytes,
        file: &[u8],
    ) -> Result<(), WalError> {
        let (group, index, term) = place;
        let mut receiving = self.storage.snapshots().receive(group, index, term)?;
        receiving.append(file)?;
        let received = receiving.finish()?;
        let state = read_received(&received)?;
        if self.replica.handle_snapshot(from, group, message, term, state) {
            self.received.insert(place, received);
        }
        Ok(())
    }

    /// The group and its view that a key belongs to.
    pub fn look_up(&mut self, key: &PinKey, now_ms: u64) -> Option<flow::cache::Found<Target>> {
        let group = self.replica.group_of(key);
        let view = self.views.get(group.0 as usize - 1)?;
        let control = &self.control;
        self.cache.look_up(key, view, now_ms, |pin| {
            control.backend(pin.backend)?;
            (pin.epoch <= control.epoch()).then(|| Arc::new(Target { backend: pin.backend }))
        })
    }
}

/// A message on its way.
#[derive(Clone)]
pub enum Packet {
    Frame(Bytes),
    /// A snapshot file, as it is.
    Snapshot {
        group: GroupId,
        index: Index,
        term: Term,
        message: Bytes,
        file: Bytes,
    },
}

pub const LEASE_MS: u64 = 1000;
