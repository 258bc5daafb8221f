//! Every command comes back as it went; bytes that make no sense are errors, never panics.

use super::*;
use crate::{
    control::tests::{address, birth, pool, server},
    pool::{Bind, HealthKind, PoolSpec},
};

fn control_commands() -> Vec<ControlCommand> {
    let web = PoolId::of("web");
    let mut http = pool("api", 1);
    http.bind = Bind::Vip("[2001:db8::1]:443".parse().unwrap());
    http.health.kind = HealthKind::Http { path: "/up".to_owned(), expect: vec![(200, 299), (404, 404)] };
    http.servers[0].address = "2001:db8::2".parse().unwrap();
    http.transparent = true;
    vec![
        ControlCommand::Birth(birth()),
        ControlCommand::MemberAdd(address("c")),
        ControlCommand::MemberPromote(InstanceId(3)),
        ControlCommand::MemberRemove(InstanceId(u64::MAX)),
        ControlCommand::MemberSeen(InstanceId(1), Incarnation(9)),
        ControlCommand::Apply { pools: vec![pool("web", 2), http], expected: Epoch(4) },
        ControlCommand::Server { pool: web, change: ServerChange::Add(server(1)) },
        ControlCommand::Server { pool: web, change: ServerChange::Remove("s1".to_owned()) },
        ControlCommand::Server { pool: web, change: ServerChange::Drain("s1".to_owned()) },
        ControlCommand::Server { pool: web, change: ServerChange::Enable("s1".to_owned()) },
        ControlCommand::Vote {
            voter: InstanceId(1),
            incarnation: Incarnation(2),
            backend: BackendId(3),
            view: View::Down,
        },
        ControlCommand::Verdict { backend: BackendId(3), view: View::Up, revision: Revision(0) },
        ControlCommand::KvPut { key: "k".to_owned(), value: vec![0, 255], if_revision: None },
        ControlCommand::KvPut { key: String::new(), value: Vec::new(), if_revision: Some(Revision(0)) },
        ControlCommand::KvDelete { key: "k".to_owned(), if_revision: Some(Revision(7)) },
        ControlCommand::OpenSession(None),
        ControlCommand::OpenSession(Some(SessionOwner { instance: InstanceId(2), life: u64::MAX })),
        ControlCommand::CloseSession(SessionId(7)),
        once(ControlCommand::KvDelete { key: "k".to_owned(), if_revision: None }),
        once(ControlCommand::Tick),
        ControlCommand::Once {
            request: Request { session: SessionId(7), sequence: 0, answered_below: 0 },
            owner: Some(SessionOwner { instance: InstanceId(2), life: u64::MAX }),
            command: Box::new(ControlCommand::Tick),
        },
        ControlCommand::Tune(None),
        ControlCommand::Tune(Some(tuning(Detector::Phi(80)))),
        ControlCommand::Tune(Some(tuning(Detector::Fixed(700)))),
        ControlCommand::Tick,
    ]
}

fn once(command: ControlCommand) -> ControlCommand {
    let request = Request { session: SessionId(7), sequence: 9, answered_below: 8 };
    ControlCommand::Once { request, owner: None, command: Box::new(command) }
}

fn pin_commands() -> Vec<PinCommand> {
    let key = PinKey::new(PoolId::of("web"), "2001:db8::1".parse().unwrap());
    let standings = [Standing::Unknown, Standing::Live, Standing::Draining, Standing::Dead, Standing::Gone];
    let backends = (1..).map(BackendId).zip(standings).collect();
    vec![
        PinCommand::Epoch(EpochCopy { epoch: Epoch(3), pools: vec![(key.pool, 1000)], backends }),
        PinCommand::Assign { key, backend: BackendId(1), epoch: Epoch(3) },
        PinCommand::Touch(vec![(key, Revision(1)), (key, Revision(2))]),
        PinCommand::Touch(Vec::new()),
        PinCommand::Unpin { key, revision: Revision(5) },
        PinCommand::Settle(Revision(9)),
        PinCommand::Tick,
    ]
}

fn tuning(detector: Detector) -> Tuning {
    Tuning { heartbeat_ms: 50, election_ms: 300, detector, spread: true, shuffle_ms: 100 }
}

#[test]
fn every_command_comes_back_as_it_went() {
    for command in control_commands() {
        assert_eq!(ControlCommand::decode(&command.encode()), Ok(command));
    }
    for command in pin_commands() {
        assert_eq!(PinCommand::decode(&command.encode()), Ok(command));
    }
}

/// Entries and snapshots of versions before the key have no field 17.
#[test]
fn a_pool_from_before_transparent_mode_is_not_transparent() {
    let web = pool("web", 1);
    let before = PoolMessage::from(&web).encode_to_vec();
    let with = PoolMessage::from(&PoolSpec { transparent: true, ..web.clone() }).encode_to_vec();
    // The key adds exactly its tag and a one; without it the bytes are those of before.
    assert_eq!(with, [before.as_slice(), &[0x88, 0x01, 0x01]].concat());
    assert_eq!(PoolSpec::try_from(PoolMessage::decode(before.as_slice()).unwrap()), Ok(web));
}

#[test]
fn what_this_version_does_not_know_is_an_error() {
    assert_eq!(ControlCommand::decode(b""), Err(WireError::Field("command")));
    // Field 99, which a later version may have.
    assert_eq!(PinCommand::decode(&[0x9a, 0x06, 0x00]), Err(WireError::Field("command")));
    assert!(matches!(PinCommand::decode(b"\xff\xff\xff"), Err(WireError::Malformed(_))));
    let view = VoteMessage { voter: 1, incarnation: 1, backend: 1, view: 3 };
    let vote = ControlMessage { command: Some(ControlKind::Vote(view)) }.encode_to_vec();
    assert_eq!(ControlCommand::decode(&vote), Err(WireError::Field("view")));
    let touched = TouchedPin { key: vec![0; 23], revision: 1 };
    let unpin = PinMessage { command: Some(PinKind::Unpin(touched)) }.encode_to_vec();
    assert_eq!(PinCommand::decode(&unpin), Err(WireError::Field("key")));
}

#[test]
fn commands_of_sessions_do_not_nest() {
    let put = ControlCommand::KvPut { key: "k".to_owned(), value: vec![1], if_revision: None };
    let request = Request { session: SessionId(7), sequence: 9, answered_below: 8 };
    assert_eq!(ControlCommand::decode(&request.wrap(None, &put.encode())), Ok(once(put.clone())));
    for inner in [once(put), ControlCommand::OpenSession(None), ControlCommand::CloseSession(SessionId(1))] {
        let error = ControlCommand::decode(&once(inner).encode()).unwrap_err();
        assert_eq!(error, WireError::Field("command of a session"));
    }
    assert_eq!(ControlCommand::decode(&request.wrap(None, b"")), Err(WireError::Field("command")));
}

#[test]
fn damaged_bytes_never_panic_and_what_they_still_say_is_a_good_command() {
    let mut state = 1u64;
    let mut draw = |end: usize| {
        // SplitMix64 (Steele, Lea & Flood 2014).
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ (mixed >> 27)) as usize) % end.max(1)
    };
    let encoded: Vec<Vec<u8>> = control_commands()
        .iter()
        .map(ControlCommand::encode)
        .chain(pin_commands().iter().map(PinCommand::encode))
        .collect();
    for _ in 0..30_000 {
        let mut bytes = encoded[draw(encoded.len())].clone();
        for _ in 0..=draw(3) {
            match draw(3) {
                0 if !bytes.is_empty() => {
                    let place = draw(bytes.len());
                    bytes[place] ^= 1 << draw(8);
                }
                1 => bytes.truncate(draw(bytes.len() + 1)),
                _ => bytes.insert(draw(bytes.len() + 1), draw(256) as u8),
            }
        }
        if let Ok(command) = ControlCommand::decode(&bytes) {
            assert_eq!(ControlCommand::decode(&command.encode()), Ok(command));
        }
        if let Ok(command) = PinCommand::decode(&bytes) {
            assert_eq!(PinCommand::decode(&command.encode()), Ok(command));
        }
    }
}
