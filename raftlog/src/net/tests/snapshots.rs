//! Snapshots arrive whole or not at all.

use std::num::NonZeroU64;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio_stream::StreamExt;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::super::generated::link_client::LinkClient;
use super::super::generated::{Hello, SnapshotChunk, SnapshotHeader, SnapshotPart, SnapshotReply};
use super::*;

/// Sends and waits for the end.
fn send(from: &Node, to: NodeId, body: Bytes) -> Result<(), SnapshotSendError> {
    let sent = from.transport.send_snapshot(to, Bytes::from_static(b"meta"), Arc::new(body));
    from.runtime().block_on(async { tokio::time::timeout(DEADLINE, sent).await.unwrap().unwrap() })
}

fn arrived(node: &Node) -> (NodeId, Bytes, Bytes) {
    node.gate.arrived.lock().unwrap().recv_timeout(DEADLINE).unwrap()
}

/// Bytes without a pattern that chunks could hide.
fn body(len: usize) -> Bytes {
    let mut state = 1u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    Bytes::from(std::iter::repeat_with(next).take(len).collect::<Vec<u8>>())
}

#[test]
fn a_large_body_arrives_intact_while_frames_flow() {
    let (one, two) = pair(1, 2);
    let large = body((20 << 20) + 1);
    let sending = one.transport.send_snapshot(two.id, Bytes::from_static(b"meta"), Arc::new(large.clone()));
    check_alive(&one, &two);
    one.runtime().block_on(sending).unwrap().unwrap();
    let (from, meta, got) = arrived(&two);
    assert_eq!((from, &meta[..]), (one.id, &b"meta"[..]));
    assert!(got == large);
    assert_eq!(value(&one.counters().snapshots_sent), 1);
    assert_eq!(value(&one.counters().snapshot_bytes_sent), large.len() as u64);
    assert_eq!(value(&two.counters().snapshots_received), 1);
    assert_eq!(value(&two.counters().snapshot_bytes_received), large.len() as u64);
}

#[test]
fn an_empty_body_is_a_body() {
    let (one, two) = pair(1, 2);
    send(&one, two.id, Bytes::new()).unwrap();
    assert_eq!(arrived(&two).2, Bytes::new());
}

#[test]
fn the_owner_may_refuse() {
    let (one, two) = pair(1, 2);
    let no = Refused::new(4, "older than what is here");
    *two.gate.refuse_snapshot.lock().unwrap() = Some(no.clone());
    assert_eq!(send(&one, two.id, body(10)), Err(SnapshotSendError::Refused(no)));
    assert_eq!(value(&two.counters().snapshots_receive_failed), 1);
    assert_eq!(send(&one, NodeId(9), body(10)), Err(SnapshotSendError::UnknownPeer));
    assert_eq!(value(&one.counters().snapshots_send_failed), 2);
    let meta = Bytes::from(vec![0; MESSAGE_BYTES_MAX]);
    let sent = one.runtime().block_on(one.transport.send_snapshot(two.id, meta, Arc::new(Bytes::new()))).unwrap();
    assert_eq!(sent, Err(SnapshotSendError::MetaTooLarge(MESSAGE_BYTES_MAX)));
}

#[test]
fn one_at_a_time_per_peer() {
    let (one, two) = pair(1, 2);
    two.gate.installing.set_down(true);
    let first = one.transport.send_snapshot(two.id, Bytes::new(), Arc::new(body(10)));
    eventually("arrival", || value(&two.counters().snapshot_bytes_received) == 10);
    assert_eq!(send(&one, two.id, body(10)), Err(SnapshotSendError::Busy));
    two.gate.installing.set_down(false);
    one.runtime().block_on(first).unwrap().unwrap();
    send(&one, two.id, body(10)).unwrap();
}

#[test]
fn a_body_above_the_limit_is_refused_before_it_is_sent() {
    let one = Node::start(1);
    let two = Node::start_with(2, Options { snapshot_bytes_max: 1 << 20, ..options() }, 100);
    link(&one, &two);
    let sent = send(&one, two.id, body((1 << 20) + 1));
    assert!(matches!(&sent, Err(SnapshotSendError::NoRoom(text)) if text.contains("1048576")), "{sent:?}");
    send(&one, two.id, body(1 << 20)).unwrap();
}

#[test]
fn the_rate_has_a_limit() {
    let rate = NonZeroU64::new(4 * SNAPSHOT_CHUNK_BYTES as u64);
    let one = Node::start_with(1, Options { snapshot_bytes_per_second: rate, ..options() }, 100);
    let two = Node::start(2);
    link(&one, &two);
    let since = Instant::now();
    send(&one, two.id, body(3 * SNAPSHOT_CHUNK_BYTES)).unwrap();
    assert!(since.elapsed() >= Duration::from_millis(500), "{:?}", since.elapsed());
}

#[test]
fn a_receiver_that_does_not_read_is_given_up() {
    let hasty = Options { snapshot_idle_timeout: Duration::from_millis(100), snapshot_tries_max: 2, ..options() };
    let one = Node::start_with(1, hasty, 100);
    let two = Node::start(2);
    link(&one, &two);
    let id = two.id;
    let address = two.kill();
    one.until_down(true);
    assert_eq!(send(&one, id, body(10)), Err(SnapshotSendError::NobodyListens));
    let _mute = std::net::TcpListener::bind(address).unwrap();
    assert_eq!(send(&one, id, body(4 << 20)), Err(SnapshotSendError::StoodStill));
}

#[test]
fn a_removed_peer_gets_no_more_of_it() {
    let (one, two) = pair(1, 2);
    two.gate.installing.set_down(true);
    let sending = one.transport.send_snapshot(two.id, Bytes::new(), Arc::new(body(10)));
    eventually("arrival", || value(&two.counters().snapshot_bytes_received) == 10);
    one.transport.set_peers(Vec::new()).unwrap();
    assert_eq!(one.runtime().block_on(sending).unwrap(), Err(SnapshotSendError::Closed));
    two.gate.installing.set_down(false);
}

#[test]
fn what_the_owner_refuses_is_not_sent_again() {
    let (one, two) = pair(1, 2);
    *two.gate.room.lock().unwrap() = 3 * SNAPSHOT_CHUNK_BYTES;
    let full = Refused::new(28, "the disk is full");
    assert_eq!(send(&one, two.id, body(20 << 20)), Err(SnapshotSendError::Refused(full)));
    let no = Refused::new(4, "not wanted");
    *two.gate.refuse_offer.lock().unwrap() = Some(no.clone());
    assert_eq!(send(&one, two.id, body(10)), Err(SnapshotSendError::Refused(no)));
    eventually("two ends", || value(&two.counters().snapshots_receive_failed) == 2);
    assert_eq!(value(&one.counters().snapshots_resumed), 0);
}

/// A file that cannot be read beyond its first chunk.
struct BadFile;

impl SnapshotSource for BadFile {
    fn total_bytes(&self) -> u64 {
        10 << 20
    }

    fn read_at(&self, offset: u64, _: &mut [u8]) -> std::io::Result<()> {
        if offset == 0 { Ok(()) } else { Err(std::io::Error::other("the disk is gone")) }
    }
}

#[test]
fn a_file_that_cannot_be_read_is_not_sent() {
    let (one, two) = pair(1, 2);
    let sent = one.runtime().block_on(one.transport.send_snapshot(two.id, Bytes::new(), Arc::new(BadFile))).unwrap();
    assert_eq!(sent, Err(SnapshotSendError::Unreadable("the disk is gone".into())));
    eventually("the end of the transfer", || value(&two.counters().snapshots_receive_failed) == 1);
    assert!(two.gate.arrived.lock().unwrap().try_recv().is_err());
}

/// A way from `from` to `to` on which every connection breaks after so many bytes. Gives its port.
fn bad_way(from: &Node, to: &Node, bytes: u64) -> u16 {
    let listener = from.runtime().block_on(TcpListener::bind((ip(9), 0))).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (source, target) = (SocketAddr::from((ip(1), 0)), to.address);
    from.runtime().spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(source).unwrap();
            // Once the test is over nobody listens.
            if let Ok(server) = socket.connect(target).await {
                tokio::spawn(carry(client, server, bytes));
            }
        }
    });
    port
}

async fn carry(client: tokio::net::TcpStream, server: tokio::net::TcpStream, bytes: u64) {
    let (client_reads, mut client_writes) = client.into_split();
    let (mut server_reads, mut server_writes) = server.into_split();
    let back = tokio::spawn(async move { tokio::io::copy(&mut server_reads, &mut client_writes).await });
    let mut there = client_reads.take(bytes);
    drop(tokio::io::copy(&mut there, &mut server_writes).await);
    drop(server_writes.shutdown().await);
    back.abort();
}

#[test]
fn a_broken_transfer_goes_on_where_it_was() {
    let (one, two) = (Node::start(1), Node::start(2));
    two.set_peers(&[&one]);
    let port = bad_way(&one, &two, 6 * SNAPSHOT_CHUNK_BYTES as u64);
    one.transport.set_peers(vec![PeerAddress::new("n2", &ip(9).to_string(), port)]).unwrap();
    one.until_up(&two);
    let large = body(40 * SNAPSHOT_CHUNK_BYTES + 77);
    send(&one, two.id, large.clone()).unwrap();
    assert!(arrived(&two).2 == large);
    // Each connection brings five chunks or so, and none comes twice.
    assert!(value(&one.counters().snapshots_resumed) >= 6);
    assert_eq!(value(&two.counters().snapshot_bytes_received), large.len() as u64);
    assert_eq!(value(&one.counters().snapshots_sent), 1);
}

/// A node 7 and one that is at work on a file of 7 whose connection is another one.
fn at_work(options: Options) -> (Node, Node, JoinHandle<Result<SnapshotReply, Status>>) {
    let (seven, two) = (Node::start_with(7, options, 100), Node::start(2));
    seven.set_peers(&[&two]);
    seven.until_up(&two);
    two.gate.installing.set_down(true);
    let first = begin(&two, vec![header(2), chunk(0, b"ab", crc32c::crc32c(b"ab"))], false);
    eventually("arrival", || value(&two.counters().snapshot_bytes_received) == 2);
    (seven, two, first)
}

#[test]
fn a_peer_that_still_reads_what_it_has_is_waited_for() {
    let (seven, two, first) = at_work(Options { snapshot_tries_max: 2, ..options() });
    let second = seven.transport.send_snapshot(two.id, Bytes::new(), Arc::new(body(10)));
    eventually("more refusals than tries", || value(&two.counters().inbound_shed) > 3);
    two.gate.installing.set_down(false);
    assert!(two.runtime().block_on(first).unwrap().unwrap().accepted);
    assert_eq!(seven.runtime().block_on(second).unwrap(), Ok(()));
}

#[test]
fn a_peer_that_is_never_done_is_given_up() {
    let hasty = Options { snapshot_tries_max: 2, snapshot_install_timeout: Duration::from_millis(100), ..options() };
    let (seven, two, first) = at_work(hasty);
    let sent = send(&seven, two.id, body(10));
    assert!(matches!(sent, Err(SnapshotSendError::PeerBusy(_))), "{sent:?}");
    two.gate.installing.set_down(false);
    assert!(two.runtime().block_on(first).unwrap().unwrap().accepted);
}

#[test]
fn a_transfer_that_never_gets_further_is_given_up() {
    let one = Node::start_with(1, Options { snapshot_tries_max: 3, ..options() }, 100);
    let two = Node::start(2);
    let port = bad_way(&one, &two, SNAPSHOT_CHUNK_BYTES as u64 / 2);
    one.transport.set_peers(vec![PeerAddress::new("n2", &ip(9).to_string(), port)]).unwrap();
    one.until_up(&two);
    let sent = send(&one, two.id, body(1 << 20));
    assert!(matches!(sent, Err(SnapshotSendError::BrokenOff(_) | SnapshotSendError::Damaged(_))), "{sent:?}");
    eventually("three ends", || value(&two.counters().snapshots_receive_failed) == 3);
}

/// Sends these parts by hand, reads the last reply; the stream stays open unless it `ends`.
fn by_hand(node: &Node, parts: Vec<SnapshotPart>, ends: bool) -> Result<SnapshotReply, Status> {
    node.runtime().block_on(begin(node, parts, ends)).unwrap()
}

/// The same, while the test goes on.
fn begin(node: &Node, parts: Vec<SnapshotPart>, ends: bool) -> JoinHandle<Result<SnapshotReply, Status>> {
    let endpoint = Endpoint::from_shared(format!("http://{}", node.address)).unwrap().local_address(Some(ip(7)));
    node.runtime().spawn(async move {
        let channel: Channel = endpoint.connect().await.unwrap();
        let mut client = LinkClient::new(channel);
        let parts = tokio_stream::iter(parts);
        let answer = async {
            let replies = if ends {
                client.snapshot(parts).await
            } else {
                client.snapshot(parts.chain(tokio_stream::pending())).await
            };
            let mut replies = replies?.into_inner();
            let mut last = None;
            while let Some(reply) = replies.message().await? {
                last = Some(reply);
            }
            Ok(last.unwrap())
        };
        tokio::time::timeout(DEADLINE, answer).await.unwrap()
    })
}

fn header(total_bytes: u64) -> SnapshotPart {
    let hello = Some(Hello { version: LINK_VERSION, payload: Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 7]) });
    let header = SnapshotHeader { hello, meta: Bytes::new(), total_bytes, transfer: total_bytes };
    SnapshotPart { header: Some(header), chunk: None }
}

fn chunk(offset: u64, data: &'static [u8], crc32c: u32) -> SnapshotPart {
    SnapshotPart { header: None, chunk: Some(SnapshotChunk { offset, data: Bytes::from_static(data), crc32c }) }
}

#[test]
fn damaged_chunks_and_broken_streams_install_nothing() {
    let node = Node::start(2);
    let good = crc32c::crc32c(b"ab");
    let check =
        |parts: Vec<SnapshotPart>, ends, code| assert_eq!(by_hand(&node, parts, ends).unwrap_err().code(), code);
    check(vec![header(2), chunk(0, b"ab", good ^ 1)], false, Code::DataLoss);
    check(vec![header(2), chunk(1, b"ab", good)], false, Code::InvalidArgument);
    check(vec![header(1), chunk(0, b"ab", good)], false, Code::InvalidArgument);
    check(vec![header(3), header(3)], false, Code::DataLoss);
    check(vec![chunk(0, b"ab", good)], false, Code::InvalidArgument);
    check(vec![header(u64::MAX)], false, Code::ResourceExhausted);
    check(vec![header(3), chunk(0, b"ab", good)], true, Code::DataLoss);
    assert!(node.gate.arrived.lock().unwrap().try_recv().is_err());
    // The rest of it, and the whole of another one.
    let rest = by_hand(&node, vec![header(3), chunk(2, b"c", crc32c::crc32c(b"c"))], false).unwrap();
    assert_eq!((rest.accepted, rest.have_bytes), (true, 3));
    assert_eq!(arrived(&node).2, "abc");
    assert!(by_hand(&node, vec![header(2), chunk(0, b"ab", good)], false).unwrap().accepted);
    assert_eq!(arrived(&node).2, "ab");
}

#[test]
fn a_sender_that_stands_still_is_given_up() {
    let hasty = Options { snapshot_idle_timeout: Duration::from_millis(100), ..options() };
    let node = Node::start_with(2, hasty, 100);
    let stood_still = by_hand(&node, vec![header(3), chunk(0, b"ab", crc32c::crc32c(b"ab"))], false).unwrap_err();
    assert_eq!(stood_still.code(), Code::DeadlineExceeded);
    assert_eq!(value(&node.counters().snapshots_receive_failed), 1);
    assert!(node.gate.arrived.lock().unwrap().try_recv().is_err());
}
