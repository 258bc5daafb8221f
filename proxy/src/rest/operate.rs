//! The paths by which an instance as a whole is operated: events, settings of the log, gates, backups.

use std::{
    io::{self, Write},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use flow::{Detector, Tuning};
use serde::{Deserialize, Serialize};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_stream::Stream;
use tracing::debug;

use super::{
    extract::{InPath, InQuery, JsonBody, ReadQuery},
    failure::Failure,
    json::AppliedJson,
};
use crate::control::{BackupWriter, Consistency, Control, ControlError, Event, check::page_rows};

/// `/events`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsJson {
    /// Oldest first.
    pub events: Vec<EventJson>,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventJson {
    /// Counts up from 1 with each start of the instance.
    pub number: u64,
    /// Milliseconds since 1970, by the instance's clock.
    pub unix_ms: u64,
    /// `member_added`, `member_promoted`, `member_removed`, `leader`, `link_up`, `link_down`, `snapshot`, `disk` or `grpc`.
    pub kind: String,
    /// The instance that it happened to.
    pub subject: String,
    /// What happened.
    pub text: String,
}

/// Settings of elections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TuningJson {
    /// Between heartbeats.
    pub heartbeat_ms: u32,
    /// Silence of a leader that starts an election.
    pub election_ms: u32,
    /// How silence of an instance is judged.
    pub detector: DetectorJson,
    /// Whether leaderships are spread.
    pub spread: bool,
    /// Leaderships are shuffled so often; 0 is never.
    pub shuffle_ms: u32,
}

/// A failure detector: `{"phi": 8.0}` or `{"fixed_ms": 500}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DetectorJson {
    /// Phi accrual, at this phi.
    Phi(f64),
    /// So many milliseconds of silence.
    FixedMs(u32),
}

/// `/tuning`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TuningReadJson {
    /// The committed settings; none where every instance goes by its configuration.
    pub tuning: Option<TuningJson>,
    /// What the asked instance goes by: these, or those of its configuration.
    pub effective: TuningJson,
}

/// What a gate is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrpcJson {
    /// `open` or `shut`.
    pub grpc: String,
}

/// An instance that was told to stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoppingJson {
    /// As it was named.
    pub stopping: String,
}

/// `?after=&limit=`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    #[serde(default)]
    after: u64,
    limit: Option<u64>,
}

type Answer<T> = Result<Json<T>, Failure>;

/// Lists events.
pub async fn events<C: Control>(State(control): State<C>, InQuery(query): InQuery<EventsQuery>) -> Answer<EventsJson> {
    let events = control.events(query.after, page_rows(query.limit)?);
    Ok(Json(EventsJson { events: events.into_iter().map(Into::into).collect() }))
}

/// Shows the settings.
pub async fn tuning<C: Control>(
    State(control): State<C>,
    InQuery(query): InQuery<ReadQuery>,
) -> Answer<TuningReadJson> {
    let consistency = query.consistency()?;
    if consistency != Consistency::Local {
        // The settings are in the table of the keys: after a read of any key they are as fresh as that.
        control.kv(String::new(), consistency).await?;
    }
    let committed = control.tuning();
    let effective = committed.unwrap_or_else(|| control.configured_tuning());
    Ok(Json(TuningReadJson { tuning: committed.map(Into::into), effective: effective.into() }))
}

/// Commits settings.
pub async fn tune<C: Control>(State(control): State<C>, JsonBody(body): JsonBody<TuningJson>) -> Answer<AppliedJson> {
    Ok(Json(control.tune(Some(body.into())).await?.into()))
}

/// Removes the settings.
pub async fn untune<C: Control>(State(control): State<C>) -> Answer<AppliedJson> {
    Ok(Json(control.tune(None).await?.into()))
}

/// Cuts the instance off.
pub async fn shutdown_grpc<C: Control>(State(control): State<C>) -> Answer<GrpcJson> {
    control.set_grpc(false).await?;
    Ok(Json(GrpcJson { grpc: "shut".into() }))
}

/// Brings it back.
pub async fn start_grpc<C: Control>(State(control): State<C>) -> Answer<GrpcJson> {
    control.set_grpc(true).await?;
    Ok(Json(GrpcJson { grpc: "open".into() }))
}

/// Has an instance stop.
pub async fn shutdown_node<C: Control>(State(control): State<C>, InPath(who): InPath<String>) -> Answer<StoppingJson> {
    control.stop_instance(who.clone()).await?;
    Ok(Json(StoppingJson { stopping: who }))
}

/// A backup as a stream.
pub async fn snapshot<C: Control>(State(control): State<C>) -> Result<Response, Failure> {
    let Ok(turn) = BACKUPS.try_acquire() else {
        let text = format!("{BACKUPS_MAX} backups are being sent, which is the limit");
        return Err(ControlError::Overloaded(text).into());
    };
    let write = control.backup().await?;
    let headers = [(header::CONTENT_TYPE, "application/octet-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(stream(write, turn, STALL_TIMEOUT))).into_response())
}

/// Has `write` write on a thread of its own, and gives what it wrote.
fn stream(write: BackupWriter, turn: impl Send + 'static, stall: Duration) -> PartStream {
    let (sender, parts) = mpsc::channel(PARTS_AHEAD);
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let mut out = Parts { sender, part: Vec::with_capacity(PART_BYTES), runtime, stall };
        if let Err(error) = write(&mut out).and_then(|()| out.end()) {
            // Whoever reads sees that the mark of the end is missing.
            debug!(%error, "a backup was broken off");
        }
    });
    PartStream { parts, ended: false }
}

/// What a backup's writer hands to its connection.
enum Part {
    Bytes(Bytes),
    /// That was all.
    End,
}

/// Hands what is written to the connection, part by part, as it takes them.
struct Parts {
    sender: mpsc::Sender<Part>,
    part: Vec<u8>,
    runtime: Handle,
    stall: Duration,
}

/// The parts as they come. Whoever reads must not take some for the whole: it ends in an error unless the writer says that
/// it is the end. A writer that gives up can say nothing, as a reader that stalled left no room for it.
struct PartStream {
    parts: mpsc::Receiver<Part>,
    ended: bool,
}

impl Stream for PartStream {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let next = match ready!(self.parts.poll_recv(context)) {
            Some(Part::Bytes(bytes)) => return Poll::Ready(Some(Ok(bytes))),
            Some(Part::End) => None,
            None => Some(Err(io::ErrorKind::UnexpectedEof.into())),
        };
        self.ended = true;
        Poll::Ready(next)
    }
}

impl Parts {
    fn end(&mut self) -> io::Result<()> {
        self.flush()?;
        self.send(Part::End)
    }

    fn send(&self, part: Part) -> io::Result<()> {
        // Who does not read holds up others that want a backup.
        match self.runtime.block_on(timeout(self.stall, self.sender.send(part))) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Write for Parts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PART_BYTES - self.part.len());
        self.part.extend_from_slice(&bytes[..taken]);
        if self.part.len() == PART_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.part.is_empty() {
            return Ok(());
        }
        let part = std::mem::replace(&mut self.part, Vec::with_capacity(PART_BYTES));
        self.send(Part::Bytes(part.into()))
    }
}

impl From<Event> for EventJson {
    fn from(event: Event) -> Self {
        let Event { number, unix_ms, kind, subject, text } = event;
        Self { number, unix_ms, kind: kind.word().to_owned(), subject, text }
    }
}

impl From<Tuning> for TuningJson {
    fn from(tuning: Tuning) -> Self {
        let Tuning { heartbeat_ms, election_ms, detector, spread, shuffle_ms } = tuning;
        let detector = match detector {
            Detector::Phi(tenths) => DetectorJson::Phi(f64::from(tenths) / 10.0),
            Detector::Fixed(ms) => DetectorJson::FixedMs(ms),
        };
        Self { heartbeat_ms, election_ms, detector, spread, shuffle_ms }
    }
}

impl From<TuningJson> for Tuning {
    fn from(json: TuningJson) -> Self {
        let TuningJson { heartbeat_ms, election_ms, detector, spread, shuffle_ms } = json;
        let detector = match detector {
            // What is no number, or too large, is checked as one that is too large.
            DetectorJson::Phi(phi) => Detector::Phi((phi * 10.0).round() as u32),
            DetectorJson::FixedMs(ms) => Detector::Fixed(ms),
        };
        Self { heartbeat_ms, election_ms, detector, spread, shuffle_ms }
    }
}

/// Most backups that are sent at once, by all ports of the process.
const BACKUPS_MAX: usize = 2;

static BACKUPS: Semaphore = Semaphore::const_new(BACKUPS_MAX);

/// A backup whose reader takes nothing for so long is broken off.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);

/// Bytes of a backup that are handed to the connection at once.
const PART_BYTES: usize = 64 << 10;

/// How many parts of a backup are made before the connection asks for them.
const PARTS_AHEAD: usize = 4;

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use tokio_stream::StreamExt;

    use super::*;

    /// How long anything may take before a test fails.
    const WAIT: Duration = Duration::from_secs(20);

    /// What came of the stream: how many bytes, and whether it ended well.
    async fn read(mut stream: PartStream) -> (usize, bool) {
        let mut bytes = 0;
        while let Some(part) = timeout(WAIT, stream.next()).await.expect("a part, or the end") {
            match part {
                Ok(part) => bytes += part.len(),
                Err(_) => return (bytes, false),
            }
        }
        (bytes, true)
    }

    #[test]
    fn a_backup_that_its_reader_stalled_does_not_end_like_a_whole_one() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let whole: BackupWriter = Box::new(|out| out.write_all(&[7; 5 * PART_BYTES + 1]));
        let (said, heard) = channel();
        let more_than_waits: BackupWriter = Box::new(move |out| {
            let written = out.write_all(&[7; (PARTS_AHEAD + 2) * PART_BYTES]);
            said.send(written.as_ref().map_err(io::Error::kind).copied()).expect("the test waits");
            written
        });
        let _entered = runtime.enter();
        assert_eq!(runtime.block_on(read(stream(whole, (), WAIT))), (5 * PART_BYTES + 1, true));
        let stalled = stream(more_than_waits, (), Duration::from_millis(20));
        assert_eq!(heard.recv_timeout(WAIT), Ok(Err(io::ErrorKind::TimedOut)));
        assert_eq!(runtime.block_on(read(stalled)), (PARTS_AHEAD * PART_BYTES, false));
        let broken: BackupWriter = Box::new(|_| Err(io::ErrorKind::InvalidData.into()));
        assert_eq!(runtime.block_on(read(stream(broken, (), WAIT))), (0, false));
    }
}
