//! Guards the owner's listener: too many connections, or ones that say nothing, do not reach the gRPC server.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_stream::Stream;
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::counters::{Counters, one};

/// The connections of a listener, for `serve_with_incoming`. Made and polled within a tokio runtime.
#[derive(Debug)]
pub struct Incoming {
    listener: TcpListener,
    room: Arc<Semaphore>,
    preface_timeout: Duration,
    counters: Arc<Counters>,
    /// Set while accepting rests after an error that would come again at once, as when files have run out.
    rest: Option<Pin<Box<Sleep>>>,
}

impl Incoming {
    /// Lets at most `connections_max` be open at a time, and closes those that have not sent HTTP/2's first 24 bytes
    /// within `preface_timeout`.
    pub fn new(
        listener: TcpListener,
        connections_max: usize,
        preface_timeout: Duration,
        counters: Arc<Counters>,
    ) -> Incoming {
        let room = Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS)));
        Incoming { listener, room, preface_timeout, counters, rest: None }
    }

    fn guard(&self, stream: TcpStream) -> Option<GuardedStream> {
        let Ok(place) = self.room.clone().try_acquire_owned() else {
            one(&self.counters.connections_shed);
            return None;
        };
        if let Err(error) = stream.set_nodelay(true) {
            // The other side is gone already.
            tracing::debug!(%error, "a connection ended before it was served");
            return None;
        }
        let silence =
            Silence { bytes_left: PREFACE_BYTES, deadline: Box::pin(tokio::time::sleep(self.preface_timeout)) };
        Some(GuardedStream { stream, silence: Some(silence), counters: self.counters.clone(), _place: place })
    }
}

impl Stream for Incoming {
    type Item = io::Result<GuardedStream>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(rest) = &mut self.rest {
                ready!(rest.as_mut().poll(context));
                self.rest = None;
            }
            match ready!(self.listener.poll_accept(context)) {
                Ok((stream, _)) => {
                    if let Some(guarded) = self.guard(stream) {
                        return Poll::Ready(Some(Ok(guarded)));
                    }
                }
                Err(error) => {
                    one(&self.counters.accepts_failed);
                    tracing::warn!(%error, "cannot accept a connection");
                    self.rest = Some(Box::pin(tokio::time::sleep(ACCEPT_REST)));
                }
            }
        }
    }
}

/// A connection that has to begin to speak in time.
#[derive(Debug)]
pub struct GuardedStream {
    stream: TcpStream,
    /// Until the other side has begun to speak.
    silence: Option<Silence>,
    counters: Arc<Counters>,
    _place: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Silence {
    bytes_left: usize,
    deadline: Pin<Box<Sleep>>,
}

impl Connected for GuardedStream {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let result = Pin::new(&mut this.stream).poll_read(context, buffer);
        let Some(silence) = &mut this.silence else { return result };
        silence.bytes_left = silence.bytes_left.saturating_sub(buffer.filled().len() - before);
        if silence.bytes_left == 0 {
            this.silence = None;
        } else if result.is_pending() && silence.deadline.as_mut().poll(context).is_ready() {
            one(&this.counters.connections_silent);
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        result
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The length of the words with which every HTTP/2 connection begins.
const PREFACE_BYTES: usize = 24;
/// How long accepting rests after an error.
const ACCEPT_REST: Duration = Duration::from_millis(50);
