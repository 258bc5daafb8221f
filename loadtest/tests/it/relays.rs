//! Relays between peers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use loadtest::http::connect_from;
use loadtest::relay::{Relays, Way};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const NEAR: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 21);
const FAR: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 22);
const DEADLINE: Duration = Duration::from_secs(30);
const NOTHING_COMES: Duration = Duration::from_millis(200);

async fn free_port(address: Ipv4Addr) -> SocketAddr {
    TcpListener::bind((address, 0)).await.unwrap().local_addr().unwrap()
}

async fn heard(stream: &mut TcpStream, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    tokio::time::timeout(DEADLINE, stream.read_exact(&mut bytes)).await.unwrap().unwrap();
    assert_eq!(bytes, expected);
}

async fn hears_nothing(stream: &mut TcpStream) {
    assert!(tokio::time::timeout(NOTHING_COMES, stream.read(&mut [0; 8])).await.is_err());
}

#[tokio::test]
async fn a_stalled_way_holds_bytes_back_in_one_direction_and_delivers_them_when_it_heals() {
    let real = TcpListener::bind((FAR, 0)).await.unwrap();
    let known = free_port(FAR).await;
    let relays = Relays::start(&[(known, real.local_addr().unwrap())]).await.unwrap();
    let mut near = connect_from(NEAR, known).await.unwrap();
    let (mut far, _) = real.accept().await.unwrap();
    near.write_all(b"one").await.unwrap();
    heard(&mut far, b"one").await;

    let (here, there) = (IpAddr::V4(NEAR), IpAddr::V4(FAR));
    relays.set(here, there, Way::Stalled);
    near.write_all(b"two").await.unwrap();
    hears_nothing(&mut far).await;
    far.write_all(b"back").await.unwrap();
    heard(&mut near, b"back").await;
    let mut late = connect_from(NEAR, known).await.unwrap();
    late.write_all(b"late").await.unwrap();

    relays.set(here, there, Way::Open);
    heard(&mut far, b"two").await;
    let (mut late_far, _) = tokio::time::timeout(DEADLINE, real.accept()).await.unwrap().unwrap();
    heard(&mut late_far, b"late").await;

    far.shutdown().await.unwrap();
    assert_eq!(tokio::time::timeout(DEADLINE, near.read(&mut [0; 8])).await.unwrap().unwrap(), 0);
    near.write_all(b"half closed").await.unwrap();
    heard(&mut far, b"half closed").await;

    relays.set_between(here, there, Way::Reset);
    let ended = tokio::time::timeout(DEADLINE, late.read(&mut [0; 8])).await.unwrap();
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}
