//! Backups that are whole, cut, damaged, and restored.

use flow::{Birth, ControlCommand, ControlTable, MemberAddress, PinTable, Revision};
use raftlog::disk::MemDisk;

use super::*;
use crate::storage::Storage;

fn address(label: &str) -> MemberAddress {
    MemberAddress { label: label.to_owned(), host: format!("host-{label}"), grpc: 1, rest: 2, metrics: 3 }
}

fn founding(labels: &[&str]) -> Founding {
    let instances = labels.iter().map(|label| address(label)).collect();
    Founding { fleet_name: "lab".to_owned(), instances, pin_groups: 1, flow_groups: 0, lease_ms: 1000 }
}

fn control() -> ControlTable {
    let mut table = ControlTable::default();
    let birth = Birth {
        fleet: FleetId(7),
        pick_key: *b"sixteen-bytes-ok",
        pin_groups: 1,
        lease_ms: 1000,
        founders: founding(&["x", "y"]).founders(),
        pools: Vec::new(),
    };
    table.apply(Revision(2), LogTime(5), &ControlCommand::Birth(birth));
    for number in 0..2000_u64 {
        let (key, value) = (format!("key-{number}"), vec![number as u8; 300]);
        let put = ControlCommand::KvPut { key, value, if_revision: None };
        table.apply(Revision(number + 3), LogTime(number + 6), &put);
    }
    table
}

fn written() -> Vec<u8> {
    written_at(9)
}

/// A backup whose pin group is at that index.
fn written_at(index: u64) -> Vec<u8> {
    let head = Head {
        fleet_name: "lab".to_owned(),
        fleet: 7_u128.to_be_bytes().to_vec(),
        groups: 2,
        instance: "x".to_owned(),
        taken_at: 1,
    };
    let mut pins = PinTable::new();
    pins.skip(Revision(index), LogTime(40), &mut flow::pins::Expiry::new());
    let states: [Arc<dyn State>; 2] = [Arc::new(ControlState(control())), Arc::new(PinState(pins))];
    let mut bytes = Vec::new();
    write(&mut bytes, &head, &states).unwrap();
    bytes
}

#[test]
fn a_backup_is_read_as_it_was_written() {
    let backup = read(&mut written().as_slice()).unwrap();
    assert_eq!((backup.head.groups, backup.head.fleet_id()), (2, Some(FleetId(7))));
    let Some(GroupState::Control(table)) = backup.states.get(&GroupId(0)) else { panic!("no control table") };
    assert_eq!(table.digest(), control().digest());
    assert_eq!(backup.states[&GroupId(1)].applied(), Revision(9));
}

#[test]
fn what_is_cut_or_damaged_is_refused() {
    let whole = written();
    assert!(whole.len() > PIECE_BYTES, "it has more than one piece");
    for end in (0..whole.len()).step_by(997).chain(whole.len() - 30..whole.len()) {
        assert!(read(&mut &whole[..end]).is_err(), "cut at {end}");
    }
    for at in (0..whole.len()).step_by(997).chain(0..64) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        assert!(read(&mut bytes.as_slice()).is_err(), "flipped at {at}");
    }
    let longer = [whole.as_slice(), b"x"].concat();
    assert!(read(&mut longer.as_slice()).is_err());
}

#[test]
fn all_instances_are_restored_to_one_new_fleet() {
    let founding = founding(&["a", "b", "c"]);
    let mut fleets = Vec::new();
    for (label, life) in [("a", 1), ("b", 2), ("c", 3)] {
        let disk: Arc<dyn Disk> = Arc::new(MemDisk::new());
        let backup = read(&mut written().as_slice()).unwrap();
        let identity = restore(&disk, &founding, label, Incarnation(life), backup).unwrap();
        fleets.push(identity.fleet.unwrap());
        let (_, found) = Storage::open(Arc::clone(&disk), &identity, WalOptions::default()).unwrap();
        assert_eq!(found.starts.len(), 2);
        assert_eq!(found.starts[0].snapshot.as_ref().map(|start| start.index), Some(Index(2002 + RESTORED_AHEAD)));
        assert_eq!(found.states[&GroupId(1)].applied(), Revision(9 + RESTORED_AHEAD));
        let Some(GroupState::Control(table)) = found.states.get(&GroupId(0)) else { panic!("no control table") };
        let labels: Vec<&str> = table.members().map(|(_, member)| member.address.label.as_str()).collect();
        assert_eq!(labels, ["a", "b", "c"]);
        assert!(table.kv("key-1999").is_some());
        let again = restore(&disk, &founding, label, Incarnation(9), read(&mut written().as_slice()).unwrap());
        assert!(matches!(again, Err(BackupError::NotEmpty(_))));
    }
    assert!(fleets.iter().all(|fleet| *fleet == fleets[0] && *fleet != FleetId(7)));
}

#[test]
fn no_index_of_the_old_fleet_is_used_again_and_who_has_no_more_is_not_restored() {
    let founding = founding(&["a"]);
    let restored = |index| {
        let disk: Arc<dyn Disk> = Arc::new(MemDisk::new());
        let backup = read(&mut written_at(index).as_slice()).unwrap();
        let identity = restore(&disk, &founding, "a", Incarnation(1), backup).inspect_err(|_| {
            let snapshots = SnapshotStore::open(Arc::clone(&disk)).unwrap();
            assert!(snapshots.newest_of_all().unwrap().is_empty(), "nothing is left behind");
        })?;
        let (_, found) = Storage::open(Arc::clone(&disk), &identity, WalOptions::default()).unwrap();
        Ok::<_, BackupError>(found.starts[1].snapshot.as_ref().map(|start| start.index.0))
    };
    let last = RESTORED_INDEX_MAX - RESTORED_AHEAD;
    for index in [9, 1 << 41, last] {
        assert_eq!(restored(index).unwrap(), Some(index + RESTORED_AHEAD));
    }
    for index in [last + 1, u64::MAX] {
        let refused = restored(index).unwrap_err();
        assert!(refused.to_string().contains("cannot be restored once more"), "{refused}");
    }
}

#[test]
fn an_instance_that_is_not_listed_is_not_restored() {
    let disk: Arc<dyn Disk> = Arc::new(MemDisk::new());
    let backup = read(&mut written().as_slice()).unwrap();
    let refused = restore(&disk, &founding(&["a"]), "z", Incarnation(1), backup);
    assert!(matches!(refused, Err(BackupError::Founding(_))));
    assert!(load_identity(disk.as_ref()).unwrap().is_none());
}
