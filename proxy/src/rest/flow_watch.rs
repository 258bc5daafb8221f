//! `/flows/watch`: who follows the table of flows, as server-sent events (HTML Living Standard, section 9.2).
//!
//! What is new is looked for when the connection takes more, so that a slow reader costs nothing: changes of a flow
//! coalesce in the table meanwhile. Each batch of events ends with the position from which the watch can be taken up
//! again, at any instance; so does each sign of life, as a filter may keep all else from being told.

use std::{io, sync::Arc, time::Duration, vec};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::spawn_blocking,
    time::{Instant, sleep, sleep_until},
};
use tracing::debug;

use super::{
    extract::{FlowsQuery, InQuery},
    failure::Failure,
    flow_json::{LaggedJson, LeftJson, ResetJson},
    flows::shown,
};
use crate::{
    control::{
        Consistency, Control, ControlError,
        flows::{FlowNews, FlowPosition, FlowTables, FlowWatch, tables_with},
    },
    grpc::flows::WATCHES_MAX,
};

/// What the path shares among those who follow the table.
#[derive(Clone)]
pub struct Watches<C> {
    control: C,
    turns: Arc<Semaphore>,
}

impl<C> Watches<C> {
    /// Of `control`, at most [`WATCHES_MAX`] at once.
    pub fn new(control: C) -> Self {
        Self { control, turns: Arc::new(Semaphore::new(WATCHES_MAX)) }
    }
}

/// Follows the table until the client goes, or for [`WATCH_LIFETIME`].
pub async fn watch<C: Control>(
    State(Watches { control, turns }): State<Watches<C>>,
    headers: HeaderMap,
    InQuery(query): InQuery<FlowsQuery>,
) -> Result<Response, Failure> {
    query.check_watch()?;
    let filter = query.filter()?;
    let Ok(turn) = turns.try_acquire_owned() else {
        return Err(ControlError::Overloaded(format!("{WATCHES_MAX} follow the table already")).into());
    };
    let changed = control.flows_changed();
    let tables = control.flows(Consistency::Local).await?;
    let after = match headers.get(LAST_EVENT_ID) {
        Some(last) => Some(String::from_utf8_lossy(last.as_bytes()).into_owned()),
        None => query.after,
    };
    let position = position(&tables, after.as_deref())?;
    let tables = tables_with(&control, Consistency::Local, Some(&position)).await?;
    let watch = FlowWatch::new(&tables, filter, Some(position))?;
    let until = Instant::now() + WATCH_LIFETIME;
    let following =
        Following { control, changed, watch, news: Vec::new().into_iter(), greeted: false, until, _turn: turn };
    let stream = futures_util::stream::unfold(following, Following::next);
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(stream)).into_response())
}

fn position(tables: &FlowTables, after: Option<&str>) -> Result<FlowPosition, ControlError> {
    match after {
        None | Some("now") => Ok(FlowPosition::now(tables)),
        Some("start") => Ok(FlowPosition::start(tables)),
        Some(text) => FlowPosition::parse(text),
    }
}

struct Following<C> {
    control: C,
    changed: watch::Receiver<()>,
    watch: FlowWatch,
    /// Found and not sent yet.
    news: vec::IntoIter<FlowNews>,
    greeted: bool,
    until: Instant,
    _turn: OwnedSemaphorePermit,
}

impl<C: Control> Following<C> {
    /// What is to be sent next; none: it is over.
    async fn next(mut self) -> Option<(io::Result<Bytes>, Self)> {
        if !self.greeted {
            // Whoever is cut off before the first event has to know where it began.
            self.greeted = true;
            let text = format!("retry: {}\nid: {}\n\n", RETRY.as_millis(), self.watch.position());
            return Some((Ok(text.into()), self));
        }
        let silent = sleep(KEEP_ALIVE);
        tokio::pin!(silent);
        while self.news.as_slice().is_empty() {
            if Instant::now() >= self.until {
                return None;
            }
            self.changed.borrow_and_update();
            self = self.look().await?;
            if !self.news.as_slice().is_empty() {
                break;
            }
            tokio::select! {
                changed = self.changed.changed() => changed.ok()?,
                () = sleep_until(self.until) => return None,
                () = &mut silent => {
                    let text = format!(": nothing new\nid: {}\n\n", self.watch.position());
                    return Some((Ok(text.into()), self));
                }
            }
        }
        let part = self.part();
        Some((part.map(Into::into), self))
    }

    /// Looks for what is new.
    async fn look(mut self) -> Option<Self> {
        let tables = match self.control.flows(Consistency::Local).await {
            Ok(tables) => tables,
            Err(error) => {
                debug!(%error, "a watch of the table of flows ends");
                return None;
            }
        };
        // Apart from the threads that carry the links to peers: a filter may have to look at many flows.
        let looked = spawn_blocking(move || {
            self.news = self.watch.news(&tables, NEWS_MAX).into_iter();
            self
        });
        match looked.await {
            Ok(looked) => Some(looked),
            Err(error) => {
                tracing::error!(%error, "a watch of the table of flows failed");
                None
            }
        }
    }

    /// The next events, up to about [`PART_BYTES`].
    fn part(&mut self) -> io::Result<Vec<u8>> {
        let mut part = Vec::new();
        while part.len() < PART_BYTES {
            let Some(news) = self.news.next() else { break };
            match news {
                FlowNews::Reset => write_event(&mut part, "reset", &ResetJson {})?,
                FlowNews::Changed(found) => write_event(&mut part, "changed", &shown(&self.control, &found))?,
                FlowNews::Left { id, shard, revision } => {
                    let left = LeftJson { id: id.0.to_string(), shard, revision: revision.0 };
                    write_event(&mut part, "left", &left)?;
                }
                FlowNews::Lagged { shard, revision, missed } => {
                    write_event(&mut part, "lagged", &LaggedJson { shard, revision: revision.0, missed })?;
                }
            }
            if self.news.as_slice().is_empty() {
                part.extend_from_slice(format!("id: {}\n", self.watch.position()).as_bytes());
            }
            part.push(b'\n');
        }
        Ok(part)
    }
}

/// All of an event but its end. JSON has no line breaks.
fn write_event(part: &mut Vec<u8>, kind: &str, data: &impl Serialize) -> io::Result<()> {
    part.extend_from_slice(format!("event: {kind}\ndata: ").as_bytes());
    serde_json::to_writer(&mut *part, data)?;
    part.push(b'\n');
    Ok(())
}

/// By which a browser says what it has seen.
const LAST_EVENT_ID: &str = "last-event-id";

/// Ends a watch whole before [`super::CONNECTION_LIFETIME`] cuts it off.
pub const WATCH_LIFETIME: Duration = Duration::from_mins(9);

/// How often a watch shows a sign of life while there is nothing to tell.
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How long a browser waits until it takes a watch up again.
const RETRY: Duration = Duration::from_secs(1);

/// Most news looked for at once, but for those of one entry.
const NEWS_MAX: usize = 500;

/// Bytes of events that are made at once.
const PART_BYTES: usize = 64 << 10;
