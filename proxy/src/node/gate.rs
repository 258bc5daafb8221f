//! The gate to peers: who says hello how, who is let in, and where snapshots go.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::SyncSender,
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use raftlog::{
    NodeId,
    disk::Disk,
    net::{Event, Gate, Inbox, PeerAddress, Refused, SnapshotOffer, SnapshotSink},
};
use replica::{
    Admission, Admitted, Birthing, Decision, Founding, Hello, Identity, Known, Reply,
    birth::RefusedCode,
    storage::{save_identity, save_known},
};
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::watch,
};
use tracing::warn;

use super::{input::Input, shared::Shared, snapshots};

/// Guards the links to and from this instance.
pub struct Doorkeeper {
    pub founding: Founding,
    pub shared: Arc<Shared>,
    pub disk: Arc<dyn Disk>,
    pub inputs: SyncSender<Input>,
    /// Never held while the disk is waited for: hello, and the replica's thread, need it at any time.
    pub state: Mutex<State>,
    /// Held while `state` is saved, so that what is newer on disk is never overtaken; locked before `state`.
    pub saving: Mutex<()>,
    /// Where snapshots that come in are kept.
    pub snapshots: snapshots::Store,
    /// Those that are coming in.
    pub incoming: Arc<snapshots::Incoming>,
    /// Becomes true once the identity is decided.
    pub decided: watch::Sender<bool>,
}

pub struct State {
    pub identity: Identity,
    pub known: Known,
    /// There while it is not decided what a newborn instance becomes.
    pub birthing: Option<Birthing>,
    /// The instances that let a newborn in, by label.
    pub answered: BTreeSet<String>,
    /// Since when they are enough for the birth of a fleet.
    pub majority_since: Option<Instant>,
}

impl Doorkeeper {
    pub fn identity(&self) -> Identity {
        self.lock().identity.clone()
    }

    /// The peers that were let in so far, each in the life it is known by.
    pub fn known(&self) -> Vec<(flow::InstanceId, flow::Incarnation)> {
        self.lock().known.0.iter().map(|(id, life)| (*id, *life)).collect()
    }

    /// The fleet's identity was agreed: it is kept. The replica's thread, which asks, does not wait for the disk.
    pub fn born(self: &Arc<Self>, fleet: flow::FleetId) {
        {
            let mut state = self.lock();
            if state.identity.fleet.is_some() {
                return;
            }
            state.identity.fleet = Some(fleet);
        }
        let this = Arc::clone(self);
        let saver = thread::Builder::new().name("birth".to_owned()).spawn(move || {
            let _order = this.save_in_order();
            if let Err(error) = save_identity(this.disk.as_ref(), &this.identity()) {
                warn!(%error, "the fleet's uuid could not be stored; it is tried again at the next start");
            }
        });
        if let Err(error) = saver {
            warn!(%error, "no thread to store the fleet's uuid; it is tried again at the next start");
        }
    }

    /// A newborn that needs nobody, or that has heard enough, becomes what it is.
    pub fn decide(&self) -> Result<bool, raftlog::wal::WalError> {
        if self.becomes().is_none() {
            return Ok(false);
        }
        let saved = aside(|| -> Result<bool, raftlog::wal::WalError> {
            let _order = self.save_in_order();
            // Somebody else may have decided meanwhile.
            let Some(identity) = self.becomes() else { return Ok(false) };
            save_identity(self.disk.as_ref(), &identity)?;
            let mut state = self.lock();
            state.identity = identity;
            state.birthing = None;
            Ok(true)
        })?;
        if saved {
            self.decided.send_replace(true);
        }
        Ok(saved)
    }

    /// What a newborn becomes by what is known now.
    fn becomes(&self) -> Option<Identity> {
        let mut state = self.lock();
        let Some(Decision::Become(identity)) = state.birthing.as_ref().map(Birthing::decide) else { return None };
        (identity.fleet.is_some() || self.may_found(&mut state)).then_some(identity)
    }

    /// Remembers on disk in which life a peer is known.
    fn remember(&self, id: flow::InstanceId, life: flow::Incarnation) -> Result<(), raftlog::wal::WalError> {
        let mut known = self.lock().known.clone();
        known.0.insert(id, life);
        save_known(self.disk.as_ref(), &known)?;
        self.lock().known = known;
        Ok(())
    }

    fn judge(&self, hello: &Hello, remote: SocketAddr) -> Result<Admitted, Refused> {
        let control = self.shared.control();
        let state = self.lock();
        let State { identity, known, .. } = &*state;
        let leaving = &*self.shared.leaving();
        let admission = Admission { me: identity, founding: &self.founding, control: Some(&control), known, leaving };
        admission.admit(hello).map_err(|refused| {
            warn!(label = hello.identity.label, %remote, reason = refused.text, "a peer was not let in");
            Refused { code: refused.code as u32, text: refused.text }
        })
    }

    fn save_in_order(&self) -> std::sync::MutexGuard<'_, ()> {
        self.saving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a majority may found a fleet: once all instances listed have let this one in, or those that do not answer
    /// were given time. Two emptied directories of three are a majority too, and the third knows better.
    fn may_found(&self, state: &mut State) -> bool {
        let since = *state.majority_since.get_or_insert_with(Instant::now);
        let others = self.founding.instances.iter().filter(|one| one.label != state.identity.label);
        let all = others.clone().all(|other| state.answered.contains(&other.label));
        !self.shared.is_outcast() && (all || since.elapsed() >= BIRTH_PATIENCE)
    }

    /// Who answers. A newborn may not know its id yet; then its label's member is meant, or its label's founder. By a
    /// wrong id nothing would ever be sent to it, as the link stays up when it learns the right one.
    fn id_of(&self, them: &Identity) -> Option<flow::InstanceId> {
        let member = || self.shared.control().member_by_label(&them.label).map(|(id, _)| id);
        them.id.or_else(member).or_else(|| self.founding.id_of(&them.label))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate for Doorkeeper {
    fn hello(&self, _: &PeerAddress) -> Bytes {
        Hello { identity: self.identity(), founding_hash: self.founding.hash() }.encode().into()
    }

    fn label_of(&self, hello: &[u8]) -> Result<String, Refused> {
        Ok(Hello::decode(hello).ok_or_else(malformed)?.identity.label)
    }

    fn admit(&self, hello: &[u8], remote: SocketAddr) -> Result<(NodeId, Bytes), Refused> {
        refuse_if_shut(&self.shared)?;
        let hello = Hello::decode(hello).ok_or_else(malformed)?;
        let mut admitted = self.judge(&hello, remote)?;
        if admitted.new {
            // Remembered on disk before anything else is said to it.
            admitted = aside(|| {
                let _order = self.save_in_order();
                // Another life of it may have been let in meanwhile.
                let admitted = self.judge(&hello, remote)?;
                self.remember(admitted.id, admitted.incarnation).map_err(|error| Refused {
                    code: RefusedCode::Malformed as u32,
                    text: format!("instance {} cannot remember you now: {error}", self.identity().label),
                })?;
                Ok(admitted)
            })?;
        }
        // Full: the leader learns of it with the next link.
        drop(self.inputs.try_send(Input::PeerSeen(admitted.id, admitted.incarnation)));
        Ok((NodeId(admitted.id.0), admitted.reply.encode().into()))
    }

    fn accepted(&self, to: &PeerAddress, reply: &[u8]) -> Result<NodeId, Refused> {
        let reply = Reply::decode(reply).ok_or_else(malformed)?;
        if *reply.identity.label != *to.label {
            return Err(Refused {
                code: RefusedCode::Malformed as u32,
                text: format!("{} answers where {} should be", reply.identity.label, to.label),
            });
        }
        let id = self.id_of(&reply.identity).ok_or_else(malformed)?;
        let mut state = self.lock();
        if state.birthing.is_some() {
            state.answered.insert(reply.identity.label.clone());
        }
        if let Some(birthing) = &mut state.birthing {
            birthing.handle_reply(reply);
        }
        drop(state);
        if let Err(error) = self.decide() {
            return Err(Refused { code: RefusedCode::Malformed as u32, text: error.to_string() });
        }
        Ok(NodeId(id.0))
    }

    fn receive(&self, from: NodeId, offer: SnapshotOffer) -> Result<Box<dyn SnapshotSink>, Refused> {
        self.incoming.receive(&self.snapshots, &self.inputs, &self.shared, from, offer)
    }
}

/// Peers' events go to the replica thread; of frames only so many bytes wait for it.
pub struct NetInbox {
    inputs: SyncSender<Input>,
    shared: Arc<Shared>,
    waiting: Arc<AtomicUsize>,
}

impl NetInbox {
    pub fn new(inputs: SyncSender<Input>, shared: Arc<Shared>) -> Self {
        Self { inputs, shared, waiting: Arc::default() }
    }
}

impl Inbox for NetInbox {
    fn offer(&self, event: Event) -> Result<(), Event> {
        use std::sync::mpsc::TrySendError;
        // A hello that was let in just before an operator cut this instance off may open its link just after that.
        if matches!(event, Event::Frame { .. }) && self.shared.grpc_shut.load(Ordering::Relaxed) {
            return Err(event);
        }
        let bytes = match &event {
            Event::Frame { bytes, .. } => bytes.len(),
            _ => 0,
        };
        let Some(held) = Held::take(&self.waiting, bytes) else { return Err(event) };
        self.inputs.try_send(Input::Net(event, held)).map_err(|error| match error {
            TrySendError::Full(Input::Net(event, _)) | TrySendError::Disconnected(Input::Net(event, _)) => event,
            // Only `Net` was sent.
            TrySendError::Full(_) | TrySendError::Disconnected(_) => {
                Event::Frame { from: NodeId(0), bytes: Bytes::new() }
            }
        })
    }
}

/// The bytes of a frame that waits, given back when this is dropped.
pub struct Held {
    bytes: usize,
    waiting: Arc<AtomicUsize>,
}

impl Held {
    /// Nothing where that many more would be too many. What is no frame always has room.
    fn take(waiting: &Arc<AtomicUsize>, bytes: usize) -> Option<Self> {
        let more = |held: usize| Some(held + bytes).filter(|sum| bytes == 0 || *sum <= FRAMES_WAITING_BYTES_MAX);
        waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self { bytes, waiting: Arc::clone(waiting) })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Most bytes of frames that wait for the replica thread, from all peers: two rounds' worth. What comes beyond it is
/// dropped, as Raft sends it again.
pub const FRAMES_WAITING_BYTES_MAX: usize = 64 << 20;

/// How long the birth of a fleet waits for listed instances that do not answer: longer than a dial and its hello.
const BIRTH_PATIENCE: Duration = Duration::from_secs(4);

/// Does what waits for the disk so that the other tasks of this thread, if it is a runtime's, go on elsewhere.
fn aside<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// An instance that an operator has cut off takes nothing from its peers.
pub fn refuse_if_shut(shared: &Shared) -> Result<(), Refused> {
    match shared.grpc_shut.load(Ordering::Relaxed) {
        true => Err(Refused {
            code: RefusedCode::NotYet as u32,
            text: "the instance was cut off by an operator".to_owned(),
        }),
        false => Ok(()),
    }
}

fn malformed() -> Refused {
    Refused { code: RefusedCode::Malformed as u32, text: "the hello makes no sense".to_owned() }
}

#[cfg(test)]
mod tests;
