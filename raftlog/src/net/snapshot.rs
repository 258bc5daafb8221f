//! Sends a snapshot file to one peer, on connections of its own: one, and another where that breaks.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::backoff::{Backoff, chance};
use super::connect::{ConnectError, connect};
use super::counters::{add, one};
use super::directory::Peer;
use super::gate::{Refused, SnapshotSource};
use super::generated::link_client::LinkClient;
use super::generated::{Hello, SnapshotChunk, SnapshotHeader, SnapshotPart, SnapshotReply};
use super::options::{
    LINK_VERSION, MESSAGE_BYTES_MAX, Options, REFUSAL_TEXT_CHARS_MAX, REPLY_BYTES_MAX, SNAPSHOT_CHUNK_BYTES,
};
use super::transport::Shared;

/// Why a snapshot was not taken by the peer, as far as known here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotSendError {
    /// No peer of that id has been up.
    #[error("no such peer")]
    UnknownPeer,
    /// Another snapshot is on its way from here to this peer; try again when it is there.
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
    /// The peer is at work on what it was sent before, or on what others send.
    #[error("the peer is busy with other snapshots: {0}")]
    PeerBusy(String),
    /// It stood still for too long.
    #[error("it stood still for too long")]
    StoodStill,
    /// It arrived and the peer did not say in time whether it takes it. It may have.
    #[error("the peer did not say in time whether it takes it")]
    Unanswered,
    /// The source cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
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
    source: Arc<dyn SnapshotSource>,
) -> Result<(), SnapshotSendError> {
    let result = match peer {
        None => Err(SnapshotSendError::UnknownPeer),
        Some(peer) => tokio::select! {
            () = peer.closed() => Err(SnapshotSendError::Closed),
            result = send_to(&shared, &peer, meta, source) => result,
        },
    };
    match &result {
        Ok(()) => one(&shared.counters.snapshots_sent),
        Err(_) => one(&shared.counters.snapshots_send_failed),
    }
    result
}

async fn send_to(
    shared: &Arc<Shared>,
    peer: &Peer,
    meta: Bytes,
    source: Arc<dyn SnapshotSource>,
) -> Result<(), SnapshotSendError> {
    let Ok(_turn) = peer.snapshots.clone().try_acquire_owned() else { return Err(SnapshotSendError::Busy) };
    if meta.len() > MESSAGE_BYTES_MAX / 2 {
        return Err(SnapshotSendError::MetaTooLarge(meta.len()));
    }
    let options = &shared.options;
    let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
    let mut sending = Sending { shared, peer, meta, source, transfer: chance(), best: 0 };
    let mut tries = 0;
    let mut busy_since = None;
    loop {
        let before = sending.best;
        let error = match sending.attempt().await {
            Ok(()) => return Ok(()),
            Err(error) if !error.is_passing() => return Err(error),
            Err(error) => error,
        };
        if sending.best > before {
            tries = 0;
            backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        }
        // A peer that lost the connection while it reads the file takes no other until it has: that is no failure.
        match &error {
            SnapshotSendError::PeerBusy(_)
                if busy_since.get_or_insert_with(Instant::now).elapsed() < options.snapshot_install_timeout => {}
            SnapshotSendError::PeerBusy(_) => tries += 1,
            _ => {
                busy_since = None;
                tries += 1;
            }
        }
        if tries >= options.snapshot_tries_max {
            return Err(error);
        }
        tracing::debug!(peer = %peer.address.label, %error, tries, have = sending.best, "a snapshot goes on later");
        sleep(backoff.failed(chance())).await;
    }
}

impl SnapshotSendError {
    /// Whether another connection may bring it further.
    fn is_passing(&self) -> bool {
        use SnapshotSendError::{BrokenOff, Damaged, NoConnection, PeerBusy, StoodStill};
        matches!(self, NoConnection(_) | Damaged(_) | PeerBusy(_) | StoodStill | BrokenOff(_))
    }
}

/// A snapshot on its way to one peer, over as many connections as it takes.
struct Sending<'a> {
    shared: &'a Arc<Shared>,
    peer: &'a Peer,
    meta: Bytes,
    source: Arc<dyn SnapshotSource>,
    transfer: u64,
    /// The most that the peer said it had.
    best: u64,
}

impl Sending<'_> {
    /// Sends what the peer lacks, over one connection.
    async fn attempt(&mut self) -> Result<(), SnapshotSendError> {
        let options = &self.shared.options;
        let connection = connect(options, &self.peer.address).await.map_err(|error| match error {
            ConnectError::NobodyListens => SnapshotSendError::NobodyListens,
            other => SnapshotSendError::NoConnection(other.to_string()),
        })?;
        let mut client = LinkClient::new(connection.channel).max_decoding_message_size(REPLY_BYTES_MAX);
        let (parts, stream) = mpsc::channel(PARTS_AHEAD);
        push(&parts, SnapshotPart { header: Some(self.header()), chunk: None }, options).await?;
        let opening = async {
            let mut replies = client.snapshot(ReceiverStream::new(stream)).await?.into_inner();
            let first = replies.message().await?;
            Ok((first, replies))
        };
        let opened = timeout(options.snapshot_idle_timeout, opening).await;
        let (first, mut replies) = opened.map_err(|_| SnapshotSendError::StoodStill)?.map_err(broken_off)?;
        let have = accepted(first)?;
        if have > self.source.total_bytes() {
            return Err(SnapshotSendError::BrokenOff("the peer has more of it than there is".into()));
        }
        if self.best > 0 && have > 0 {
            one(&self.shared.counters.snapshots_resumed);
        }
        self.best = self.best.max(have);
        let fed = tokio::select! {
            biased;
            // An early answer is a no.
            reply = replies.message() => Err(reply),
            fed = self.feed(parts, have) => Ok(fed?),
        };
        let last = match fed {
            Err(reply) => reply,
            Ok(_open) => {
                let patience = options.snapshot_install_timeout;
                timeout(patience, replies.message()).await.map_err(|_| SnapshotSendError::Unanswered)?
            }
        };
        match accepted(last.map_err(broken_off)?)? {
            all if all == self.source.total_bytes() => Ok(()),
            some => Err(SnapshotSendError::BrokenOff(format!("the peer ended it at byte {some}"))),
        }
    }

    fn header(&self) -> SnapshotHeader {
        let payload = self.shared.gate.hello(&self.peer.address);
        let hello = Some(Hello { version: LINK_VERSION, payload });
        let total_bytes = self.source.total_bytes();
        SnapshotHeader { hello, meta: self.meta.clone(), total_bytes, transfer: self.transfer }
    }

    /// Hands all chunks from `offset` on to the connection as it takes them, not faster than allowed. Gives the stream of
    /// parts back, still open.
    async fn feed(
        &self,
        parts: mpsc::Sender<SnapshotPart>,
        mut offset: u64,
    ) -> Result<mpsc::Sender<SnapshotPart>, SnapshotSendError> {
        let options = &self.shared.options;
        let mut next_at = Instant::now();
        while offset < self.source.total_bytes() {
            let data = self.read(offset).await?;
            if let Some(rate) = options.snapshot_bytes_per_second {
                next_at = next_at.max(Instant::now());
                sleep_until(next_at).await;
                next_at += time_for(data.len(), rate);
            }
            let len = data.len();
            let crc32c = crc32c::crc32c(&data);
            let chunk = Some(SnapshotChunk { offset, data, crc32c });
            push(&parts, SnapshotPart { header: None, chunk }, options).await?;
            add(&self.shared.counters.snapshot_bytes_sent, len);
            offset += len as u64;
        }
        Ok(parts)
    }

    /// The chunk at `offset`.
    async fn read(&self, offset: u64) -> Result<Bytes, SnapshotSendError> {
        let source = self.source.clone();
        let reading = self.shared.runtime.spawn_blocking(move || {
            let left = usize::try_from(source.total_bytes() - offset).unwrap_or(usize::MAX);
            let mut buffer = vec![0; left.min(SNAPSHOT_CHUNK_BYTES)];
            source.read_at(offset, &mut buffer).map(|()| Bytes::from(buffer))
        });
        let read = reading.await.map_err(|error| SnapshotSendError::Unreadable(error.to_string()))?;
        read.map_err(|error| SnapshotSendError::Unreadable(error.to_string()))
    }
}

async fn push(
    parts: &mpsc::Sender<SnapshotPart>,
    part: SnapshotPart,
    options: &Options,
) -> Result<(), SnapshotSendError> {
    match timeout(options.snapshot_idle_timeout, parts.send(part)).await {
        Ok(Ok(())) => Ok(()),
        // The call is over; its answer says why.
        Ok(Err(_)) => std::future::pending().await,
        Err(_) => Err(SnapshotSendError::StoodStill),
    }
}

/// How much of it the peer has, unless it said no.
fn accepted(reply: Option<SnapshotReply>) -> Result<u64, SnapshotSendError> {
    match reply {
        Some(SnapshotReply { accepted: true, have_bytes, .. }) => Ok(have_bytes),
        Some(SnapshotReply { code, text, .. }) => Err(SnapshotSendError::Refused(Refused::from_wire(code, &text))),
        None => Err(SnapshotSendError::BrokenOff("the peer ended it without a word".into())),
    }
}

fn time_for(bytes: usize, per_second: NonZeroU64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / per_second.get() as f64)
}

fn broken_off(status: Status) -> SnapshotSendError {
    let text = status.message().chars().take(REFUSAL_TEXT_CHARS_MAX).collect();
    match status.code() {
        Code::DataLoss => SnapshotSendError::Damaged(text),
        Code::Aborted => SnapshotSendError::PeerBusy(text),
        Code::ResourceExhausted => SnapshotSendError::NoRoom(text),
        Code::DeadlineExceeded => SnapshotSendError::StoodStill,
        _ => SnapshotSendError::BrokenOff(text),
    }
}

/// The pauses between two tries.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How many chunks are made before the connection asks for them.
const PARTS_AHEAD: usize = 2;
