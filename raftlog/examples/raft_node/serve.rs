//! The node's port: its peers, and clients that propose over gRPC, by single calls or by streams.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{SyncSender, TrySendError},
    },
};

use raftlog::{
    net::{Options, Transport, server},
    wal::SnapshotStore,
};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    sync::{mpsc, oneshot},
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    Result,
    arguments::Setup,
    certificates,
    gate::{Events, Open, label},
    node::Input,
    table::BLANK,
};

/// Version 3 of etcd's API, as far as it is spoken here.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "made from the .proto file")]
mod etcd {
    include!("generated/etcdserverpb.rs");
}

/// Proposals on a stream.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "made from the .proto file")]
mod stream {
    include!("generated/raftlog.bench.v1.rs");
}

/// The port and what runs behind it.
pub struct Doors {
    pub runtime: Runtime,
    pub transport: Transport,
    pub address: SocketAddr,
}

/// Opens the port and the transport.
///
/// # Errors
/// If the port, the threads or the certificates are not to be had.
pub fn start(setup: &Setup, store: SnapshotStore, inputs: SyncSender<Input>) -> Result<Doors> {
    let runtime = Builder::new_multi_thread().worker_threads(RUNTIME_THREADS).enable_all().build()?;
    let tls = setup.tls.as_ref().map(|directory| certificates::load(directory, &label(setup.id))).transpose()?;
    let options = Options {
        tls,
        local_address: Some(setup.host.parse()?),
        snapshot_bytes_per_second: setup.snapshot_rate,
        ..Options::default()
    };
    let gate = Arc::new(Open { id: setup.id, store, inputs: inputs.clone() });
    let inbox = Arc::new(Events(inputs.clone()));
    let transport = Transport::start(options.clone(), runtime.handle().clone(), gate, inbox);
    let listener = runtime.block_on(TcpListener::bind((setup.host.as_str(), 0)))?;
    let address = listener.local_addr()?;
    let incoming = {
        let _entered = runtime.enter();
        transport.incoming(listener, CONNECTIONS_MAX, options.hello_timeout)
    };
    let clients = Clients { inputs, numbers: Arc::default() };
    let router = server(&options)
        .add_service(transport.service())
        .add_service(etcd::kv_server::KvServer::new(clients.clone()))
        .add_service(stream::stream_server::StreamServer::new(clients));
    runtime.spawn(async move {
        if let Err(error) = router.serve_with_incoming(incoming).await {
            eprintln!("raft_node: the port failed: {error}");
        }
    });
    Ok(Doors { runtime, transport, address })
}

/// Serves clients.
#[derive(Clone)]
struct Clients {
    inputs: SyncSender<Input>,
    numbers: Arc<AtomicU64>,
}

/// A stream of proposals.
#[derive(Clone)]
pub struct Client {
    pub number: u64,
    outcomes: mpsc::Sender<std::result::Result<stream::Outcomes, Status>>,
}

impl Client {
    /// Tells what became of its proposals. One that does not listen is not waited for: it may have no more under way
    /// than there is room for.
    pub fn tell(&self, committed: Vec<u64>, refused: Vec<u64>) {
        if self.outcomes.try_send(Ok(stream::Outcomes { committed, refused })).is_err() {
            eprintln!("raft_node: a client does not read its answers, or is gone");
        }
    }
}

#[tonic::async_trait]
impl etcd::kv_server::Kv for Clients {
    async fn put(
        &self,
        request: Request<etcd::PutRequest>,
    ) -> std::result::Result<Response<etcd::PutResponse>, Status> {
        let put = request.into_inner();
        let mut data = Vec::with_capacity(1 + put.key.len() + put.value.len());
        data.push(BLANK);
        data.extend_from_slice(&put.key);
        data.extend_from_slice(&put.value);
        let (answer, outcome) = oneshot::channel();
        self.inputs.try_send(Input::Call { data: data.into(), answer }).map_err(full)?;
        match outcome.await {
            Ok(true) => Ok(Response::new(etcd::PutResponse {})),
            Ok(false) | Err(_) => Err(Status::unavailable("not appended")),
        }
    }
}

#[tonic::async_trait]
impl stream::stream_server::Stream for Clients {
    type ProposeStream = Pin<Box<dyn Stream<Item = std::result::Result<stream::Outcomes, Status>> + Send>>;

    async fn propose(
        &self,
        request: Request<Streaming<stream::Proposals>>,
    ) -> std::result::Result<Response<Self::ProposeStream>, Status> {
        let (outcomes, told) = mpsc::channel(OUTCOMES_MAX);
        let client = Client { number: self.numbers.fetch_add(1, Ordering::Relaxed), outcomes };
        let (mut requests, inputs) = (request.into_inner(), self.inputs.clone());
        tokio::spawn(async move {
            while let Some(Ok(message)) = requests.next().await {
                let proposals = message.proposals.into_iter().map(|one| (one.token, one.data)).collect();
                if inputs.try_send(Input::Stream { client: client.clone(), proposals }).is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(told))))
    }
}

fn full(error: TrySendError<Input>) -> Status {
    match error {
        TrySendError::Full(_) => Status::unavailable("too many proposals"),
        TrySendError::Disconnected(_) => Status::unavailable("stopping"),
    }
}

/// As an instance has.
const RUNTIME_THREADS: usize = 2;

/// Most connections at once.
const CONNECTIONS_MAX: usize = 256;

/// Most messages of outcomes that wait for one client.
const OUTCOMES_MAX: usize = 4096;
