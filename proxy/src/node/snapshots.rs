//! The snapshots thread: writes the states that the replica hands in to files, while the log goes on.

use std::{
    io,
    sync::{
        Arc, OnceLock,
        mpsc::{Receiver, Sender, SyncSender, channel},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use raftlog::{
    GroupId, Index, NodeId, Term,
    net::Refused,
    types::State,
    wal::{SnapshotStore, WalError},
};
use replica::{
    birth::RefusedCode,
    storage::{read_received, store_snapshot},
};
use tracing::{info, warn};

use super::input::Input;

/// The store, once the instance has begun.
pub type Store = Arc<OnceLock<SnapshotStore>>;

/// A state to be written.
pub struct Job {
    pub group: GroupId,
    pub index: Index,
    pub term: Term,
    pub meta: Bytes,
    pub state: Arc<dyn State>,
}

/// Starts the thread. It ends when the sender is dropped.
pub fn start(store: SnapshotStore, inputs: SyncSender<Input>) -> io::Result<(Sender<Job>, JoinHandle<()>)> {
    // A group has one job at a time.
    let (sender, jobs): (Sender<Job>, Receiver<Job>) = channel();
    let thread = thread::Builder::new().name("snapshots".to_owned()).spawn(move || {
        for job in jobs {
            let (group, index) = (job.group, job.index);
            let stored = write(&store, &job);
            // The replica thread is gone only when the process is about to end.
            drop(inputs.send(Input::SnapshotStored { group, index, stored }));
        }
    })?;
    Ok((sender, thread))
}

fn write(store: &SnapshotStore, job: &Job) -> bool {
    let began = Instant::now();
    match store_snapshot(store, (job.group, job.index, job.term), &job.meta, job.state.as_ref()) {
        Ok(bytes) => {
            let seconds = began.elapsed().as_secs_f64();
            tracing::debug!(group = job.group.0, index = job.index.0, bytes, seconds, "a snapshot is stored");
            true
        }
        // One of a peer that was installed meanwhile is newer.
        Err(WalError::Refused(_)) => false,
        Err(error) => {
            warn!(%error, group = job.group.0, "a snapshot could not be stored; the log stays as long as it is, and it is tried again");
            false
        }
    }
}

/// What travels beside a snapshot file: group (4 bytes, big-endian), index (8), term (8), and the message that goes with it.
pub fn meta(place: (GroupId, Index, Term), message: &Bytes) -> Bytes {
    let mut meta = BytesMut::with_capacity(META_HEAD_BYTES + message.len());
    meta.put_u32(place.0.0);
    meta.put_u64(place.1.0);
    meta.put_u64(place.2.0);
    meta.put_slice(message);
    meta.freeze()
}

/// Which snapshot it is, and the message that goes with it.
pub fn read_meta(mut meta: Bytes) -> Option<((GroupId, Index, Term), Bytes)> {
    if meta.len() < META_HEAD_BYTES {
        return None;
    }
    let place = (GroupId(meta.get_u32()), Index(meta.get_u64()), Term(meta.get_u64()));
    Some((place, meta))
}

/// Takes a snapshot file that came in: checked and read, it goes to the replica.
pub fn take(store: &Store, inputs: &SyncSender<Input>, from: NodeId, meta: Bytes, file: &[u8]) -> Result<(), Refused> {
    let refused = |text: String| Refused { code: RefusedCode::Malformed as u32, text };
    let (place, message) =
        read_meta(meta).ok_or_else(|| refused("what goes with the snapshot makes no sense".into()))?;
    let store = store.get().ok_or_else(|| refused("the instance is starting".into()))?;
    let (group, index, term) = place;
    let received = store
        .receive(group, index, term)
        .and_then(|mut receiving| {
            receiving.append(file)?;
            receiving.finish()
        })
        .map_err(|error| refused(error.to_string()))?;
    let state = read_received(&received).map_err(|error| refused(error.to_string()))?;
    info!(group = group.0, from = from.0, bytes = received.bytes(), "a snapshot came in");
    let received = Box::new(received);
    let input = Input::Snapshot { from, group, message, state: Box::new(state), received };
    inputs.send(input).map_err(|_| refused("the instance is stopping".into()))
}

/// Reads a stored snapshot file for the wire.
pub fn read(store: &Store, place: (GroupId, Index, Term)) -> Result<Bytes, String> {
    let store = store.get().ok_or("the instance is starting")?;
    let raw = store.open_raw(place.0, place.1, place.2).map_err(|error| error.to_string())?;
    let mut bytes = vec![0; usize::try_from(raw.length()).map_err(|error| error.to_string())?];
    raw.read_at(0, &mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes.into())
}

const META_HEAD_BYTES: usize = 20;
