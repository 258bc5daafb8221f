//! Who is let in, and what a newborn becomes.

use flow::{Birth, ControlCommand, LogTime, Revision};

use super::*;

fn address(label: &str) -> MemberAddress {
    MemberAddress { label: label.to_owned(), host: format!("host-{label}"), grpc: 1, rest: 2, metrics: 3 }
}

fn founding(labels: &[&str]) -> Founding {
    let instances = labels.iter().map(|label| address(label)).collect();
    Founding { fleet_name: "test".to_owned(), instances, pin_groups: 4, flow_groups: 0, lease_ms: 1000 }
}

fn identity(label: &str, life: u64) -> Identity {
    Identity {
        fleet_name: "test".to_owned(),
        label: label.to_owned(),
        incarnation: Incarnation(life),
        id: None,
        fleet: None,
        pin_groups: 0,
        flow_groups: 0,
        founders: Vec::new(),
        restored: false,
    }
}

fn hello(label: &str, life: u64) -> Hello {
    Hello { identity: identity(label, life), founding_hash: founding(&["a", "b", "c"]).hash() }
}

/// Group 0 of a fleet of a, b and c (1, 2, 3), of which c was removed, d (4) was added, and b is bound to life 20.
fn born() -> ControlTable {
    let founders = founding(&["a", "b", "c"]).founders();
    let birth =
        Birth { fleet: FleetId(7), pick_key: [0; 16], pin_groups: 4, lease_ms: 1000, founders, pools: Vec::new() };
    let commands = [
        ControlCommand::Birth(birth),
        ControlCommand::MemberRemove(InstanceId(3)),
        ControlCommand::MemberAdd(address("d")),
        ControlCommand::MemberSeen(InstanceId(2), Incarnation(20)),
    ];
    let mut table = ControlTable::default();
    for (index, command) in (1..).zip(&commands) {
        table.apply(Revision(index), LogTime(0), command);
    }
    table
}

/// What instance a, of the fleet (if `control` has one) and with `known` peers, says to `hello`.
fn check(control: Option<&ControlTable>, known: &[(u64, u64)], hello: &Hello) -> Result<Admitted, RefusedCode> {
    let fleet = control.map(|_| FleetId(7));
    let me = Identity { id: Some(InstanceId(1)), fleet, ..identity("a", 10) };
    let known = Known(known.iter().map(|(id, life)| (InstanceId(*id), Incarnation(*life))).collect());
    let founding = founding(&["a", "b", "c"]);
    Admission { me: &me, founding: &founding, control, known: &known, leaving: &BTreeSet::new() }.admit(hello).map_err(
        |refused| {
            assert!(!refused.text.is_empty());
            refused.code
        },
    )
}

#[test]
fn before_the_birth_the_listed_are_let_in_by_equal_lists() {
    let admitted = check(None, &[], &hello("b", 20)).unwrap();
    assert_eq!((admitted.id, admitted.new, admitted.reply.your_id), (InstanceId(2), true, Some(InstanceId(2))));
    assert!(!check(None, &[(2, 20)], &hello("b", 20)).unwrap().new);
    assert_eq!(check(None, &[], &hello("x", 20)), Err(RefusedCode::NotAMember));
    let other = Hello { founding_hash: founding(&["a", "b"]).hash(), ..hello("b", 20) };
    assert_eq!(check(None, &[], &other), Err(RefusedCode::OtherFounding));
}

#[test]
fn an_emptied_directory_under_a_known_label_is_told_so() {
    assert_eq!(check(None, &[(2, 20)], &hello("b", 21)), Err(RefusedCode::Replaced));
    let control = born();
    // By what this instance remembers, or by what group 0 has bound.
    assert_eq!(check(Some(&control), &[(4, 40)], &hello("d", 41)), Err(RefusedCode::Replaced));
    assert_eq!(check(Some(&control), &[], &hello("b", 21)), Err(RefusedCode::Replaced));
    assert!(check(Some(&control), &[(2, 20)], &hello("b", 20)).is_ok_and(|admitted| !admitted.new));
    let bound = check(Some(&control), &[], &hello("b", 20));
    assert!(bound.is_ok_and(|admitted| admitted.new), "what is bound is remembered on disk too");
    // The fleet is born, but the log that says who is a member is not read yet.
    assert_eq!(check(Some(&ControlTable::default()), &[], &hello("b", 21)), Err(RefusedCode::NotYet));
    let mut known = hello("b", 20);
    known.identity.id = Some(InstanceId(2));
    assert!(check(Some(&ControlTable::default()), &[(2, 20)], &known).is_ok(), "who is no newborn is let in");
    let me = identity("a", 10);
    let known = Known(BTreeMap::from([(InstanceId(2), Incarnation(20))]));
    let founding = founding(&["a", "b", "c"]);
    let refused = Admission { me: &me, founding: &founding, control: None, known: &known, leaving: &BTreeSet::new() }
        .admit(&hello("b", 21));
    assert!(refused.is_err_and(|refused| refused.text.contains("rocinante member remove b")));
}

#[test]
fn after_the_birth_the_log_says_who_is_a_member() {
    let control = born();
    let admitted = check(Some(&control), &[], &hello("d", 40)).unwrap();
    assert_eq!((admitted.id, admitted.new), (InstanceId(4), true));
    let other_list = Hello { founding_hash: 1, ..hello("d", 40) };
    assert!(check(Some(&control), &[], &other_list).is_ok(), "lists matter no more");
    assert_eq!(check(Some(&control), &[], &hello("c", 30)), Err(RefusedCode::NotAMember));
    let with_id = |label: &str, id| {
        let mut hello = hello(label, 30);
        hello.identity.id = Some(InstanceId(id));
        hello.identity.fleet = Some(FleetId(7));
        hello
    };
    assert_eq!(check(Some(&control), &[], &with_id("c", 3)), Err(RefusedCode::Removed));
    assert_eq!(check(Some(&control), &[], &with_id("d", 3)), Err(RefusedCode::Removed), "its old life's id");
    let newer = check(Some(&control), &[], &with_id("e", 5)).map(|admitted| admitted.id);
    assert_eq!(newer, Ok(InstanceId(5)), "newer than this table");
}

#[test]
fn who_was_away_while_a_member_was_replaced_listens_to_the_new_one() {
    // It may lead: then nobody else can tell that it is one.
    let mut replaced = hello("b", 21);
    (replaced.identity.id, replaced.identity.fleet) = (Some(InstanceId(5)), Some(FleetId(7)));
    let control = born();
    let admitted = |control, known: &[(u64, u64)]| check(control, known, &replaced).map(|admitted| admitted.id);
    assert_eq!(admitted(Some(&control), &[(2, 20)]), Ok(InstanceId(5)));
    assert_eq!(admitted(None, &[(2, 20)]), Ok(InstanceId(5)), "nor has it heard of the birth");
    assert_eq!(admitted(None, &[(5, 22)]), Err(RefusedCode::Replaced), "but by one life");
    let mut far = replaced.clone();
    far.identity.id = Some(InstanceId(5 + MEMBERS_UNHEARD_MAX));
    assert_eq!(check(Some(&control), &[], &far), Err(RefusedCode::Removed), "nobody comes that many members later");
    replaced.identity.fleet = None;
    assert_eq!(check(None, &[], &replaced), Err(RefusedCode::Removed), "one of no fleet is no member");
}

#[test]
fn other_fleets_stay_out() {
    let mut other_name = hello("b", 20);
    other_name.identity.fleet_name = "prod".to_owned();
    assert_eq!(check(None, &[], &other_name), Err(RefusedCode::OtherFleet));
    let mut other_fleet = hello("b", 20);
    other_fleet.identity.fleet = Some(FleetId(8));
    assert_eq!(check(Some(&born()), &[], &other_fleet), Err(RefusedCode::OtherFleet));
}

/// What `label` becomes after replies of `replies`, founders of the same list.
fn decide(label: &str, list: &[&str], replies: &[&str]) -> Decision {
    let founding = founding(list);
    let mut birthing = Birthing::new(identity(label, 1), founding.clone());
    for from in replies {
        let your_id = founding.id_of(label);
        birthing.handle_reply(Reply { identity: identity(from, 2), founding_hash: founding.hash(), your_id });
    }
    birthing.decide()
}

fn becomes(decision: Decision) -> Option<(u64, Vec<u64>)> {
    match decision {
        Decision::Wait => None,
        Decision::Become(me) => me.id.map(|id| (id.0, me.founders.iter().map(|id| id.0).collect())),
    }
}

#[test]
fn only_a_fleet_of_one_is_born_alone() {
    assert_eq!(becomes(decide("a", &["a"], &[])), Some((1, vec![1])));
    assert_eq!(becomes(decide("a", &["b", "a"], &[])), None);
    assert_eq!(becomes(decide("b", &["b", "a"], &["a"])), Some((2, vec![1, 2])));
    assert_eq!(becomes(decide("a", &["a", "b", "c"], &[])), None);
    assert_eq!(becomes(decide("c", &["c", "a", "b"], &["a"])), Some((3, vec![1, 2, 3])));
    assert_eq!(becomes(decide("a", &["a", "b", "c", "d", "e"], &["b"])), None);
    assert_eq!(becomes(decide("a", &["a", "b", "c", "d", "e"], &["b", "b", "a"])), None, "nobody counts twice");
    assert!(becomes(decide("a", &["a", "b", "c", "d", "e"], &["b", "c"])).is_some());
    assert_eq!(becomes(decide("a", &["a", "b", "c"], &["x", "y"])), None, "strangers do not count");
    assert_eq!(becomes(decide("x", &["a", "b", "c"], &["a", "b", "c"])), None, "nor does one that is not listed");
}

#[test]
fn other_lists_do_not_count() {
    let mut birthing = Birthing::new(identity("a", 1), founding(&["a", "b", "c"]));
    for label in ["b", "c"] {
        let reply = Reply { identity: identity(label, 2), founding_hash: 1, your_id: Some(InstanceId(1)) };
        birthing.handle_reply(reply);
    }
    assert_eq!(birthing.decide(), Decision::Wait);
}

#[test]
fn a_fleet_that_is_there_says_who_one_is() {
    let member = |founders: &[u64]| Identity {
        id: Some(InstanceId(1)),
        fleet: Some(FleetId(7)),
        pin_groups: 16,
        founders: founders.iter().map(|id| InstanceId(*id)).collect(),
        ..identity("a", 1)
    };
    let joined = |label: &str, your_id: Option<u64>| {
        let list = founding(&["a", "b", "c"]);
        let mut birthing = Birthing::new(identity(label, 1), list.clone());
        let your_id = your_id.map(InstanceId);
        birthing.handle_reply(Reply { identity: member(&[1, 2, 3]), founding_hash: list.hash(), your_id });
        birthing.decide()
    };
    let Decision::Become(me) = joined("d", Some(4)) else { panic!("it waits") };
    assert_eq!((me.id, me.fleet, me.pin_groups), (Some(InstanceId(4)), Some(FleetId(7)), 16));
    assert!(me.founders.is_empty(), "it is no founder, and its log begins with nothing");
    let Decision::Become(late) = joined("c", Some(3)) else { panic!("it waits") };
    assert_eq!(late.founders.len(), 3, "a founder that comes late begins as one");
    assert_eq!(joined("d", None), Decision::Wait);
}

/// Instance `label` of a fleet that was restored.
fn restored(label: &str, id: u64) -> Identity {
    Identity {
        id: Some(InstanceId(id)),
        fleet: Some(FleetId(7)),
        pin_groups: 4,
        restored: true,
        ..identity(label, id * 10)
    }
}

#[test]
fn nobody_founds_a_fleet_that_was_restored() {
    let list = founding(&["a", "b", "c"]);
    let heard = |replies: &[Identity]| {
        let mut birthing = Birthing::new(identity("b", 20), list.clone());
        for identity in replies {
            let reply = Reply { identity: identity.clone(), founding_hash: list.hash(), your_id: Some(InstanceId(2)) };
            birthing.handle_reply(reply);
        }
        let Decision::Become(me) = birthing.decide() else { panic!("it waits") };
        me
    };
    // Whatever it says of founders.
    let listed = Identity { founders: (1..=3).map(InstanceId).collect(), ..restored("a", 1) };
    for a in [restored("a", 1), listed] {
        let me = heard(&[a.clone(), identity("c", 30)]);
        assert_eq!((me.id, me.fleet, me.restored), (Some(InstanceId(2)), Some(FleetId(7)), true));
        assert!(me.founders.is_empty(), "its log begins with nothing");
        let later = heard(&[identity("a", 40), Identity { label: "c".to_owned(), ..me }]);
        assert!(later.restored && later.founders.is_empty(), "it is told so by one that was not restored itself");
    }
}

#[test]
fn who_began_to_found_a_fleet_and_one_that_was_restored_refuse_each_other() {
    let list = founding(&["a", "b", "c"]);
    let founder = Identity {
        id: Some(InstanceId(2)),
        pin_groups: 4,
        founders: (1..=3).map(InstanceId).collect(),
        ..identity("b", 20)
    };
    let admit = |me: &Identity, them: &Identity| {
        let hello = Hello { identity: them.clone(), founding_hash: list.hash() };
        let (known, leaving, table) = (Known::default(), BTreeSet::new(), ControlTable::default());
        let admission = Admission { me, founding: &list, control: Some(&table), known: &known, leaving: &leaving };
        admission.admit(&hello).map(|admitted| admitted.id).map_err(|refused| refused.code)
    };
    let (a, c) = (restored("a", 1), restored("c", 3));
    assert_eq!(admit(&a, &founder), Err(RefusedCode::OtherFleet));
    assert_eq!(admit(&founder, &a), Err(RefusedCode::OtherFleet));
    assert_eq!(admit(&a, &c), Ok(InstanceId(3)));
    assert_eq!(admit(&identity("b", 20), &a), Ok(InstanceId(1)), "a newborn hears what it may become");
    let born = Identity { restored: false, ..a };
    assert_eq!(admit(&born, &founder), Ok(InstanceId(2)), "a founder that comes late");
}

#[test]
fn what_is_stored_and_sent_comes_back() {
    let me = Identity {
        id: Some(InstanceId(3)),
        fleet: Some(FleetId(u128::MAX)),
        founders: vec![InstanceId(1), InstanceId(3)],
        pin_groups: 4,
        restored: true,
        ..identity("c", u64::MAX)
    };
    assert_eq!(Identity::decode(&me.encode()), Some(me.clone()));
    assert_eq!(Identity::decode(&identity("a", 1).encode()), Some(identity("a", 1)));
    let known = Known(BTreeMap::from([(InstanceId(1), Incarnation(2))]));
    assert_eq!(Known::decode(&known.encode()), Some(known));
    assert_eq!(Hello::decode(&hello("b", 20).encode()), Some(hello("b", 20)));
    let reply = Reply { identity: me, founding_hash: 5, your_id: Some(InstanceId(2)) };
    let bytes = reply.encode();
    assert_eq!(Reply::decode(&bytes), Some(reply));
    for end in 0..bytes.len() {
        drop((Reply::decode(&bytes[..end]), Hello::decode(&bytes[..end]), Identity::decode(&bytes[..end])));
    }
}
