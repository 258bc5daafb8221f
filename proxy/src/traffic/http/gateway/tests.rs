//! Who may use a kept connection.

use std::{
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd,
};

use pingora::upstreams::peer::Peer;

use super::*;

/// By what pingora finds a kept connection again, for a backend reached from `source`; with our key in it or without.
fn store_key(backend: u64, source: Source, keyed: bool) -> u64 {
    let mut peer = HttpPeer::new(("127.0.0.1", 80), false, String::new());
    peer.options.custom_l4 = Some(Arc::new(Direct { source, timeout: Duration::from_secs(1) }));
    if keyed {
        peer.group_key = group_key(BackendId(backend), source);
    }
    peer.reuse_hash()
}

fn client(text: &str) -> Source {
    Source::Client(text.parse().unwrap())
}

#[test]
fn clients_of_a_transparent_pool_share_no_connection() {
    let (one, other) = (client("192.0.2.1:1000"), client("192.0.2.2:1000"));
    assert_ne!(store_key(1, one, true), store_key(1, other, true));
    assert_eq!(store_key(1, one, true), store_key(1, client("192.0.2.1:2000"), true), "of one client, of any port");
    assert_eq!(store_key(1, one, true), store_key(1, client("[::ffff:192.0.2.1]:1000"), true));
    assert_ne!(store_key(1, one, true), store_key(2, one, true), "but not of two backends");
    // Without the key they would share one: where a connection comes from is not in pingora's hash.
    assert_eq!(store_key(1, one, false), store_key(1, other, false));
    let own = Source::Own("10.0.0.1".parse().unwrap());
    assert_eq!(store_key(1, own, true), store_key(1, own, true), "and others share theirs");
}

#[test]
fn a_connection_is_told_by_its_address() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let fd = stream.as_raw_fd();
    assert!(is_of(fd, "127.0.0.1:9".parse().unwrap()));
    assert!(is_of(fd, "[::ffff:127.0.0.1]:9".parse().unwrap()));
    assert!(!is_of(fd, "127.0.0.2:9".parse().unwrap()));
    let (relayed, _other_end) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(is_of(relayed.as_raw_fd(), "127.0.0.2:9".parse().unwrap()));
}
