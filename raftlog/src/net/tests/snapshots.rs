//! Snapshots arrive whole or not at all.

use std::num::NonZeroU64;

use tokio_stream::StreamExt;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::super::generated::link_client::LinkClient;
use super::super::generated::{Hello, SnapshotChunk, SnapshotHeader, SnapshotPart, SnapshotReply};
use super::*;

/// Sends and waits for the end.
fn send(from: &Node, to: NodeId, body: Bytes) -> Result<(), SnapshotSendError> {
    let sent = from.transport.send_snapshot(to, Bytes::from_static(b"meta"), body);
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
    let sending = one.transport.send_snapshot(two.id, Bytes::from_static(b"meta"), large.clone());
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
    let sent = one.runtime().block_on(one.transport.send_snapshot(two.id, meta, Bytes::new())).unwrap();
    assert_eq!(sent, Err(SnapshotSendError::MetaTooLarge(MESSAGE_BYTES_MAX)));
}

#[test]
fn one_at_a_time_per_peer() {
    let (one, two) = pair(1, 2);
    two.gate.installing.set_down(true);
    let first = one.transport.send_snapshot(two.id, Bytes::new(), body(10));
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
    // What was installed gave its room back.
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
    let hasty = Options { snapshot_idle_timeout: Duration::from_millis(100), ..options() };
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
    let sending = one.transport.send_snapshot(two.id, Bytes::new(), body(10));
    eventually("arrival", || value(&two.counters().snapshot_bytes_received) == 10);
    one.transport.set_peers(Vec::new()).unwrap();
    assert_eq!(one.runtime().block_on(sending).unwrap(), Err(SnapshotSendError::Closed));
    two.gate.installing.set_down(false);
}

/// Sends these parts by hand; the stream stays open unless it `ends`.
fn by_hand(node: &Node, parts: Vec<SnapshotPart>, ends: bool) -> Result<SnapshotReply, Status> {
    node.runtime().block_on(async {
        let endpoint = Endpoint::from_shared(format!("http://{}", node.address)).unwrap().local_address(Some(ip(7)));
        let channel: Channel = endpoint.connect().await.unwrap();
        let mut client = LinkClient::new(channel);
        let parts = tokio_stream::iter(parts);
        let answer = async {
            if ends {
                client.snapshot(parts).await
            } else {
                client.snapshot(parts.chain(tokio_stream::pending())).await
            }
        };
        tokio::time::timeout(DEADLINE, answer).await.unwrap().map(|reply| reply.into_inner())
    })
}

fn header(total: &[u8]) -> SnapshotPart {
    let hello = Some(Hello { version: LINK_VERSION, payload: Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 7]) });
    let crc32c = crc32c::crc32c(total);
    let header = SnapshotHeader { hello, meta: Bytes::new(), total_bytes: total.len() as u64, crc32c };
    SnapshotPart { header: Some(header), chunk: None }
}

fn chunk(data: &'static [u8], crc32c: u32) -> SnapshotPart {
    SnapshotPart { header: None, chunk: Some(SnapshotChunk { data: Bytes::from_static(data), crc32c }) }
}

#[test]
fn damaged_chunks_and_broken_streams_install_nothing() {
    let node = Node::start(2);
    let good = crc32c::crc32c(b"ab");
    let check =
        |parts: Vec<SnapshotPart>, ends, code| assert_eq!(by_hand(&node, parts, ends).unwrap_err().code(), code);
    check(vec![header(b"ab"), chunk(b"ab", good ^ 1)], false, Code::DataLoss);
    check(vec![header(b"ba"), chunk(b"ab", good)], false, Code::DataLoss);
    check(vec![header(b"abc"), chunk(b"ab", good)], true, Code::DataLoss);
    check(vec![header(b"a"), chunk(b"ab", good)], false, Code::InvalidArgument);
    check(vec![chunk(b"ab", good)], false, Code::InvalidArgument);
    assert_eq!(value(&node.counters().snapshots_receive_failed), 5);
    assert!(node.gate.arrived.lock().unwrap().try_recv().is_err());
    assert!(by_hand(&node, vec![header(b"ab"), chunk(b"ab", good)], false).unwrap().accepted);
    assert_eq!(arrived(&node).2, "ab");
}

#[test]
fn a_sender_that_stands_still_is_given_up() {
    let hasty = Options { snapshot_idle_timeout: Duration::from_millis(100), ..options() };
    let node = Node::start_with(2, hasty, 100);
    let stood_still = by_hand(&node, vec![header(b"abc"), chunk(b"ab", crc32c::crc32c(b"ab"))], false).unwrap_err();
    assert_eq!(stood_still.code(), Code::DeadlineExceeded);
    assert_eq!(value(&node.counters().snapshots_receive_failed), 1);
    assert!(node.gate.arrived.lock().unwrap().try_recv().is_err());
}
