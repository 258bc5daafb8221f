//! What a data directory may lose, and what it may not.

use flow::{Incarnation, InstanceId};
use raftlog::{disk::MemDisk, wal::log_exists};

use super::*;

fn founder() -> Identity {
    Identity {
        fleet_name: "lab".to_owned(),
        label: "a".to_owned(),
        incarnation: Incarnation(9),
        id: Some(InstanceId(1)),
        fleet: None,
        pin_groups: 1,
        flow_groups: 0,
        founders: vec![InstanceId(1), InstanceId(2)],
        restored: false,
    }
}

fn open(disk: &Arc<MemDisk>, identity: &Identity) -> Result<(Storage, Found), WalError> {
    Storage::open(Arc::clone(disk) as Arc<dyn Disk>, identity, WalOptions::default())
}

#[test]
fn a_log_that_is_gone_is_refused_and_not_begun_anew() {
    let joiner = Identity { founders: Vec::new(), ..founder() };
    for identity in [founder(), joiner] {
        let disk = Arc::new(MemDisk::new());
        let (mut storage, _) = open(&disk, &identity).unwrap();
        let vote = Record::HardState { group: GroupId(0), term: Term(7), vote: Some(NodeId(2)), commit: Index(0) };
        storage.persist(&[vote], &mut Vec::new(), true).unwrap();
        drop(storage);
        let (storage, found) = open(&disk, &identity).unwrap();
        assert_eq!((found.starts[0].term, found.starts[0].vote), (Term(7), Some(NodeId(2))));
        drop(storage);
        for name in disk.list().unwrap().into_iter().filter(|name| name.starts_with("wal-")) {
            disk.remove(&name).unwrap();
        }
        assert!(!log_exists(disk.as_ref()).unwrap());
        let error = open(&disk, &identity).err().map(|error| error.to_string()).unwrap();
        assert!(error.starts_with("the log is damaged: it was begun"), "{error}");
        assert!(error.contains("member remove"), "says what to do: {error}");
    }
}

#[test]
fn a_snapshot_that_finds_no_descriptor_is_installed_later() {
    let place = (GroupId(0), Index(5), Term(2));
    let theirs = SnapshotStore::open(Arc::new(MemDisk::new())).unwrap();
    let bytes = theirs.save_with(place.0, place.1, place.2, b"meta", |out| out.write_all(b"body")).unwrap();
    let mut file = vec![0; usize::try_from(bytes).unwrap()];
    theirs.open_raw(place.0, place.1, place.2).unwrap().read_at(0, &mut file).unwrap();

    let disk = Arc::new(MemDisk::new());
    let (mut storage, _) = open(&disk, &founder()).unwrap();
    let mut receiving = storage.snapshots().receive(place.0, place.1, place.2).unwrap();
    receiving.append(&file).unwrap();
    let mut received = vec![receiving.finish().unwrap()];
    let records = [Record::Snapshot { group: place.0, index: place.1, term: place.2 }];
    disk.starve(true);
    let refused = storage.persist(&records, &mut received, true);
    assert!(matches!(refused, Err(WalError::Starved { .. })), "{refused:?}");
    disk.starve(false);
    storage.persist(&records, &mut received, true).unwrap();
    assert!(received.is_empty());
    assert_eq!(storage.snapshots().newest_of_all().unwrap(), [(place.0, (place.1, place.2))].into());
}
