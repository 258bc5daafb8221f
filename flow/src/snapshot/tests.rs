//! A table that was a snapshot is the table that it was made of.

use super::*;
use crate::{
    command::{ControlCommand, ControlOutcome, EpochCopy, PinCommand, Request, SessionOwner, Standing},
    control::tests::{address, birth},
    health::View,
    ids::{PinKey, SessionId},
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

    let (copy, copied_expiry) = PinTable::decode(&table.encode().unwrap()).unwrap();
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

/// The instance that has a session, and that session.
const OWNER: SessionOwner = SessionOwner { instance: InstanceId(1), life: 5 };
const OWN_SESSION: u64 = 11;

fn once(session: u64, sequence: u64) -> ControlCommand {
    let request = Request { session: SessionId(session), sequence, answered_below: 1 };
    let if_revision = (sequence == 4).then_some(Revision(0));
    let command = ControlCommand::KvPut { key: "once".to_owned(), value: vec![1], if_revision };
    let owner = (session == OWN_SESSION).then_some(OWNER);
    ControlCommand::Once { request, owner, command: Box::new(command) }
}

/// A table with a row of every kind.
fn control_table() -> ControlTable {
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
        ControlCommand::MemberRemove(InstanceId(2)),
        ControlCommand::OpenSession(None),
        once(8, 3),
        once(8, 4),
        ControlCommand::OpenSession(Some(OWNER)),
        once(OWN_SESSION, 1),
    ];
    for (index, command) in (1..).zip(&commands) {
        let outcome = table.apply(Revision(index), LogTime(index), command);
        assert!(!matches!(outcome, ControlOutcome::Refused(_)), "{command:?}: {outcome:?}");
    }
    table
}

#[test]
fn the_digest_tells_of_each_key_and_outcome_whatever_came_before() {
    let put = |key: &str, value: &[u8]| ControlCommand::KvPut {
        key: key.to_owned(),
        value: value.to_vec(),
        if_revision: None,
    };
    let delete = |key: &str| ControlCommand::KvDelete { key: key.to_owned(), if_revision: None };
    let request = |sequence, answered_below, command| ControlCommand::Once {
        request: Request { session: SessionId(8), sequence, answered_below },
        owner: None,
        command: Box::new(command),
    };
    // The table after these commands, and one more at a time and place that is the same for all.
    let after = |commands: &[ControlCommand]| {
        let mut table = control_table();
        for (index, command) in (20..).zip(commands) {
            table.apply(Revision(index), LogTime(20), command);
        }
        table.apply(Revision(90), LogTime(90), &ControlCommand::Tick);
        table.check_invariants();
        let copy = ControlTable::decode(&table.encode().unwrap()).unwrap();
        copy.check_invariants();
        assert_eq!(copy.digest(), table.digest());
        table.digest()
    };
    let unchanged = after(&[]);
    let stories = [
        vec![put("k", b"other")],
        vec![put("k", &[1, 2])],
        vec![put("ka", b"b")],
        vec![put("k", b"ab")],
        vec![delete("k")],
        vec![request(5, 1, put("k", b"x"))],
        vec![request(6, 1, put("k", b"x"))],
        vec![request(5, 4, put("k", b"x"))],
        vec![ControlCommand::CloseSession(SessionId(8))],
    ];
    let mut digests: Vec<u64> = stories.iter().map(|story| after(story)).chain([unchanged]).collect();
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), stories.len() + 1, "each leaves another table");
    let there_and_gone = [put("new", b"v"), put("new", b"w"), delete("new")];
    assert_eq!(after(&there_and_gone), unchanged);
}

#[test]
fn a_control_table_comes_back_with_its_digest() {
    let mut table = control_table();
    let backend = birth().pools[0].backend_id(&birth().pools[0].servers[0]);
    let copy = ControlTable::decode(&table.encode().unwrap()).unwrap();
    assert_eq!((copy.digest(), copy.encode().unwrap()), (table.digest(), table.encode().unwrap()));
    assert_eq!(copy.verdict(backend).view, View::Up);
    assert_eq!(copy.kv("k"), table.kv("k"));
    let detector = crate::tuning::Detector::Fixed(900);
    let tuning = crate::tuning::Tuning { heartbeat_ms: 60, election_ms: 400, detector, spread: false, shuffle_ms: 0 };
    table.apply(Revision(49), LogTime(49), &ControlCommand::Tune(Some(tuning)));
    table.apply(Revision(50), LogTime(50), &ControlCommand::Tick);
    assert_ne!(copy.digest(), table.digest());
}

#[test]
fn no_bytes_other_formats_and_other_tables_are_no_table() {
    let missing = SnapshotError::Format { found: None, known: FORMAT };
    assert_eq!(PinTable::decode(b"").err(), Some(missing.clone()));
    assert_eq!(ControlTable::decode(b"").err(), Some(missing));
    let (pins, control) = (PinTable::new().encode().unwrap(), ControlTable::default().encode().unwrap());
    assert_eq!((pins[0], control[0]), (FORMAT, FORMAT));
    let older = [&[1], &pins[1..]].concat();
    let text = PinTable::decode(&older).unwrap_err().to_string();
    assert_eq!(text, "a snapshot of format 2 was expected, and this one is of format 1");
    assert_eq!(PinTable::decode(&control).err(), Some(SnapshotError::OtherTable));
    assert_eq!(ControlTable::decode(&pins).err(), Some(SnapshotError::OtherTable));
    assert_eq!(ControlTable::decode(&[&control[..], b"x"].concat()).err(), Some(SnapshotError::After));
}

#[test]
fn a_stream_that_is_cut_off_is_refused_wherever_that_is() {
    for (bytes, is_control) in [(pin_table(40).encode().unwrap(), false), (control_table().encode().unwrap(), true)] {
        for end in 0..bytes.len() {
            let error = match is_control {
                true => ControlTable::decode(&bytes[..end]).err(),
                false => PinTable::decode(&bytes[..end]).err(),
            };
            let expected = match end {
                0 => matches!(error, Some(SnapshotError::Format { found: None, .. })),
                _ => matches!(error, Some(SnapshotError::CutOff(_))),
            };
            assert!(expected, "cut at {end}: {error:?}");
        }
    }
}

#[test]
fn rows_that_are_missing_twice_or_too_long_are_refused() {
    let rows = |table: u8, rows: &[ControlKind]| {
        let mut bytes = Vec::new();
        let mut writer = RowWriter::begin(&mut bytes, table);
        let (last, before) = rows.split_last().unwrap();
        for row in before {
            writer.put(&ControlRow { row: Some(row.clone()) }).unwrap();
        }
        writer.end(&ControlRow { row: Some(last.clone()) }).unwrap();
        ControlTable::decode(&bytes).err()
    };
    let head = || ControlKind::Head(ControlHead { applied: 1, time: 1, epoch: 1, next_instance: 1 });
    let kv = |key: &str| ControlKind::Kv(KvRow { key: key.to_owned(), value: Vec::new(), revision: 1 });
    let end = ControlKind::End;
    assert_eq!(rows(CONTROL_TABLE, &[head(), kv("a"), kv("b"), end(3)]), None);
    let told = SnapshotError::Rows { told: 4, found: 3 };
    assert_eq!(rows(CONTROL_TABLE, &[head(), kv("a"), kv("b"), end(4)]), Some(told));
    for second in ["a", "b"] {
        let error = rows(CONTROL_TABLE, &[head(), kv("b"), kv(second), end(3)]);
        assert_eq!(error, Some(SnapshotError::Order(3, "keys")));
    }
    let error = rows(CONTROL_TABLE, &[kv("a"), end(1)]);
    assert_eq!(error, Some(SnapshotError::Row(1, WireError::Field("head"))));
    let error = rows(CONTROL_TABLE, &[head(), head(), end(2)]);
    assert_eq!(error, Some(SnapshotError::Row(2, WireError::Field("row"))));
    for length in [0, ROW_BYTES_MAX + 1, u32::MAX] {
        let bytes = [&[FORMAT, CONTROL_TABLE][..], &length.to_le_bytes(), b"rest"].concat();
        assert_eq!(ControlTable::decode(&bytes).err(), Some(SnapshotError::RowLength(length)));
    }
    // A row that claims to be long takes no more memory than came.
    let bytes = [&[FORMAT, CONTROL_TABLE][..], &ROW_BYTES_MAX.to_le_bytes(), b"rest"].concat();
    assert_eq!(ControlTable::decode(&bytes).err(), Some(SnapshotError::CutOff(0)));
}

#[test]
fn pins_without_their_backend_are_refused() {
    let mut table = pin_table(4);
    table.backends.clear();
    let error = PinTable::decode(&table.encode().unwrap()).err();
    assert!(matches!(error, Some(SnapshotError::Contradiction(_))), "{error:?}");
}

/// Takes and gives a few bytes at a time, and notes the largest piece that it was given.
#[derive(Default)]
struct Narrow {
    bytes: Vec<u8>,
    largest: usize,
    read: usize,
}

impl Write for Narrow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.largest = self.largest.max(bytes.len());
        let taken = bytes.len().min(1000);
        self.bytes.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Narrow {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = &self.bytes[self.read..];
        let given = out.len().min(left.len()).min(7);
        out[..given].copy_from_slice(&left[..given]);
        self.read += given;
        Ok(given)
    }
}

#[test]
fn a_large_table_streams_in_small_pieces() {
    let mut narrow = Narrow::default();
    let table = pin_table(20_000);
    table.write_to(&mut narrow).unwrap();
    assert!(narrow.bytes.len() > 20 * CHUNK_BYTES, "{}", narrow.bytes.len());
    assert!(narrow.largest <= 2 * CHUNK_BYTES, "{}", narrow.largest);
    let (copy, expiry) = PinTable::read_from(&mut narrow).unwrap();
    copy.check_invariants(&expiry);
    assert_eq!(copy.digest(), table.digest());

    let mut narrow = Narrow::default();
    let mut table = control_table();
    for (index, number) in (100..).zip(0..20u8) {
        let put =
            ControlCommand::KvPut { key: format!("large-{number}"), value: vec![number; 256 << 10], if_revision: None };
        table.apply(Revision(index), LogTime(index), &put);
    }
    table.write_to(&mut narrow).unwrap();
    assert!(narrow.largest <= (256 << 10) + 2 * CHUNK_BYTES, "a row and what came before it");
    let copy = ControlTable::read_from(&mut narrow).unwrap();
    assert_eq!((copy.digest(), copy.kv_bytes), (table.digest(), table.kv_bytes));
}

#[test]
fn an_error_of_the_reader_or_writer_is_told() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::new(io::ErrorKind::PermissionDenied, "no"))
        }
    }
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::new(io::ErrorKind::StorageFull, "full"))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let kind = io::ErrorKind::PermissionDenied;
    assert_eq!(ControlTable::read_from(&mut Broken).err(), Some(SnapshotError::Io { kind, text: "no".to_owned() }));
    assert_eq!(pin_table(1).write_to(&mut Broken).unwrap_err().kind(), io::ErrorKind::StorageFull);
}

#[test]
fn damaged_snapshots_are_errors_or_tables_but_never_panics() {
    let (control, pins) = (control_table().encode().unwrap(), pin_table(20).encode().unwrap());
    for place in 0..control.len().max(pins.len()) {
        for bit in 0..8 {
            for bytes in [&control, &pins] {
                let mut damaged = bytes.clone();
                let Some(byte) = damaged.get_mut(place) else { continue };
                *byte ^= 1 << bit;
                if let Ok(table) = ControlTable::decode(&damaged) {
                    assert_eq!(ControlTable::decode(&table.encode().unwrap()).unwrap().digest(), table.digest());
                }
                if let Ok((table, expiry)) = PinTable::decode(&damaged) {
                    assert_eq!(expiry.len(), table.len());
                }
            }
        }
    }
    // Bytes put in, taken out and changed at random.
    let mut random = Random(1);
    for _ in 0..30_000 {
        let mut bytes = if random.below(2) == 0 { control.clone() } else { pins.clone() };
        for _ in 0..=random.below(3) {
            let place = random.below(bytes.len());
            if bytes.is_empty() {
                break;
            }
            match random.below(4) {
                0 => bytes[place] = random.below(256) as u8,
                1 => drop(bytes.remove(place)),
                2 => bytes.insert(place, random.below(256) as u8),
                _ => bytes.truncate(place),
            }
        }
        drop(ControlTable::decode(&bytes));
        drop(PinTable::decode(&bytes));
    }
}

fn pin_table(clients: u32) -> PinTable {
    let (mut table, mut expiry) = (PinTable::new(), Expiry::new());
    let pool = PoolId::of("web");
    let backends = vec![(BackendId(1), Standing::Live), (BackendId(2), Standing::Live)];
    let copy = EpochCopy { epoch: Epoch(1), pools: vec![(pool, 5000)], backends };
    table.apply(Revision(1), LogTime(1), &PinCommand::Epoch(copy), &mut expiry);
    for client in 0..clients {
        let key = PinKey::new(pool, std::net::Ipv4Addr::from_bits(client).into());
        let backend = BackendId(1 + u64::from(client % 2));
        let command = PinCommand::Assign { key, backend, epoch: Epoch(1) };
        table.apply(Revision(u64::from(client) + 2), LogTime(2), &command, &mut expiry);
    }
    table
}

/// SplitMix64 (Steele, Lea & Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)) as usize % end.max(1)
    }
}
