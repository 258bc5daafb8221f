//! The thread that tells the fleet what was seen: one stream to one instance at a time, and another one when that fails.

use std::{
    error::Error,
    future::Future,
    hash::{BuildHasher, RandomState},
    io,
    pin::Pin,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use api::v1::{FlowAck, FlowBatch, FlowRefused, flow_ack, flow_refused::Why, flows_client::FlowsClient};
use flow::flows::{NAME_BYTES_MAX, SnifferId};
use tokio::{sync::mpsc, time::sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Streaming,
    transport::{Certificate, ClientTlsConfig, Endpoint},
};

use super::{
    options::Options,
    outbox::{Answer, BadHello, Config, Counters, Fatal, Hello, Outbox},
    queue::{Ended, Shared, Work},
    seen::Seen,
    targets::Target,
};

/// Tells the fleet what was seen. Any number of threads may hand events to it.
pub struct Reporter {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Not all that was offered is known to be committed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{unacknowledged} of {} events are not acknowledged: {why}", counters.offered)]
pub struct Unfinished {
    /// Events that wait, or are in flight.
    pub unacknowledged: u64,
    /// What went wrong last.
    pub why: String,
    /// What became of all that was offered.
    pub counters: Box<Counters>,
}

impl Reporter {
    /// Starts the thread. Whether an instance can be reached shows later, see [`Reporter::trouble`].
    ///
    /// # Errors
    /// If the name is empty or too long, or the system gives no thread, or no event loop.
    pub fn start(options: Options) -> io::Result<Self> {
        if options.name.is_empty() || options.name.len() > NAME_BYTES_MAX {
            let why =
                format!("the name {:?} has {} bytes, not 1 to {NAME_BYTES_MAX}", options.name, options.name.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = Arc::new(Shared::new(options.queue_max));
        let worker = Worker::new(options, shared.clone());
        let ending = Ending(shared.clone());
        let thread = std::thread::Builder::new().name("report".to_owned()).spawn(move || {
            let _ending = ending;
            runtime.block_on(worker.run());
            // A name that is being looked up must not hold up the end.
            runtime.shutdown_background();
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Hands events over, in order for each flow. Never waits: what finds no room is given up, and counted.
    pub fn offer(&self, events: Vec<Seen>) {
        self.shared.offer(events);
    }

    /// Hands events over, and waits for room: for files, which can be read later.
    ///
    /// # Errors
    /// If nothing more is told; some of the events may be lost.
    pub fn offer_waiting(&self, events: Vec<Seen>) -> Result<(), Ended> {
        self.shared.offer_waiting(events)
    }

    /// What became of all that was offered: what waits for the thread is pending.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.counters()
    }

    /// The instance that is told just now.
    #[must_use]
    pub fn connected(&self) -> Option<String> {
        self.shared.connected()
    }

    /// What went wrong last, until something goes well.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.shared.trouble()
    }

    /// Why nothing more is told, if so: everything offered from then on is given up.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        self.shared.ended()
    }

    /// Tells all that waits, and ends once it is acknowledged or `within` is over.
    ///
    /// # Errors
    /// If not all of it is acknowledged.
    pub fn finish(mut self, within: Duration) -> Result<Counters, Unfinished> {
        self.shared.finish(Instant::now() + within);
        let joined = self.thread.take().map(JoinHandle::join);
        let counters = self.shared.counters();
        let unacknowledged = counters.pending + counters.in_flight;
        let why = match (joined, self.shared.ended()) {
            (Some(Err(_)), _) => Some("the reporting thread panicked".to_owned()),
            (_, Some(Ended::Fatal(fatal))) => Some(fatal.to_string()),
            _ => None,
        };
        match why.or_else(|| (unacknowledged > 0).then(|| self.trouble().unwrap_or_else(|| "time is up".to_owned()))) {
            Some(why) => Err(Unfinished { unacknowledged, why, counters: counters.into() }),
            None => Ok(counters),
        }
    }
}

impl Drop for Reporter {
    /// Without [`Reporter::finish`] what waits is not told any more.
    fn drop(&mut self) {
        self.shared.finish(Instant::now());
    }
}

/// Says that the thread has ended, also when it panics: somebody may wait for room.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end(Ended::Finished);
    }
}

/// What the thread has.
struct Worker {
    options: Options,
    shared: Arc<Shared>,
    outbox: Outbox,
    link: Link,
    /// The target of the next connection.
    turn: usize,
    /// Connections in a row that led to nothing.
    failures: u32,
    /// Another fleet, and how many instances in a row were of it.
    strangers: (Vec<u8>, usize),
    /// When it began: the outbox's time is since then.
    began: Instant,
    trouble: Option<String>,
}

/// The way to an instance.
enum Link {
    /// Until then none is tried.
    Pausing(Instant),
    Connecting(Pin<Box<dyn Future<Output = Result<Box<Connection>, Failed>> + Send>>),
    Up(Box<Connection>),
}

/// A stream to an instance.
struct Connection {
    name: String,
    hello: Hello,
    batches: mpsc::Sender<FlowBatch>,
    answers: Streaming<FlowAck>,
}

/// Why there is no connection.
enum Failed {
    /// Another try, or another instance, may help.
    Now(String),
    /// The fleet has no table of flows.
    NoTable(String),
}

/// What came of waiting for the link.
enum Happened {
    Connected(Box<Connection>),
    Answered(FlowAck),
    Lost(String),
    /// It will never take what it is told.
    Refused(Fatal),
    Rested,
}

impl Link {
    async fn next(&mut self) -> Happened {
        match self {
            Self::Pausing(until) => {
                sleep_until((*until).into()).await;
                Happened::Rested
            }
            Self::Connecting(connecting) => match connecting.await {
                Ok(connection) => Happened::Connected(connection),
                Err(Failed::Now(why)) => Happened::Lost(why),
                Err(Failed::NoTable(why)) => Happened::Refused(Fatal::NoTable(why)),
            },
            Self::Up(connection) => match connection.answers.message().await {
                Ok(Some(ack)) => Happened::Answered(ack),
                Ok(None) => Happened::Lost(format!("{} closed the stream", connection.name)),
                Err(status) => {
                    let why = format!("{}: {}", connection.name, status.message());
                    if status.code() == Code::InvalidArgument {
                        Happened::Refused(Fatal::Refused(why))
                    } else {
                        Happened::Lost(why)
                    }
                }
            },
        }
    }
}

impl Worker {
    fn new(options: Options, shared: Arc<Shared>) -> Self {
        let sniffer = SnifferId::of(&options.name);
        let Options { epoch, closing, pending_max, batch_max, .. } = options;
        Self {
            shared,
            outbox: Outbox::new(Config { name: options.name.clone(), epoch, closing, pending_max, batch_max }),
            // Several sniffers begin with several instances.
            turn: (sniffer.0 % options.targets.count() as u64) as usize,
            options,
            link: Link::Pausing(Instant::now()),
            failures: 0,
            strangers: (Vec::new(), 0),
            began: Instant::now(),
            trouble: None,
        }
    }

    async fn run(mut self) {
        let why = loop {
            let more = self.take();
            let blocked = self.send();
            if let Some(why) = self.publish() {
                break why;
            }
            // Connections have tasks of their own on this thread.
            tokio::task::yield_now().await;
            if more {
                continue;
            }
            let time = self.next_time(blocked);
            let room = match &self.link {
                Link::Up(connection) if blocked => Some(connection.batches.clone()),
                _ => None,
            };
            let happened = tokio::select! {
                happened = self.link.next() => Some(happened),
                () = self.shared.changed() => None,
                // Whether there is room, or nobody to take it, shows when it is tried.
                _ = async { match &room { Some(room) => drop(room.reserve().await), None => std::future::pending().await } } => None,
                () = async { match time { Some(time) => sleep_until(time.into()).await, None => std::future::pending().await } } => None,
            };
            self.handle(happened);
        };
        self.shared.end(why);
    }

    /// Takes events over. Says whether there are more for which there is room.
    fn take(&mut self) -> bool {
        let most = TAKE_MAX.min(match self.options.closing {
            super::Closing::ByAge => TAKE_MAX,
            super::Closing::BySize => self.outbox.room(),
        });
        let now_ms = self.now_ms();
        let orders = self.shared.take(most);
        for seen in &orders.events {
            self.outbox.offer(now_ms, seen);
        }
        if orders.finish.is_some() && orders.all {
            self.outbox.flush();
        }
        !orders.all && !orders.events.is_empty()
    }

    /// Sends what may be sent. Says whether the connection takes no more.
    fn send(&mut self) -> bool {
        let now_ms = self.now_ms();
        if self.outbox.is_stalled(now_ms) {
            self.lose(format!("{} does not answer", self.name()));
        }
        let Link::Up(connection) = &self.link else { return false };
        loop {
            let permit = match connection.batches.try_reserve() {
                Ok(permit) => permit,
                Err(mpsc::error::TrySendError::Full(())) => return true,
                // Why shows in its answers.
                Err(mpsc::error::TrySendError::Closed(())) => return false,
            };
            let Some(outgoing) = self.outbox.poll_send(now_ms) else { return false };
            permit.send(FlowBatch { shard: outgoing.shard, report: outgoing.report.into() });
        }
    }

    /// Shows how things stand; says why it is over, if it is.
    fn publish(&self) -> Option<Ended> {
        let connected = matches!(self.link, Link::Up(_)).then(|| self.name());
        let trouble = self.trouble.clone().or_else(|| self.outbox.trouble().map(str::to_owned));
        self.shared.publish(Work { counters: self.outbox.counters(), connected, trouble });
        if let Some(fatal) = self.outbox.fatal() {
            return Some(Ended::Fatal(fatal.clone()));
        }
        let finish = self.shared.finish_by()?;
        let done = self.shared.is_empty() && self.outbox.is_done();
        (done || Instant::now() >= finish).then_some(Ended::Finished)
    }

    /// When there is something to do without anything happening.
    fn next_time(&self, blocked: bool) -> Option<Instant> {
        let sending = if blocked { None } else { self.outbox.poll_time(self.now_ms()) };
        let sending = sending.map(|ms| self.began + Duration::from_millis(ms));
        // A connection that takes nothing is one that does not answer.
        let stalled = blocked.then(|| Instant::now() + BLOCKED_LOOK);
        [sending, stalled, self.shared.finish_by()].into_iter().flatten().min()
    }

    fn handle(&mut self, happened: Option<Happened>) {
        match happened {
            None => {}
            Some(Happened::Rested) => self.connect(),
            Some(Happened::Lost(why)) => {
                self.strangers = (Vec::new(), 0);
                self.lose(why);
            }
            Some(Happened::Refused(fatal)) => self.outbox.handle_refusal(fatal),
            Some(Happened::Connected(connection)) => self.greet(connection),
            Some(Happened::Answered(ack)) => {
                if let Err(problem) = self.answer(ack) {
                    self.lose(format!("{} {problem}", self.name()));
                }
            }
        }
    }

    /// An instance said hello. One of another fleet is told nothing, unless one after the other all are of that: the fleet was
    /// founded anew.
    fn greet(&mut self, connection: Box<Connection>) {
        let hello = connection.hello.clone();
        let mut greeted = self.outbox.handle_hello(hello.clone());
        if greeted == Err(BadHello::OtherFleet) {
            let (fleet, met) = std::mem::take(&mut self.strangers);
            let met = if fleet == hello.fleet { met + 1 } else { 1 };
            self.strangers = (hello.fleet.clone(), met);
            if met == self.options.targets.count() {
                self.outbox.handle_new_fleet();
                greeted = self.outbox.handle_hello(hello);
            }
        }
        match greeted {
            Ok(()) => {
                (self.trouble, self.strangers) = (None, (Vec::new(), 0));
                self.link = Link::Up(connection);
            }
            Err(bad) => self.lose(format!("{}: {bad}", connection.name)),
        }
    }

    fn answer(&mut self, ack: FlowAck) -> Result<(), &'static str> {
        let (shard, epoch, sequence, answer) = match ack.kind.ok_or("gave an answer of another version")? {
            flow_ack::Kind::Hello(_) => return Err("said hello twice"),
            flow_ack::Kind::Acked(acked) => {
                self.failures = 0;
                (acked.shard, acked.epoch, acked.sequence, Answer::Acked { again: acked.index == 0 })
            }
            flow_ack::Kind::Refused(FlowRefused { shard, epoch, sequence, why }) => {
                let answer = match why.ok_or("gave a reason of another version")? {
                    Why::Expected(number) => Answer::Expected(number),
                    Why::OtherEpoch(epoch) => Answer::OtherEpoch(epoch),
                    Why::Later(why) => Answer::Later(format!("{}: {why}", self.name())),
                    Why::Malformed(why) => Answer::Malformed(format!("{}: {why}", self.name())),
                };
                (shard, epoch, sequence, answer)
            }
        };
        self.outbox.handle_answer(self.now_ms(), shard, epoch, sequence, answer);
        Ok(())
    }

    fn connect(&mut self) {
        let target = self.options.targets.get(self.turn).clone();
        self.link = Link::Connecting(Box::pin(async move {
            let connected = tokio::time::timeout(CONNECT_TIMEOUT, connect(&target)).await;
            match connected.unwrap_or_else(|_| Err(Failed::Now("no answer in time".to_owned()))) {
                Ok(connection) => Ok(connection),
                Err(Failed::Now(why)) => Err(Failed::Now(format!("{target}: {why}"))),
                Err(Failed::NoTable(why)) => Err(Failed::NoTable(format!("{target}: {why}"))),
            }
        }));
    }

    /// The connection is gone, or did not come about: on to the next instance, at once if it was not asked lately.
    fn lose(&mut self, why: String) {
        if matches!(self.link, Link::Up(_)) {
            self.outbox.handle_disconnected(self.now_ms());
        }
        self.trouble = Some(why);
        self.turn = (self.turn + 1) % self.options.targets.count();
        let rounds = self.failures / self.options.targets.count() as u32;
        self.failures = self.failures.saturating_add(1);
        let pause = if rounds == 0 { Duration::ZERO } else { pause(rounds - 1, RandomState::new().hash_one(0u8)) };
        self.link = Link::Pausing(Instant::now() + pause);
    }

    fn name(&self) -> String {
        match &self.link {
            Link::Up(connection) => connection.name.clone(),
            _ => self.options.targets.get(self.turn).to_string(),
        }
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis().try_into().unwrap_or(u64::MAX)
    }
}

/// Between half and all of a bound that doubles up to the longest.
fn pause(rounds: u32, chance: u64) -> Duration {
    let bound = PAUSE_MIN.saturating_mul(1 << rounds.min(16)).min(PAUSE_MAX);
    bound / 2 + (bound / 2).mul_f64((chance >> 11) as f64 / (1u64 << 53) as f64)
}

/// A stream to `target` that has said hello.
async fn connect(target: &Target) -> Result<Box<Connection>, Failed> {
    let scheme = if target.ca().is_some() { "https" } else { "http" };
    let failed = |error: tonic::transport::Error| Failed::Now(with_causes(&error));
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{target}")).map_err(failed)?;
    if let Some(ca) = target.ca() {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name(target.host());
        endpoint = endpoint.tls_config(tls).map_err(failed)?;
    }
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let channel = endpoint.connect().await.map_err(failed)?;
    let (batches, stream) = mpsc::channel(BATCHES_QUEUED_MAX);
    let mut client = FlowsClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
    let refused = |status: tonic::Status| refusal(&status, target.ca().is_some());
    let mut answers = client.push(ReceiverStream::new(stream)).await.map_err(refused)?.into_inner();
    match answers.message().await.map_err(refused)?.and_then(|ack| ack.kind) {
        Some(flow_ack::Kind::Hello(hello)) => {
            let hello = Hello { fleet: hello.fleet_id.to_vec(), shards: hello.shards, in_flight: hello.in_flight };
            Ok(Box::new(Connection { name: target.to_string(), hello, batches, answers }))
        }
        _ => Err(Failed::Now("it did not say hello".to_owned())),
    }
}

/// Why there is no stream: an instance says so, with a reason, or something else is there.
fn refusal(status: &tonic::Status, tls: bool) -> Failed {
    let said = status.message().to_owned();
    match status.metadata().get(api::REASON) {
        Some(reason) if reason == "unsupported" => Failed::NoTable(said),
        Some(_) => Failed::Now(said),
        None => {
            let tls = match tls {
                true => "and a fleet with [fleet.tls]",
                false => "(a fleet with [fleet.tls] needs --ca or --config)",
            };
            let said = if said.is_empty() { status.code().to_string() } else { with_causes(status) };
            Failed::Now(format!("{said}: is this the gRPC port of an instance, not that of REST or metrics {tls}?"))
        }
    }
}

/// An error with what caused it, in one line.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// Most events taken over at once, before answers are looked at.
const TAKE_MAX: usize = 8_192;

/// How long a connection may take, name, handshake and hello included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection that is silent for so long is asked whether it is there, and has so long to say so.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Once all instances failed in a row: the pause before the next, doubled with each round, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// Most batches that wait for a connection to take them; those without an answer are bounded by the outbox.
const BATCHES_QUEUED_MAX: usize = 16;

/// How often a connection that takes nothing is looked at.
const BLOCKED_LOOK: Duration = Duration::from_millis(500);

/// Largest answer of an instance, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_chance_takes_away_half_at_most() {
        let bounds: Vec<u128> = (0..9).map(|rounds| pause(rounds, u64::MAX).as_millis()).collect();
        assert_eq!(&bounds[..6], &[100, 200, 400, 800, 1600, 3000]);
        assert_eq!(bounds[8], 3000);
        assert_eq!(pause(0, 0), PAUSE_MIN / 2);
        assert!(pause(u32::MAX, 0) >= PAUSE_MAX / 2);
    }
}
