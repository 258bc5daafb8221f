//! What does not fit is dropped and counted, and nobody on the port can harm those who behave.

use tokio_stream::StreamExt;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::super::generated::link_client::LinkClient;
use super::super::generated::{Hello, LinkRequest};
use super::*;

#[test]
fn the_page_on_the_protocol_has_every_limit() {
    let page = include_str!("../../../../docs/protocol.md");
    let options = Options::default();
    let limits = [
        ("bytes of a frame", FRAME_BYTES_MAX as u64),
        ("bytes of a message that merges frames", BATCH_BYTES_MAX as u64),
        ("frames in a message", BATCH_FRAMES_MAX as u64),
        ("bytes of frames that wait for a link", options.queue_bytes_max as u64),
        ("frames that wait for a link", options.queue_frames_max as u64),
        ("peers", PEERS_MAX as u64),
        ("links from peers", options.inbound_links_max as u64),
        ("streams that wait for their hello", options.hellos_pending_max as u64),
        ("streams of a connection", STREAMS_PER_CONNECTION_MAX.into()),
        ("bytes of a chunk", SNAPSHOT_CHUNK_BYTES as u64),
        ("bytes of a snapshot that comes in", options.snapshot_bytes_max),
        ("snapshots that come in at a time", options.snapshots_inbound_max as u64),
        ("tries of a transfer that bring nothing new", options.snapshot_tries_max.into()),
        ("`version`", LINK_VERSION.into()),
    ];
    for (name, limit) in limits {
        assert!(page.contains(&format!("\n| {name} | {limit}")), "docs/protocol.md: {name} is {limit}");
    }
    for code in [Refused::VERSION, Refused::IDENTITY, Refused::UNTRUSTED] {
        assert!(page.contains(&format!("\n| {code} | ")), "docs/protocol.md lacks code {code}");
    }
}

#[test]
fn a_full_queue_drops_counts_and_recovers() {
    const FRAME: usize = 64 << 10;
    let small = Options { queue_bytes_max: 1 << 20, ..options() };
    let one = Node::start_with(1, small, 100);
    let barrier = Arc::new(Barrier::default());
    let (sender, events) = sync_channel(1 << 16);
    let inbox = Stalling { barrier: barrier.clone(), events: sender };
    let two = Node::start_at(2, (ip(2), 0).into(), options(), Arc::new(inbox), events);
    one.set_peers(&[&two]);
    one.until_up(&two);

    barrier.set_down(true);
    let mut sent = 0;
    let deadline = Instant::now() + DEADLINE;
    let frame = Bytes::from(vec![1; FRAME]);
    while value(&one.counters().dropped_queue_full) == 0 {
        assert!(Instant::now() < deadline);
        sent += usize::from(one.transport.send(two.id, frame.clone()));
        assert!(sent * FRAME < 64 << 20, "the queue grows");
    }
    barrier.set_down(false);
    for _ in 0..sent {
        assert_eq!(two.until_frame().1.len(), FRAME);
    }
    check_alive(&one, &two);
    assert_eq!(value(&one.counters().links_opened), 1);
    let counters = one.counters();
    assert!(value(&counters.messages_sent) < value(&counters.frames_sent), "waiting frames travel together");
}

#[test]
fn a_full_inbox_drops_frames_but_no_news_of_links() {
    let (one, two) = (Node::start(1), Node::start_with(2, options(), 1));
    one.set_peers(&[&two]);
    one.until_up(&two);
    for _ in 0..100 {
        assert!(one.transport.send(two.id, Bytes::from_static(b"x")));
    }
    eventually("drops", || value(&two.counters().dropped_inbox_full) == 99);
    two.set_peers(&[&one]);
    eventually("delayed news", || value(&two.counters().events_delayed) > 0);
    two.until_up(&one);
    check_alive(&one, &two);
}

#[test]
fn frames_have_a_largest_size() {
    let (one, two) = pair(1, 2);
    assert!(!one.transport.send(two.id, Bytes::from(vec![0; FRAME_BYTES_MAX + 1])));
    assert_eq!(value(&one.counters().dropped_oversized), 1);
    let largest = Bytes::from(vec![3; FRAME_BYTES_MAX]);
    assert!(one.transport.send(two.id, largest.clone()));
    assert_eq!(two.until_frame().1, largest);
}

#[test]
fn a_stalled_peer_loses_its_link() {
    let hasty = Options { ping_interval: Duration::from_millis(20), pings_unanswered_max: 3, ..options() };
    let one = Node::start_with(1, hasty, 100);
    let barrier = Arc::new(Barrier::default());
    let (sender, events) = sync_channel(1 << 16);
    let inbox = Stalling { barrier: barrier.clone(), events: sender };
    let two = Node::start_at(2, (ip(2), 0).into(), options(), Arc::new(inbox), events);
    one.set_peers(&[&two]);
    one.until_up(&two);
    barrier.set_down(true);
    // On a busy machine the link may have been lost before.
    eventually("a link to stall", || one.transport.send(two.id, Bytes::from_static(b"stall")));
    one.until_down(false);
    barrier.set_down(false);
    one.until_up(&two);
}

#[test]
fn a_mute_listener_is_left_in_time() {
    let hasty = Options { hello_timeout: Duration::from_millis(30), ..options() };
    let mut one = Node::start_with(1, hasty, 100);
    let mute = std::net::TcpListener::bind((ip(2), 0)).unwrap();
    one.transport
        .set_peers(vec![PeerAddress::new("mute", &ip(2).to_string(), mute.local_addr().unwrap().port())])
        .unwrap();
    eventually("several tries", || value(&one.counters().dials_failed) >= 3);
    assert_eq!(value(&one.counters().links_opened), 0);
    one.shutdown();
    eventually("the end of all tasks", || one.runtime().metrics().num_alive_tasks() == 0);
}

#[test]
fn garbage_on_the_port_harms_nobody() {
    let hasty = Options { hello_timeout: Duration::from_secs(1), ..options() };
    let one = Node::start(1);
    let two = Node::start_with(2, hasty, 1 << 16);
    one.set_peers(&[&two]);
    one.until_up(&two);
    let preface: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let http1: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    let huge_frame = [preface, &[0xff; 64]].concat();
    let endless_headers =
        [preface, &[0, 0, 0, 4, 0, 0, 0, 0, 0], &[0, 64, 0, 1, 0, 0, 0, 0, 1], &[0x40; 20_000]].concat();
    for garbage in [&[0u8; 4096][..], &[0xff; 100], http1, &huge_frame, &endless_headers, &preface[..10], b""] {
        let mut stream = TcpStream::connect(two.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        // The other side may close while this is written.
        let written = stream.write_all(garbage);
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let waited_in_vain = read
            .as_ref()
            .is_err_and(|error| matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut));
        assert!(
            !waited_in_vain,
            "{written:?} {read:?} on {} bytes beginning with {:?}",
            garbage.len(),
            garbage.first()
        );
        check_alive(&one, &two);
    }
    eventually("two silent connections", || value(&two.counters().connections_silent) >= 2);
    assert_eq!(value(&one.counters().links_opened), 1);
}

#[test]
fn too_many_connections_are_sent_away() {
    let (one, two) = (Node::start(1), Node::start(2));
    one.set_peers(&[&two]);
    one.until_up(&two);
    let mut idle: Vec<TcpStream> = (0..2 * CONNECTIONS_MAX).map(|_| TcpStream::connect(two.address).unwrap()).collect();
    let shed = (CONNECTIONS_MAX + 1) as u64;
    eventually("shed connections", || value(&two.counters().connections_shed) == shed);
    let last = idle.last_mut().unwrap();
    last.set_read_timeout(Some(DEADLINE)).unwrap();
    assert!(matches!(last.read(&mut [0; 1]), Ok(0) | Err(_)));
    check_alive(&one, &two);
    drop(idle);
}

/// A client that speaks the protocol by hand.
async fn by_hand(node: &Node) -> LinkClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", node.address)).unwrap().local_address(Some(ip(7)));
    LinkClient::new(endpoint.connect().await.unwrap())
}

fn hello(version: u32, payload: &'static [u8]) -> LinkRequest {
    let hello = Some(Hello { version, payload: Bytes::from_static(payload) });
    LinkRequest { hello, ..LinkRequest::default() }
}

const SEVEN: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 7];

#[test]
fn a_silent_stream_ends() {
    let hasty = Options { hello_timeout: Duration::from_millis(50), ..options() };
    let (sender, events) = sync_channel(100);
    let node = Node::start_patient(2, (ip(2), 0).into(), hasty, DEADLINE, Arc::new(sender), events);
    node.runtime().block_on(async {
        let mut client = by_hand(&node).await;
        let silent = client.link(tokio_stream::pending()).await.unwrap_err();
        assert_eq!(silent.code(), Code::DeadlineExceeded);
    });
    assert_eq!(value(&node.counters().inbound_hellos_missing), 1);
    assert_eq!(value(&node.counters().inbound_links_opened), 0);
    assert!(node.events.try_recv().is_err());
}

#[test]
fn a_stream_that_begins_without_a_hello_ends() {
    let node = Node::start(2);
    node.runtime().block_on(async {
        let mut client = by_hand(&node).await;
        let frames = LinkRequest { frames: vec![Bytes::from_static(b"no hello")], ..LinkRequest::default() };
        let rude = client.link(tokio_stream::once(frames)).await.unwrap_err();
        assert_eq!(rude.code(), Code::InvalidArgument);
        let empty = client.link(tokio_stream::empty()).await.unwrap_err();
        assert_eq!(empty.code(), Code::InvalidArgument);
    });
    assert_eq!(value(&node.counters().inbound_hellos_missing), 2);
    assert_eq!(value(&node.counters().inbound_links_opened), 0);
    assert!(node.events.try_recv().is_err());
}

#[test]
fn another_version_and_a_malformed_hello_are_refused() {
    let node = Node::start(2);
    let answer = |request| {
        node.runtime().block_on(async {
            let mut client = by_hand(&node).await;
            let mut replies = client.link(tokio_stream::once(request)).await.unwrap().into_inner();
            let hello = replies.message().await.unwrap().unwrap().hello.unwrap();
            assert!(replies.message().await.unwrap().is_none());
            hello
        })
    };
    let other_version = answer(hello(LINK_VERSION + 1, SEVEN));
    assert_eq!((other_version.accepted, other_version.code), (false, Refused::VERSION));
    assert!(other_version.text.contains(&format!("only {LINK_VERSION}")), "{}", other_version.text);
    let malformed = answer(hello(LINK_VERSION, b"what"));
    assert_eq!((malformed.accepted, malformed.code), (false, 1));
    assert_eq!(value(&node.counters().inbound_hellos_refused), 2);
}

#[test]
fn a_link_that_breaks_the_rules_is_closed_alone() {
    let (one, two) = pair(1, 2);
    let oversized = LinkRequest { frames: vec![Bytes::from(vec![0; MESSAGE_BYTES_MAX])], ..LinkRequest::default() };
    let too_many = LinkRequest { frames: vec![Bytes::new(); BATCH_FRAMES_MAX + 1], ..LinkRequest::default() };
    for bad in [oversized, too_many, hello(LINK_VERSION, SEVEN)] {
        two.runtime().block_on(async {
            let mut client = by_hand(&two).await;
            // The request stream stays open, so it is the other side that ends the link.
            let requests = tokio_stream::iter([hello(LINK_VERSION, SEVEN), bad]).chain(tokio_stream::pending());
            let mut replies = client.link(requests).await.unwrap().into_inner();
            while let Ok(Some(_)) = replies.message().await {}
        });
        check_alive(&one, &two);
    }
    eventually("the end of the links", || value(&two.counters().inbound_links_closed) == 3);
    assert_eq!(value(&two.counters().inbound_links_broken), 3);
    assert_eq!(value(&one.counters().links_opened), 1);
}

#[test]
fn a_frame_above_the_limit_in_a_message_below_it_is_dropped() {
    let node = Node::start(2);
    node.runtime().block_on(async {
        let mut client = by_hand(&node).await;
        let frames = vec![Bytes::from(vec![0; FRAME_BYTES_MAX + 1]), Bytes::from_static(b"fits")];
        let request = LinkRequest { frames, ping: 3, ..LinkRequest::default() };
        let mut replies =
            client.link(tokio_stream::iter([hello(LINK_VERSION, SEVEN), request])).await.unwrap().into_inner();
        assert!(replies.message().await.unwrap().unwrap().hello.unwrap().accepted);
        assert_eq!(replies.message().await.unwrap().unwrap().pong, 3);
    });
    assert_eq!(node.until_frame(), (NodeId(7), Bytes::from_static(b"fits")));
    assert_eq!(value(&node.counters().dropped_received_oversized), 1);
}

#[test]
fn a_second_link_of_one_sender_replaces_the_first() {
    let node = Node::start(2);
    node.runtime().block_on(async {
        let mut client = by_hand(&node).await;
        let open = || tokio_stream::once(hello(LINK_VERSION, SEVEN)).chain(tokio_stream::pending());
        let mut first = client.link(open()).await.unwrap().into_inner();
        assert!(first.message().await.unwrap().is_some());
        let mut second = client.link(open()).await.unwrap().into_inner();
        assert!(second.message().await.unwrap().is_some());
        assert!(first.message().await.unwrap().is_none());
        assert_eq!(value(&node.counters().inbound_links_opened), 2);
    });
}
