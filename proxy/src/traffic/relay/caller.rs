//! The asking side: opens a relayed connection at a peer.

use std::{
    net::SocketAddr,
    os::fd::AsFd,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use ahash::AHashMap;
use flow::{BackendId, PoolSpec};
use raftlog::net::Connector;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::{
    proto::{self, RelayFrame, relay_client::RelayClient, relay_frame::Frame},
    pump::{Ended, Link, pump},
};
use crate::traffic::{
    counters::{BackendCounters, Fault},
    limits,
    tunnel::{End, Rhythm},
};

/// Opens relayed connections; keeps as many channels to each peer as they need.
pub struct Caller {
    connector: Connector,
    channels: Mutex<AHashMap<SocketAddr, Vec<Lane>>>,
}

/// A channel, and its seats that are free.
struct Lane {
    channel: Channel,
    seats: Arc<Semaphore>,
}

/// A connection that a peer carries, before its first byte.
pub struct Carried {
    link: Box<Link>,
    /// Its place in the channel.
    seat: OwnedSemaphorePermit,
}

/// Why a peer did not relay.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The peer was not reached, or its stream broke.
    #[error("no stream with the peer: {0}")]
    Stream(#[from] tonic::Status),
    /// The peer's address makes no channel.
    #[error("no channel to the peer: {0}")]
    Channel(#[from] tonic::transport::Error),
    /// All channels to the peer are full.
    #[error("as many connections go through the peer as may")]
    Full,
    /// The peer says why it has no connection.
    #[error("the peer has no connection: {message} ({reason})")]
    Failed {
        /// As a word.
        reason: &'static str,
        /// In the peer's words.
        message: String,
    },
    /// The peer's first frame was neither `connected` nor `failed`.
    #[error("the peer broke the protocol")]
    Protocol,
    /// Not in time.
    #[error("the peer did not answer in time")]
    Timeout,
}

impl Caller {
    /// Calls through `connector`.
    #[must_use]
    pub fn new(connector: Connector) -> Self {
        Self { connector, channels: Mutex::default() }
    }

    /// Asks `peer` for a connection to `backend`.
    pub async fn open(
        &self,
        peer: SocketAddr,
        backend: BackendId,
        client: SocketAddr,
        spec: &PoolSpec,
        deadline: Instant,
    ) -> Result<Carried, CallError> {
        let (channel, seat) = self.seat(peer)?;
        let connect = proto::Connect {
            backend: backend.0,
            client: client.to_string(),
            connect_timeout_ms: spec.connect_timeout_ms.try_into().unwrap_or(u32::MAX),
            idle_timeout_ms: spec.idle_timeout_ms,
            transparent: spec.transparent,
        };
        let connected = tokio::time::timeout_at(deadline.into(), connected(channel, connect)).await;
        let link = connected.map_err(|_elapsed| CallError::Timeout)??;
        Ok(Carried { link, seat })
    }

    /// How many channels there are to `peer`.
    #[cfg(test)]
    pub fn channels_to(&self, peer: SocketAddr) -> usize {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner).get(&peer).map_or(0, Vec::len)
    }

    /// A place in a channel to `peer`: in the first that has one, or in a new one.
    fn seat(&self, peer: SocketAddr) -> Result<(Channel, OwnedSemaphorePermit), CallError> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if channels.len() >= limits::RELAY_CHANNELS_MAX && !channels.contains_key(&peer) {
            // More peers than a fleet has: old addresses. Open streams keep their channels.
            channels.clear();
        }
        let lanes = channels.entry(peer).or_default();
        // One that is free is kept, so that none is made and dropped with every connection.
        while lanes.iter().rev().take(2).filter(|lane| lane.is_free()).count() == 2 {
            lanes.pop();
        }
        for lane in &*lanes {
            if let Ok(seat) = Arc::clone(&lane.seats).try_acquire_owned() {
                return Ok((lane.channel.clone(), seat));
            }
        }
        if lanes.len() >= limits::RELAY_CHANNELS_PER_PEER_MAX {
            return Err(CallError::Full);
        }
        let lane = Lane::new(self.connector.clone(), peer)?;
        let seat = Arc::clone(&lane.seats).try_acquire_owned().map_err(|_none| CallError::Full)?;
        let channel = lane.channel.clone();
        lanes.push(lane);
        Ok((channel, seat))
    }
}

impl Lane {
    fn new(connector: Connector, peer: SocketAddr) -> Result<Self, CallError> {
        let endpoint = Endpoint::from_shared(format!("http://{peer}"))?
            .connect_timeout(limits::RELAY_CONNECT_MAX)
            .http2_keep_alive_interval(limits::RELAY_PING)
            .keep_alive_timeout(limits::RELAY_PING)
            .initial_stream_window_size(limits::RELAY_STREAM_WINDOW)
            .initial_connection_window_size(limits::RELAY_CHANNEL_WINDOW);
        let channel = endpoint.connect_with_connector_lazy(connector);
        Ok(Self { channel, seats: Arc::new(Semaphore::new(limits::RELAYS_PER_CHANNEL)) })
    }

    fn is_free(&self) -> bool {
        self.seats.available_permits() == limits::RELAYS_PER_CHANNEL
    }
}

/// The stream, once the peer said `connected`.
async fn connected(channel: Channel, connect: proto::Connect) -> Result<Box<Link>, CallError> {
    let (outbound, frames) = mpsc::channel(limits::RELAY_FRAMES_QUEUED);
    let first = RelayFrame { frame: Some(Frame::Connect(connect)) };
    outbound.send(first).await.map_err(|_closed| CallError::Protocol)?;
    let mut client = RelayClient::new(channel).max_decoding_message_size(limits::RELAY_FRAME_BYTES_MAX);
    let mut inbound = client.open(ReceiverStream::new(frames)).await?.into_inner();
    match inbound.message().await?.and_then(|answer| answer.frame) {
        Some(Frame::Connected(_)) => Ok(Box::new(Link { inbound, outbound })),
        Some(Frame::Failed(failed)) => {
            Err(CallError::Failed { reason: failed.reason().as_str_name(), message: failed.message })
        }
        _ => Err(CallError::Protocol),
    }
}

/// Carries a client's TCP connection through `carried`.
pub async fn carry_client(
    client: TcpStream,
    carried: Carried,
    first: Vec<u8>,
    rhythm: Rhythm,
    counters: &BackendCounters,
    touch: impl Fn(),
) -> End {
    let tally = |received, sent| {
        counters.received.inc_by(received);
        counters.sent.inc_by(sent);
    };
    let Carried { link, seat } = carried;
    let ended = pump(client, *link, first, rhythm, tally, touch).await;
    drop(seat);
    match ended {
        Ended::Closed => End::Closed,
        Ended::Socket => End::ClientReset,
        Ended::Link => {
            counters.fault(Fault::RelayBroken);
            End::BackendReset
        }
        Ended::Idle => End::Idle,
    }
}

/// Carries what another part of this process says on `socket` through `carried`. Whoever holds the other end counts the
/// bytes and refreshes the pin.
pub async fn carry_local<S: AsyncRead + AsyncWrite + AsFd + Unpin>(socket: S, carried: Carried, rhythm: Rhythm) {
    let Carried { link, seat } = carried;
    pump(socket, *link, Vec::new(), rhythm, |_, _| {}, || {}).await;
    drop(seat);
}
