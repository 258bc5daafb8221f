//! A live capture: workers that turn packets into events, each with its own door and its own flows, and one consumer.
//!
//! ```text
//!   kernel --flows by hash--> ring -> worker 0: decode, track --events-->\
//!                             ring -> worker 1: decode, track --events---> queue -> consumer: a Sink
//! ```
//!
//! Workers never wait for the consumer: what finds the queue full is shed and counted. When the capture ends the gate is shut,
//! the ring read to its end, every flow told of, and the sums are exact (see [`Tally`]).

mod queue;
mod tally;
#[cfg(test)]
mod tests;
mod worker;

use std::{
    io,
    num::NonZeroUsize,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

pub use queue::EVENTS_QUEUED_MAX;
pub use tally::Tally;

use crate::{
    capture::{Interface, InterfaceError, Save, SaveError, Settings},
    decode::Link,
    track::{Config, Event, Tracker},
};
use worker::{Desk, Savefile};

/// What is captured, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The interface's name; `any` for all of them.
    pub interface: String,
    /// Which packets (pcap-filter(7)); empty: all.
    pub filter: String,
    /// How the interface is opened. Its buffer is that of one worker.
    pub settings: Settings,
    /// How many threads share the packets, by flows.
    pub workers: NonZeroUsize,
    /// How flows are told apart, and when they end. The most flows at once are those of all workers; where packets come in is
    /// said by the interface.
    pub flows: Config,
    /// Where captured packets are saved.
    pub save: Option<PathBuf>,
    /// The capture ends after so many packets.
    pub packets_max: Option<u64>,
    /// The capture ends after so long.
    pub time_max: Option<Duration>,
}

/// Who hears of flows. It is called by one thread, and never by one that captures.
pub trait Sink {
    /// What happened to flows of one worker, in order. No flow is of two workers.
    ///
    /// # Errors
    /// Ends the capture.
    fn events(&mut self, events: Vec<Event>) -> io::Result<()>;

    /// About a second has passed, or the capture has ended.
    ///
    /// # Errors
    /// Ends the capture.
    fn progress(&mut self, tally: &Tally) -> io::Result<()>;
}

/// What ends a capture before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The interface.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// The savefile.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// Who hears of flows.
    #[error("telling of flows: {0}")]
    Sink(io::Error),
    /// A mistake of ours.
    #[error("a worker panicked: its flows are lost")]
    Panicked,
}

/// How a capture ended. What was counted is told also where an error says why.
#[derive(Debug)]
pub struct Ended {
    /// What each worker counted.
    pub workers: Vec<Tally>,
    /// The first error.
    pub error: Option<LiveError>,
}

impl Ended {
    /// What all workers counted.
    #[must_use]
    pub fn total(&self) -> Tally {
        self.workers.iter().copied().sum()
    }
}

/// A capture that is open and has not begun: nothing in it needs a privilege any more.
pub struct Live {
    options: Options,
    doors: Vec<Interface>,
    save: Option<Arc<Savefile>>,
}

impl Live {
    /// Opens the interface and the savefile.
    ///
    /// # Errors
    /// If either cannot be, or the filter is none.
    pub fn open(options: Options) -> Result<Self, LiveError> {
        let mut doors = Interface::open_shared(&options.interface, options.settings, options.workers.get())?;
        for door in &doors {
            door.check(&options.filter)?;
        }
        let save = match (&options.save, doors.first_mut()) {
            (Some(path), Some(door)) => Some(Save::create(path, door.link_type, options.settings.snaplen)?),
            _ => None,
        };
        Ok(Self { options, doors, save: save.map(|save| Arc::new(Mutex::new(save))) })
    }

    /// How frames begin; none: not known, and none of them will be in a flow.
    #[must_use]
    pub fn link(&self) -> Option<Link> {
        self.doors.first().and_then(|door| door.link)
    }

    /// How flows are told apart here: with the number of the interface.
    #[must_use]
    pub fn flows(&self) -> Config {
        let ingress = self.doors.first().map_or(0, |door| door.index);
        Config { ingress, ..self.options.flows.clone() }
    }

    /// Captures until it is told to stop, or its options say so. `began` is called once packets count.
    ///
    /// # Panics
    /// Not at all: a worker that does is told of in the error.
    pub fn run(self, sink: &mut dyn Sink, stop: &AtomicBool, began: impl FnOnce()) -> Ended {
        let (queue, events) = queue::queue();
        let packets_left = self.options.packets_max.map(|max| Arc::new(AtomicU64::new(max)));
        let tallies: Vec<_> = self.doors.iter().map(|_| Mutex::new(Tally::default())).collect();
        let sum = || tallies.iter().map(|tally| *tally.lock().unwrap_or_else(PoisonError::into_inner)).sum();
        let flows_max = self.options.flows.flows_max.div_ceil(self.options.workers.get());
        let mut doors = self.doors;
        let mut error =
            doors.iter_mut().find_map(|door| door.open_gate(&self.options.filter).err()).map(LiveError::from);
        if error.is_some() {
            return Ended { workers: Vec::new(), error };
        }
        began();
        let begun = Instant::now();
        thread::scope(|scope| {
            let workers = doors.into_iter().zip(&tallies).map(|(door, tally)| {
                let desk = Desk::new(
                    Tracker::new(Config { flows_max, ingress: door.index, ..self.options.flows.clone() }),
                    door.link,
                    queue.clone(),
                    self.save.clone(),
                    packets_left.clone(),
                );
                scope.spawn(move || worker::work(door, desk, tally, stop))
            });
            let workers: Vec<_> = workers.collect();
            // The queue ends when the last worker has put down its end.
            drop(queue);
            let mut told = begun;
            loop {
                let mut outcome = Ok(());
                match events.take(TURN) {
                    queue::Taken::Events(events) if error.is_none() => outcome = sink.events(events),
                    // Nobody hears any more: the rest is taken so that the queue ends.
                    queue::Taken::Events(_) | queue::Taken::Nothing => {}
                    queue::Taken::Over => break,
                }
                if error.is_none() && told.elapsed() >= PROGRESS_EVERY {
                    told = Instant::now();
                    outcome = outcome.and_then(|()| sink.progress(&sum()));
                }
                if let Err(why) = outcome {
                    error = Some(LiveError::Sink(why));
                    stop.store(true, Ordering::Relaxed);
                }
                if self.options.time_max.is_some_and(|max| begun.elapsed() >= max) {
                    stop.store(true, Ordering::Relaxed);
                }
            }
            // Doors are shut by their workers, and go when all are: the flows of one that went before would go to another.
            let outcomes: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
            for outcome in outcomes {
                let outcome = outcome.map_or(Err(LiveError::Panicked), |(_, outcome)| outcome);
                error = error.take().or(outcome.err());
            }
        });
        if !matches!(error, Some(LiveError::Sink(_)))
            && let Err(why) = sink.progress(&sum())
        {
            error = error.or(Some(LiveError::Sink(why)));
        }
        let workers = tallies.into_iter().map(|tally| tally.into_inner().unwrap_or_else(PoisonError::into_inner));
        Ended { workers: workers.collect(), error }
    }
}

/// The consumer looks up so often, whether or not there are events.
const TURN: Duration = Duration::from_millis(100);

/// How often a sink is told of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
