//! Peers that do not answer, clients that do not read, backends that are gone: whom that must not touch.

use flow::Protocol;
use tokio::io::AsyncWriteExt;

use super::{relay::Peer, *};
use crate::traffic::{
    Phase,
    accept::Serving,
    counters::Metrics,
    http::Front,
    limits,
    listeners::{Listeners, Supervisor},
    relay::{Caller, Carried},
    upstream::Shared,
    workers::Workers,
};

/// An address that takes connections and never answers; keep the listener.
async fn mute(own: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((own, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test]
async fn a_silent_peer_does_not_keep_the_next_from_being_asked() {
    let backend = Backend::start().await.echo();
    let (_listener, silent) = mute("127.63.1.1").await;
    let peer = Peer::start("127.63.1.2", "s1", Some(backend)).await;
    let script = Script::choosing("s1", dead_address());
    script.0.relays.lock().unwrap().extend([silent, peer.grpc]);
    let spec = PoolSpec { retry_for_ms: 4_000, ..pool("p", Protocol::Tcp) };
    let instance = Instance::start("127.63.1.3", &script, vec![spec]);
    let sent = pattern(3, 1_000);
    assert!(exchange(instance.connect("p").await, sent.clone()).await == sent);
}

/// Asks `peer` for a connection to `s1`.
async fn open(caller: &Caller, peer: &Peer, address: SocketAddr) -> Carried {
    let (backend, client) = (choice("s1", address).backend, "192.0.2.1:1".parse().unwrap());
    let deadline = Instant::now() + PATIENCE;
    caller.open(peer.grpc, backend, client, &pool("p", Protocol::Tcp), deadline).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_connections_than_a_channel_has_streams_go_through_a_peer() {
    let backend = Backend::start().await.echo();
    let peer = Peer::start("127.63.1.4", "s1", Some(backend)).await;
    let caller = Caller::new(connector("127.63.1.5".parse().unwrap()));
    let mut carried = Vec::new();
    for _ in 0..2 * limits::RELAYS_PER_CHANNEL + 1 {
        carried.push(open(&caller, &peer, backend).await);
    }
    let open = i64::try_from(carried.len()).unwrap();
    peer.instance.metric_becomes("rocinante_relays_open", open.try_into().unwrap()).await;
    assert_eq!(caller.channels_to(peer.grpc), 3);
    drop(carried);
    peer.instance.metric_becomes("rocinante_relays_open", 0).await;
    let _one = self::open(&caller, &peer, backend).await;
    assert_eq!(caller.channels_to(peer.grpc), 1, "what is free is let go, but for what is needed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_read_stall_nobody_else() {
    let backend = Backend::start().await;
    let peer = Peer::start("127.63.1.6", "s1", Some(backend.address)).await;
    let script = Script::choosing("s1", dead_address());
    script.0.relays.lock().unwrap().push(peer.grpc);
    let instance = Instance::start("127.63.1.7", &script, vec![pool("p", Protocol::Tcp)]);
    // Each is sent more than all buffers hold, and reads nothing.
    let mut stalled = Vec::new();
    for _ in 0..8 {
        let client = instance.connect("p").await;
        let mut served = backend.accept().await;
        let sending = tokio::spawn(async move { served.write_all(&vec![0; 64 << 20]).await });
        stalled.push((client, sending));
    }
    let sent = || peer.instance.metric("rocinante_relays_open");
    until("all are relayed", || sent() == 8).await;
    let mut last = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await; // what moves is seen to have ended
        let now = instance.metric("rocinante_sent_bytes{backend=\"s1\",pool=\"p\"}");
        if now == last && now > 0 {
            break;
        }
        last = now;
    }
    let mut client = instance.connect("p").await;
    let mut served = backend.accept().await;
    served.write_all(&pattern(9, 1_000_000)[..]).await.unwrap();
    assert!(read_exactly(&mut client, 1_000_000).await == pattern(9, 1_000_000));
    assert!(stalled.iter().all(|(_, sending)| !sending.is_finished()), "the others were stalled indeed");
    for (_, sending) in stalled {
        sending.abort();
    }
}

#[tokio::test]
async fn a_refusal_of_ours_is_no_answer_of_the_backend() {
    let script = Script::choosing("s1", dead_address());
    let spec = PoolSpec { retry_for_ms: 200, ..pool("p", Protocol::Http) };
    let instance = Instance::start("127.63.1.8", &script, vec![spec]);
    let mut client = instance.connect("p").await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let answer = String::from_utf8(read_to_end(&mut client).await.unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    instance.metric_becomes("rocinante_refusals_total{pool=\"p\",reason=\"unreachable_here\"}", 1).await;
    let row = "rocinante_responses_total{backend=\"s1\",class=\"5xx\",pool=\"p\"}";
    instance.metric_becomes("rocinante_sessions_open{backend=\"s1\",pool=\"p\"}", 0).await;
    assert_eq!(instance.metric(row), 0);
    assert_eq!(instance.metric("rocinante_errors_total{backend=\"s1\",pool=\"p\",reason=\"connect_refused\"}"), 1);
}

#[tokio::test]
async fn a_pool_that_a_worker_cannot_accept_for_says_so_and_listens_again() {
    let (_phase, phases) = watch::channel(Phase::Serving);
    let (workers, _gone) = Workers::start(1, &phases).unwrap();
    let own = "127.63.1.9".parse().unwrap();
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let errors = metrics.accept_errors.clone();
    let backend = Backend::start().await;
    let chooser = Script::choosing("s1", backend.address);
    let shared = Arc::new(Shared { chooser, own, caller: Caller::new(connector(own)), metrics });
    let (_draining, drains) = watch::channel(false);
    let fronts = vec![Front::new(&shared, Limits::default(), drains)];
    let (status, mut listeners) = watch::channel(Listeners::default());
    let supervisor = Supervisor::new(Arc::new(Serving { shared, workers, fronts }), own, status);
    let specs = vec![pool("p", Protocol::Tcp)];
    let supervisor = supervisor.stopped(&specs).await;
    let (_pools, followed) = watch::channel(Arc::new(specs));
    tokio::spawn(supervisor.run(followed, phases));
    let failed = |all: &Listeners| all.iter().any(|one| one.error.as_ref().is_some_and(|why| why.contains("accept")));
    soon("the failure", listeners.wait_for(failed)).await.unwrap();
    assert_eq!(errors.get(), 1);
    let listens = |all: &Listeners| all.iter().any(|one| one.error.is_none());
    let address = soon("listening", listeners.wait_for(listens)).await.unwrap()[0].address;
    let _client = soon("connect", TcpStream::connect(address)).await.unwrap();
    backend.accept().await;
}
