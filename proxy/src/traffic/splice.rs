//! One direction of a TCP connection: bytes are copied through the thread's buffer, and spliced when they are many.
//!
//! ```text
//!            two full reads
//!   Copying ----------------> Splicing
//!      ^                          |
//!      +--------------------------+   a few small transfers in a row
//! ```
//! Neither owns memory while it waits for the source: the copy buffer belongs to the thread and is used only inside a
//! poll, the pipe goes back to the thread's store as soon as it is empty and the source has nothing more. Only bytes
//! that the destination does not take yet are held.

use std::{
    cell::RefCell,
    io,
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

use super::limits;

/// Which end of a direction failed. How hardly matters: a reset in most cases.
#[derive(Clone, Copy, Debug)]
pub enum Broken {
    /// Reading from the source.
    Source,
    /// Writing to the destination.
    Destination,
}

/// One direction's state.
#[derive(Default)]
pub struct Direction {
    /// Bytes read but not yet taken by the destination, from `held_from` on. Empty when there are none.
    held: Vec<u8>,
    held_from: usize,
    /// Present while splicing has bytes under way.
    pipe: Option<Pipe>,
    in_pipe: usize,
    /// Moved since the source last had nothing.
    burst: usize,
    full_reads: u8,
    small_bursts: u8,
    splicing: bool,
    source_ended: bool,
    done: bool,
}

impl Direction {
    /// A direction whose destination is to get `first` before anything else.
    #[must_use]
    pub fn beginning_with(first: Vec<u8>) -> Self {
        Self { held: first, ..Self::default() }
    }

    /// Whether the source has ended and the destination has all of it.
    #[must_use]
    pub fn done(&self) -> bool {
        self.done
    }

    /// Moves what can be moved. `Ready` once the source has ended and the destination has all of it; telling the
    /// destination is the owner's part. What the destination took of the source's bytes is added to `moved`.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut TcpStream,
        destination: &mut TcpStream,
        moved: &mut u64,
    ) -> Poll<Result<(), Broken>> {
        if self.done {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..limits::MOVES_PER_TURN {
            ready!(self.poll_empty(cx, destination, moved)).map_err(|_reset| Broken::Destination)?;
            if self.source_ended {
                self.done = true;
                return Poll::Ready(Ok(()));
            }
            if self.splicing {
                ready!(self.poll_fill_pipe(cx, source)).map_err(|_reset| Broken::Source)?;
            } else {
                ready!(self.poll_copy(cx, source, destination, moved))?;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Gives the destination what is held or in the pipe.
    fn poll_empty(
        &mut self,
        cx: &mut Context<'_>,
        destination: &mut TcpStream,
        moved: &mut u64,
    ) -> Poll<io::Result<()>> {
        while self.held_from < self.held.len() {
            let rest = self.held.get(self.held_from..).unwrap_or_default();
            let taken = ready!(Pin::new(&mut *destination).poll_write(cx, rest))?;
            self.held_from += taken;
            *moved += taken as u64;
        }
        if self.held.capacity() > 0 {
            (self.held, self.held_from) = (Vec::new(), 0);
        }
        while self.in_pipe > 0 {
            let Some(pipe) = &self.pipe else { break };
            ready!(destination.poll_write_ready(cx))?;
            let (from, length) = (pipe.out.as_fd(), self.in_pipe);
            match destination
                .try_io(Interest::WRITABLE, || Ok(splice(from, None, destination.as_fd(), None, length, FLAGS)?))
            {
                Ok(taken) => {
                    self.in_pipe = self.in_pipe.saturating_sub(taken);
                    *moved += taken as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// One read into the thread's buffer, and what the destination takes of it at once.
    fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut TcpStream,
        destination: &mut TcpStream,
        moved: &mut u64,
    ) -> Poll<Result<(), Broken>> {
        BUFFER.with_borrow_mut(|buffer| {
            let mut read = ReadBuf::new(buffer);
            ready!(Pin::new(source).poll_read(cx, &mut read)).map_err(|_reset| Broken::Source)?;
            let bytes = read.filled();
            if bytes.is_empty() {
                self.source_ended = true;
                return Poll::Ready(Ok(()));
            }
            let taken = match Pin::new(destination).poll_write(cx, bytes) {
                Poll::Ready(taken) => taken.map_err(|_reset| Broken::Destination)?,
                Poll::Pending => 0,
            };
            *moved += taken as u64;
            self.held = bytes.get(taken..).unwrap_or_default().to_vec();
            self.full_reads = if bytes.len() == limits::COPY_BYTES { self.full_reads + 1 } else { 0 };
            if self.full_reads >= limits::FULL_READS_TO_SPLICE {
                (self.splicing, self.full_reads, self.small_bursts, self.burst) = (true, 0, 0, 0);
            }
            Poll::Ready(Ok(()))
        })
    }

    /// One splice from the source into the empty pipe.
    fn poll_fill_pipe(&mut self, cx: &mut Context<'_>, source: &mut TcpStream) -> Poll<io::Result<()>> {
        if source.poll_read_ready(cx)?.is_pending() {
            self.rest();
            return Poll::Pending;
        }
        let Some(pipe) = self.pipe.take().or_else(Pipe::take) else {
            // No descriptors left for pipes: copying needs none.
            self.splicing = false;
            return Poll::Ready(Ok(()));
        };
        let into = self.pipe.insert(pipe).into.as_fd();
        let filled = source
            .try_io(Interest::READABLE, || Ok(splice(source.as_fd(), None, into, None, limits::PIPE_BYTES, FLAGS)?));
        match filled {
            Ok(0) => {
                self.source_ended = true;
                self.rest();
            }
            Ok(count) => {
                self.in_pipe = count;
                self.burst = self.burst.saturating_add(count);
            }
            // The readiness was stale; the next poll registers for a fresh one.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
        Poll::Ready(Ok(()))
    }

    /// The source has nothing now: the pipe goes back, and after a few small bursts so does the mode.
    fn rest(&mut self) {
        debug_assert_eq!(self.in_pipe, 0, "a pipe with bytes in it must not be given back");
        if let Some(pipe) = self.pipe.take() {
            pipe.give_back();
        }
        if self.burst > 0 {
            self.small_bursts = if self.burst < limits::BULK_BYTES { self.small_bursts + 1 } else { 0 };
            self.burst = 0;
        }
        if self.small_bursts >= limits::SMALL_TO_COPY {
            self.splicing = false;
        }
    }
}

/// A pipe that splice works through.
struct Pipe {
    into: OwnedFd,
    out: OwnedFd,
}

impl Pipe {
    /// An empty pipe from the thread's store, or a new one; `None` when descriptors have run out.
    fn take() -> Option<Self> {
        PIPES.with_borrow_mut(Vec::pop).or_else(|| {
            let (out, into) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()?;
            // Beyond the user's allowance the pipe stays at its default size: slower, not wrong.
            fcntl_setpipe_size(&into, limits::PIPE_BYTES).ok();
            Some(Self { into, out })
        })
    }

    fn give_back(self) {
        PIPES.with_borrow_mut(|pipes| {
            if pipes.len() < limits::PIPES_KEPT {
                pipes.push(self);
            }
        });
    }
}

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; limits::COPY_BYTES].into_boxed_slice());
    static PIPES: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);
