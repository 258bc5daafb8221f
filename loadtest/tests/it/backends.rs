//! The farm as its clients see it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use loadtest::farm::{Cut, Farm};
use loadtest::http;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const DEADLINE: Duration = Duration::from_secs(30);
/// Loopback answers within microseconds; what is not there by then is dropped.
const UNANSWERED: Duration = Duration::from_millis(400);

async fn say(stream: &mut TcpStream, words: &[u8], expected: &[u8]) {
    stream.write_all(words).await.unwrap();
    let mut heard = vec![0; expected.len()];
    tokio::time::timeout(DEADLINE, stream.read_exact(&mut heard)).await.unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&heard), String::from_utf8_lossy(expected));
}

#[tokio::test]
async fn one_port_speaks_lines_raw_bytes_and_http() {
    let farm = Farm::new(None).unwrap();
    let at = farm.add("s1", ANY_PORT).await.unwrap().address;
    let mut lines = TcpStream::connect(at).await.unwrap();
    say(&mut lines, b"who\n", b"s1\n").await;
    say(&mut lines, b"echo hello\nwho\n", b"hello\ns1\n").await;
    say(&mut lines, b"from\n", b"127.0.0.1\n").await;
    say(&mut lines, b"give 5\nwho\n", b".....s1\n").await;
    say(&mut lines, b"\x00\x01raw\n", b"\x00\x01raw\n").await;
    say(&mut lines, b"who\n", b"who\n").await;

    let mut web = TcpStream::connect(at).await.unwrap();
    for _ in 0..2 {
        let response = http::exchange(&mut web, at, "/").await.unwrap();
        assert_eq!(
            (response.status, response.body.as_slice(), response.header("X-Backend")),
            (200, b"s1".as_slice(), Some("s1"))
        );
    }
    let head = "HTTP/1.1 200 OK\r\nx-backend: s1\r\nx-from: 127.0.0.1\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello";
    say(&mut web, b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello", head.as_bytes()).await;
    let chunked =
        b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";
    say(&mut web, chunked, head.as_bytes()).await;
}

#[tokio::test]
async fn garbage_ends_one_connection_only() {
    let farm = Farm::new(None).unwrap();
    let at = farm.add("s1", ANY_PORT).await.unwrap().address;
    for garbage in [
        b"GET \xff\xff\r\n\r\n".as_slice(),
        b"GET / HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n",
        b"POST /echo HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        b"GET /ws HTTP/1.1\r\nsec-websocket-key: x\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        // A reset is as good an end as an orderly one.
        tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await.unwrap().ok();
    }
    assert_eq!(http::get(at, "/healthz", DEADLINE).await.unwrap().body, b"ok");
}

#[tokio::test]
async fn a_stopped_backend_refuses_and_closes_and_returns_at_its_address() {
    let farm = Farm::new(None).unwrap();
    let backend = farm.add("s1", ANY_PORT).await.unwrap();
    let mut open = TcpStream::connect(backend.address).await.unwrap();
    say(&mut open, b"who\n", b"s1\n").await;
    backend.stop().await;
    let refused = TcpStream::connect(backend.address).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    let mut rest = Vec::new();
    tokio::time::timeout(DEADLINE, open.read_to_end(&mut rest)).await.unwrap().ok();
    assert!(rest.is_empty());
    backend.start().await.unwrap();
    assert_eq!(http::get(backend.address, "/", DEADLINE).await.unwrap().body, b"s1");
}

#[tokio::test]
async fn a_source_that_is_cut_off_meets_silence_or_a_reset_and_nobody_else_does() {
    let cut_off = Ipv4Addr::new(127, 0, 0, 9);
    let other = Ipv4Addr::new(127, 0, 0, 8);
    let farm = Farm::new(None).unwrap();
    let backend = farm.add("s1", ANY_PORT).await.unwrap();
    let connect = async |source| http::connect_from(source, backend.address).await;
    let reach = async |source| tokio::time::timeout(DEADLINE, connect(source)).await.unwrap();
    let is_dropped = async |source| tokio::time::timeout(UNANSWERED, connect(source)).await.is_err();

    let mut open = reach(cut_off).await.unwrap();
    say(&mut open, b"who\n", b"s1\n").await;
    backend.cut(cut_off.into(), Cut::Drop).await.unwrap();
    let ended = tokio::time::timeout(DEADLINE, open.read(&mut [0; 8])).await.unwrap();
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert!(is_dropped(cut_off).await, "the handshake of a dropped source must not be answered");
    let mut served = reach(other).await.unwrap();
    say(&mut served, b"who\n", b"s1\n").await;

    backend.cut(cut_off.into(), Cut::Reset).await.unwrap();
    // The reset may be there before the connect is heard of.
    let ended = match reach(cut_off).await {
        Ok(mut accepted) => tokio::time::timeout(DEADLINE, accepted.read(&mut [0; 8])).await.unwrap().unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(ended.kind(), io::ErrorKind::ConnectionReset);

    backend.heal().await.unwrap();
    let mut healed = reach(cut_off).await.unwrap();
    say(&mut healed, b"who\n", b"s1\n").await;

    backend.blackhole().await.unwrap();
    assert!(is_dropped(other).await);
    backend.heal().await.unwrap();
    reach(other).await.unwrap();
}
