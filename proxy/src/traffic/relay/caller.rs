//! The asking side: opens a relayed connection at a peer.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use ahash::AHashMap;
use flow::{BackendId, PoolSpec};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::mpsc,
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

/// Opens relayed connections; keeps one channel per peer.
pub struct Caller {
    own: IpAddr,
    channels: Mutex<AHashMap<SocketAddr, Channel>>,
}

/// A connection that a peer carries, before its first byte.
pub struct Carried(Box<Link>);

/// Why a peer did not relay.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The peer was not reached, or its stream broke.
    #[error("no stream with the peer: {0}")]
    Stream(#[from] tonic::Status),
    /// The peer's address makes no channel.
    #[error("no channel to the peer: {0}")]
    Channel(#[from] tonic::transport::Error),
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
    /// Calls from `own`.
    #[must_use]
    pub fn new(own: IpAddr) -> Self {
        Self { own, channels: Mutex::default() }
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
        let channel = self.channel(peer)?;
        let connect = proto::Connect {
            backend: backend.0,
            client: client.to_string(),
            connect_timeout_ms: spec.connect_timeout_ms.try_into().unwrap_or(u32::MAX),
            idle_timeout_ms: spec.idle_timeout_ms,
        };
        tokio::time::timeout_at(deadline.into(), connected(channel, connect))
            .await
            .map_err(|_elapsed| CallError::Timeout)?
    }

    fn channel(&self, peer: SocketAddr) -> Result<Channel, CallError> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(&peer) {
            return Ok(channel.clone());
        }
        let mut endpoint = Endpoint::from_shared(format!("http://{peer}"))?
            .connect_timeout(limits::RELAY_CONNECT_MAX)
            .http2_keep_alive_interval(limits::RELAY_PING)
            .keep_alive_timeout(limits::RELAY_PING)
            .tcp_nodelay(true);
        if self.own.is_ipv4() == peer.is_ipv4() && !self.own.is_unspecified() {
            endpoint = endpoint.local_address(Some(self.own));
        }
        if channels.len() >= limits::RELAY_CHANNELS_MAX {
            // More peers than a fleet has: old addresses. Open streams keep their channels.
            channels.clear();
        }
        let channel = endpoint.connect_lazy();
        channels.insert(peer, channel.clone());
        Ok(channel)
    }
}

/// The stream, once the peer said `connected`.
async fn connected(channel: Channel, connect: proto::Connect) -> Result<Carried, CallError> {
    let (outbound, frames) = mpsc::channel(limits::RELAY_FRAMES_QUEUED);
    let first = RelayFrame { frame: Some(Frame::Connect(connect)) };
    outbound.send(first).await.map_err(|_closed| CallError::Protocol)?;
    let mut client = RelayClient::new(channel).max_decoding_message_size(limits::RELAY_FRAME_BYTES_MAX);
    let mut inbound = client.open(ReceiverStream::new(frames)).await?.into_inner();
    match inbound.message().await?.and_then(|answer| answer.frame) {
        Some(Frame::Connected(_)) => Ok(Carried(Box::new(Link { inbound, outbound }))),
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
    match pump(client, *carried.0, first, rhythm, tally, touch).await {
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
    pump(socket, *carried.0, Vec::new(), rhythm, |_, _| {}, || {}).await;
}
