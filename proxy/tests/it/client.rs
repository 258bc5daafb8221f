//! An instance on ports of its own, and the smallest HTTP client that can also misbehave.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use tokio::{net::TcpListener, runtime::Runtime, sync::oneshot, task::JoinHandle};

use crate::memory::MemoryControl;

/// The servers of an instance over a [`MemoryControl`]; they end with it.
pub struct Instance {
    pub control: MemoryControl,
    pub rest: SocketAddr,
    pub grpc: SocketAddr,
    pub runtime: Runtime,
    /// What the services count.
    pub registry: prometheus::Registry,
    servers: Vec<(oneshot::Sender<()>, JoinHandle<()>)>,
}

/// What came back.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Instance {
    /// Starts one.
    pub fn start() -> Self {
        Self::of(MemoryControl::new())
    }

    /// Starts one of this fleet.
    pub fn of(control: MemoryControl) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let registry = prometheus::Registry::new();
        let listen = || runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let (rest, grpc) = (listen(), listen());
        let addresses = (rest.local_addr().unwrap(), grpc.local_addr().unwrap());
        let router = proxy::rest::router(control.clone());
        let pushes = proxy::grpc::PushCounters::new().unwrap();
        pushes.register(&registry).unwrap();
        let routes = proxy::grpc::routes(control.clone(), pushes);
        let (stop_rest, stopped_rest) = oneshot::channel();
        let (stop_grpc, stopped_grpc) = oneshot::channel();
        let rest = runtime.spawn(proxy::rest::serve(rest, router, doors(), async { stopped_rest.await.unwrap_or(()) }));
        let grpc = runtime.spawn(async move {
            proxy::grpc::serve(grpc, routes, async { stopped_grpc.await.unwrap_or(()) }).await.unwrap();
        });
        let servers = vec![(stop_rest, rest), (stop_grpc, grpc)];
        Self { control, rest: addresses.0, grpc: addresses.1, runtime, registry, servers }
    }

    /// Stops the servers; what they were doing is finished.
    pub fn stop(self) {
        for (stop, server) in self.servers {
            stop.send(()).unwrap();
            self.runtime.block_on(server).unwrap();
        }
    }

    /// Asks with `METHOD /path`, and a body.
    pub fn ask(&self, what: &str, body: &str) -> Answer {
        self.ask_with(what, "", body)
    }

    /// Asks with more header lines, each ended by CRLF.
    pub fn ask_with(&self, what: &str, headers: &str, body: &str) -> Answer {
        let length = body.len();
        let host = self.rest;
        let head = format!("{what} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n");
        self.send(format!("{head}{headers}\r\n{body}").as_bytes())
    }

    /// Sends bytes as they are and reads until the other end closes.
    pub fn send(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        read_answer(&mut stream)
    }

    /// A connection to REST that gives up reading long after REST gives up answering.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.rest).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }
}

/// Counters that nobody looks at.
pub fn doors() -> proxy::rest::DoorCounters {
    proxy::rest::DoorCounters::of(&proxy::rest::DoorCounters::family().unwrap(), "test")
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// Reads one answer up to the end of the connection.
pub fn read_answer(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes) {
        // A server that refuses may close before it has read all that was sent.
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Answer { status, head: head.into(), body: body.into() }
}

impl Answer {
    /// The JSON of the body, or null where it is none.
    pub fn json_or_null(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

const DEADLINE: Duration = Duration::from_secs(60);
