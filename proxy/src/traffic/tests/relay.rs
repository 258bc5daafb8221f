//! Connections through a peer: two data paths in one process, of which only one reaches the backend.

use flow::Protocol;
use tokio::io::AsyncWriteExt;
use tokio_stream::wrappers::TcpListenerStream;

use super::*;
use crate::traffic::socket::reset_on_close;

/// The peer, with its gRPC port.
pub(super) struct Peer {
    pub(super) instance: Instance,
    pub(super) grpc: SocketAddr,
}

impl Peer {
    /// A peer for which `name` is a member at `address`.
    pub(super) async fn start(own: &str, name: &str, address: Option<SocketAddr>) -> Self {
        let script = Script::default();
        if let Some(address) = address {
            let member = Member { address, transparent: false };
            script.0.members.lock().unwrap().insert(choice(name, address).backend, member);
        }
        Self::of(own, script).await
    }

    /// A peer for which the fleet is as `script` says.
    pub(super) async fn of(own: &str, script: Script) -> Self {
        let instance = Instance::start(own, &script, Vec::new());
        let listener = TcpListener::bind((own, 0)).await.unwrap();
        let grpc = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(instance.traffic.relay_service())
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        Self { instance, grpc }
    }
}

/// An instance that cannot reach `s1` but has `peer` for it.
async fn cut_off(own: &str, peer: &Peer, spec: PoolSpec) -> (Instance, Script) {
    let script = Script::choosing("s1", dead_address());
    script.0.relays.lock().unwrap().push(peer.grpc);
    (Instance::start(own, &script, vec![spec]), script)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_go_both_ways_through_a_peer() {
    let backend = Backend::start().await.echo();
    let peer = Peer::start("127.63.0.2", "s1", Some(backend)).await;
    let (instance, script) = cut_off("127.63.0.1", &peer, pool("p", Protocol::Tcp)).await;
    let sent = pattern(5, 5_000_000);
    assert!(exchange(instance.connect("p").await, sent.clone()).await == sent);
    assert_eq!(script.failed().len(), 1, "a connect that failed is told even when a peer helps");
    instance.metric_becomes("rocinante_sessions_open{backend=\"s1\",pool=\"p\"}", 0).await;
    assert_eq!(instance.metric("rocinante_received_bytes{backend=\"s1\",pool=\"p\"}"), 5_000_000);
    assert_eq!(instance.metric("rocinante_sent_bytes{backend=\"s1\",pool=\"p\"}"), 5_000_000);
    peer.instance.metric_becomes("rocinante_relays_open", 0).await;
    assert_eq!(peer.instance.metric("rocinante_relays_total{outcome=\"connected\"}"), 1);
}

#[tokio::test]
async fn half_close_passes_a_relay_each_way() {
    let backend = Backend::start().await;
    let peer = Peer::start("127.63.0.4", "s1", Some(backend.address)).await;
    let spec = PoolSpec { send_proxy: true, ..pool("p", Protocol::Tcp) };
    let (instance, _script) = cut_off("127.63.0.3", &peer, spec).await;

    let mut client = instance.connect("p").await;
    let mut served = backend.accept().await;
    assert_eq!(served.peer_addr().unwrap().ip(), peer.instance.own);
    assert_eq!(&read_exactly(&mut served, 28).await[..5], b"\r\n\r\n\0", "the PROXY header passes the relay");
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut served).await.unwrap(), b"question");
    served.write_all(b"late answer").await.unwrap();
    drop(served);
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"late answer");

    let mut client = instance.connect("p").await;
    let mut served = backend.accept().await;
    read_exactly(&mut served, 28).await;
    served.write_all(b"banner").await.unwrap();
    served.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"banner");
    client.write_all(b"still here").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut served).await.unwrap(), b"still here");
    peer.instance.metric_becomes("rocinante_relays_open", 0).await;
}

#[tokio::test]
async fn resets_pass_a_relay_and_leave_nothing() {
    let backend = Backend::start().await;
    let peer = Peer::start("127.63.0.6", "s1", Some(backend.address)).await;
    let (instance, _script) = cut_off("127.63.0.5", &peer, pool("p", Protocol::Tcp)).await;
    for round in 0..6 {
        let mut client = instance.connect("p").await;
        let mut served = backend.accept().await;
        client.write_all(b"x").await.unwrap();
        assert_eq!(read_exactly(&mut served, 1).await, b"x");
        if round % 2 == 0 {
            reset_on_close(&client);
            drop(client);
            assert_reset(&mut served).await;
        } else {
            reset_on_close(&served);
            drop(served);
            assert_reset(&mut client).await;
        }
    }
    peer.instance.metric_becomes("rocinante_relays_open", 0).await;
    instance.metric_becomes("rocinante_sessions_open{backend=\"s1\",pool=\"p\"}", 0).await;
}

#[tokio::test]
async fn a_peer_relays_only_to_members_and_says_when_it_cannot() {
    let stranger = Peer::start("127.63.0.8", "s1", None).await;
    let unlucky = Peer::start("127.63.0.9", "s1", Some(dead_address())).await;
    let script = Script::choosing("s1", dead_address());
    script.0.relays.lock().unwrap().extend([stranger.grpc, unlucky.grpc]);
    let spec = PoolSpec { retry_for_ms: 5_000, ..pool("p", Protocol::Tcp) };
    let instance = Instance::start("127.63.0.7", &script, vec![spec]);
    assert_refused(&instance, "p").await;
    assert_eq!(instance.metric("rocinante_refusals_total{pool=\"p\",reason=\"unreachable_here\"}"), 1);
    assert_eq!(stranger.instance.metric("rocinante_relays_total{outcome=\"REASON_NOT_A_MEMBER\"}"), 1);
    assert_eq!(unlucky.instance.metric("rocinante_relays_total{outcome=\"REASON_UNREACHABLE\"}"), 1);
}

#[tokio::test]
async fn a_settled_choice_is_better_than_a_slow_relay() {
    let backend = Backend::start().await;
    // Takes connections and never answers.
    let mute = TcpListener::bind("127.63.0.11:0").await.unwrap();
    let script = Script::choosing("s1", dead_address());
    script.0.relays.lock().unwrap().push(mute.local_addr().unwrap());
    let instance = Instance::start("127.63.0.10", &script, vec![pool("p", Protocol::Tcp)]);
    let mut client = instance.connect("p").await;
    let _asked = soon("the relay asked", mute.accept()).await.unwrap();
    script.settle(choice("s2", backend.address));
    backend.accept().await.write_all(b"s2").await.unwrap();
    assert_eq!(read_exactly(&mut client, 2).await, b"s2");
}

#[tokio::test]
async fn a_peer_that_is_cut_resets_what_it_carried() {
    let backend = Backend::start().await;
    let peer = Peer::start("127.63.0.13", "s1", Some(backend.address)).await;
    let (instance, _script) = cut_off("127.63.0.12", &peer, pool("p", Protocol::Tcp)).await;
    let mut client = instance.connect("p").await;
    let mut served = backend.accept().await;
    client.write_all(b"x").await.unwrap();
    assert_eq!(read_exactly(&mut served, 1).await, b"x");
    soon("the cut", peer.instance.traffic.drain(Duration::from_millis(1))).await;
    assert_reset(&mut client).await;
    let fault = "rocinante_errors_total{backend=\"s1\",pool=\"p\",reason=\"relay_broken\"}";
    instance.metric_becomes(fault, 1).await;
}
