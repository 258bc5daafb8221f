//! Transparent pools on loopback, where every client's address is this machine's: who the backend sees, and who is refused.
//! Addresses that are elsewhere, and the packet rules, are tested in namespaces (`proxy/tests/it/transparent/`).

use std::io::Write;

use flow::Protocol;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpSocket;

use super::{
    http::{GET, ask, read_message},
    relay::Peer,
    *,
};
use crate::traffic::socket::{self, Hold, NotTransparent};

/// Whether this process may have foreign addresses; where it may not, that is said past the test's captured output.
fn is_permitted() -> bool {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    match socket.set_ip_transparent_v4(true) {
        Ok(()) => true,
        Err(error) => {
            let line = format!("SKIPPED, NOT TESTED: no transparent sockets here: {error}\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            false
        }
    }
}

fn transparent(protocol: Protocol) -> PoolSpec {
    PoolSpec { transparent: true, ..pool("p", protocol) }
}

/// A connection of the client at `address`.
async fn connect_from(address: &str, instance: &Instance) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
    soon("connect", socket.connect(instance.address("p").await)).await.unwrap()
}

/// Answers each request with the address it came from and the number of its connection, which it keeps.
async fn tell_who_asks() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut connections = 0;
        while let Ok((mut stream, client)) = listener.accept().await {
            connections += 1;
            let text = format!("{} {connections}", client.ip());
            tokio::spawn(async move {
                while read_message(&mut stream).await.is_some() {
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_backend_sees_the_client() {
    if !is_permitted() {
        return;
    }
    let backend = Backend::start().await;
    let script = Script::choosing("s1", backend.address);
    let instance = Instance::start("127.67.0.1", &script, vec![transparent(Protocol::Tcp)]);
    for client in ["127.67.1.1", "127.67.1.2", "127.67.1.1"] {
        let mut stream = connect_from(client, &instance).await;
        let mut served = backend.accept().await;
        assert_eq!(served.peer_addr().unwrap().ip().to_string(), client);
        stream.write_all(b"question").await.unwrap();
        assert_eq!(read_exactly(&mut served, 8).await, b"question");
        served.write_all(b"answer").await.unwrap();
        assert_eq!(read_exactly(&mut stream, 6).await, b"answer");
    }
}

/// Two clients in turn, each on one connection: their requests are answered on kept connections, each on its own.
#[tokio::test]
async fn a_kept_connection_serves_the_client_whose_address_it_has() {
    if !is_permitted() {
        return;
    }
    let script = Script::choosing("s1", tell_who_asks().await);
    let instance = Instance::start("127.67.0.2", &script, vec![transparent(Protocol::Http)]);
    let clients = ["127.67.1.3", "127.67.1.4"];
    let mut streams = [connect_from(clients[0], &instance).await, connect_from(clients[1], &instance).await];
    let mut connections = [Vec::new(), Vec::new()];
    for _ in 0..5 {
        for (number, stream) in streams.iter_mut().enumerate() {
            let answer = ask(stream, GET).await;
            assert_eq!(answer.start, "HTTP/1.1 200 OK");
            let body = String::from_utf8(answer.body).unwrap();
            let (seen, connection) = body.split_once(' ').unwrap();
            assert_eq!(seen, clients[number], "a backend saw another client's address");
            connections[number].push(connection.to_owned());
        }
    }
    for used in &connections {
        assert!(used.iter().all(|connection| *connection == used[0]), "connections are not kept: {connections:?}");
    }
    assert_ne!(connections[0], connections[1]);
}

#[tokio::test]
async fn a_client_of_the_other_ip_version_is_refused_and_counted() {
    if !is_permitted() {
        return;
    }
    let six = TcpListener::bind("[::1]:0").await.unwrap();
    let script = Script::choosing("s1", six.local_addr().unwrap());
    let http = PoolSpec { name: "h".to_owned(), ..transparent(Protocol::Http) };
    let instance = Instance::start("127.67.0.3", &script, vec![transparent(Protocol::Tcp), http]);
    assert_refused(&instance, "p").await;
    let answer = ask(&mut instance.connect("h").await, GET).await;
    assert_eq!(answer.start, "HTTP/1.1 503 Service Unavailable");
    assert_eq!(answer.body, b"not_transparent\n");
    for pool in ["p", "h"] {
        instance
            .metric_becomes(&format!("rocinante_refusals_total{{pool=\"{pool}\",reason=\"not_transparent\"}}"), 1)
            .await;
    }
    assert!(script.failed().is_empty(), "it is not the backend's fault");
}

#[tokio::test]
async fn a_relayed_connection_has_the_clients_address_too_or_is_none() {
    if !is_permitted() {
        return;
    }
    let backend = Backend::start().await;
    let peer = |own, transparent| {
        let script = Script::default();
        let member = Member { address: backend.address, transparent };
        script.0.members.lock().unwrap().insert(choice("s1", backend.address).backend, member);
        Peer::of(own, script)
    };
    let script = Script::choosing("s1", dead_address());
    let instance = Instance::start("127.67.0.4", &script, vec![transparent(Protocol::Tcp)]);

    let agrees = peer("127.67.0.5", true).await;
    script.0.relays.lock().unwrap().push(agrees.grpc);
    let _stream = connect_from("127.67.1.5", &instance).await;
    assert_eq!(backend.accept().await.peer_addr().unwrap().ip().to_string(), "127.67.1.5");

    let disagrees = peer("127.67.0.6", false).await;
    *script.0.relays.lock().unwrap() = vec![disagrees.grpc];
    let spec = PoolSpec { retry_for_ms: 1_000, ..transparent(Protocol::Tcp) };
    instance.pools.send_replace(Arc::new(vec![spec]));
    assert_refused(&instance, "p").await;
    assert_eq!(disagrees.instance.metric("rocinante_relays_total{outcome=\"REASON_NOT_A_MEMBER\"}"), 1);
}

/// A pool that becomes transparent gets another listener, one that may answer from an address that is not this machine's.
#[tokio::test]
async fn a_changed_pool_gets_another_listener() {
    if !is_permitted() {
        return;
    }
    let backend = Backend::start().await;
    let script = Script::choosing("s1", backend.address);
    let spec = |transparent| PoolSpec { transparent, ..pool("p", Protocol::Tcp) };
    let instance = Instance::start("127.67.0.7", &script, vec![spec(false)]);
    let before = instance.address("p").await;
    let _before = connect_from("127.67.1.7", &instance).await;
    assert_eq!(backend.accept().await.peer_addr().unwrap().ip(), instance.own);
    instance.pools.send_replace(Arc::new(vec![spec(true)]));
    // The kernel gives it another port.
    let moved = |all: &crate::traffic::Listeners| all.iter().any(|one| one.error.is_none() && one.address != before);
    soon("another listener", instance.traffic.listeners().wait_for(moved)).await.unwrap();
    let _after = connect_from("127.67.1.7", &instance).await;
    assert_eq!(backend.accept().await.peer_addr().unwrap().ip().to_string(), "127.67.1.7");
}

#[test]
fn a_client_keeps_its_port_unless_that_is_taken_here() {
    if !is_permitted() {
        return;
    }
    let backend: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let bound = |client: SocketAddr| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket::bind_as(&socket, client, backend).map(|()| socket)
    };
    // A port that nobody else has: bound without SO_REUSEADDR first.
    let taken = std::net::TcpListener::bind("127.67.1.8:0").unwrap();
    let client = taken.local_addr().unwrap();
    assert_eq!(bound(client).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    drop(taken);
    let two = [bound(client).unwrap(), bound(client).unwrap()];
    for socket in &two {
        assert_eq!(socket.local_addr().unwrap().as_socket(), Some(client), "one port serves several connections");
    }
    // Written as IPv6, as a listener of both versions sees it.
    let mapped = SocketAddr::new("::ffff:127.67.1.9".parse().unwrap(), 0);
    assert_eq!(bound(mapped).unwrap().local_addr().unwrap().as_socket().unwrap().ip().to_string(), "127.67.1.9");
    let reason = |client: &str| match socket::blame(&bound(client.parse().unwrap()).unwrap_err()) {
        socket::Blame::Client(reason) => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(reason("[2001:db8::1]:1"), NotTransparent::OtherVersion);
}

#[test]
fn a_transparent_listener_may_have_any_address() {
    if !is_permitted() {
        return;
    }
    for address in ["192.0.2.77:0", "[2001:db8::77]:0"] {
        let address: SocketAddr = address.parse().unwrap();
        assert!(socket::listen(address, Hold::Own).is_err(), "{address} is this machine's");
        for hold in [Hold::Free, Hold::Transparent] {
            assert_eq!(socket::listen(address, hold).unwrap().local_addr().unwrap().ip(), address.ip());
        }
    }
}
