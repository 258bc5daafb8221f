//! Sends a snapshot's body to one peer, on a connection of its own.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::connect::{ConnectError, Connection, connect};
use super::counters::{add, one};
use super::directory::Peer;
use super::gate::Refused;
use super::generated::link_client::LinkClient;
use super::generated::{Hello, SnapshotChunk, SnapshotHeader, SnapshotPart};
use super::options::{
    LINK_VERSION, MESSAGE_BYTES_MAX, Options, REFUSAL_TEXT_CHARS_MAX, REPLY_BYTES_MAX, SNAPSHOT_CHUNK_BYTES,
};
use super::transport::Shared;

/// Why a snapshot was not installed by the peer, as far as known here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotSendError {
    /// No peer of that id has been up.
    #[error("no such peer")]
    UnknownPeer,
    /// Another snapshot is on its way to this peer; try again when it is there.
    #[error("another snapshot is on its way to this peer")]
    Busy,
    /// The meta bytes do not fit a message.
    #[error("the snapshot's description has {0} bytes, which do not fit a message")]
    MetaTooLarge(usize),
    /// Nobody listens at the peer's port: its process is gone.
    #[error("nobody listens at the peer's port")]
    NobodyListens,
    /// There was no connection.
    #[error("no connection to the peer: {0}")]
    NoConnection(String),
    /// The peer's owner, or the version check, said no.
    #[error("refused by the peer: {0}")]
    Refused(Refused),
    /// It did not arrive as it was sent; try again.
    #[error("damaged on the way: {0}")]
    Damaged(String),
    /// The peer has no room for it now, or never will.
    #[error("the peer has no room: {0}")]
    NoRoom(String),
    /// It stood still for too long.
    #[error("it stood still for too long")]
    StoodStill,
    /// It arrived and the peer did not say in time that it is installed. It may be.
    #[error("the peer did not say in time that it is installed")]
    Unanswered,
    /// The owner took the peer away, or closed the transport.
    #[error("the link was closed")]
    Closed,
    /// Anything else that broke the transfer; try again.
    #[error("broken off: {0}")]
    BrokenOff(String),
}

/// Sends one snapshot and counts how it ended.
pub(super) async fn send(
    shared: Arc<Shared>,
    peer: Option<Arc<Peer>>,
    meta: Bytes,
    body: Bytes,
) -> Result<(), SnapshotSendError> {
    let result = match peer {
        None => Err(SnapshotSendError::UnknownPeer),
        Some(peer) => tokio::select! {
            () = peer.closed() => Err(SnapshotSendError::Closed),
            result = send_to(&shared, &peer, meta, body) => result,
        },
    };
    match &result {
        Ok(()) => one(&shared.counters.snapshots_sent),
        Err(_) => one(&shared.counters.snapshots_send_failed),
    }
    result
}

async fn send_to(shared: &Arc<Shared>, peer: &Peer, meta: Bytes, body: Bytes) -> Result<(), SnapshotSendError> {
    let options = &shared.options;
    let Ok(_turn) = peer.snapshots.clone().try_acquire_owned() else { return Err(SnapshotSendError::Busy) };
    if meta.len() > MESSAGE_BYTES_MAX / 2 {
        return Err(SnapshotSendError::MetaTooLarge(meta.len()));
    }
    let summed = body.clone();
    let checksum = shared.runtime.spawn_blocking(move || crc32c::crc32c(&summed)).await;
    let crc32c = checksum.map_err(|error| SnapshotSendError::BrokenOff(error.to_string()))?;
    let hello = Some(Hello { version: LINK_VERSION, payload: shared.gate.hello(&peer.address) });
    let header = SnapshotHeader { hello, meta, total_bytes: body.len() as u64, crc32c };

    let Connection { channel, .. } = connect(options, &peer.address).await.map_err(|error| match error {
        ConnectError::NobodyListens => SnapshotSendError::NobodyListens,
        other => SnapshotSendError::NoConnection(other.to_string()),
    })?;
    let mut client = LinkClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX);
    let (parts, stream) = mpsc::channel(PARTS_AHEAD);
    let answer = client.snapshot(ReceiverStream::new(stream));
    tokio::pin!(answer);
    let reply = tokio::select! {
        biased;
        // An early answer is a no.
        reply = &mut answer => reply,
        fed = feed(shared, parts, header, body) => {
            fed?;
            let patience = options.snapshot_install_timeout;
            timeout(patience, &mut answer).await.map_err(|_| SnapshotSendError::Unanswered)?
        }
    };
    let reply = reply.map_err(broken_off)?.into_inner();
    if reply.accepted { Ok(()) } else { Err(SnapshotSendError::Refused(Refused::from_wire(reply.code, &reply.text))) }
}

/// Hands all parts to the connection as it takes them, not faster than allowed.
async fn feed(
    shared: &Shared,
    parts: mpsc::Sender<SnapshotPart>,
    header: SnapshotHeader,
    mut body: Bytes,
) -> Result<(), SnapshotSendError> {
    let Options { snapshot_idle_timeout: idle, snapshot_bytes_per_second: rate, .. } = shared.options;
    let mut part = SnapshotPart { header: Some(header), chunk: None };
    let mut next_at = Instant::now();
    loop {
        match timeout(idle, parts.send(part)).await {
            Ok(Ok(())) => {}
            // The call is over; its answer says why.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return Err(SnapshotSendError::StoodStill),
        }
        if body.is_empty() {
            return Ok(());
        }
        let data = body.split_to(body.len().min(SNAPSHOT_CHUNK_BYTES));
        if let Some(rate) = rate {
            next_at = next_at.max(Instant::now());
            sleep_until(next_at).await;
            next_at += time_for(data.len(), rate);
        }
        add(&shared.counters.snapshot_bytes_sent, data.len());
        let crc32c = crc32c::crc32c(&data);
        part = SnapshotPart { header: None, chunk: Some(SnapshotChunk { data, crc32c }) };
    }
}

fn time_for(bytes: usize, per_second: NonZeroU64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / per_second.get() as f64)
}

fn broken_off(status: Status) -> SnapshotSendError {
    let text = status.message().chars().take(REFUSAL_TEXT_CHARS_MAX).collect();
    match status.code() {
        Code::DataLoss => SnapshotSendError::Damaged(text),
        Code::ResourceExhausted => SnapshotSendError::NoRoom(text),
        Code::DeadlineExceeded => SnapshotSendError::StoodStill,
        _ => SnapshotSendError::BrokenOff(text),
    }
}

/// How many chunks are made before the connection asks for them.
const PARTS_AHEAD: usize = 2;
