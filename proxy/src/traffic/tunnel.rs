//! A TCP connection in both directions, from the first byte to the last.

use std::{
    future::poll_fn,
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until},
};

use super::{
    counters::BackendCounters,
    socket::{close_writing, reset_on_close},
    splice::{Broken, Direction},
};

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides said that they are done.
    Closed,
    /// The client broke it off; so was the backend's side.
    ClientReset,
    /// The backend broke it off; so was the client's side.
    BackendReset,
    /// Nothing moved for the idle timeout.
    Idle,
}

/// How long a connection may be silent, and how often its pin is refreshed.
#[derive(Clone, Copy, Debug)]
pub struct Rhythm {
    /// The pool's idle timeout.
    pub idle: Duration,
    /// A quarter of the pin's idle time.
    pub touch: Duration,
}

/// Carries bytes between `client` and `backend` until both have ended, one breaks off, or nothing moves any more.
/// `first` goes to the backend before the client's bytes. `touch` is called at the rhythm's pace.
pub fn carry(
    client: TcpStream,
    backend: TcpStream,
    first: Vec<u8>,
    rhythm: Rhythm,
    counters: &BackendCounters,
    touch: impl Fn(),
) -> impl Future<Output = End> {
    let mut tunnel = Tunnel { client, backend, up: Direction::beginning_with(first), down: Direction::default() };
    let mut alarm = Alarm::set(rhythm);
    // A block instead of an async function: its state holds the parts once, not as arguments as well.
    async move {
        let mut timer = pin!(sleep_until(alarm.next()));
        let end = poll_fn(|cx| {
            let (received, sent, polled) = tunnel.poll(cx);
            if received + sent > 0 {
                counters.received.inc_by(received);
                counters.sent.inc_by(sent);
                alarm.moved();
            }
            if let Poll::Ready(end) = polled {
                return Poll::Ready(end);
            }
            // The timer is not reset for every packet: when it fires it looks at the last one.
            while timer.as_mut().poll(cx).is_ready() {
                match alarm.rang(&touch) {
                    Some(next) => timer.as_mut().reset(next),
                    None => return Poll::Ready(End::Idle),
                }
            }
            Poll::Pending
        })
        .await;
        if matches!(end, End::ClientReset | End::BackendReset) {
            reset_on_close(&tunnel.client);
            reset_on_close(&tunnel.backend);
        }
        end
    }
}

struct Tunnel {
    client: TcpStream,
    backend: TcpStream,
    up: Direction,
    down: Direction,
}

impl Tunnel {
    /// Moves both directions: bytes up, bytes down, and the end if there is one. A broken direction ends the whole
    /// connection; a direction that merely ended leaves the other open.
    fn poll(&mut self, cx: &mut Context<'_>) -> (u64, u64, Poll<End>) {
        let (mut received, mut sent) = (0, 0);
        let Self { client, backend, up, down } = self;
        let end = match poll_and_tell(up, down, cx, client, backend, &mut received) {
            Err(Broken::Source) => Poll::Ready(End::ClientReset),
            Err(Broken::Destination) => Poll::Ready(End::BackendReset),
            Ok(()) => match poll_and_tell(down, up, cx, backend, client, &mut sent) {
                Err(Broken::Source) => Poll::Ready(End::BackendReset),
                Err(Broken::Destination) => Poll::Ready(End::ClientReset),
                Ok(()) if up.done() && down.done() => Poll::Ready(End::Closed),
                Ok(()) => Poll::Pending,
            },
        };
        (received, sent, end)
    }
}

/// Moves one direction, and tells its destination when it is done. When both are, closing the sockets tells it.
fn poll_and_tell(
    direction: &mut Direction,
    other: &Direction,
    cx: &mut Context<'_>,
    source: &mut TcpStream,
    destination: &mut TcpStream,
    moved: &mut u64,
) -> Result<(), Broken> {
    if direction.done() {
        return Ok(());
    }
    match direction.poll(cx, source, destination, moved) {
        Poll::Ready(Ok(())) if !other.done() => close_writing(destination).map_err(|_reset| Broken::Destination),
        Poll::Ready(ended) => ended,
        Poll::Pending => Ok(()),
    }
}

/// One timer for two things: the idle timeout and the pin's refresh.
pub(super) struct Alarm {
    rhythm: Rhythm,
    last_moved: Instant,
    next_touch: Instant,
}

impl Alarm {
    pub(super) fn set(rhythm: Rhythm) -> Self {
        let now = Instant::now();
        Self { rhythm, last_moved: now, next_touch: now + rhythm.touch }
    }

    /// When to look again.
    pub(super) fn next(&self) -> Instant {
        self.next_touch.min(self.last_moved + self.rhythm.idle)
    }

    /// Something moved now.
    pub(super) fn moved(&mut self) {
        self.last_moved = Instant::now();
    }

    /// Something moved at `when`.
    pub(super) fn moved_at(&mut self, when: Instant) {
        self.last_moved = when;
    }

    /// The timer fired: does what is due, and says when to look again; `None` when nothing moved for too long.
    pub(super) fn rang(&mut self, touch: impl Fn()) -> Option<Instant> {
        let now = Instant::now();
        if now >= self.last_moved + self.rhythm.idle {
            return None;
        }
        if now >= self.next_touch {
            touch();
            self.next_touch = now + self.rhythm.touch;
        }
        Some(self.next())
    }
}

/// When something last moved, where more than one hand moves it.
#[derive(Debug)]
pub(super) struct Activity {
    began: Instant,
    last_ms: AtomicU64,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), last_ms: AtomicU64::new(0) }
    }

    /// Something moves now.
    pub(super) fn stamp(&self) {
        self.last_ms.store(self.began.elapsed().as_millis().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn last(&self) -> Instant {
        self.began + Duration::from_millis(self.last_ms.load(Ordering::Relaxed))
    }
}
