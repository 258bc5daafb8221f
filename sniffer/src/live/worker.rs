//! One worker: packets of its door into its own flows, events into the queue.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{LiveError, Tally, queue::Queue};
use crate::{
    capture::{Captured, Interface, Save, SaveError},
    decode::{Link, Skip, decode},
    track::Tracker,
};

/// The savefile of all workers.
pub(super) type Savefile = Mutex<Save>;

/// All of a worker but its door.
pub(super) struct Desk {
    tracker: Tracker,
    link: Option<Link>,
    queue: Queue,
    save: Option<Arc<Savefile>>,
    /// How many packets all workers together may still take.
    packets_left: Option<Arc<AtomicU64>>,
    skipped: [u64; Skip::ALL.len()],
    /// What is not counted elsewhere.
    tally: Tally,
    failed: Option<SaveError>,
}

impl Desk {
    pub(super) fn new(
        tracker: Tracker,
        link: Option<Link>,
        queue: Queue,
        save: Option<Arc<Savefile>>,
        packets_left: Option<Arc<AtomicU64>>,
    ) -> Self {
        let (skipped, tally) = Default::default();
        Self { tracker, link, queue, save, packets_left, skipped, tally, failed: None }
    }

    /// A packet came.
    fn packet(&mut self, captured: Captured<'_>) {
        self.tally.handled += 1;
        self.tally.bytes += u64::from(captured.wire_bytes);
        if let Some(left) = &self.packets_left
            && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
        {
            self.tally.over_count += 1;
            return;
        }
        if let Some(save) = &self.save
            && self.failed.is_none()
        {
            let mut save = save.lock().unwrap_or_else(PoisonError::into_inner);
            self.failed = save.packet(captured).err();
        }
        // Looked at where it is: to move it costs as much as to decode it.
        match &self.link.map_or(Err(Skip::UnknownLink), |link| decode(link, captured.bytes)) {
            Ok(packet) => self.tracker.queue_packet(captured.at_us, captured.wire_bytes, packet),
            Err(reason) => self.skipped[reason.place()] += 1,
        }
    }

    /// No packet waits: time goes on by the clock. While there are some it goes by theirs, so that none is late for its flow.
    fn quiet(&mut self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.tracker.handle_time(now.as_micros().try_into().unwrap_or(u64::MAX));
    }

    /// Hands on what happened to flows.
    fn tell(&mut self) {
        self.tracker.flush();
        let events = self.tracker.poll_events();
        let offered = events.len() as u64;
        if offered > 0 {
            let shed = self.queue.offer(events);
            self.tally.events += offered - shed;
            self.tally.events_shed += shed;
        }
    }

    /// Ends all flows and tells of each.
    fn finish(&mut self) {
        self.tracker.finish();
        self.tally.events += self.queue.put(self.tracker.poll_events()) as u64;
    }

    fn flush(&mut self) {
        if let Some(save) = &self.save
            && self.failed.is_none()
        {
            self.failed = save.lock().unwrap_or_else(PoisonError::into_inner).flush().err();
        }
    }

    /// What was counted so far.
    fn tally(&self, door: &mut Interface) -> Result<Tally, LiveError> {
        let received = door.stats()?;
        let counters = self.tracker.counters();
        let [not_ip, nonfirst_fragments, malformed, unknown_link] = self.skipped;
        Ok(Tally {
            received: received.received,
            kernel_dropped: received.dropped,
            interface_dropped: received.interface_dropped,
            withheld: received.received.saturating_sub(received.dropped + self.tally.handled),
            tracked: counters.tracked,
            unsampled: counters.unsampled,
            not_ip,
            nonfirst_fragments,
            malformed,
            unknown_link,
            flows: counters.flows,
            flows_now: self.tracker.len() as u64,
            flows_evicted: counters.evicted + counters.hurried,
            flows_unclassified: counters.unclassified,
            ..self.tally
        })
    }

    fn all_taken(&self) -> bool {
        self.packets_left.as_ref().is_some_and(|left| left.load(Ordering::Relaxed) == 0)
    }
}

/// Works until it is told to stop, then shuts the door, reads the ring to its end and tells of all flows, also where something
/// failed. Gives the door back.
pub(super) fn work(
    mut door: Interface,
    mut desk: Desk,
    shared: &Mutex<Tally>,
    stop: &AtomicBool,
) -> (Interface, Result<(), LiveError>) {
    let end = EndOfAll(stop);
    let worked = until_stopped(&mut door, &mut desk, shared, stop);
    drop(end);
    let drained = door.close_gate().and_then(|()| door.drain(|captured| desk.packet(captured)));
    desk.finish();
    desk.flush();
    let told = desk.tally(&mut door).map(|tally| publish(shared, tally));
    let saved = desk.failed.map_or(Ok(()), |why| Err(why.into()));
    (door, worked.and(drained.map_err(LiveError::from)).and(told).and(saved))
}

/// Whatever ends one worker ends the others: a panic, too.
struct EndOfAll<'a>(&'a AtomicBool);

impl Drop for EndOfAll<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn until_stopped(
    door: &mut Interface,
    desk: &mut Desk,
    shared: &Mutex<Tally>,
    stop: &AtomicBool,
) -> Result<(), LiveError> {
    let mut published = Instant::now();
    while !stop.load(Ordering::Relaxed) && !desk.all_taken() && desk.failed.is_none() {
        let packets = door.dispatch(PACKETS_AT_ONCE, |captured| desk.packet(captured))?;
        if packets == 0 {
            desk.quiet();
        }
        desk.tell();
        if published.elapsed() >= PUBLISH_EVERY {
            published = Instant::now();
            publish(shared, desk.tally(door)?);
            desk.flush();
        }
        if packets == 0 {
            door.wait(QUIET_MAX)?;
        }
    }
    Ok(())
}

fn publish(shared: &Mutex<Tally>, tally: Tally) {
    *shared.lock().unwrap_or_else(PoisonError::into_inner) = tally;
}

/// Packets after which a worker looks up: for its end, and to hand on events.
const PACKETS_AT_ONCE: usize = 4096;

/// On a quiet link a worker looks up so often: for its end, and because flows end by the clock.
const QUIET_MAX: Duration = Duration::from_millis(100);

/// How often a worker says what it counted, and the savefile is brought up to date.
const PUBLISH_EVERY: Duration = Duration::from_millis(100);
