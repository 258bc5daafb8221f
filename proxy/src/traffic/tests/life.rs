//! Listeners that follow the pools, and the end of an instance.

use flow::Protocol;
use tokio::io::AsyncWriteExt;

use super::*;
use crate::traffic::Drained;

#[tokio::test]
async fn a_taken_port_is_told_and_tried_again() {
    let taken = std::net::TcpListener::bind("127.62.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let script = Script::choosing("s1", Backend::start().await.echo());
    let spec = PoolSpec { bind: Bind::Own(port), ..pool("p", Protocol::Tcp) };
    let instance = Instance::start("127.62.0.1", &script, vec![spec, pool("q", Protocol::Tcp)]);
    let mut listeners = instance.traffic.listeners();
    let failed =
        soon("the failure", listeners.wait_for(|all| all.iter().any(|one| one.error.is_some()))).await.unwrap().clone();
    let p = failed.iter().find(|one| one.pool == "p").unwrap();
    assert_eq!(p.error.as_deref(), Some(format!("127.62.0.1:{port} is taken by another listener").as_str()));
    assert_eq!(exchange(instance.connect("q").await, b"q".to_vec()).await, b"q", "the other pool is served");
    drop(taken);
    assert_eq!(exchange(instance.connect("p").await, b"p".to_vec()).await, b"p");
}

#[tokio::test]
async fn pools_come_move_swap_and_go() {
    let script = Script::choosing("s1", Backend::start().await.echo());
    let instance = Instance::start("127.62.0.2", &script, vec![pool("p", Protocol::Tcp)]);
    let first = instance.address("p").await;
    let mut open = instance.connect("p").await;
    open.write_all(b"a").await.unwrap();
    assert_eq!(read_exactly(&mut open, 1).await, b"a");

    let at = |name: &str, port: u16| PoolSpec { bind: Bind::Own(port), ..pool(name, Protocol::Tcp) };
    instance.pools.send_replace(Arc::new(vec![at("p", first.port()), pool("q", Protocol::Tcp)]));
    let second = instance.address("q").await;
    instance.pools.send_replace(Arc::new(vec![at("p", second.port()), at("q", first.port())]));
    until("the ports swapped", || {
        let all = instance.traffic.listeners().borrow().clone();
        all.iter().any(|one| one.pool == "p" && one.address == second && one.error.is_none())
            && all.iter().any(|one| one.pool == "q" && one.address == first && one.error.is_none())
    })
    .await;

    instance.pools.send_replace(Arc::new(vec![at("q", first.port())]));
    until("p gone", || instance.traffic.listeners().borrow().len() == 1).await;
    assert!(TcpStream::connect(second).await.is_err(), "a removed pool does not listen");
    open.write_all(b"b").await.unwrap();
    assert_eq!(read_exactly(&mut open, 1).await, b"b", "an open connection goes on when its pool is removed");
    drop(open);
    until("its rows gone", || instance.metric("rocinante_connections_total{pool=\"p\"}") == 0).await;
}

#[tokio::test]
async fn a_vip_need_not_be_on_this_machine() {
    let script = Script::choosing("s1", Backend::start().await.echo());
    let vip = "198.51.100.7:0".parse().unwrap();
    let spec = PoolSpec { bind: Bind::Vip(vip), ..pool("p", Protocol::Tcp) };
    let instance = Instance::start("127.62.0.3", &script, vec![spec]);
    assert_eq!(instance.address("p").await.ip(), vip.ip());
}

#[tokio::test]
async fn draining_waits_for_open_connections_and_takes_no_new_ones() {
    let script = Script::choosing("s1", Backend::start().await.echo());
    let instance = Arc::new(Instance::start("127.62.0.4", &script, vec![pool("p", Protocol::Tcp)]));
    let address = instance.address("p").await;
    let mut client = instance.connect("p").await;
    client.write_all(b"a").await.unwrap();
    assert_eq!(read_exactly(&mut client, 1).await, b"a");
    let draining = {
        let instance = Arc::clone(&instance);
        tokio::spawn(async move { instance.traffic.drain(PATIENCE).await })
    };
    let closed = |all: &super::super::Listeners| all.is_empty();
    soon("closing", instance.traffic.listeners().wait_for(closed)).await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
    client.write_all(b"b").await.unwrap();
    assert_eq!(read_exactly(&mut client, 1).await, b"b", "what is open goes on");
    client.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"");
    assert_eq!(soon("the drain", draining).await.unwrap(), Drained { cut: 0 });
    until("no sockets", || instance.sockets() == 0).await;
}

#[tokio::test]
async fn draining_cuts_at_the_deadline_and_at_the_second_call() {
    for (own, second_call) in [("127.62.0.5", false), ("127.62.0.6", true)] {
        let script = Script::choosing("s1", Backend::start().await.echo());
        let instance = Arc::new(Instance::start(own, &script, vec![pool("p", Protocol::Tcp)]));
        let mut client = instance.connect("p").await;
        client.write_all(b"a").await.unwrap();
        assert_eq!(read_exactly(&mut client, 1).await, b"a");
        let patience = if second_call { PATIENCE * 10 } else { Duration::from_millis(100) };
        let draining = {
            let instance = Arc::clone(&instance);
            tokio::spawn(async move { instance.traffic.drain(patience).await })
        };
        if second_call {
            let closed = |all: &super::super::Listeners| all.is_empty();
            soon("closing", instance.traffic.listeners().wait_for(closed)).await.unwrap();
            soon("the second call", instance.traffic.drain(PATIENCE)).await;
        }
        soon("the drain", draining).await.unwrap();
        assert!(!matches!(read_to_end(&mut client).await, Ok(bytes) if !bytes.is_empty()));
        until("no connection, no socket", || (instance.traffic.open(), instance.sockets()) == (0, 0)).await;
    }
}

#[tokio::test]
async fn changed_settings_hold_for_new_connections() {
    let script = Script::choosing("s1", Backend::start().await.echo());
    let instance = Instance::start("127.62.0.7", &script, vec![pool("p", Protocol::Tcp)]);
    let address = instance.address("p").await;
    instance.pools.send_replace(Arc::new(vec![PoolSpec { max_connections: 0, ..pool("p", Protocol::Tcp) }]));
    let shed = "rocinante_refusals_total{pool=\"p\",reason=\"max_connections\"}";
    let deadline = Instant::now() + PATIENCE;
    while instance.metric(shed) == 0 {
        assert!(Instant::now() < deadline);
        // Shed or not, open or reset already: only the count matters.
        drop(soon("connect", TcpStream::connect(address)).await);
    }
    assert_eq!(instance.address("p").await, address, "the listener stayed");
}
