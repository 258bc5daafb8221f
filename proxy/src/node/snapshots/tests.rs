//! What is kept of files that peers send, and for how long.

use std::sync::mpsc::sync_channel;

use flow::ControlTable;
use raftlog::disk::MemDisk;
use replica::ControlState;

use super::*;

const PLACE: (GroupId, Index, Term) = (GroupId(0), Index(0), Term(2));
const SENDER: NodeId = NodeId(3);

/// An instance that takes snapshots.
struct Receiver {
    store: Store,
    incoming: Arc<Incoming>,
    inputs: SyncSender<Input>,
    shared: Arc<Shared>,
    arrived: std::sync::mpsc::Receiver<Input>,
}

impl Receiver {
    fn new() -> Self {
        let store = Arc::new(OnceLock::from(SnapshotStore::open(Arc::new(MemDisk::new())).unwrap()));
        let (inputs, arrived) = sync_channel(8);
        let shared = Arc::new(Shared::new());
        Self { store, incoming: Arc::default(), inputs, shared, arrived }
    }

    fn offer(&self, transfer: u64, total_bytes: u64) -> Result<Box<dyn SnapshotSink>, Refused> {
        let offer = SnapshotOffer { meta: meta(PLACE, &Bytes::from_static(b"message")), total_bytes, transfer };
        self.incoming.receive(&self.store, &self.inputs, &self.shared, SENDER, offer)
    }
}

/// The bytes of a snapshot file, with this state or with one that is none.
fn file(good: bool) -> Vec<u8> {
    let store = SnapshotStore::open(Arc::new(MemDisk::new())).unwrap();
    let state = ControlState(ControlTable::default());
    let bytes = store.save_with(PLACE.0, PLACE.1, PLACE.2, b"meta", |out| match good {
        true => state.write_to(out),
        false => out.write_all(b"no state"),
    });
    let bytes = bytes.unwrap();
    let mut file = vec![0; usize::try_from(bytes).unwrap()];
    store.open_raw(PLACE.0, PLACE.1, PLACE.2).unwrap().read_at(0, &mut file).unwrap();
    file
}

#[test]
fn a_transfer_that_breaks_off_goes_on_unless_its_sender_left() {
    let receiver = Receiver::new();
    let mut sink = receiver.offer(7, 100).unwrap();
    sink.append(&file(true)[..70]).unwrap();
    drop(sink);
    assert_eq!(receiver.offer(7, 100).unwrap().have_bytes(), 70);
    let open = receiver.offer(7, 100).unwrap();
    assert_eq!(open.have_bytes(), 70);
    receiver.incoming.forget(SENDER);
    drop(open);
    assert!(receiver.incoming.kept().parts.is_empty());
    assert!(receiver.offer(7, 100).is_err());
}

/// The connection is lost while the file is read: the sender asks again, under the same number.
#[test]
fn what_came_of_a_whole_file_is_told_again() {
    for good in [true, false] {
        let receiver = Receiver::new();
        let bytes = file(good);
        let total = bytes.len() as u64;
        let mut sink = receiver.offer(7, total).unwrap();
        sink.append(&bytes).unwrap();
        let result = sink.finish();
        assert_eq!(result.is_ok(), good, "{result:?}");
        for _ in 0..2 {
            let again = receiver.offer(7, total);
            let again = again.and_then(|sink| {
                assert_eq!(sink.have_bytes(), total, "nothing is to be sent again");
                sink.finish()
            });
            assert_eq!(again, result);
        }
        assert_eq!(receiver.arrived.try_iter().count(), usize::from(good));
        assert_eq!(receiver.offer(8, total).unwrap().have_bytes(), 0, "another transfer begins anew");
    }
}
