//! The frames that wait for one link, and the stream that takes them to it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio_stream::Stream;

use super::counters::{Counters, add, one};
use super::generated::{Hello, LinkRequest};
use super::options::{BATCH_BYTES_MAX, BATCH_FRAMES_MAX, LINK_VERSION, Options};

/// A bounded queue of frames between any thread and one link. Frames are merged only because they had to wait: the
/// connection asks for the next message when it has room, and gets all that is there, up to a limit.
#[derive(Debug)]
pub(super) struct Outbox {
    state: Mutex<State>,
    bytes_max: usize,
    frames_max: usize,
}

#[derive(Debug, Default)]
struct State {
    frames: VecDeque<Bytes>,
    /// The sum of the frames' lengths.
    bytes: usize,
    /// The ping to send with the next message; 0 for none.
    ping: u64,
    closed: bool,
    /// The connection, when it waits for more.
    waker: Option<Waker>,
}

impl Outbox {
    pub(super) fn new(options: &Options) -> Outbox {
        Outbox { state: Mutex::default(), bytes_max: options.queue_bytes_max, frames_max: options.queue_frames_max }
    }

    /// Queues a frame; false when there is no room for it or the link is over.
    pub(super) fn push(&self, frame: Bytes) -> bool {
        let mut state = self.lock();
        let full = state.frames.len() >= self.frames_max || state.bytes.saturating_add(frame.len()) > self.bytes_max;
        if full || state.closed {
            return false;
        }
        state.bytes += frame.len();
        state.frames.push_back(frame);
        wake(state);
        true
    }

    /// Asks the peer for a pong with this number.
    pub(super) fn ping(&self, number: u64) {
        let mut state = self.lock();
        state.ping = number;
        wake(state);
    }

    /// Ends the stream; returns how many frames will not be sent.
    pub(super) fn close(&self) -> usize {
        let mut state = self.lock();
        state.closed = true;
        let unsent = std::mem::take(&mut state.frames).len();
        state.bytes = 0;
        wake(state);
        unsent
    }

    fn poll_message(&self, context: &mut Context<'_>) -> Poll<Option<LinkRequest>> {
        let mut state = self.lock();
        if state.closed {
            return Poll::Ready(None);
        }
        if state.frames.is_empty() && state.ping == 0 {
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        let count = batch_len(&state.frames);
        let frames: Vec<Bytes> = state.frames.drain(..count).collect();
        state.bytes -= frames.iter().map(Bytes::len).sum::<usize>();
        let ping = std::mem::take(&mut state.ping);
        Poll::Ready(Some(LinkRequest { hello: None, frames, ping }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(mut state: MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// How many of the first frames make one message.
fn batch_len(frames: &VecDeque<Bytes>) -> usize {
    let mut bytes = 0;
    let fits = frames.iter().take(BATCH_FRAMES_MAX).take_while(|frame| {
        bytes += frame.len();
        bytes <= BATCH_BYTES_MAX
    });
    fits.count().max(1).min(frames.len())
}

/// Closes an outbox when dropped, and with it the stream that it feeds: a connection stays open as long as a request on it
/// may go on.
#[derive(Debug)]
pub(super) struct OutboxGuard {
    pub(super) outbox: Arc<Outbox>,
    pub(super) counters: Arc<Counters>,
}

impl Drop for OutboxGuard {
    fn drop(&mut self) {
        add(&self.counters.dropped_link_down, self.outbox.close());
    }
}

/// The requests of one link: the hello, then whatever the outbox holds.
pub(super) struct Outgoing {
    hello: Option<Bytes>,
    outbox: Arc<Outbox>,
    counters: Arc<Counters>,
}

impl Outgoing {
    pub(super) fn new(hello: Bytes, outbox: Arc<Outbox>, counters: Arc<Counters>) -> Outgoing {
        Outgoing { hello: Some(hello), outbox, counters }
    }
}

impl Stream for Outgoing {
    type Item = LinkRequest;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<LinkRequest>> {
        if let Some(payload) = self.hello.take() {
            let hello = Some(Hello { version: LINK_VERSION, payload });
            return Poll::Ready(Some(LinkRequest { hello, frames: Vec::new(), ping: 0 }));
        }
        let message = self.outbox.poll_message(context);
        if let Poll::Ready(Some(request)) = &message {
            one(&self.counters.messages_sent);
            add(&self.counters.frames_sent, request.frames.len());
            add(&self.counters.frame_bytes_sent, request.frames.iter().map(Bytes::len).sum());
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox(bytes_max: usize, frames_max: usize) -> Outbox {
        Outbox::new(&Options { queue_bytes_max: bytes_max, queue_frames_max: frames_max, ..Options::default() })
    }

    fn frame(len: usize) -> Bytes {
        Bytes::from(vec![7; len])
    }

    fn next(outbox: &Outbox) -> Poll<Option<usize>> {
        let mut context = Context::from_waker(Waker::noop());
        outbox.poll_message(&mut context).map(|message| message.map(|request| request.frames.len()))
    }

    #[test]
    fn waiting_frames_leave_together_up_to_the_limits() {
        let outbox = outbox(usize::MAX, usize::MAX);
        for len in [BATCH_BYTES_MAX / 2, BATCH_BYTES_MAX / 2, 1, BATCH_BYTES_MAX + 1, 1] {
            assert!(outbox.push(frame(len)));
        }
        assert_eq!(next(&outbox), Poll::Ready(Some(2)));
        assert_eq!(next(&outbox), Poll::Ready(Some(1)));
        assert_eq!(next(&outbox), Poll::Ready(Some(1)));
        assert_eq!(next(&outbox), Poll::Ready(Some(1)));
        assert_eq!(next(&outbox), Poll::Pending);
        for _ in 0..=BATCH_FRAMES_MAX {
            assert!(outbox.push(frame(0)));
        }
        assert_eq!(next(&outbox), Poll::Ready(Some(BATCH_FRAMES_MAX)));
        assert_eq!(next(&outbox), Poll::Ready(Some(1)));
    }

    #[test]
    fn a_full_queue_takes_nothing_until_there_is_room() {
        let outbox = outbox(10, 3);
        assert!(outbox.push(frame(6)));
        assert!(!outbox.push(frame(5)));
        assert!(outbox.push(frame(4)));
        assert!(outbox.push(frame(0)));
        assert!(!outbox.push(frame(0)));
        assert_eq!(next(&outbox), Poll::Ready(Some(3)));
        assert!(outbox.push(frame(10)));
    }

    #[test]
    fn a_closed_queue_ends_its_stream_and_says_what_it_lost() {
        let outbox = outbox(10, 10);
        assert!(outbox.push(frame(1)));
        assert!(outbox.push(frame(1)));
        assert_eq!(outbox.close(), 2);
        assert!(!outbox.push(frame(1)));
        assert_eq!(next(&outbox), Poll::Ready(None));
    }

    #[test]
    fn a_ping_leaves_alone_when_nothing_waits() {
        let outbox = outbox(10, 10);
        outbox.ping(4);
        assert_eq!(next(&outbox), Poll::Ready(Some(0)));
        assert_eq!(next(&outbox), Poll::Pending);
    }
}
