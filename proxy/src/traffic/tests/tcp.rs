//! TCP pools: bytes, ends, resets, and every way to a backend.

use std::time::Duration;

use flow::Protocol;
use tokio::io::AsyncWriteExt;

use super::*;
use crate::traffic::{proxy_protocol, socket::reset_on_close};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_megabytes_come_back_unchanged() {
    let script = Script::choosing("s1", Backend::start().await.echo());
    let instance = Instance::start("127.61.0.1", &script, vec![pool("p", Protocol::Tcp)]);
    let sent = pattern(1, 20_000_000);
    let back = exchange(instance.connect("p").await, sent.clone()).await;
    assert!(back == sent, "{} of {} bytes, or others", back.len(), sent.len());
    instance.metric_becomes("rocinante_sessions_open{backend=\"s1\",pool=\"p\"}", 0).await;
    assert_eq!(instance.metric("rocinante_received_bytes{backend=\"s1\",pool=\"p\"}"), 20_000_000);
    assert_eq!(instance.metric("rocinante_sent_bytes{backend=\"s1\",pool=\"p\"}"), 20_000_000);
}

#[tokio::test]
async fn two_hundred_small_connections() {
    let script = Script::choosing("s1", Backend::start().await.echo());
    let instance = Instance::start("127.61.0.2", &script, vec![pool("p", Protocol::Tcp)]);
    let mut exchanges = Vec::new();
    for seed in 0..200 {
        let stream = instance.connect("p").await;
        exchanges.push((seed, tokio::spawn(exchange(stream, pattern(seed, 100 + seed as usize)))));
    }
    for (seed, exchange) in exchanges {
        assert_eq!(exchange.await.unwrap(), pattern(seed, 100 + seed as usize));
    }
    assert_eq!(instance.metric("rocinante_connections_total{pool=\"p\"}"), 200);
    instance.metric_becomes("rocinante_connections_open{pool=\"p\"}", 0).await;
    until("all seats left", || instance.traffic.open() == 0).await;
}

#[tokio::test]
async fn a_client_may_end_first() {
    let backend = Backend::start().await;
    let script = Script::choosing("s1", backend.address);
    let instance = Instance::start("127.61.0.3", &script, vec![pool("p", Protocol::Tcp)]);
    let mut client = instance.connect("p").await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut served = backend.accept().await;
    assert_eq!(read_to_end(&mut served).await.unwrap(), b"question");
    served.write_all(b"late answer").await.unwrap();
    drop(served);
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"late answer");
}

#[tokio::test]
async fn a_backend_may_speak_and_end_first() {
    let backend = Backend::start().await;
    let script = Script::choosing("s1", backend.address);
    let instance = Instance::start("127.61.0.4", &script, vec![pool("p", Protocol::Tcp)]);
    let mut client = instance.connect("p").await;
    let mut served = backend.accept().await;
    served.write_all(b"banner").await.unwrap();
    served.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"banner");
    client.write_all(b"still here").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut served).await.unwrap(), b"still here");
}

#[tokio::test]
async fn resets_pass_and_leave_no_socket() {
    let backend = Backend::start().await;
    let script = Script::choosing("s1", backend.address);
    let instance = Instance::start("127.61.0.5", &script, vec![pool("p", Protocol::Tcp)]);
    instance.address("p").await;
    let before = instance.sockets();
    for round in 0..50 {
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
    until("all sockets closed", || instance.sockets() == before).await;
    for reason in ["client_reset", "backend_reset"] {
        let row = format!("rocinante_errors_total{{backend=\"s1\",pool=\"p\",reason=\"{reason}\"}}");
        instance.metric_becomes(&row, 25).await;
    }
}

#[tokio::test]
async fn silence_ends_a_connection_and_traffic_does_not() {
    let script = Script::choosing("s1", Backend::start().await.echo());
    let idle = Duration::from_secs(3);
    let spec = PoolSpec { idle_timeout_ms: 3_000, pin_ttl_ms: 200, ..pool("p", Protocol::Tcp) };
    let instance = Instance::start("127.61.0.6", &script, vec![spec]);
    let mut client = instance.connect("p").await;
    let began = Instant::now();
    let mut last = began;
    while began.elapsed() < idle + idle / 4 {
        last = Instant::now();
        client.write_all(b"ping").await.unwrap();
        assert_eq!(read_exactly(&mut client, 4).await, b"ping");
        tokio::time::sleep(Duration::from_millis(20)).await; // far below the idle timeout
    }
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"");
    assert!(last.elapsed() >= idle, "cut after {:?}", last.elapsed());
    instance.metric_becomes("rocinante_errors_total{backend=\"s1\",pool=\"p\",reason=\"idle_timeout\"}", 1).await;
    assert!(script.0.touched.load(Ordering::Relaxed) >= 4, "the pin was refreshed while the connection was open");
}

#[tokio::test]
async fn a_refused_connect_is_told_and_retried_on_the_settled_choice() {
    let backend = Backend::start().await;
    let script = Script::choosing("s1", dead_address());
    let instance = Instance::start("127.61.0.7", &script, vec![pool("p", Protocol::Tcp)]);
    let mut client = instance.connect("p").await;
    until("the failure told", || script.failed() == [choice("s1", backend.address).backend]).await;
    script.settle(choice("s2", backend.address));
    let mut served = backend.accept().await;
    served.write_all(b"s2").await.unwrap();
    assert_eq!(read_exactly(&mut client, 2).await, b"s2");
    assert_eq!(instance.metric("rocinante_errors_total{backend=\"s1\",pool=\"p\",reason=\"connect_refused\"}"), 1);
    assert_eq!(instance.metric("rocinante_sessions_open{backend=\"s2\",pool=\"p\"}"), 1);
}

#[tokio::test]
async fn an_unreachable_backend_is_a_refusal_of_its_own() {
    let script = Script::choosing("s1", dead_address());
    let spec = PoolSpec { retry_for_ms: 150, ..pool("p", Protocol::Tcp) };
    let instance = Instance::start("127.61.0.8", &script, vec![spec]);
    assert_refused(&instance, "p").await;
    assert_eq!(instance.metric("rocinante_refusals_total{pool=\"p\",reason=\"unreachable_here\"}"), 1);
}

#[tokio::test]
async fn a_silent_backend_is_given_up_in_time() {
    // A listener whose backlog is full drops what comes.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let filling: Vec<_> = (0..4).map(|_| tokio::spawn(TcpStream::connect(address))).collect();
    until("a full backlog", || filling.iter().any(tokio::task::JoinHandle::is_finished)).await;
    let script = Script::choosing("s1", address);
    let spec = PoolSpec { retry_for_ms: 50, connect_timeout_ms: 200, ..pool("p", Protocol::Tcp) };
    let instance = Instance::start("127.61.0.9", &script, vec![spec]);
    assert_refused(&instance, "p").await;
    assert_eq!(instance.metric("rocinante_errors_total{backend=\"s1\",pool=\"p\",reason=\"connect_timeout\"}"), 1);
    assert_eq!(script.failed().len(), 1);
    for filler in filling {
        filler.abort();
    }
}

#[tokio::test]
async fn refusals_reset_and_say_why() {
    for (number, refusal, label) in [
        (10, Refusal::NoLease, "no_lease"),
        (11, Refusal::Timeout, "timeout"),
        (12, Refusal::NoBackend, "no_backend"),
        (13, Refusal::Overloaded, "overloaded"),
    ] {
        let script = Script::refusing(refusal);
        let instance = Instance::start(&format!("127.61.0.{number}"), &script, vec![pool("p", Protocol::Tcp)]);
        assert_refused(&instance, "p").await;
        assert_eq!(instance.metric(&format!("rocinante_refusals_total{{pool=\"p\",reason=\"{label}\"}}")), 1);
    }
}

#[tokio::test]
async fn the_backend_is_told_who_the_client_is() {
    let backend = Backend::start().await;
    let script = Script::choosing("s1", backend.address);
    let spec = PoolSpec { send_proxy: true, ..pool("p", Protocol::Tcp) };
    let instance = Instance::start("127.61.0.14", &script, vec![spec]);
    let mut client = instance.connect("p").await;
    client.write_all(b"hello").await.unwrap();
    let mut served = backend.accept().await;
    let header = proxy_protocol::header(client.local_addr().unwrap(), client.peer_addr().unwrap());
    assert_eq!(read_exactly(&mut served, header.len()).await, header);
    assert_eq!(read_exactly(&mut served, 5).await, b"hello");
    assert_eq!(served.peer_addr().unwrap().ip(), instance.own, "backends are reached from the instance's own address");
}

#[tokio::test]
async fn more_than_the_most_connections_are_shed() {
    let script = Script::choosing("s1", Backend::start().await.echo());
    let spec = PoolSpec { max_connections: 2, ..pool("p", Protocol::Tcp) };
    let instance = Instance::start("127.61.0.15", &script, vec![spec]);
    let (mut first, mut second) = (instance.connect("p").await, instance.connect("p").await);
    for client in [&mut first, &mut second] {
        client.write_all(b"x").await.unwrap();
        assert_eq!(read_exactly(client, 1).await, b"x");
    }
    assert_refused(&instance, "p").await;
    assert_eq!(instance.metric("rocinante_refusals_total{pool=\"p\",reason=\"max_connections\"}"), 1);
    drop(first);
    instance.metric_becomes("rocinante_connections_open{pool=\"p\"}", 1).await;
    let mut third = instance.connect("p").await;
    third.write_all(b"y").await.unwrap();
    assert_eq!(read_exactly(&mut third, 1).await, b"y");
}

#[tokio::test]
async fn a_lapsed_choice_is_made_anew_before_any_byte() {
    let (old, new) = (Backend::start().await, Backend::start().await);
    let script = Script::choosing("s1", old.address);
    script.0.lapsed.lock().unwrap().push(choice("s1", old.address).backend);
    *script.0.anew.lock().unwrap() = Some(choice("s2", new.address));
    let instance = Instance::start("127.61.0.16", &script, vec![pool("p", Protocol::Tcp)]);
    let mut client = instance.connect("p").await;
    client.write_all(b"hello").await.unwrap();
    assert_eq!(read_exactly(&mut new.accept().await, 5).await, b"hello");
    assert_eq!(read_to_end(&mut old.accept().await).await.unwrap(), b"");
    assert_eq!(instance.metric("rocinante_errors_total{backend=\"s1\",pool=\"p\",reason=\"choice_lapsed\"}"), 1);
    assert!(script.failed().is_empty(), "a lapsed choice is no failure of the backend");
}

#[tokio::test]
async fn a_slow_reader_holds_only_its_own_connection() {
    let backend = Backend::start().await;
    let script = Script::choosing("s1", backend.address);
    let instance = Instance::start("127.61.0.17", &script, vec![pool("p", Protocol::Tcp)]);
    let mut slow = instance.connect("p").await;
    let mut to_slow = backend.accept().await;
    let bytes = pattern(3, 30_000_000);
    let expected = bytes.clone();
    let sending = tokio::spawn(async move {
        to_slow.write_all(&bytes).await.unwrap();
    });
    let mut other = instance.connect("p").await;
    let mut to_other = backend.accept().await;
    to_other.write_all(b"quick").await.unwrap();
    assert_eq!(read_exactly(&mut other, 5).await, b"quick");
    assert!(read_to_end(&mut slow).await.unwrap() == expected);
    sending.await.unwrap();
}
