//! A table that was a snapshot is the table that it was made of.

use super::*;
use crate::{
    command::{ControlCommand, EpochCopy, PinCommand, Standing},
    control::tests::{address, birth},
    health::View,
    ids::PinKey,
};

#[test]
fn a_pin_table_comes_back_with_its_digest_and_its_expiry() {
    let pool = PoolId::of("web");
    let mut table = PinTable::new();
    let mut expiry = Expiry::new();
    let mut index = 0;
    let mut apply = |table: &mut PinTable, expiry: &mut Expiry, command: PinCommand| {
        index += 1;
        table.apply(Revision(index), LogTime(index * 10), &command, expiry);
    };
    let epoch = |epoch, second| {
        let backends = vec![(BackendId(1), Standing::Live), (BackendId(2), second)];
        PinCommand::Epoch(EpochCopy { epoch: Epoch(epoch), pools: vec![(pool, 5000)], backends })
    };
    apply(&mut table, &mut expiry, epoch(1, Standing::Live));
    for client in 0..50 {
        let key = PinKey::new(pool, [10, 0, 0, client].into());
        let backend = BackendId(1 + u64::from(client % 2));
        apply(&mut table, &mut expiry, PinCommand::Assign { key, backend, epoch: Epoch(1) });
    }
    let key = PinKey::new(pool, [10, 0, 0, 0].into());
    apply(&mut table, &mut expiry, PinCommand::Unpin { key, revision: Revision(2) });
    apply(&mut table, &mut expiry, epoch(2, Standing::Dead));

    let (copy, copied_expiry) = PinTable::decode(&table.encode()).unwrap();
    copy.check_invariants(&copied_expiry);
    assert_eq!((copy.digest(), &copied_expiry), (table.digest(), &expiry));
    assert_eq!((copy.applied(), copy.last_move()), (table.applied(), table.last_move()));
    // And goes on alike.
    let (mut copy, mut copied_expiry) = (copy, copied_expiry);
    for (table, expiry) in [(&mut table, &mut expiry), (&mut copy, &mut copied_expiry)] {
        table.apply(Revision(100), LogTime(5300), &PinCommand::Settle(Revision(53)), expiry);
    }
    assert_eq!(copy.digest(), table.digest());
    assert!(copy.len() < 50, "some have expired");
}

#[test]
fn a_control_table_comes_back_with_its_digest() {
    let mut table = ControlTable::default();
    let backend = birth().pools[0].backend_id(&birth().pools[0].servers[0]);
    let (voter, incarnation) = (InstanceId(1), Incarnation(4));
    let commands = [
        ControlCommand::Birth(birth()),
        ControlCommand::MemberAdd(address("c")),
        ControlCommand::MemberSeen(voter, incarnation),
        ControlCommand::Vote { voter, incarnation, backend, view: View::Up },
        ControlCommand::Verdict { backend, view: View::Up, revision: Revision(0) },
        ControlCommand::KvPut { key: "k".to_owned(), value: vec![1, 2], if_revision: None },
    ];
    for (index, command) in (1..).zip(&commands) {
        table.apply(Revision(index), LogTime(index), command);
    }
    let copy = ControlTable::decode(&table.encode()).unwrap();
    assert_eq!((copy.digest(), copy.encode()), (table.digest(), table.encode()));
    assert_eq!(copy.verdict(backend).view, View::Up);
    assert_eq!(copy.kv("k"), table.kv("k"));
    table.apply(Revision(50), LogTime(50), &ControlCommand::Tick);
    assert_ne!(copy.digest(), table.digest());
}

#[test]
fn no_bytes_and_other_formats_are_no_table() {
    let missing = WireError::Format { found: None, known: FORMAT };
    assert_eq!(PinTable::decode(b"").err(), Some(missing.clone()));
    assert_eq!(ControlTable::decode(b"").err(), Some(missing));
    for bytes in [PinTable::new().encode(), ControlTable::default().encode()] {
        assert_eq!(bytes, [FORMAT], "the shortest there is");
        let other = [&[FORMAT + 1], &bytes[1..]].concat();
        let text = PinTable::decode(&other).unwrap_err().to_string();
        assert_eq!(text, "a snapshot of format 1 was expected, and this one is of format 2");
    }
}

#[test]
fn damaged_snapshots_are_errors_or_tables_but_never_panics() {
    let mut table = ControlTable::default();
    table.apply(Revision(1), LogTime(1), &ControlCommand::Birth(birth()));
    let bytes = table.encode();
    for end in 0..bytes.len() {
        drop(ControlTable::decode(&bytes[..end]));
        drop(PinTable::decode(&bytes[..end]));
    }
    for place in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[place] ^= 0x55;
        drop(ControlTable::decode(&damaged));
        drop(PinTable::decode(&damaged));
    }
}
