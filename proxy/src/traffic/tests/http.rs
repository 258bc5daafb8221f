//! HTTP pools: requests, what is no request, and every way to a backend.

use bytes::Bytes;
use flow::Protocol;
use tokio::io::AsyncWriteExt;

use super::{relay::Peer, *};
use crate::traffic::socket::reset_on_close;

/// A message of HTTP/1: its first line, its fields, its body.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) start: String,
    fields: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Message {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// The next message on `stream`; `None` at its end.
pub(super) async fn read_message(stream: &mut TcpStream) -> Option<Message> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match soon("a head", stream.read(&mut byte)).await {
            Ok(1) => head.push(byte[0]),
            Ok(_) | Err(_) if head.is_empty() => return None,
            end => panic!("half a head: {:?}, then {end:?}", String::from_utf8_lossy(&head)),
        }
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let start = lines.next().unwrap().to_owned();
    let fields = lines.map(|line| line.split_once(": ").map(|(n, v)| (n.to_owned(), v.to_owned())).unwrap()).collect();
    let mut message = Message { start, fields, body: Vec::new() };
    if let Some(length) = message.field("content-length") {
        message.body = read_exactly(stream, length.parse().unwrap()).await;
    } else if message.field("transfer-encoding") == Some("chunked") {
        message.body = read_chunks(stream).await;
    }
    Some(message)
}

async fn read_chunks(stream: &mut TcpStream) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.extend(read_exactly(stream, 1).await);
        }
        let size = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
        body.extend(&read_exactly(stream, size + 2).await[..size]);
        if size == 0 {
            return body;
        }
    }
}

async fn send(stream: &mut TcpStream, text: &str) {
    soon("sending", stream.write_all(text.as_bytes())).await.unwrap();
}

/// Sends `text` and reads the answer.
pub(super) async fn ask(stream: &mut TcpStream, text: &str) -> Message {
    send(stream, text).await;
    read_message(stream).await.expect("an answer")
}

impl Backend {
    /// Answers every request with its name, then the request's own start, fields and body as it came; counts
    /// connections.
    fn answer(self, name: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
        let (address, connections) = (self.address, Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = self.listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    while let Some(request) = read_message(&mut stream).await {
                        let mut text = format!("{name}\n{}\n", request.start);
                        for (field, value) in &request.fields {
                            text += &format!("{}: {value}\n", field.to_lowercase());
                        }
                        let length = text.len() + request.body.len();
                        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{text}");
                        stream.write_all(&[head.as_bytes(), &request.body].concat()).await.unwrap();
                    }
                });
            }
        });
        (address, connections)
    }
}

fn http_pool() -> PoolSpec {
    pool("p", Protocol::Http)
}

pub(super) const GET: &str = "GET /x HTTP/1.1\r\nHost: example\r\n\r\n";

#[tokio::test]
async fn requests_share_connections_and_say_who_asks() {
    let (address, connections) = Backend::start().await.answer("s1");
    let script = Script::choosing("s1", address);
    let instance = Instance::start("127.64.0.1", &script, vec![http_pool()]);
    let mut client = instance.connect("p").await;
    for _ in 0..10 {
        let answer = ask(&mut client, GET).await;
        assert_eq!(answer.start, "HTTP/1.1 200 OK");
        let body = String::from_utf8(answer.body).unwrap();
        assert!(body.starts_with("s1\nGET /x HTTP/1.1\n"), "{body}");
        assert!(body.contains("x-forwarded-for: 127.0.0.1\n"), "{body}");
        assert!(body.contains("x-forwarded-proto: http\n"), "{body}");
    }
    let forged = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-For: 10.0.0.2\r\n\
                  X-Forwarded-Proto: https\r\n\r\n";
    let body = String::from_utf8(ask(&mut client, forged).await.body).unwrap();
    assert!(body.contains("x-forwarded-for: 10.0.0.1, 10.0.0.2, 127.0.0.1\n"), "{body}");
    assert!(body.contains("x-forwarded-proto: http\n"), "{body}");
    assert_eq!(connections.load(Ordering::Relaxed), 1, "eleven requests, one connection to the backend");
    instance.metric_becomes("rocinante_responses_total{backend=\"s1\",class=\"2xx\",pool=\"p\"}", 11).await;
    assert_eq!(instance.metric("rocinante_connections_total{pool=\"p\"}"), 1);
}

#[tokio::test]
async fn bodies_pass_whole_in_either_framing() {
    let (address, _) = Backend::start().await.answer("s1");
    let script = Script::choosing("s1", address);
    let instance = Instance::start("127.64.0.2", &script, vec![http_pool()]);
    let body = pattern(9, 1_000_000);
    let mut client = instance.connect("p").await;
    send(&mut client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n").await;
    client.write_all(&body).await.unwrap();
    let answer = read_message(&mut client).await.unwrap();
    assert!(answer.body.ends_with(&body));
    send(&mut client, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    for chunk in body.chunks(100_000) {
        client.write_all(&[format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat()).await.unwrap();
    }
    client.write_all(b"0\r\n\r\n").await.unwrap();
    assert!(read_message(&mut client).await.unwrap().body.ends_with(&body));
    instance.metric_becomes("rocinante_received_bytes{backend=\"s1\",pool=\"p\"}", 2_000_000).await;
}

#[tokio::test]
async fn http_1_0_is_short_and_served() {
    let (address, _) = Backend::start().await.answer("s1");
    let script = Script::choosing("s1", address);
    let instance = Instance::start("127.64.0.3", &script, vec![http_pool()]);
    let mut client = instance.connect("p").await;
    assert!(ask(&mut client, "GET / HTTP/1.0\r\n\r\n").await.start.ends_with("200 OK"));
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"", "no keep-alive in HTTP/1.0 unless asked for");
}

#[tokio::test]
async fn refusals_are_503_with_their_reason() {
    for (number, refusal, label) in
        [(4, Refusal::NoLease, "no_lease"), (5, Refusal::Timeout, "timeout"), (6, Refusal::NoBackend, "no_backend")]
    {
        let script = Script::refusing(refusal);
        let instance = Instance::start(&format!("127.64.0.{number}"), &script, vec![http_pool()]);
        let mut client = instance.connect("p").await;
        let answer = ask(&mut client, GET).await;
        assert_eq!(answer.start, "HTTP/1.1 503 Service Unavailable");
        assert_eq!(answer.field("retry-after"), Some("1"));
        assert_eq!(answer.body, format!("{label}\n").as_bytes());
        assert_eq!(read_to_end(&mut client).await.unwrap(), b"");
        instance.metric_becomes(&format!("rocinante_refusals_total{{pool=\"p\",reason=\"{label}\"}}"), 1).await;
    }
}

#[tokio::test]
async fn what_is_no_proper_request_is_told_so() {
    let (address, connections) = Backend::start().await.answer("s1");
    let script = Script::choosing("s1", address);
    let instance = Instance::start("127.64.0.7", &script, vec![http_pool()]);
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(Limits::default().head_bytes));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: y\r\n".repeat(Limits::default().head_fields));
    let cases = [
        ("\u{16}\u{3}\u{1}garbage", "400"),
        ("GARBAGE\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"),
        ("GET / HTTP/1.1\nHost: a\n\n", "400"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", "400"),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "405"),
        (&large, "431"),
        (&many, "431"),
    ];
    for (request, status) in cases {
        let mut client = instance.connect("p").await;
        let answer = ask(&mut client, request).await;
        let found = answer.start.split(' ').nth(1);
        assert_eq!(found, Some(status), "{answer:?} to {:?}", &request[..request.len().min(60)]);
        assert_eq!(read_to_end(&mut client).await.unwrap(), b"");
    }
    assert_eq!(connections.load(Ordering::Relaxed), 0, "none of it reached the backend");
    assert_eq!(ask(&mut instance.connect("p").await, GET).await.start, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn a_refused_connect_is_retried_on_the_settled_choice() {
    let (address, _) = Backend::start().await.answer("s2");
    let script = Script::choosing("s1", dead_address());
    let instance = Instance::start("127.64.0.8", &script, vec![http_pool()]);
    let mut client = instance.connect("p").await;
    send(&mut client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody").await;
    until("the failure told", || !script.failed().is_empty()).await;
    script.settle(choice("s2", address));
    let answer = read_message(&mut client).await.unwrap();
    assert!(answer.body.starts_with(b"s2\n") && answer.body.ends_with(b"body"), "{answer:?}");
    assert_eq!(instance.metric("rocinante_errors_total{backend=\"s1\",pool=\"p\",reason=\"connect_refused\"}"), 1);
}

#[tokio::test]
async fn an_unreachable_backend_is_503_of_its_own() {
    let script = Script::choosing("s1", dead_address());
    let instance = Instance::start("127.64.0.9", &script, vec![PoolSpec { retry_for_ms: 150, ..http_pool() }]);
    let answer = ask(&mut instance.connect("p").await, GET).await;
    assert_eq!(
        (answer.start.as_str(), &answer.body[..]),
        ("HTTP/1.1 503 Service Unavailable", &b"unreachable_here\n"[..])
    );
    instance.metric_becomes("rocinante_refusals_total{pool=\"p\",reason=\"unreachable_here\"}", 1).await;
}

#[tokio::test]
async fn requests_pass_a_relay() {
    let (address, _) = Backend::start().await.answer("s1");
    let peer = Peer::start("127.64.0.11", "s1", Some(address)).await;
    let script = Script::choosing("s1", dead_address());
    script.0.relays.lock().unwrap().push(peer.grpc);
    let instance = Instance::start("127.64.0.10", &script, vec![http_pool()]);
    let mut client = instance.connect("p").await;
    for _ in 0..3 {
        let body = ask(&mut client, GET).await.body;
        assert!(body.starts_with(b"s1\nGET /x"), "{:?}", String::from_utf8_lossy(&body));
    }
    drop(client);
    peer.instance.metric_becomes("rocinante_relays_total{outcome=\"connected\"}", 3).await;
    peer.instance.metric_becomes("rocinante_relays_open", 0).await;
}

#[tokio::test]
async fn websockets_pass() {
    let backend = Backend::start().await;
    let script = Script::choosing("s1", backend.address);
    let instance = Instance::start("127.64.0.12", &script, vec![http_pool()]);
    let serving = tokio::spawn(async move {
        let mut stream = backend.accept().await;
        let request = read_message(&mut stream).await.unwrap();
        assert_eq!(request.field("upgrade"), Some("websocket"));
        assert_eq!(request.field("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
        send(
            &mut stream,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        )
        .await;
        let (mut reader, mut writer) = stream.split();
        tokio::io::copy(&mut reader, &mut writer).await.unwrap();
    });
    let mut client = instance.connect("p").await;
    let answer = ask(
        &mut client,
        "GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    )
    .await;
    assert_eq!(answer.start, "HTTP/1.1 101 Switching Protocols");
    let frame = pattern(4, 300_000);
    let (mut reader, mut writer) = client.into_split();
    let sent = frame.clone();
    let sending = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer
    });
    let mut back = vec![0; frame.len()];
    soon("the echo", reader.read_exact(&mut back)).await.unwrap();
    assert!(back == frame);
    drop((sending.await.unwrap(), reader));
    soon("the end", serving).await.unwrap();
}

#[tokio::test]
async fn a_websocket_may_be_silent_one_way_but_not_both() {
    let backend = Backend::start().await;
    let script = Script::choosing("s1", backend.address);
    let idle = Duration::from_secs(3);
    let instance = Instance::start("127.64.0.20", &script, vec![PoolSpec { idle_timeout_ms: 3_000, ..http_pool() }]);
    let mut client = instance.connect("p").await;
    send(&mut client, "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n").await;
    let mut served = backend.accept().await;
    read_message(&mut served).await.unwrap();
    send(&mut served, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n").await;
    assert!(read_message(&mut client).await.unwrap().start.contains("101"));
    let began = Instant::now();
    while began.elapsed() < idle + idle / 4 {
        send(&mut served, "push").await;
        assert_eq!(read_exactly(&mut client, 4).await, b"push");
        tokio::time::sleep(Duration::from_millis(20)).await; // far below the idle timeout
    }
    let began = Instant::now();
    let mut last = began;
    while began.elapsed() < idle + idle / 4 {
        last = Instant::now();
        send(&mut client, "pull").await;
        assert_eq!(read_exactly(&mut served, 4).await, b"pull");
        tokio::time::sleep(Duration::from_millis(20)).await; // far below the idle timeout
    }
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"");
    // What moved last is stamped in whole milliseconds.
    assert!(last.elapsed() + Duration::from_millis(1) >= idle, "cut after {:?}", last.elapsed());
}

#[tokio::test]
async fn grpc_keeps_its_trailers() {
    let backend = Backend::start().await;
    let script = Script::choosing("s1", backend.address);
    let instance = Instance::start("127.64.0.21", &script, vec![http_pool()]);
    tokio::spawn(async move {
        let mut connection = h2::server::handshake(backend.accept().await).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            assert_eq!(request.headers()["content-type"], "application/grpc");
            let mut stream = respond.send_response(::http::Response::new(()), false).unwrap();
            stream.send_data(Bytes::from_static(b"answer"), false).unwrap();
            let trailers = ::http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
            stream.send_trailers(trailers).unwrap();
        }
    });
    let (sender, connection) = h2::client::handshake(instance.connect("p").await).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..3 {
        let request = ::http::Request::post("http://example/service/Call").header("content-type", "application/grpc");
        let mut sender = soon("room", sender.clone().ready()).await.unwrap();
        let (answer, mut body) = sender.send_request(request.body(()).unwrap(), false).unwrap();
        body.send_data(Bytes::from_static(b"question"), true).unwrap();
        let mut stream = soon("an answer", answer).await.unwrap().into_body();
        assert_eq!(soon("data", stream.data()).await.unwrap().unwrap(), "answer");
        let trailers = soon("trailers", stream.trailers()).await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
    }
}

#[tokio::test]
async fn h2c_is_served_on_the_same_port() {
    let (address, _) = Backend::start().await.answer("s1");
    let script = Script::choosing("s1", address);
    let instance = Instance::start("127.64.0.13", &script, vec![http_pool()]);
    let (sender, connection) = h2::client::handshake(instance.connect("p").await).await.unwrap();
    tokio::spawn(connection);
    let mut requests = Vec::new();
    for number in 0..20 {
        let mut sender = soon("room", sender.clone().ready()).await.unwrap();
        requests.push(tokio::spawn(async move {
            let request = ::http::Request::post(format!("http://example/{number}")).body(()).unwrap();
            let (answer, mut body) = sender.send_request(request, false).unwrap();
            body.send_data(Bytes::from(format!("body {number}")), true).unwrap();
            let answer = soon("an answer", answer).await.unwrap();
            assert_eq!(answer.status(), 200);
            let mut stream = answer.into_body();
            let mut text = Vec::new();
            while let Some(chunk) = soon("data", stream.data()).await {
                let chunk = chunk.unwrap();
                stream.flow_control().release_capacity(chunk.len()).unwrap();
                text.extend_from_slice(&chunk);
            }
            let text = String::from_utf8(text).unwrap();
            assert!(text.starts_with(&format!("s1\nPOST /{number} HTTP/1.1\n")), "{text}");
            assert!(text.contains("host: example\n") && text.contains("x-forwarded-for: 127.0.0.1\n"), "{text}");
            assert!(text.ends_with(&format!("body {number}")), "{text}");
        }));
    }
    for request in requests {
        request.await.unwrap();
    }
    assert_eq!(instance.metric("rocinante_connections_total{pool=\"p\"}"), 1);
}

#[tokio::test]
async fn a_connection_that_the_backend_had_closed_is_made_again() {
    let backend = Backend::start().await;
    let script = Script::choosing("s1", backend.address);
    let instance = Instance::start("127.64.0.14", &script, vec![http_pool()]);
    let serving = tokio::spawn(async move {
        for round in 0..3 {
            let mut stream = backend.accept().await;
            read_message(&mut stream).await.unwrap();
            send(&mut stream, &format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{round}")).await;
            // Whether the proxy notices before its next request or because of it, the client must not.
            if round == 1 {
                reset_on_close(&stream);
            }
        }
    });
    let mut client = instance.connect("p").await;
    for round in ["0", "1", "2"] {
        let answer = ask(&mut client, GET).await;
        assert_eq!((answer.start.as_str(), &answer.body[..]), ("HTTP/1.1 200 OK", round.as_bytes()));
    }
    serving.await.unwrap();
    assert!(script.failed().is_empty());
}

#[tokio::test]
async fn a_lapsed_choice_is_made_anew_before_any_byte() {
    let old = Backend::start().await;
    let (new, _) = Backend::start().await.answer("s2");
    let script = Script::choosing("s1", old.address);
    script.0.lapsed.lock().unwrap().push(choice("s1", old.address).backend);
    *script.0.anew.lock().unwrap() = Some(choice("s2", new));
    let instance = Instance::start("127.64.0.15", &script, vec![http_pool()]);
    let mut client = instance.connect("p").await;
    let answer = ask(&mut client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody").await;
    assert!(answer.body.starts_with(b"s2\n") && answer.body.ends_with(b"body"), "{answer:?}");
    assert_eq!(read_to_end(&mut old.accept().await).await.unwrap(), b"");
}

#[tokio::test]
async fn a_backend_that_speaks_no_http_is_502_and_a_silent_one_504() {
    let backend = Backend::start().await;
    let script = Script::choosing("s1", backend.address);
    let instance = Instance::start("127.64.0.16", &script, vec![http_pool()]);
    let mut client = instance.connect("p").await;
    send(&mut client, GET).await;
    let mut served = backend.accept().await;
    read_message(&mut served).await.unwrap();
    send(&mut served, "this is not HTTP\r\n\r\n").await;
    assert_eq!(read_message(&mut client).await.unwrap().start, "HTTP/1.1 502 Bad Gateway");

    let hasty = Instance::start("127.64.0.22", &script, vec![PoolSpec { idle_timeout_ms: 300, ..http_pool() }]);
    let mut client = hasty.connect("p").await;
    send(&mut client, GET).await;
    let mut served = backend.accept().await;
    read_message(&mut served).await.unwrap();
    assert_eq!(read_message(&mut client).await.unwrap().start, "HTTP/1.1 504 Gateway Timeout");
    assert!(script.failed().is_empty(), "neither is a failed connect");
}

#[tokio::test]
async fn draining_ends_waiting_connections_and_finishes_requests() {
    let backend = Backend::start().await;
    let script = Script::choosing("s1", backend.address);
    let instance = Arc::new(Instance::start("127.64.0.17", &script, vec![http_pool()]));
    let (mut waiting, mut asking) = (instance.connect("p").await, instance.connect("p").await);
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    send(&mut waiting, GET).await;
    let mut served = backend.accept().await;
    read_message(&mut served).await.unwrap();
    send(&mut served, answer).await;
    read_message(&mut waiting).await.unwrap();
    send(&mut asking, GET).await;
    // On the kept connection or on a new one.
    let mut other = tokio::select! {
        request = read_message(&mut served) => { request.unwrap(); served }
        accepted = backend.listener.accept() => { let mut new = accepted.unwrap().0; read_message(&mut new).await.unwrap(); new }
    };
    let draining = {
        let instance = Arc::clone(&instance);
        tokio::spawn(async move { instance.traffic.drain(PATIENCE).await })
    };
    assert_eq!(read_to_end(&mut waiting).await.unwrap(), b"");
    send(&mut other, answer).await;
    assert_eq!(read_message(&mut asking).await.unwrap().body, b"ok");
    assert_eq!(read_to_end(&mut asking).await.unwrap(), b"");
    assert_eq!(soon("the drain", draining).await.unwrap().cut, 0);
}

#[tokio::test]
async fn slow_and_silent_clients_are_let_go() {
    let (address, _) = Backend::start().await.answer("s1");
    let script = Script::choosing("s1", address);
    let short = Duration::from_millis(150);
    // One limit is short at a time: on a busy machine two would race.
    let patient = Limits {
        head_timeout: PATIENCE,
        first_byte_timeout: PATIENCE,
        keepalive_timeout: PATIENCE,
        ..Limits::default()
    };
    let closed = "rocinante_connections_open{pool=\"p\"}";

    let limits = Limits { first_byte_timeout: short, ..patient };
    let instance = Instance::limited("127.64.0.18", &script, vec![http_pool()], limits);
    let mut silent = instance.connect("p").await;
    assert_eq!(read_to_end(&mut silent).await.unwrap(), b"", "silent from the beginning");
    instance.metric_becomes(closed, 0).await;

    let limits = Limits { head_timeout: short, ..patient };
    let instance = Instance::limited("127.64.0.23", &script, vec![http_pool()], limits);
    let mut slow = instance.connect("p").await;
    send(&mut slow, "GET / HTTP/1.1\r\nHost: a\r\n").await;
    assert_eq!(read_message(&mut slow).await.unwrap().start, "HTTP/1.1 408 Request Timeout");
    drop(slow);
    instance.metric_becomes(closed, 0).await;

    let limits = Limits { keepalive_timeout: short, ..patient };
    let instance = Instance::limited("127.64.0.24", &script, vec![http_pool()], limits);
    let mut between = instance.connect("p").await;
    ask(&mut between, GET).await;
    assert_eq!(read_to_end(&mut between).await.unwrap(), b"", "silent between requests");
    instance.metric_becomes(closed, 0).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_let_go() {
    let backend = Backend::start().await;
    let script = Script::choosing("s1", backend.address);
    let limits = Limits { write_timeout: Duration::from_millis(200), ..Limits::default() };
    let instance = Instance::limited("127.64.0.19", &script, vec![http_pool()], limits);
    let mut client = instance.connect("p").await;
    send(&mut client, GET).await;
    let mut served = backend.accept().await;
    read_message(&mut served).await.unwrap();
    let sending = tokio::spawn(async move {
        send(&mut served, "HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n").await;
        let chunk = vec![0; 1_000_000];
        while served.write_all(&chunk).await.is_ok() {}
    });
    instance.metric_becomes("rocinante_connections_open{pool=\"p\"}", 0).await;
    soon("the backend let go as well", sending).await.unwrap();
    drop(client);
}
