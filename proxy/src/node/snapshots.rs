//! The snapshots thread: writes the states that the replica hands in to files, while the log goes on.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        mpsc::{Receiver, Sender, SyncSender, channel},
    },
    thread::JoinHandle,
    time::Instant,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use raftlog::{
    GroupId, Index, NodeId, Term,
    net::{Refused, SnapshotOffer, SnapshotSink, SnapshotSource},
    types::State,
    wal::{RawSnapshot, Receiving, SnapshotStore, WalError},
};
use replica::{
    birth::RefusedCode,
    storage::{read_received, store_snapshot},
};
use tracing::{info, warn};

use super::{gate::refuse_if_shut, input::Input, shared::Shared, threads};

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
    let thread = threads::start("snapshots", move || {
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
fn read_meta(mut meta: Bytes) -> Option<((GroupId, Index, Term), Bytes)> {
    if meta.len() < META_HEAD_BYTES {
        return None;
    }
    let place = (GroupId(meta.get_u32()), Index(meta.get_u64()), Term(meta.get_u64()));
    Some((place, meta))
}

/// Files that peers are sending, each kept while its connection is replaced.
#[derive(Default)]
pub struct Incoming(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    parts: HashMap<NodeId, Part>,
    /// What came of the last file of each that was there as a whole: its connection may have been lost meanwhile.
    ended: HashMap<NodeId, Ended>,
    /// Who left the fleet, for good: what is still open of it is not kept when it breaks off.
    departed: HashSet<NodeId>,
}

/// What came of a file so far.
struct Part {
    transfer: u64,
    place: (GroupId, Index, Term),
    receiving: Receiving,
}

/// A transfer that was read to its end.
struct Ended {
    transfer: u64,
    result: Result<(), Refused>,
}

/// A file that was taken under the same number before.
struct Taken(u64);

impl SnapshotSink for Taken {
    fn have_bytes(&self) -> u64 {
        self.0
    }

    fn append(&mut self, _: &[u8]) -> Result<(), Refused> {
        Err(refused("it is over"))
    }

    fn finish(self: Box<Self>) -> Result<(), Refused> {
        Ok(())
    }
}

/// Takes one snapshot file: what came is kept when the connection breaks, and read and given to the replica at its end.
struct Sink {
    from: NodeId,
    message: Bytes,
    part: Option<Part>,
    incoming: Arc<Incoming>,
    inputs: SyncSender<Input>,
    shared: Arc<Shared>,
}

impl Incoming {
    /// Where a file that `from` offers goes: to what came of it before, or to a new one.
    pub fn receive(
        self: &Arc<Self>,
        store: &Store,
        inputs: &SyncSender<Input>,
        shared: &Arc<Shared>,
        from: NodeId,
        offer: SnapshotOffer,
    ) -> Result<Box<dyn SnapshotSink>, Refused> {
        let (place, message) =
            read_meta(offer.meta).ok_or_else(|| refused("what goes with the snapshot makes no sense"))?;
        let store = store.get().ok_or_else(|| refused("the instance is starting"))?;
        let mut kept = self.kept();
        if kept.departed.contains(&from) {
            return Err(refused("the sender left the fleet"));
        }
        if let Some(ended) = kept.ended.remove(&from).filter(|ended| ended.transfer == offer.transfer) {
            let result = ended.result.clone();
            kept.ended.insert(from, ended);
            return result.map(|()| Box::new(Taken(offer.total_bytes)) as Box<dyn SnapshotSink>);
        }
        // One part a peer: an earlier transfer of it, or of an earlier life of it, is over.
        let begun = kept.parts.remove(&from).filter(|part| part.transfer == offer.transfer && part.place == place);
        drop(kept);
        let part = match begun {
            Some(part) => part,
            None => {
                let receiving = store.receive(place.0, place.1, place.2).map_err(refused)?;
                Part { transfer: offer.transfer, place, receiving }
            }
        };
        let (incoming, inputs, shared) = (Arc::clone(self), inputs.clone(), Arc::clone(shared));
        Ok(Box::new(Sink { from, message, part: Some(part), incoming, inputs, shared }))
    }

    /// Drops what came of a file that nobody goes on with: `from` left the fleet.
    pub fn forget(&self, from: NodeId) {
        let mut kept = self.kept();
        kept.departed.insert(from);
        kept.parts.remove(&from);
        kept.ended.remove(&from);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SnapshotSink for Sink {
    fn have_bytes(&self) -> u64 {
        self.part.as_ref().map_or(0, |part| part.receiving.len())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        // What came before an operator cut this instance off is kept for later.
        refuse_if_shut(&self.shared)?;
        let Some(part) = &mut self.part else { return Err(refused("it is over")) };
        part.receiving.append(bytes).map_err(|error| {
            self.part = None;
            refused(error)
        })
    }

    fn finish(mut self: Box<Self>) -> Result<(), Refused> {
        refuse_if_shut(&self.shared)?;
        let Some(part) = self.part.take() else { return Err(refused("it is over")) };
        let transfer = part.transfer;
        let result = self.hand_in(part);
        let mut kept = self.incoming.kept();
        if !kept.departed.contains(&self.from) {
            kept.ended.insert(self.from, Ended { transfer, result: result.clone() });
        }
        result
    }
}

impl Sink {
    /// Reads the file and gives it to the replica.
    fn hand_in(&mut self, part: Part) -> Result<(), Refused> {
        let received = part.receiving.finish().map_err(refused)?;
        let content = read_received(&received).map_err(refused)?;
        info!(group = part.place.0.0, from = self.from.0, bytes = received.bytes(), "a snapshot came in");
        let message = std::mem::take(&mut self.message);
        let (from, group) = (self.from, part.place.0);
        let input = Input::Snapshot { from, group, message, content: Box::new(content), received: Box::new(received) };
        self.inputs.send(input).map_err(|_| refused("the instance is stopping"))
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // Broken off: its peer may go on where it was.
        if let Some(part) = self.part.take() {
            let mut kept = self.incoming.kept();
            if !kept.departed.contains(&self.from) {
                kept.parts.insert(self.from, part);
            }
        }
    }
}

/// A stored file, for the wire.
struct Stored(RawSnapshot);

impl SnapshotSource for Stored {
    fn total_bytes(&self) -> u64 {
        self.0.length()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buffer).map_err(|error| io::Error::other(in_short(error)))
    }
}

/// Why a snapshot was not sent.
pub enum Unsent {
    /// Its file is damaged or gone: it will never be.
    Unreadable(String),
    /// It may be another time.
    Passing(String),
}

/// Opens a stored snapshot file for the wire.
pub fn open(store: &Store, place: (GroupId, Index, Term)) -> Result<Arc<dyn SnapshotSource>, Unsent> {
    let store = store.get().ok_or_else(|| Unsent::Passing("the instance is starting".to_owned()))?;
    match store.open_raw(place.0, place.1, place.2) {
        Ok(raw) => Ok(Arc::new(Stored(raw))),
        Err(error @ WalError::Starved { .. }) => Err(Unsent::Passing(error.to_string())),
        Err(error) => Err(Unsent::Unreadable(in_short(error))),
    }
}

/// What is wrong with a stored file, without the advice for one that an instance cannot start with.
fn in_short(error: WalError) -> String {
    match error {
        WalError::CorruptFile { file, what } => format!("{file} is damaged: {what}"),
        other => other.to_string(),
    }
}

fn refused(text: impl ToString) -> Refused {
    Refused { code: RefusedCode::Malformed as u32, text: text.to_string() }
}

const META_HEAD_BYTES: usize = 20;

#[cfg(test)]
mod tests;
