//! Links come up, carry frames, go down, come back and end.

use super::*;

#[test]
fn two_nodes_echo() {
    let (one, two) = pair(1, 2);
    assert!(one.transport.send(NodeId(2), Bytes::from_static(b"hello")));
    assert_eq!(two.until_frame(), (NodeId(1), Bytes::from_static(b"hello")));
    assert!(two.transport.send_to("n1", Bytes::from_static(b"you too")));
    assert_eq!(one.until_frame(), (NodeId(2), Bytes::from_static(b"you too")));
    let status = LinkStatus { address: two.peer_address(), peer: Some(NodeId(2)), up: true };
    assert_eq!(one.transport.links(), [status]);
    assert_eq!(value(&one.counters().frames_sent), 1);
    assert_eq!(value(&one.counters().frame_bytes_sent), 5);
    assert_eq!(value(&two.counters().frame_bytes_received), 5);
    assert!(one.counters().values().any(|(name, _, count)| name == "links_opened" && count == 1));
}

#[test]
fn three_nodes_talk_each_to_each_in_order() {
    const FRAMES: u32 = 1000;
    let nodes = [Node::start(1), Node::start(2), Node::start(3)];
    let others = |node: &Node| nodes.iter().filter(|other| other.id != node.id).collect::<Vec<_>>();
    for node in &nodes {
        node.set_peers(&others(node));
    }
    for node in &nodes {
        let mut missing = 2;
        while missing > 0 {
            node.until("LinkUp", |event| matches!(event, Event::LinkUp { .. }).then_some(()));
            missing -= 1;
        }
    }
    for node in &nodes {
        for number in 0..FRAMES {
            for other in others(node) {
                assert!(node.transport.send(other.id, Bytes::copy_from_slice(&number.to_be_bytes())));
            }
        }
    }
    for node in &nodes {
        let mut next = [0u32; 4];
        for _ in 0..2 * FRAMES {
            let (from, bytes) = node.until_frame();
            let expected = &mut next[usize::try_from(from.0).unwrap()];
            assert_eq!(bytes, expected.to_be_bytes()[..]);
            *expected += 1;
        }
        assert_eq!(next.iter().sum::<u32>(), 2 * FRAMES);
    }
}

#[test]
fn a_name_is_resolved_at_the_dial() {
    let one = Node::start(1);
    let (sender, events) = sync_channel(100);
    let two = Node::start_at(2, (Ipv4Addr::LOCALHOST, 0).into(), options(), Arc::new(sender), events);
    one.transport.set_peers(vec![PeerAddress::new("two", "localhost", two.address.port())]).unwrap();
    // Whatever the name means here, an address of the wrong kind or without a listener is a failed dial, not an end.
    eventually("a dial", || value(&one.counters().dials) > 1 || value(&one.counters().links_opened) == 1);
    one.transport.set_peers(vec![PeerAddress::new("two", "no such host", 1)]).unwrap();
    let failed = value(&one.counters().dials_failed);
    eventually("failed dials", || value(&one.counters().dials_failed) > failed + 1);
}

#[test]
fn a_dead_process_is_noticed_at_once_and_found_again() {
    let (one, two) = pair(1, 2);
    let since = Instant::now();
    let address = two.kill();
    let down = |refused| Event::LinkDown { label: "n2".into(), peer: Some(NodeId(2)), refused };
    assert_eq!(one.until_down(false), down(false));
    assert_eq!(one.until_down(true), down(true));
    assert!(since.elapsed() < DEADLINE / 2, "took {:?}", since.elapsed());
    assert!(!one.transport.send(NodeId(2), Bytes::new()));
    assert_eq!(value(&one.counters().dropped_link_down), 1);

    let (sender, events) = sync_channel(100);
    let two = Node::start_at(2, address, options(), Arc::new(sender), events);
    link(&one, &two);
    check_alive(&one, &two);
    check_alive(&two, &one);
    assert_eq!(value(&one.counters().links_reopened), 1);
    assert_eq!(value(&one.counters().links_lost), 1);
}

#[test]
fn a_process_that_never_was_there_is_told_once() {
    let one = Node::start(1);
    let address = Node::start(2).kill();
    one.transport.set_peers(vec![PeerAddress::new("two", &address.ip().to_string(), address.port())]).unwrap();
    assert_eq!(one.until_down(true), Event::LinkDown { label: "two".into(), peer: None, refused: true });
    eventually("three dials", || value(&one.counters().dials_refused) >= 3);
    assert!(one.events.try_recv().is_err());
}

#[test]
fn a_peer_that_comes_in_is_dialled_without_waiting() {
    let patient =
        Options { backoff_min: Duration::from_secs(3600), backoff_max: Duration::from_secs(3600), ..options() };
    let one = Node::start_with(1, patient, 100);
    let address = Node::start(2).kill();
    one.transport.set_peers(vec![PeerAddress::new("n2", &address.ip().to_string(), address.port())]).unwrap();
    one.until_down(true);
    let (sender, events) = sync_channel(100);
    let two = Node::start_at(2, address, options(), Arc::new(sender), events);
    two.set_peers(&[&one]);
    one.until_up(&two);
    two.until_up(&one);
}

#[test]
fn a_refused_hello_says_why_and_is_tried_again() {
    let (one, two) = (Node::start(1), Node::start(2));
    let no = Refused::new(77, "another fleet");
    *two.gate.refuse_hello.lock().unwrap() = Some(no.clone());
    one.set_peers(&[&two]);
    let refused = |event| matches!(event, Event::Refused { .. }).then_some(event);
    let told = one.until("Refused", refused);
    assert_eq!(told, Event::Refused { label: "n2".into(), address: two.address.to_string(), refused: no });
    eventually("more refusals", || value(&one.counters().hellos_turned_down) >= 3);
    assert!(one.events.try_recv().is_err(), "an equal refusal is told once");
    assert_eq!(value(&one.counters().links_opened), 0);

    let other_no = Refused::new(78, "gone");
    *two.gate.refuse_hello.lock().unwrap() = Some(other_no.clone());
    let told = one.until("Refused", refused);
    assert_eq!(told, Event::Refused { label: "n2".into(), address: two.address.to_string(), refused: other_no });
    *two.gate.refuse_hello.lock().unwrap() = None;
    one.until_up(&two);
}

#[test]
fn an_answer_can_be_refused_too() {
    let (one, two) = (Node::start(1), Node::start(2));
    let no = Refused::new(5, "a stranger");
    *one.gate.refuse_reply.lock().unwrap() = Some(no.clone());
    one.set_peers(&[&two]);
    one.until("Refused", |event| matches!(event, Event::Refused { refused, .. } if refused == no).then_some(()));
    eventually("the end of the links", || {
        let counters = two.counters();
        value(&counters.inbound_links_opened) > 0
            && value(&counters.inbound_links_opened) == value(&counters.inbound_links_closed)
    });
}

#[test]
fn a_removed_peer_is_closed_both_ways_and_others_are_left_alone() {
    let (one, two, three) = (Node::start(1), Node::start(2), Node::start(3));
    one.set_peers(&[&two, &three]);
    two.set_peers(&[&one]);
    three.set_peers(&[&one]);
    two.until_up(&one);
    three.until_up(&one);
    eventually("both links", || one.transport.links().iter().all(|link| link.up));
    while one.events.try_recv().is_ok() {}

    *one.gate.refuse_hello.lock().unwrap() = Some(Refused::new(9, "removed"));
    one.set_peers(&[&three]);
    two.until_down(false);
    two.until("Refused", |event| matches!(event, Event::Refused { .. }).then_some(()));
    assert!(!one.transport.send(NodeId(2), Bytes::new()));
    assert_eq!(value(&one.counters().dropped_unknown_peer), 1);
    check_alive(&one, &three);
    check_alive(&three, &one);
    eventually("the end of the link", || value(&two.counters().inbound_links_closed) == 1);
    assert_eq!(value(&one.counters().links_opened), 2);
    assert!(one.events.try_recv().is_err(), "what the owner does is not told");
}

#[test]
fn a_new_address_replaces_the_old_one() {
    let (one, two) = pair(1, 2);
    let moved = Node::start(2);
    one.set_peers(&[&moved]);
    one.until_up(&moved);
    check_alive(&one, &moved);
    eventually("the end of the old link", || value(&two.counters().inbound_links_closed) == 1);
}

/// Where the others believe node 2 to be, and nobody is.
fn nowhere(id: u64) -> PeerAddress {
    PeerAddress::new("n2", &ip(id).to_string(), 1)
}

#[test]
fn a_peer_that_was_never_reached_is_closed_as_well() {
    // It leaves; or another bears its name, elsewhere.
    for after in [Vec::new(), vec![nowhere(9)]] {
        let (one, two) = (Node::start(1), Node::start(2));
        one.transport.set_peers(vec![nowhere(8)]).unwrap();
        two.set_peers(&[&one]);
        two.until_up(&one);
        *one.gate.refuse_hello.lock().unwrap() = Some(Refused::new(9, "removed"));
        one.transport.set_peers(after).unwrap();
        two.until_down(false);
        eventually("the end of the link", || value(&one.counters().inbound_links_closed) == 1);
    }
}

#[test]
fn a_peer_that_leaves_while_it_is_let_in_stays_out() {
    let (one, two) = (Node::start(1), Node::start(2));
    one.transport.set_peers(vec![nowhere(8)]).unwrap();
    one.gate.judging.set_down(true);
    two.set_peers(&[&one]);
    eventually("a hello", || value(&one.gate.judged) == 1);
    *one.gate.refuse_hello.lock().unwrap() = Some(Refused::new(9, "removed"));
    one.transport.set_peers(Vec::new()).unwrap();
    one.gate.judging.set_down(false);
    two.until("Refused", |event| matches!(event, Event::Refused { .. }).then_some(()));
    assert_eq!(value(&one.counters().inbound_links_opened), 0);
}

#[test]
fn impossible_lists_of_peers_are_refused() {
    let one = Node::start(1);
    let peer = |number: usize| PeerAddress::new(&number.to_string(), "127.0.0.2", 1);
    let twice = one.transport.set_peers(vec![peer(1), peer(1)]);
    assert_eq!(twice, Err(PeersError::Duplicate("1".into())));
    let many = one.transport.set_peers((0..=PEERS_MAX).map(peer).collect());
    assert_eq!(many, Err(PeersError::TooMany(PEERS_MAX + 1)));
    assert_eq!(one.transport.links(), []);
}

#[test]
fn no_task_is_left_after_a_shutdown() {
    let (mut one, mut two) = pair(1, 2);
    one.transport.set_peers(vec![two.peer_address(), PeerAddress::new("nobody", &ip(9).to_string(), 1)]).unwrap();
    check_alive(&one, &two);
    let sent = one.transport.send_snapshot(two.id, Bytes::new(), Arc::new(Bytes::from_static(b"body")));
    one.runtime().block_on(sent).unwrap().unwrap();
    one.shutdown();
    assert_eq!(one.transport.set_peers(vec![two.peer_address()]), Err(PeersError::Closed));
    two.until_down(false);
    two.shutdown();
    for node in [&one, &two] {
        eventually("the end of all tasks", || node.runtime().metrics().num_alive_tasks() == 0);
        let counters = node.counters();
        assert_eq!(value(&counters.inbound_links_opened), value(&counters.inbound_links_closed));
    }
}
