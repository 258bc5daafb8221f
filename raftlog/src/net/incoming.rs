//! Guards the owner's listener: too many connections, ones that say nothing, and ones that are not secure where they
//! should be, do not reach the gRPC server.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use super::connect::TLS_RECORDS;
use super::counters::{Counters, one};
use super::network::{Listener, Wire};
use super::tls::{Tls, handshake_trouble};

/// The connections of a listener, for `serve_with_incoming`. Made and polled within a tokio runtime.
#[derive(Debug)]
pub struct Incoming {
    listener: Listener,
    room: Arc<Semaphore>,
    /// The part of it that connections without a certificate may have, where there are others.
    strangers_room: Arc<Semaphore>,
    preface_timeout: Duration,
    counters: Arc<Counters>,
    tls: Option<Arc<Tls>>,
    /// Connections whose handshake is under way; each has its place in the room.
    handshakes: JoinSet<Option<GuardedStream>>,
    strangers: Arc<Strangers>,
    /// Set while accepting rests after an error that would come again at once, as when files have run out.
    rest: Option<Pin<Box<Sleep>>>,
}

impl Incoming {
    /// Lets at most `connections_max` be open at a time, and closes those that have not sent HTTP/2's first 24 bytes, or
    /// not ended their handshake, within `preface_timeout`. With TLS a quarter of the places is kept for handshakes and
    /// for who has shown a certificate, so that clients without one cannot keep peers out.
    pub(super) fn new(
        listener: Listener,
        connections_max: usize,
        preface_timeout: Duration,
        counters: Arc<Counters>,
        tls: Option<Arc<Tls>>,
    ) -> Incoming {
        let connections_max = connections_max.min(Semaphore::MAX_PERMITS);
        Incoming {
            listener,
            room: Arc::new(Semaphore::new(connections_max)),
            strangers_room: Arc::new(Semaphore::new(connections_max - connections_max / 4)),
            preface_timeout,
            counters,
            tls,
            handshakes: JoinSet::new(),
            strangers: Arc::default(),
            rest: None,
        }
    }

    /// A connection that can be served; nothing when it has to shake hands first, or when there is no room.
    fn guard(&mut self, wire: Wire, remote: SocketAddr) -> Option<GuardedStream> {
        let Ok(place) = self.room.clone().try_acquire_owned() else {
            one(&self.counters.connections_shed);
            return None;
        };
        let guard = Guard {
            patience: self.preface_timeout,
            counters: self.counters.clone(),
            strangers: self.strangers.clone(),
            place,
            strangers_place: None,
        };
        let Some(tls) = &self.tls else {
            return Some(guard.stream(wire, Caller { remote, proof: Proof::Plaintext }));
        };
        let strangers_room = self.strangers_room.clone();
        self.handshakes.spawn(shake_hands(tls.clone(), guard, wire, remote, strangers_room));
        None
    }

    /// The next connection whose handshake has ended well.
    fn poll_handshakes(&mut self, context: &mut Context<'_>) -> Poll<GuardedStream> {
        while let Poll::Ready(Some(ended)) = self.handshakes.poll_join_next(context) {
            // One that was not let in, or whose task was cut off, is gone with its place.
            if let Ok(Some(stream)) = ended {
                return Poll::Ready(stream);
            }
        }
        Poll::Pending
    }
}

impl Stream for Incoming {
    type Item = io::Result<GuardedStream>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Poll::Ready(stream) = self.poll_handshakes(context) {
                return Poll::Ready(Some(Ok(stream)));
            }
            if let Some(rest) = &mut self.rest {
                ready!(rest.as_mut().poll(context));
                self.rest = None;
            }
            match ready!(self.listener.poll_accept(context)) {
                Ok((wire, remote)) => {
                    if let Some(guarded) = self.guard(wire, remote) {
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

/// Who is at the other end of a connection: an extension of every request that comes on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Where it comes from.
    pub remote: SocketAddr,
    /// Who it proved to be.
    pub proof: Proof,
}

/// Who a caller proved to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// This port asks for no proof.
    Plaintext,
    /// It showed no certificate.
    None,
    /// It is the instance with this label.
    Instance(Arc<str>),
}

impl Caller {
    /// Whether it may use what only instances of the fleet may use.
    pub fn is_trusted(&self) -> bool {
        self.proof != Proof::None
    }
}

/// What a connection takes along on its way in.
struct Guard {
    patience: Duration,
    counters: Arc<Counters>,
    strangers: Arc<Strangers>,
    place: OwnedSemaphorePermit,
    strangers_place: Option<OwnedSemaphorePermit>,
}

impl Guard {
    fn stream(self, wire: Wire, caller: Caller) -> GuardedStream {
        let Guard { patience, counters, strangers, place, strangers_place } = self;
        let silence = Silence { bytes_left: PREFACE_BYTES, deadline: Box::pin(tokio::time::sleep(patience)) };
        let silence = Some(silence);
        GuardedStream { wire, caller, silence, counters, strangers, _place: place, _strangers_place: strangers_place }
    }
}

/// Ends a handshake, well or with a word to whoever reads the log.
async fn shake_hands(
    tls: Arc<Tls>,
    mut guard: Guard,
    wire: Wire,
    remote: SocketAddr,
    strangers_room: Arc<Semaphore>,
) -> Option<GuardedStream> {
    let accepting = TlsAcceptor::from(tls.server()).accept(wire).into_fallible();
    let (error, wire) = match timeout(guard.patience, accepting).await {
        Ok(Ok(stream)) => {
            let proof = match stream.get_ref().1.peer_certificates() {
                None => Ok(Proof::None),
                chain => tls.label_of(chain).map(|label| Proof::Instance(label.into())),
            };
            match proof {
                Ok(proof) => {
                    if proof == Proof::None {
                        let Ok(place) = strangers_room.try_acquire_owned() else {
                            one(&guard.counters.connections_shed);
                            return None;
                        };
                        guard.strangers_place = Some(place);
                    }
                    guard.strangers.forget(remote.ip());
                    return Some(guard.stream(Box::new(stream), Caller { remote, proof }));
                }
                Err(problem) => (format!("its certificate is not good: {problem}"), None),
            }
        }
        Ok(Err((error, wire))) => (handshake_trouble(&error).unwrap_or_else(|| error.to_string()), Some(wire)),
        Err(_) => {
            one(&guard.counters.connections_silent);
            return None;
        }
    };
    one(&guard.counters.handshakes_failed);
    guard.strangers.tell(remote.ip(), &error);
    if let Some(wire) = wire {
        linger(wire).await;
    }
    None
}

/// Lets the other side read why it was not let in: a connection that is closed with bytes unread is reset, and what was
/// said last may be lost with it.
async fn linger(mut wire: Wire) {
    let reading = async {
        if wire.shutdown().await.is_err() {
            return;
        }
        let mut rest = (&mut wire).take(LINGER_BYTES_MAX);
        // Whatever it says, and however it ends: it is over.
        drop(tokio::io::copy(&mut rest, &mut tokio::io::sink()).await);
    };
    // In time or not: it is over.
    drop(timeout(LINGER, reading).await);
}

/// What was last said in the log of those who do not get in, by address, so that it is said once.
#[derive(Debug, Default)]
struct Strangers(Mutex<HashMap<IpAddr, String>>);

impl Strangers {
    fn tell(&self, from: IpAddr, reason: &str) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = told.get(&from).is_some_and(|last| last == reason);
        let is_full = told.len() >= STRANGERS_MAX && !told.contains_key(&from);
        if is_known || is_full {
            tracing::debug!(%from, reason, "a connection was not let in");
            return;
        }
        told.insert(from, reason.to_owned());
        drop(told);
        tracing::warn!(%from, reason, "a connection was not let in; this is said again when the reason changes");
    }

    fn forget(&self, from: IpAddr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&from);
    }
}

/// A connection that has to begin to speak in time.
#[derive(Debug)]
pub struct GuardedStream {
    wire: Wire,
    caller: Caller,
    /// Until the other side has begun to speak.
    silence: Option<Silence>,
    counters: Arc<Counters>,
    strangers: Arc<Strangers>,
    _place: OwnedSemaphorePermit,
    _strangers_place: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
struct Silence {
    bytes_left: usize,
    deadline: Pin<Box<Sleep>>,
}

impl Connected for GuardedStream {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
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
        let result = Pin::new(&mut this.wire).poll_read(context, buffer);
        let Some(silence) = &mut this.silence else { return result };
        let read = buffer.filled().get(before..).unwrap_or_default();
        let is_first = silence.bytes_left == PREFACE_BYTES;
        let is_tls = is_first && read.first().is_some_and(|first| TLS_RECORDS.contains(first));
        if is_tls && this.caller.proof == Proof::Plaintext {
            one(&this.counters.handshakes_failed);
            this.strangers.tell(
                this.caller.remote.ip(),
                "it speaks TLS and this instance speaks plaintext: all instances need the same [fleet.tls]",
            );
        }
        silence.bytes_left = silence.bytes_left.saturating_sub(read.len());
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
        Pin::new(&mut self.wire).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(context)
    }
}

/// The length of the words with which every HTTP/2 connection begins.
const PREFACE_BYTES: usize = 24;
/// How long accepting rests after an error.
const ACCEPT_REST: Duration = Duration::from_millis(50);
/// How long one that is not let in may take to read why.
const LINGER: Duration = Duration::from_secs(1);
/// How much of what it says meanwhile is read.
const LINGER_BYTES_MAX: u64 = 64 << 10;
/// The most addresses whose last reason is remembered; others are not told of in the log, only counted.
const STRANGERS_MAX: usize = 256;
