//! Nodes that share a process need no sockets.

use super::*;

fn node(id: u64, network: &MemoryNetwork) -> Node {
    let (sender, events) = sync_channel(1 << 10);
    let options = Options { network: Network::Memory(network.clone()), ..options() };
    Node::start_at(id, SocketAddr::new(ip(id), 1), options, Arc::new(sender), events)
}

#[test]
fn nodes_of_one_process_echo_die_and_come_back() {
    let network = MemoryNetwork::default();
    let (one, two) = (node(1, &network), node(2, &network));
    link(&one, &two);
    check_alive(&one, &two);
    check_alive(&two, &one);
    let body = Bytes::from(vec![7; 3 * SNAPSHOT_CHUNK_BYTES + 1]);
    let sent = one.transport.send_snapshot(two.id, Bytes::from_static(b"meta"), Arc::new(body.clone()));
    one.runtime().block_on(sent).unwrap().unwrap();
    assert_eq!(two.gate.arrived.lock().unwrap().recv_timeout(DEADLINE).unwrap().2, body);

    two.kill();
    one.until_down(false);
    one.until_down(true);
    let two = node(2, &network);
    link(&one, &two);
    check_alive(&one, &two);
}

#[test]
fn an_address_has_one_listener() {
    let network = MemoryNetwork::default();
    let first = network.listen("a", 1).unwrap();
    assert_eq!(network.listen("a", 1).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    drop(first);
    network.listen("a", 1).unwrap();
}
