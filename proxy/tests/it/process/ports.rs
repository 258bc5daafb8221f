//! Strangers on every port: garbage, silence, too much, too slow, too many.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{
    backend::{Manner, ask, connect, name_of},
    fleet::{Fleet, Plan},
    kit::{http, wait_until},
};

fn one(manner: Manner) -> Plan {
    Plan { size: 1, servers: 1, manner, ..Plan::default() }
}

/// Sends bytes, then reads until the other end closes; gives what came.
fn until_closed(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(7, address).unwrap();
    // The other end may close before it has read all of it.
    drop(stream.write_all(bytes));
    let mut came = Vec::new();
    match stream.read_to_end(&mut came) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{address} keeps it open: {error}"),
    }
    came
}

fn garbage(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    });
    next.take(length).collect()
}

#[test]
fn garbage_on_any_port_is_closed_and_disturbs_nobody() {
    let mut fleet = Fleet::started(one(Manner::Http));
    let instance = &fleet.instances[0];
    let doors = [instance.rest, instance.metrics, instance.grpc, instance.pool];
    let giant = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Big: {}\r\n\r\n", "x".repeat(1 << 20)).into_bytes();
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X-A: b\r\n".repeat(5000)).into_bytes();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff".to_vec();
    let memory = fleet.process(0).memory();
    let instance = &fleet.instances[0];
    for door in doors {
        for bytes in [&garbage(100), &garbage(1 << 20), &b"\0".repeat(4096), &giant, &many, &preface] {
            let came = until_closed(door, bytes);
            let text = String::from_utf8_lossy(&came);
            assert!(!text.starts_with("HTTP/1.1 2"), "{door}: {text}");
        }
        assert_eq!(http(instance.rest, "GET /healthz", "").unwrap().0, 200);
        assert_eq!(http(instance.pool, "GET /", "").unwrap(), (200, "s1".to_owned()));
    }
    let grown = fleet.process(0).memory().saturating_sub(memory);
    assert!(grown < 64 << 20, "{grown} bytes more");
    assert!(fleet.process(0).ended().is_none());
    for port in ["rest", "metrics"] {
        let name = format!("rocinante_port_connections_failed_total{{port=\"{port}\",reason=\"malformed\"}}");
        let counted = fleet.metric(0, &name);
        assert!(counted.unwrap() >= 5.0, "{name} {counted:?}");
    }
    fleet.ready(0);
    assert!(!fleet.process(0).said().contains("panicked"), "{}", fleet.process(0).said());
}

#[test]
fn who_says_nothing_or_dribbles_is_closed_and_disturbs_nobody() {
    let fleet = Fleet::started(one(Manner::Http));
    let instance = &fleet.instances[0];
    let doors = [instance.rest, instance.metrics, instance.grpc, instance.pool];
    let mut silent: Vec<(SocketAddr, TcpStream)> = Vec::new();
    let mut dribbling = Vec::new();
    for door in doors {
        for _ in 0..20 {
            silent.push((door, connect(8, door).unwrap()));
        }
        dribbling.push((door, connect(9, door).unwrap(), false));
    }
    // One byte at a time, never the end of a head.
    let head = b"GET / HTTP/1.1\r\nX: ";
    let mut at = 0;
    wait_until("all that dribble are closed", || {
        assert_eq!(http(instance.rest, "GET /healthz", "").unwrap().0, 200);
        for (_, stream, closed) in dribbling.iter_mut().filter(|(_, _, closed)| !closed) {
            let byte = head.get(at).copied().unwrap_or(b'x');
            stream.set_nonblocking(true).unwrap();
            let ended = match stream.read(&mut [0; 1024]) {
                Ok(count) => count == 0,
                Err(error) => error.kind() != ErrorKind::WouldBlock,
            };
            *closed = ended || stream.write_all(&[byte]).is_err();
        }
        at += 1;
        dribbling.iter().all(|(_, _, closed)| *closed)
    });
    for (door, mut stream) in silent {
        let mut came = Vec::new();
        if let Err(error) = stream.read_to_end(&mut came) {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{door}: {error}");
        }
    }
    assert_eq!(http(instance.pool, "GET /", "").unwrap(), (200, "s1".to_owned()));
    let silent = fleet.metric(0, "rocinante_link_events_total{event=\"connections_silent\"}");
    assert!(silent.unwrap() >= 20.0, "{silent:?}");
    let late = fleet.metric(0, "rocinante_port_connections_failed_total{port=\"rest\",reason=\"timeout\"}");
    assert!(late.unwrap() >= 20.0, "{late:?}");
}

#[test]
fn slow_readers_hold_their_own_connection_and_no_memory() {
    let mut fleet = Fleet::started(one(Manner::Flood));
    let memory = fleet.process(0).memory();
    let pool = fleet.instances[0].pool;
    let slow: Vec<TcpStream> = (0..100).map(|client| connect(client, pool).unwrap()).collect();
    wait_until("all are connected", || fleet.metric(0, "rocinante_sessions_open{") == Some(100.0));
    // Another one takes 100 MB past them.
    let mut fast = connect(500, pool).unwrap();
    let mut left = 100 << 20;
    let mut buffer = vec![0; 1 << 20];
    while left > 0 {
        let count = fast.read(&mut buffer).unwrap();
        assert!(count > 0);
        left -= count.min(left);
    }
    let grown = fleet.process(0).memory().saturating_sub(memory);
    assert!(grown < 64 << 20, "{grown} bytes more");
    fleet.ready(0);
    drop(slow);
    wait_until("they are gone", || fleet.metric(0, "rocinante_sessions_open{") == Some(1.0));
}

#[test]
fn ten_thousand_idle_clients() {
    let wanted = 44_000;
    let raised = Rlimit { current: Some(wanted), maximum: Some(wanted) };
    let before = getrlimit(Resource::Nofile);
    let allowed = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => wanted,
        Err(_) => {
            let most = before.maximum.unwrap_or(wanted);
            setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: Some(most) }).unwrap();
            most
        }
    };
    // Here each client has two ends, as it has at the instance; other tests need some as well.
    let clients = 10_000.min((allowed as usize).saturating_sub(4_000) / 2).max(1);
    if clients < 10_000 {
        eprintln!("only {clients} clients: this system allows for {allowed} open files");
    }
    let mut fleet = Fleet::new(one(Manner::Keep));
    let mut command = fleet.command(0);
    let limit = Rlimit { current: Some(allowed), maximum: Some(allowed) };
    // SAFETY: between fork and exec only one system call is made, which is safe there.
    unsafe {
        command.pre_exec(move || setrlimit(Resource::Nofile, limit).map_err(Into::into));
    }
    fleet.start_as(0, command);
    fleet.ready(0);
    wait_until("the server is up", || fleet.servers_up(0));
    let pool = fleet.instances[0].pool;
    let memory = fleet.process(0).memory();
    let mut idle = Vec::with_capacity(clients);
    for client in 0..clients {
        let mut stream = connect(client as u32 % 1000, pool).unwrap();
        assert_eq!(name_of(&mut stream).as_deref(), Some("s1"), "client {client}");
        idle.push(stream);
    }
    assert_eq!(fleet.metric(0, "rocinante_connections_open{pool=\"web\"}"), Some(clients as f64));
    let each = fleet.process(0).memory().saturating_sub(memory) / clients as u64;
    assert!(each < 16 << 10, "{each} bytes for each");
    // Everybody else is served.
    assert_eq!(ask(5_000, pool).as_deref(), Some("s1"));
    fleet.ready(0);
    fleet.done(0, "kv put color blue");
    drop(idle);
    // A server that does not hang up keeps its half; this one does.
    fleet.servers.clear();
    wait_until("they are gone", || fleet.metric(0, "rocinante_connections_open{") == Some(0.0));
}

#[test]
fn more_clients_than_max_connections_are_refused_and_counted() {
    let fleet = Fleet::started(Plan { pool: "max_connections = 10\n".into(), ..one(Manner::Tcp) });
    let pool = fleet.instances[0].pool;
    let mut open: Vec<TcpStream> = (0..10).map(|client| connect(client, pool).unwrap()).collect();
    for stream in &mut open {
        assert_eq!(name_of(stream).as_deref(), Some("s1"));
    }
    assert_eq!(ask(11, pool), None);
    let refused = "rocinante_refusals_total{pool=\"web\",reason=\"max_connections\"}";
    assert_eq!(fleet.metric(0, refused), Some(1.0));
    open.pop();
    wait_until("there is room again", || ask(11, pool).is_some());
}

#[test]
fn a_vip_on_another_address_serves_at_every_instance_that_has_it() {
    let mut fleet = Fleet::started(Plan { vip: true, ..one(Manner::Tcp) });
    let vip = fleet.vip();
    assert_eq!(ask(1, vip).as_deref(), Some("s1"));
    assert_eq!(ask(2, vip).as_deref(), Some("s1"));
    assert_eq!(fleet.pins(0).len(), 2);
    fleet.kill(0);
    assert_eq!(ask(1, vip), None);
}

#[test]
fn everything_works_over_ipv6() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: this system has no ::1");
        return;
    }
    let fleet = Fleet::started(Plan { ipv6: true, ..one(Manner::Tcp) });
    let pool = fleet.instances[0].pool;
    assert!(pool.is_ipv6());
    assert_eq!(ask(1, pool).as_deref(), Some("s1"));
    let pins = fleet.pins(0);
    assert_eq!(pins.get("::1").map(String::as_str), Some("s1"), "{pins:?}");
    assert!(fleet.done(0, "pin get web ::1").contains("s1"));
}
