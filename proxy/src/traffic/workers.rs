//! The threads that carry traffic: each with a runtime of its own, so that a connection lives and dies on one thread.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use tokio::{
    runtime::{Builder, Handle},
    sync::{Notify, oneshot, watch},
    time::sleep,
};

use super::limits;

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// New connections are taken.
    Serving,
    /// No new ones; open ones go on.
    Draining,
    /// Open ones are cut.
    Cut,
}

/// The worker threads.
pub struct Workers {
    workers: Vec<Worker>,
    open: AtomicUsize,
    idle: Notify,
}

/// A thread and how many connections it carries.
struct Worker {
    handle: Handle,
    load: AtomicUsize,
}

/// One connection on a worker: counted until it is dropped.
pub struct Seat {
    workers: Arc<Workers>,
    worker: usize,
}

/// Tells whether all workers run. Cheap to clone.
#[derive(Clone)]
pub struct Pulse(Arc<Workers>);

/// Ends when a worker's runtime, and with it every connection on it, is gone.
pub type Gone = oneshot::Receiver<()>;

impl Workers {
    /// Starts `count` threads that run until `phase` says [`Phase::Cut`].
    pub fn start(count: usize, phase: &watch::Receiver<Phase>) -> io::Result<(Arc<Self>, Vec<Gone>)> {
        let (mut workers, mut all_gone) = (Vec::new(), Vec::new());
        for index in 0..count.clamp(1, limits::WORKERS_MAX) {
            let (started, starting) = mpsc::sync_channel(1);
            let (going, gone) = oneshot::channel();
            let mut phase = phase.clone();
            thread::Builder::new().name(format!("traffic-{index}")).spawn(move || {
                let runtime = match Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(started.send(Err(error))),
                };
                if started.send(Ok(runtime.handle().clone())).is_err() {
                    return;
                }
                runtime.spawn(tick());
                // An error means that the sender is gone, which is an end as well.
                runtime.block_on(async { phase.wait_for(|phase| *phase == Phase::Cut).await.map(drop) }).ok();
                drop(runtime);
                going.send(()).ok();
            })?;
            let handle = starting.recv().map_err(io::Error::other)??;
            workers.push(Worker { handle, load: AtomicUsize::new(0) });
            all_gone.push(gone);
        }
        Ok((Arc::new(Self { workers, open: AtomicUsize::new(0), idle: Notify::new() }), all_gone))
    }

    /// The runtimes, in order.
    pub fn handles(&self) -> impl Iterator<Item = &Handle> {
        self.workers.iter().map(|worker| &worker.handle)
    }

    /// Where a connection that worker `here` accepted is to live: here, unless another has much less to do.
    #[must_use]
    pub fn seat(self: &Arc<Self>, here: usize) -> (Seat, Option<&Handle>) {
        let load = |worker: &Worker| worker.load.load(Ordering::Relaxed);
        let mine = self.workers.get(here).map_or(0, load);
        let idlest = self.workers.iter().enumerate().min_by_key(|(_, worker)| load(worker));
        let worker = match idlest {
            Some((index, idlest)) if mine > 2 * load(idlest) + limits::IMBALANCE_MAX => index,
            _ => here,
        };
        if let Some(worker) = self.workers.get(worker) {
            worker.load.fetch_add(1, Ordering::Relaxed);
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        let handle = if worker == here { None } else { self.workers.get(worker).map(|worker| &worker.handle) };
        (Seat { workers: Arc::clone(self), worker }, handle)
    }

    /// Connections open on all workers.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Waits until no connection is open.
    pub async fn empty(&self) {
        loop {
            let idle = self.idle.notified();
            if self.open() == 0 {
                return;
            }
            idle.await;
        }
    }
}

impl Pulse {
    pub(super) fn new(workers: &Arc<Workers>) -> Self {
        Self(Arc::clone(workers))
    }

    /// Ends once each worker has come around; not while one hangs.
    pub async fn beat(&self) {
        let turns: Vec<_> = self.0.handles().map(|worker| worker.spawn(async {})).collect();
        for turn in turns {
            // An error means that the thread has ended, and nothing hangs there.
            turn.await.ok();
        }
    }
}

/// Wakes the worker again and again, so that its next wake is never far.
async fn tick() {
    loop {
        sleep(limits::TICK).await;
    }
}

impl Seat {
    /// The worker's index.
    #[must_use]
    pub fn worker(&self) -> usize {
        self.worker
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(worker) = self.workers.workers.get(self.worker) {
            worker.load.fetch_sub(1, Ordering::Relaxed);
        }
        if self.workers.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.workers.idle.notify_waiters();
        }
    }
}
