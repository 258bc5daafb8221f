//! A snapshot on its way in: checked chunk by chunk here, taken by the owner's sink on a thread that may wait for a disk.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::counters::{add, one};
use super::gate::{Refused, SnapshotOffer, SnapshotSink};
use super::generated::{SnapshotChunk, SnapshotHeader, SnapshotPart, SnapshotReply};
use super::inbound::SnapshotTurn;
use super::options::SNAPSHOT_CHUNK_BYTES;
use super::service::{closing, shortened};
use super::tasks::Alive;
use super::transport::Shared;
use crate::NodeId;

/// Where the sender reads how far it is.
pub(super) type Replies = mpsc::Sender<Result<SnapshotReply, Status>>;

/// Why a transfer ended before its end.
enum Broken {
    /// The owner does not want it.
    Refused(Refused),
    /// It may be tried again.
    Status(Status),
}

/// A transfer that was let in.
struct Transfer {
    shared: Arc<Shared>,
    from: NodeId,
    offer: SnapshotOffer,
    parts: Streaming<SnapshotPart>,
    replies: Replies,
    _turn: SnapshotTurn,
    _place: OwnedSemaphorePermit,
    _alive: Alive,
}

/// Takes what `from` sends after its header, in a task of its own.
pub(super) fn start(
    shared: &Arc<Shared>,
    from: NodeId,
    header: SnapshotHeader,
    parts: Streaming<SnapshotPart>,
    replies: Replies,
) -> Result<(), Status> {
    let SnapshotHeader { meta, total_bytes, transfer, .. } = header;
    let max = shared.options.snapshot_bytes_max;
    if total_bytes > max {
        one(&shared.counters.snapshots_receive_failed);
        let text = format!("the snapshot has {total_bytes} bytes, the limit here is {max}");
        return Err(Status::resource_exhausted(text));
    }
    let shed = |text: &str| {
        one(&shared.counters.inbound_shed);
        Err(Status::aborted(text))
    };
    let Ok(place) = shared.snapshots_inbound.clone().try_acquire_owned() else {
        return shed("too many other snapshots are on their way");
    };
    let Some(turn) = shared.inbound.snapshot_turn(from) else {
        return shed("another snapshot of this sender is on its way");
    };
    let offer = SnapshotOffer { meta, total_bytes, transfer };
    let alive = shared.tasks.enter();
    let shared = shared.clone();
    let runtime = shared.runtime.clone();
    let transfer = Transfer { shared, from, offer, parts, replies, _turn: turn, _place: place, _alive: alive };
    runtime.spawn(transfer.run());
    Ok(())
}

/// Says no to a sender.
pub(super) async fn refuse(shared: &Shared, replies: &Replies, refused: Refused) {
    one(&shared.counters.snapshots_receive_failed);
    let Refused { code, text } = refused;
    let reply = SnapshotReply { accepted: false, code, text: shortened(&text), have_bytes: 0 };
    // A sender that is gone needs no answer.
    drop(replies.send(Ok(reply)).await);
}

impl Transfer {
    async fn run(mut self) {
        let shared = self.shared.clone();
        let (mut writer, chunks, opened) = self.open();
        let fed = tokio::select! {
            () = shared.closed() => Err(Broken::Status(closing())),
            fed = self.feed(chunks, opened) => fed,
        };
        // Without chunks the writer comes to its end; until then the turn is not another's, so that what the next one
        // finds there is all that there is.
        let written = (&mut writer).await.unwrap_or_else(|_| Err(internal("taking the snapshot failed")));
        match (fed, written) {
            (_, Err(Broken::Refused(refused))) => refuse(&shared, &self.replies, refused).await,
            (Err(Broken::Refused(refused)), _) => refuse(&shared, &self.replies, refused).await,
            (Err(Broken::Status(status)), _) | (Ok(()), Err(Broken::Status(status))) => {
                one(&shared.counters.snapshots_receive_failed);
                drop(self.replies.send(Err(status)).await);
            }
            (Ok(()), Ok(())) => {
                one(&shared.counters.snapshots_received);
                self.reply(self.offer.total_bytes).await;
            }
        }
    }

    /// Starts the writer: a thread that asks the owner for a sink, says how much is there, and takes chunks in order.
    fn open(&self) -> (JoinHandle<Result<(), Broken>>, mpsc::Sender<Bytes>, oneshot::Receiver<u64>) {
        let (chunks, mut waiting) = mpsc::channel::<Bytes>(CHUNKS_WAITING_MAX);
        let (tell, opened) = oneshot::channel();
        let (gate, from, offer) = (self.shared.gate.clone(), self.from, self.offer.clone());
        let writer = self.shared.runtime.spawn_blocking(move || {
            let total = offer.total_bytes;
            let sink = gate.receive(from, offer).map_err(Broken::Refused)?;
            // Whoever waits for it may have given up.
            tell.send(sink.have_bytes()).ok();
            write(sink, &mut waiting, total)
        });
        (writer, chunks, opened)
    }

    /// Hands the sender's chunks to the writer until all are there.
    async fn feed(&mut self, chunks: mpsc::Sender<Bytes>, opened: oneshot::Receiver<u64>) -> Result<(), Broken> {
        // An error means that the writer has ended, and knows why.
        let Ok(mut have) = opened.await else { return Ok(()) };
        let total = self.offer.total_bytes;
        if have > total {
            return Err(internal("more of the snapshot is there than it has"));
        }
        self.reply(have).await;
        while have < total {
            let next = timeout(self.shared.options.snapshot_idle_timeout, self.parts.message()).await;
            let next = next.map_err(|_| Broken::Status(Status::deadline_exceeded("the snapshot stands still")))?;
            let Some(SnapshotPart { chunk: Some(chunk), .. }) = next.map_err(Broken::Status)? else {
                return Err(Broken::Status(Status::data_loss(format!(
                    "the snapshot ended after {have} of {total} bytes"
                ))));
            };
            let data = checked(chunk, have, total).map_err(Broken::Status)?;
            have += data.len() as u64;
            add(&self.shared.counters.snapshot_bytes_received, data.len());
            if chunks.send(data).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn reply(&self, have_bytes: u64) {
        let reply = SnapshotReply { accepted: true, have_bytes, ..SnapshotReply::default() };
        // A sender that is gone asks again.
        drop(self.replies.send(Ok(reply)).await);
    }
}

fn write(mut sink: Box<dyn SnapshotSink>, chunks: &mut mpsc::Receiver<Bytes>, total: u64) -> Result<(), Broken> {
    let mut have = sink.have_bytes();
    while let Some(chunk) = chunks.blocking_recv() {
        sink.append(&chunk).map_err(Broken::Refused)?;
        have += chunk.len() as u64;
    }
    if have != total {
        // Dropped, the sink keeps what it has, or not.
        return Err(Broken::Status(Status::data_loss(format!("the snapshot ended after {have} of {total} bytes"))));
    }
    sink.finish().map_err(Broken::Refused)
}

/// The bytes of the chunk that belongs at `have`, of `total`.
fn checked(chunk: SnapshotChunk, have: u64, total: u64) -> Result<Bytes, Status> {
    let SnapshotChunk { offset, data, crc32c } = chunk;
    let len = data.len() as u64;
    if data.is_empty() || data.len() > SNAPSHOT_CHUNK_BYTES {
        return Err(Status::invalid_argument(format!("a chunk of the snapshot has {len} bytes")));
    }
    if offset != have {
        return Err(Status::invalid_argument(format!("the chunk at byte {offset} comes where {have} is next")));
    }
    if len > total - have {
        return Err(Status::invalid_argument("the snapshot is longer than its header says"));
    }
    if crc32c::crc32c(&data) != crc32c {
        return Err(Status::data_loss(format!("the chunk at byte {offset} of the snapshot is damaged")));
    }
    Ok(data)
}

fn internal(text: &str) -> Broken {
    Broken::Status(Status::internal(text))
}

/// How many chunks may wait for the disk.
const CHUNKS_WAITING_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn chunk(offset: u64, data: &[u8]) -> SnapshotChunk {
        SnapshotChunk { offset, data: Bytes::copy_from_slice(data), crc32c: crc32c::crc32c(data) }
    }

    #[test]
    fn chunks_come_in_order_undamaged_and_no_more_than_announced() {
        let check = |chunk, have, total, code| assert_eq!(checked(chunk, have, total).unwrap_err().code(), code);
        assert_eq!(checked(chunk(2, b"ab"), 2, 4).unwrap(), "ab");
        check(chunk(0, b""), 0, 4, Code::InvalidArgument);
        check(chunk(0, &[0; SNAPSHOT_CHUNK_BYTES + 1]), 0, u64::MAX, Code::InvalidArgument);
        check(chunk(1, b"ab"), 2, 4, Code::InvalidArgument);
        check(chunk(3, b"ab"), 2, 4, Code::InvalidArgument);
        check(chunk(2, b"abc"), 2, 4, Code::InvalidArgument);
        check(SnapshotChunk { crc32c: 1, ..chunk(0, b"ab") }, 0, 4, Code::DataLoss);
    }
}
