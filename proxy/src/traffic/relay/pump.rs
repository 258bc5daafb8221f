//! Bytes between a socket and a stream of frames, both ways, with half-close and reset.

use std::{os::fd::AsFd, pin::pin, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    time::sleep_until,
};
use tonic::Streaming;

use super::proto::{End, RelayFrame, relay_frame::Frame};
use crate::traffic::{
    limits,
    socket::reset_on_close,
    tunnel::{Activity, Alarm, Rhythm},
};

/// A stream of frames with the other instance.
pub(super) struct Link {
    pub(super) inbound: Streaming<RelayFrame>,
    pub(super) outbound: mpsc::Sender<RelayFrame>,
}

/// How a relayed connection ended, seen from the instance that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Both ways ended as they should.
    Closed,
    /// The socket on this side broke.
    Socket,
    /// The stream, or what lies behind it, broke.
    Link,
    /// Nothing moved for the idle timeout.
    Idle,
}

/// What moved: bytes out of the socket, bytes into it.
pub(super) trait Tally: Fn(u64, u64) + Sync {}
impl<F: Fn(u64, u64) + Sync> Tally for F {}

/// Carries bytes until both ways have ended or one broke. A broken end resets the other.
pub(super) async fn pump<S: AsyncRead + AsyncWrite + AsFd + Unpin>(
    socket: S,
    link: Link,
    first: Vec<u8>,
    rhythm: Rhythm,
    tally: impl Tally,
    touch: impl Fn(),
) -> Ended {
    let Link { mut inbound, outbound } = link;
    let (mut reader, mut writer) = tokio::io::split(socket);
    let activity = Activity::new();
    let ended = {
        let out = async {
            let sent = send_all(&mut reader, &outbound, first, &activity, &tally).await;
            drop(outbound);
            sent
        };
        let into = receive_all(&mut writer, &mut inbound, &activity, &tally);
        let mut both = pin!(async { tokio::try_join!(out, into) });
        let mut alarm = Alarm::set(rhythm);
        let mut timer = pin!(sleep_until(alarm.next()));
        loop {
            tokio::select! {
                biased;
                joined = &mut both => break joined.map_or_else(|ended| ended, |_| Ended::Closed),
                () = &mut timer => {
                    alarm.moved_at(activity.last());
                    match alarm.rang(&touch) {
                        Some(next) => timer.as_mut().reset(next),
                        None => break Ended::Idle,
                    }
                }
            }
        }
    };
    if ended == Ended::Closed {
        finish(&mut inbound).await;
    } else if ended != Ended::Idle {
        reset_on_close(&reader.unsplit(writer));
    }
    ended
}

/// The socket's bytes as frames, then `end`.
async fn send_all<R: AsyncRead + Unpin>(
    reader: &mut R,
    outbound: &mpsc::Sender<RelayFrame>,
    first: Vec<u8>,
    activity: &Activity,
    tally: &impl Tally,
) -> Result<(), Ended> {
    if !first.is_empty() {
        tally(first.len() as u64, 0);
        send(outbound, Frame::Data(first.into())).await?;
    }
    loop {
        let mut chunk = BytesMut::with_capacity(limits::RELAY_CHUNK_BYTES);
        match reader.read_buf(&mut chunk).await {
            Ok(0) => return send(outbound, Frame::End(End {})).await,
            Ok(count) => {
                send(outbound, Frame::Data(chunk.freeze())).await?;
                tally(count as u64, 0);
                activity.stamp();
            }
            Err(_broken) => return Err(Ended::Socket),
        }
    }
}

/// The frames' bytes into the socket, until `end`.
async fn receive_all<W: AsyncWrite + Unpin>(
    writer: &mut W,
    inbound: &mut Streaming<RelayFrame>,
    activity: &Activity,
    tally: &impl Tally,
) -> Result<(), Ended> {
    loop {
        match inbound.message().await {
            Ok(Some(RelayFrame { frame: Some(Frame::Data(bytes)) })) => {
                writer.write_all(&bytes).await.map_err(|_broken| Ended::Socket)?;
                tally(0, bytes.len() as u64);
                activity.stamp();
            }
            Ok(Some(RelayFrame { frame: Some(Frame::End(_)) })) => {
                return writer.shutdown().await.map_err(|_broken| Ended::Socket);
            }
            // Ended without `end`, or said something that has no place here.
            Ok(_) | Err(_) => return Err(Ended::Link),
        }
    }
}

/// Both sides said `end`: waits for the stream itself to end, so that dropping it cancels nothing that is under way.
async fn finish(inbound: &mut Streaming<RelayFrame>) {
    let ending = async { while let Ok(Some(_)) = inbound.message().await {} };
    // When the other side does not end it in time, dropping it does.
    tokio::time::timeout(FINISH_TIMEOUT, ending).await.ok();
}

async fn send(outbound: &mpsc::Sender<RelayFrame>, frame: Frame) -> Result<(), Ended> {
    outbound.send(RelayFrame { frame: Some(frame) }).await.map_err(|_closed| Ended::Link)
}

/// How long the end of a stream is awaited once both sides said `end`.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);
