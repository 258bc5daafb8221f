//! Starting a node: the data directory, the identity, the threads, the links.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::IpAddr,
    num::{NonZeroU64, NonZeroUsize},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use arc_swap::ArcSwap;
use flow::{Birth, FleetId, Incarnation, MemberAddress, flows::FlowLimits};
use raftlog::{
    NodeId,
    disk::{Disk, FileDisk},
    driver::{DetectorKind, DriverConfig, Tuning},
    net::{Options, PeerAddress, PeersError, Refused, Tls, Transport},
    wal::{SnapshotStore, WalError, WalOptions, log_exists},
};
use replica::{
    Birthing, Founding, Identity, Replica, ReplicaConfig,
    backup::{Backup, BackupError},
    storage::{Found, Storage, load_identity, load_known, save_identity},
};
use tokio::{runtime::Handle, sync::watch};
use tracing::{info, warn};

use super::{
    disk::{self, DiskUsage},
    driver::{Loop, TICK},
    fleet::{Fleet, Inner},
    gate::{Doorkeeper, NetInbox, State},
    health::Health,
    input::Input,
    names,
    shared::Shared,
    snapshots, threads,
};
use crate::{
    config::{Config, Host},
    metrics::Decisions,
};

/// A running node.
pub struct Node {
    fleet: Fleet,
    shared: Arc<Shared>,
    transport: Transport,
    inputs: SyncSender<Input>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
    stopping: Arc<AtomicBool>,
}

/// Why a node does not start. Each says what would help.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The label is not in the configuration.
    #[error("instance {label} is not in the configuration; it lists {listed}")]
    UnknownLabel {
        /// As asked for.
        label: String,
        /// What there is.
        listed: String,
    },
    /// The directory cannot be made or locked.
    #[error("cannot use the data directory {path}: {source}{hint}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
        /// What may help.
        hint: &'static str,
    },
    /// The directory is somebody else's.
    #[error(
        "the data directory {path} belongs to instance {found} of fleet {fleet}, not to {label} of {wanted}: name its own with --data-dir, or start the instance that it belongs to"
    )]
    Foreign {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Of which fleet.
        fleet: String,
        /// Who was to be started.
        label: String,
        /// Of which fleet.
        wanted: String,
    },
    /// The files cannot be read.
    #[error("the data directory {path}: {source}")]
    Storage {
        /// Which.
        path: PathBuf,
        /// Why.
        source: WalError,
    },
    /// What the files say cannot be.
    #[error("the data directory {path}: {source}")]
    Replica {
        /// Which.
        path: PathBuf,
        /// Why.
        source: replica::StartError,
    },
    /// The instance's own address cannot be found.
    #[error("the address {host} of this instance cannot be resolved: {source}")]
    Address {
        /// As configured.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// There is a log, and nothing says whose it is.
    #[error(
        "the data directory {path} holds a log or snapshots, and no identity: a restore into it was broken off, or its \
         identity was deleted. Empty it, and restore it again or replace the member"
    )]
    NoIdentity {
        /// Which.
        path: PathBuf,
    },
    /// The peers cannot be.
    #[error("the transport does not take the peers: {0}")]
    Peers(#[from] PeersError),
    /// No thread, no random numbers.
    #[error("the system gave no {0}: {1}")]
    System(&'static str, String),
}

impl Node {
    /// Starts the node of instance `label`. It answers once a majority of its fleet does.
    ///
    /// # Errors
    /// If the configuration, the data directory or the system do not allow for it.
    pub fn start(
        config: &Config,
        label: &str,
        data_dir: &Path,
        own: IpAddr,
        tls: Option<Arc<Tls>>,
        runtime: &Handle,
        decisions: Arc<Decisions>,
    ) -> Result<Self, StartError> {
        let founding = founding(config);
        let (disk, identity) = open_directory(data_dir, &founding, label)?;
        let storage_error = |source| StartError::Storage { path: data_dir.to_owned(), source };
        let known = load_known(disk.as_ref()).map_err(storage_error)?;
        let (inputs, receiver) = sync_channel(INPUTS_MAX);
        let shared = Arc::new(Shared::new());
        let birthing = identity.id.is_none().then(|| Birthing::new(identity.clone(), founding.clone()));
        let doorkeeper = Arc::new(Doorkeeper {
            founding: founding.clone(),
            shared: Arc::clone(&shared),
            disk: Arc::clone(&disk),
            inputs: inputs.clone(),
            decided: watch::Sender::new(birthing.is_none()),
            state: Mutex::new(State { identity, known, birthing, answered: BTreeSet::new(), majority_since: None }),
            saving: Mutex::new(()),
            snapshots: snapshots::Store::default(),
            incoming: Arc::default(),
        });
        let health = Health::start(runtime, own, shared.pools(), inputs.clone());
        let snapshot_bytes_per_second = NonZeroU64::new(config.fleet.limits.max_snapshot_rate);
        let options = Options { tls, local_address: Some(own), snapshot_bytes_per_second, ..Options::default() };
        let inbox = Arc::new(NetInbox::new(inputs.clone(), Arc::clone(&shared)));
        let transport = Transport::start(options, runtime.clone(), Arc::clone(&doorkeeper) as Arc<_>, inbox);
        let usage = Arc::new(DiskUsage::default());
        let fleet = Fleet {
            inner: Arc::new(Inner {
                label: label.to_owned(),
                fleet_name: config.fleet.name.clone(),
                configured: in_milliseconds(&tuning(config)),
                shared: Arc::clone(&shared),
                inputs: inputs.clone(),
                health: health.clone(),
                decisions,
                cache_entries: NonZeroUsize::new(config.fleet.limits.cache_entries).unwrap_or(NonZeroUsize::MIN),
                resolved: ArcSwap::from_pointee(HashMap::new()),
                lookups_failed: AtomicU64::new(0),
                transport: OnceLock::from(transport.clone()),
                usage: Arc::clone(&usage),
                connections: OnceLock::new(),
                vip: OnceLock::new(),
            }),
        };
        // A fleet of one needs to hear nobody.
        doorkeeper.decide().map_err(storage_error)?;
        let threads = Arc::new(Mutex::new(Vec::new()));
        let stopping = Arc::new(AtomicBool::new(false));
        let begin = Begin {
            config: config.clone(),
            label: label.to_owned(),
            path: data_dir.to_owned(),
            disk,
            shared: Arc::clone(&shared),
            doorkeeper,
            transport: transport.clone(),
            health,
            runtime: runtime.clone(),
            inputs: inputs.clone(),
            usage,
            threads: Arc::clone(&threads),
            stopping: Arc::clone(&stopping),
        };
        let peers = peers(&founding, label);
        transport.set_peers(peers.clone())?;
        begin.when_decided(receiver, peers)?;
        runtime.spawn(names::keep(fleet.clone(), shared.controls()));
        Ok(Self { fleet, shared, transport, inputs, threads, stopping })
    }

    /// The handle on the replica.
    #[must_use]
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// The committed pools as they change.
    #[must_use]
    pub fn pools(&self) -> watch::Receiver<Arc<Vec<flow::PoolSpec>>> {
        self.shared.pools()
    }

    /// The links to peers.
    #[must_use]
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// From now on this instance is not ready.
    pub fn set_draining(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
    }

    /// Tells how open connections are counted.
    pub fn count_connections(&self, count: super::fleet::Connections) {
        drop(self.fleet.inner.connections.set(count));
    }

    /// Tells how the VIPs stand.
    pub fn show_vip(&self, look: super::fleet::VipLook) {
        drop(self.fleet.inner.vip.set(look));
    }

    /// Ends the threads, having stored everything; without that where the disk is full, as nothing was acknowledged.
    pub fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        drop(self.inputs.send(Input::Stop));
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                warn!("a thread of the node ended by a panic");
            }
        }
    }
}

/// What is needed to begin once the identity is decided.
struct Begin {
    config: Config,
    label: String,
    path: PathBuf,
    disk: Arc<dyn Disk>,
    shared: Arc<Shared>,
    doorkeeper: Arc<Doorkeeper>,
    transport: Transport,
    health: Health,
    runtime: Handle,
    inputs: SyncSender<Input>,
    usage: Arc<DiskUsage>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
    stopping: Arc<AtomicBool>,
}

impl Begin {
    /// Begins at once, or as soon as peers have said enough; until then what comes in is dropped.
    fn when_decided(self, inputs: Receiver<Input>, peers: Vec<PeerAddress>) -> Result<(), StartError> {
        let threads = Arc::clone(&self.threads);
        if *self.doorkeeper.decided.borrow() {
            let running = self.begin(inputs, peers)?;
            return spawn_replica(&threads, move || running.run());
        }
        info!("a new data directory: waiting for a majority of the instances listed");
        spawn_replica(&threads, move || {
            let mut decided = self.doorkeeper.decided.subscribe();
            loop {
                match inputs.recv_timeout(TICK) {
                    Ok(Input::Stop) => return,
                    Ok(Input::Net(raftlog::net::Event::Refused { label, refused, .. }, _)) => {
                        note_refusal(&self.shared, &label, &refused);
                    }
                    Ok(Input::Net(raftlog::net::Event::LinkUp { label, .. }, _)) => self.shared.let_in_by(&label),
                    // Peers send again what they need answered; people are told that this instance is starting.
                    Ok(_) | Err(_) => {}
                }
                // Some decisions come with time.
                if let Err(error) = self.doorkeeper.decide() {
                    tracing::error!(%error, "the instance cannot begin: stopping");
                    std::process::exit(1);
                }
                if *decided.borrow_and_update() {
                    break;
                }
            }
            match self.begin(inputs, peers) {
                Ok(running) => running.run(),
                Err(error) => {
                    tracing::error!(%error, "the instance cannot begin: stopping");
                    std::process::exit(1);
                }
            }
        })
    }

    fn begin(self, inputs: Receiver<Input>, peers: Vec<PeerAddress>) -> Result<Loop, StartError> {
        let identity = self.doorkeeper.identity();
        let storage_error = |source| StartError::Storage { path: self.path.clone(), source };
        let options = WalOptions { salt: random()?, ..WalOptions::default() };
        let (storage, Found { starts, states, cut }) =
            Storage::open(Arc::clone(&self.disk), &identity, options).map_err(storage_error)?;
        if let Some(cut) = cut {
            warn!(
                file = cut.file,
                offset = cut.offset,
                bytes = cut.bytes,
                "a torn end of the log was cut off; nothing of it was ever acknowledged"
            );
        }
        let config = replica_config(&self.config, &identity, &self.doorkeeper.founding)?;
        let mut replica = Replica::new(config, starts, states)
            .map_err(|source| StartError::Replica { path: self.path.clone(), source })?;
        for (peer, incarnation) in self.doorkeeper.known() {
            replica.handle_peer_seen(peer, incarnation);
        }
        let views = (1..replica.group_count()).filter_map(|id| replica.view(raftlog::GroupId(id)).cloned()).collect();
        self.shared.set_groups(views);
        let shards = (0..replica.shards()).filter_map(|shard| {
            let group = replica.group_of_shard(shard)?;
            Some((group, replica.flow_table(group)?.clone()))
        });
        self.shared.set_flows(shards.collect());
        let no_thread = |error: io::Error| StartError::System("thread", error.to_string());
        let store = storage.snapshots().clone();
        let (snapshots, writer) = snapshots::start(store.clone(), self.inputs.clone()).map_err(no_thread)?;
        let (log, thread) = disk::start(storage, self.inputs.clone(), self.usage, self.stopping).map_err(no_thread)?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).extend([thread, writer]);
        // From here on peers may send some.
        drop(self.doorkeeper.snapshots.set(store));
        info!(id = identity.id.map(|id| id.0), groups = replica.group_count(), "the replica begins");
        Ok(Loop {
            replica,
            label: self.label,
            inputs,
            input_sender: self.inputs,
            shared: self.shared,
            log,
            snapshots,
            received: HashMap::new(),
            transport: self.transport,
            doorkeeper: self.doorkeeper,
            health: self.health,
            runtime: self.runtime,
            choices: HashMap::new(),
            submits: HashMap::new(),
            reports: HashMap::new(),
            next_ticket: 0,
            peers,
        })
    }
}

fn spawn_replica(running: &Mutex<Vec<JoinHandle<()>>>, run: impl FnOnce() + Send + 'static) -> Result<(), StartError> {
    let thread = threads::start("replica", run).map_err(|error| StartError::System("thread", error.to_string()))?;
    running.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
    Ok(())
}

/// A peer said no: people are told, once and where readiness is lacking.
pub fn note_refusal(shared: &Shared, label: &str, refused: &Refused) {
    warn!(peer = label, code = refused.code, reason = refused.text, "a peer refused this instance");
    shared.refused_by(label, refused);
}

/// Makes an empty data directory that of an instance of a new fleet, which begins with what a backup has.
///
/// # Errors
/// If the directory cannot be used, is not empty, or the configuration lists no such instance.
pub fn restore(config: &Config, label: &str, path: &Path, backup: Backup) -> Result<Identity, RestoreError> {
    let founding = founding(config);
    let open = |source: io::Error| RestoreError::Directory(path.to_owned(), source);
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(path).map_err(open)?);
    let life = Incarnation(random().map_err(|error| RestoreError::System(error.to_string()))? | 1);
    Ok(replica::backup::restore(&disk, &founding, label, life, backup)?)
}

/// Why a backup was not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The directory cannot be used.
    #[error("cannot use the data directory {0}: {1}")]
    Directory(PathBuf, io::Error),
    /// The backup, the directory or the configuration does not allow for it.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// No random numbers.
    #[error("{0}")]
    System(String),
}

/// The fleet as the configuration founds it.
fn founding(config: &Config) -> Founding {
    let instances = config
        .fleet
        .instances
        .iter()
        .map(|instance| MemberAddress {
            label: instance.label.clone(),
            host: host_text(&instance.address),
            grpc: instance.grpc,
            rest: instance.rest,
            metrics: instance.metrics,
        })
        .collect();
    Founding {
        fleet_name: config.fleet.name.clone(),
        instances,
        pin_groups: config.fleet.groups,
        flow_groups: config.fleet.flow_groups,
        lease_ms: config.fleet.lease.as_millis() as u64,
    }
}

fn peers(founding: &Founding, label: &str) -> Vec<PeerAddress> {
    let others = founding.instances.iter().filter(|instance| instance.label != label);
    others.map(|instance| PeerAddress::new(&instance.label, &instance.host, instance.grpc)).collect()
}

fn replica_config(config: &Config, identity: &Identity, founding: &Founding) -> Result<ReplicaConfig, StartError> {
    let id = identity.id.map_or(0, |id| id.0);
    let limits = config.fleet.limits;
    let seed = random()?;
    let birth = if identity.founders.is_empty() {
        None
    } else {
        let fleet = (u128::from(random()?) << 64) | u128::from(random()?);
        let mut pick_key = [0; 16];
        pick_key[..8].copy_from_slice(&random()?.to_be_bytes());
        pick_key[8..].copy_from_slice(&random()?.to_be_bytes());
        Some(Birth {
            fleet: FleetId(fleet),
            pick_key,
            pin_groups: identity.pin_groups,
            lease_ms: founding.lease_ms,
            founders: founding.founders(),
            pools: config.pools.clone(),
        })
    };
    Ok(ReplicaConfig {
        driver: DriverConfig { tuning: tuning(config), ..DriverConfig::new(NodeId(id), seed) },
        incarnation: identity.incarnation,
        lease_ms: founding.lease_ms,
        pins_per_group_max: (limits.max_pins / u64::from(identity.pin_groups.max(1))).max(1) as usize,
        flow_groups: identity.flow_groups,
        flow_limits: FlowLimits::default(),
        choosing_max: limits.max_pending_choices,
        birth,
        token_start: random()?,
    })
}

/// The log's settings while none are committed.
fn tuning(config: &Config) -> Tuning {
    let ticks = |duration: std::time::Duration| (duration.as_millis() / TICK.as_millis()).max(1) as usize;
    let election_ticks = ticks(config.fleet.election_timeout);
    Tuning {
        heartbeat_ticks: ticks(config.fleet.heartbeat),
        election_ticks,
        jitter_ticks: election_ticks * 2 / 3,
        ..Tuning::default()
    }
}

/// The same as operators say it.
fn in_milliseconds(tuning: &Tuning) -> flow::Tuning {
    let saturated = |ms: u64| u32::try_from(ms).unwrap_or(u32::MAX);
    let ms = |ticks: u64| saturated(ticks.saturating_mul(TICK.as_millis() as u64));
    flow::Tuning {
        heartbeat_ms: ms(tuning.heartbeat_ticks as u64),
        election_ms: ms(tuning.election_ticks as u64),
        detector: match tuning.detector {
            DetectorKind::Phi { threshold_tenths } => flow::Detector::Phi(threshold_tenths),
            DetectorKind::Fixed { timeout_ms } => flow::Detector::Fixed(saturated(timeout_ms)),
        },
        spread: tuning.spread,
        shuffle_ms: ms(tuning.shuffle_ticks),
    }
}

fn open_directory(path: &Path, founding: &Founding, label: &str) -> Result<(Arc<dyn Disk>, Identity), StartError> {
    let directory_error = |source: io::Error| {
        let hint = match source.kind() {
            io::ErrorKind::ResourceBusy => ": another process uses it",
            io::ErrorKind::PermissionDenied => {
                ": give this user the right to write there, or name another with --data-dir"
            }
            _ => "",
        };
        StartError::Directory { path: path.to_owned(), source, hint }
    };
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(path).map_err(directory_error)?);
    let storage_error = |source| StartError::Storage { path: path.to_owned(), source };
    let identity = match load_identity(disk.as_ref()).map_err(storage_error)? {
        Some(identity) if identity.label == label && identity.fleet_name == founding.fleet_name => identity,
        Some(identity) => {
            return Err(StartError::Foreign {
                path: path.to_owned(),
                found: identity.label,
                fleet: identity.fleet_name,
                label: label.to_owned(),
                wanted: founding.fleet_name.clone(),
            });
        }
        None => {
            // Somebody's log without a word on whose: a restore that was broken off, or a file that was deleted.
            let snapshots = SnapshotStore::open(Arc::clone(&disk)).and_then(|store| store.newest_of_all());
            if log_exists(disk.as_ref()).map_err(storage_error)? || !snapshots.map_err(storage_error)?.is_empty() {
                return Err(StartError::NoIdentity { path: path.to_owned() });
            }
            let identity = Identity {
                fleet_name: founding.fleet_name.clone(),
                label: label.to_owned(),
                incarnation: Incarnation(random()? | 1),
                id: None,
                fleet: None,
                pin_groups: 0,
                flow_groups: 0,
                founders: Vec::new(),
                restored: false,
            };
            save_identity(disk.as_ref(), &identity).map_err(storage_error)?;
            identity
        }
    };
    Ok((disk, identity))
}

/// An instance's address as text, as peers dial it.
pub fn host_text(host: &Host) -> String {
    match host {
        Host::Ip(address) => address.to_string(),
        Host::Name(name) => name.clone(),
    }
}

fn random() -> Result<u64, StartError> {
    getrandom::u64().map_err(|error| StartError::System("random numbers", error.to_string()))
}

/// Most inputs that wait for the replica thread.
const INPUTS_MAX: usize = 65_536;
