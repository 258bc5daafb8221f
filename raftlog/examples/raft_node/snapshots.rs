//! The snapshots thread, and snapshot files for the wire.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Sender, SyncSender, channel},
    },
    thread,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use raftlog::{
    GroupId, Index, Term,
    net::SnapshotSource,
    types::State,
    wal::{RawSnapshot, SnapshotStore},
};

use crate::{Result, node::Input};

/// Which snapshot.
pub type Place = (GroupId, Index, Term);

/// A state to be written.
pub struct Job {
    pub place: Place,
    pub meta: Bytes,
    pub state: Arc<dyn State>,
}

/// Starts the thread. It ends when the sender is dropped.
///
/// # Errors
/// If there is no thread to be had.
pub fn start(store: SnapshotStore, inputs: SyncSender<Input>) -> Result<Sender<Job>> {
    // A group has one job at a time.
    let (sender, jobs) = channel::<Job>();
    thread::Builder::new().name("snapshots".to_owned()).spawn(move || {
        for job in jobs {
            let (group, index, term) = job.place;
            let stored = store.save_with(group, index, term, &job.meta, |out| job.state.write_to(out));
            if let Err(error) = &stored {
                eprintln!("raft_node: a snapshot of group {group} could not be stored: {error}");
            }
            // The node is gone only when the process is about to end.
            drop(inputs.send(Input::SnapshotStored { group, index, stored: stored.is_ok() }));
        }
    })?;
    Ok(sender)
}

/// What travels beside a snapshot file: group, index, term, and the message that goes with it.
pub fn meta(place: Place, message: &Bytes) -> Bytes {
    let mut meta = BytesMut::with_capacity(META_HEAD_BYTES + message.len());
    meta.put_u32(place.0.0);
    meta.put_u64(place.1.0);
    meta.put_u64(place.2.0);
    meta.put_slice(message);
    meta.freeze()
}

/// The reverse of [`meta`].
pub fn read_meta(mut meta: Bytes) -> Option<(Place, Bytes)> {
    if meta.len() < META_HEAD_BYTES {
        return None;
    }
    let place = (GroupId(meta.get_u32()), Index(meta.get_u64()), Term(meta.get_u64()));
    Some((place, meta))
}

/// A stored file, for the wire.
pub struct Stored(RawSnapshot);

impl Stored {
    /// Opens it.
    ///
    /// # Errors
    /// If it is not there any more.
    pub fn open(store: &SnapshotStore, place: Place) -> std::result::Result<Arc<dyn SnapshotSource>, String> {
        let raw = store.open_raw(place.0, place.1, place.2).map_err(|error| error.to_string())?;
        Ok(Arc::new(Self(raw)))
    }
}

impl SnapshotSource for Stored {
    fn total_bytes(&self) -> u64 {
        self.0.length()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buffer).map_err(io::Error::other)
    }
}

const META_HEAD_BYTES: usize = 20;
