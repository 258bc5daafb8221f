//! The transport as its owner holds it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tonic::transport::Server;

use super::connect::Connector;
use super::counters::{Counters, one};
use super::dialer;
use super::directory::{Directory, Peer, wait_until_set};
use super::gate::{Gate, Inbox, PeerAddress, SnapshotSource};
use super::generated::link_server::LinkServer;
use super::inbound::Inbound;
use super::incoming::Incoming;
use super::network::Listener;
use super::options::{
    CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, HEADER_LIST_BYTES_MAX, HTTP2_FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, Options,
    PEERS_MAX, RESET_STREAMS_MAX, STREAM_WINDOW_BYTES, STREAMS_PER_CONNECTION_MAX,
};
use super::service::LinkService;
use super::snapshot::{self, SnapshotSendError};
use super::tasks::Tasks;
use crate::NodeId;

/// Carries frames and snapshots between this instance and its peers. Clones are handles to the same transport, which
/// lives until [`Transport::shutdown`] or until its runtime ends.
#[derive(Clone)]
pub struct Transport {
    shared: Arc<Shared>,
}

/// What all parts of a transport see.
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) runtime: Handle,
    pub(super) gate: Arc<dyn Gate>,
    pub(super) inbox: Arc<dyn Inbox>,
    pub(super) counters: Arc<Counters>,
    pub(super) directory: Directory,
    pub(super) inbound: Inbound,
    pub(super) hellos: Semaphore,
    pub(super) snapshots_inbound: Arc<Semaphore>,
    pub(super) tasks: Tasks,
    closing: watch::Sender<bool>,
    /// Held while the peers change, so that a shutdown is the last change.
    changing: Mutex<()>,
}

impl Shared {
    pub(super) fn is_closed(&self) -> bool {
        *self.closing.borrow()
    }

    /// Returns once the transport closes.
    pub(super) async fn closed(&self) {
        wait_until_set(self.closing.subscribe()).await;
    }
}

/// Why a list of peers was not taken. The former peers stay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeersError {
    /// More than [`PEERS_MAX`].
    #[error("{0} peers are more than {PEERS_MAX}")]
    TooMany(usize),
    /// Two peers with one label.
    #[error("two peers have the label {0}")]
    Duplicate(Arc<str>),
    /// The transport was shut down.
    #[error("the transport is closed")]
    Closed,
}

/// The state of the link to one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkStatus {
    /// Where it is dialled.
    pub address: PeerAddress,
    /// Who it said it is.
    pub peer: Option<NodeId>,
    /// Whether frames can be sent.
    pub up: bool,
}

impl Transport {
    /// A transport without peers, whose tasks run on `runtime`.
    pub fn start(options: Options, runtime: Handle, gate: Arc<dyn Gate>, inbox: Arc<dyn Inbox>) -> Transport {
        let shared = Shared {
            runtime,
            gate,
            inbox,
            counters: Arc::default(),
            directory: Directory::default(),
            inbound: Inbound::default(),
            hellos: Semaphore::new(options.hellos_pending_max),
            snapshots_inbound: Arc::new(Semaphore::new(options.snapshots_inbound_max.min(Semaphore::MAX_PERMITS))),
            tasks: Tasks::new(),
            closing: watch::Sender::new(false),
            changing: Mutex::new(()),
            options,
        };
        Transport { shared: Arc::new(shared) }
    }

    /// The service that peers dial, to be mounted on the owner's gRPC server (see [`server`] and
    /// [`Transport::incoming`] for its limits).
    pub fn service(&self) -> LinkServer<LinkService> {
        LinkServer::new(LinkService::new(self.shared.clone())).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The connections of `listener`, for the owner's gRPC server: at most `connections_max` at a time, each with a
    /// [`Caller`](super::Caller) as an extension of its requests. Those that do not begin to speak within `patience` are
    /// closed. Called and polled within a tokio runtime.
    pub fn incoming(&self, listener: impl Into<Listener>, connections_max: usize, patience: Duration) -> Incoming {
        let tls = self.shared.options.tls.clone();
        Incoming::new(listener.into(), connections_max, patience, self.counters(), tls)
    }

    /// Opens connections to peers' ports for other services than this one.
    pub fn connector(&self) -> Connector {
        Connector::new(self.shared.options.clone())
    }

    /// Makes these the peers: dials the new ones, closes the links, both ways, of those that are gone, and leaves the
    /// others alone. The list must not name this instance itself.
    pub fn set_peers(&self, peers: Vec<PeerAddress>) -> Result<(), PeersError> {
        if peers.len() > PEERS_MAX {
            return Err(PeersError::TooMany(peers.len()));
        }
        let mut labels = HashSet::new();
        if let Some(twice) = peers.iter().find(|peer| !labels.insert(peer.label.clone())) {
            return Err(PeersError::Duplicate(twice.label.clone()));
        }
        let _changing = self.shared.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.shared.is_closed() {
            return Err(PeersError::Closed);
        }
        self.replace_peers(peers);
        Ok(())
    }

    /// Queues `frame` for the peer with this id. False when it was dropped, which is counted: the frame is too large,
    /// the peer unknown, its link down, or its queue full. Never blocks; callable from any thread.
    pub fn send(&self, to: NodeId, frame: Bytes) -> bool {
        self.queue(self.shared.directory.by_id(to), frame)
    }

    /// As [`Transport::send`], to the peer with this label.
    pub fn send_to(&self, label: &str, frame: Bytes) -> bool {
        self.queue(self.shared.directory.by_label(label), frame)
    }

    /// Sends a snapshot to the peer with this id, one at a time per peer; ready when the peer has taken it. A connection
    /// that breaks is replaced, and the transfer goes on where it was. Callable from any thread. Dropping the handle does
    /// not stop it.
    pub fn send_snapshot(
        &self,
        to: NodeId,
        meta: Bytes,
        source: Arc<dyn SnapshotSource>,
    ) -> JoinHandle<Result<(), SnapshotSendError>> {
        let alive = self.shared.tasks.enter();
        let peer = self.shared.directory.by_id(to);
        let sending = snapshot::send(self.shared.clone(), peer, meta, source);
        self.shared.runtime.spawn(async move {
            let result = sending.await;
            drop(alive);
            result
        })
    }

    /// Closes all links that peers have open to us. Those that may come in dial again.
    pub fn close_inbound(&self) {
        self.shared.inbound.close_all();
    }

    /// The links to all peers, by label.
    pub fn links(&self) -> Vec<LinkStatus> {
        let status = |peer: &Arc<Peer>| LinkStatus { address: peer.address.clone(), peer: peer.id(), up: peer.is_up() };
        let mut links: Vec<LinkStatus> = self.shared.directory.all().iter().map(status).collect();
        links.sort_by(|one, other| one.address.label.cmp(&other.address.label));
        links
    }

    /// What was counted so far.
    pub fn counters(&self) -> Arc<Counters> {
        self.shared.counters.clone()
    }

    /// Closes all links and snapshots, both ways, lets nobody in any more, and waits until all tasks have ended. Called
    /// before the owner's gRPC server is asked to finish, which then has no stream of ours to wait for.
    pub async fn shutdown(&self) {
        {
            let _changing = self.shared.changing.lock().unwrap_or_else(PoisonError::into_inner);
            self.shared.closing.send_replace(true);
            self.replace_peers(Vec::new());
        }
        self.shared.inbound.close_all();
        self.shared.tasks.finished().await;
    }

    fn replace_peers(&self, peers: Vec<PeerAddress>) {
        let changes = self.shared.directory.replace(peers);
        self.shared.inbound.close(&changes.removed);
        for peer in changes.added {
            let alive = self.shared.tasks.enter();
            let dialling = dialer::run(self.shared.clone(), peer);
            self.shared.runtime.spawn(async move {
                dialling.await;
                drop(alive);
            });
        }
    }

    fn queue(&self, peer: Option<Arc<Peer>>, frame: Bytes) -> bool {
        let counters = &self.shared.counters;
        let reason = if frame.len() > FRAME_BYTES_MAX {
            &counters.dropped_oversized
        } else {
            match peer.map(|peer| peer.outbox()) {
                None => &counters.dropped_unknown_peer,
                Some(None) => &counters.dropped_link_down,
                Some(Some(outbox)) if outbox.push(frame) => return true,
                Some(Some(_)) => &counters.dropped_queue_full,
            }
        };
        one(reason);
        false
    }
}

/// A gRPC server with the limits that a port open to peers needs. Windows apply to every service on it.
pub fn server(options: &Options) -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(HTTP2_FRAME_BYTES_MAX)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .http2_max_header_list_size(HEADER_LIST_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(RESET_STREAMS_MAX))
        .http2_keepalive_interval(Some(options.keepalive_interval))
        .http2_keepalive_timeout(Some(options.keepalive_timeout))
}
