//! Clients of the key-value store: they write, write on condition and read a few keys at whatever instance, and note down
//! what they were told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Reads;
use super::history::{ABSENT, Deed, Operation};
use super::hosts::{Hosts, label, rest};
use crate::chance::Chance;
use crate::error::{Error, Result};
use crate::http::{self, Lost, Response};
use crate::moment::{Clock, Moment};

/// What all clients of a phase have noted down.
#[derive(Debug, Default)]
pub struct Notes {
    /// The history of each key.
    pub keys: BTreeMap<String, Vec<Operation>>,
    /// Answers that no instance may give.
    pub odd: Vec<String>,
    /// Changes that were refused with the word that nothing was done, or that could not be sent.
    pub nothing: u64,
    /// Reads without an answer.
    pub unread: u64,
    /// Changes in a session that were sent more than once.
    pub repeated: u64,
}

impl Notes {
    fn add(&mut self, other: Notes) {
        for (key, operations) in other.keys {
            self.keys.entry(key).or_default().extend(operations);
        }
        self.odd.extend(other.odd);
        self.nothing += other.nothing;
        self.unread += other.unread;
        self.repeated += other.repeated;
    }
}

/// Clients that go on until they are stopped.
#[derive(Debug)]
pub struct Clients {
    stop: watch::Sender<bool>,
    tasks: JoinSet<Notes>,
}

impl Clients {
    /// Sends [`CLIENTS_PER_KEY`] clients to each of [`KEYS`] keys of their own for this phase.
    pub fn start(hosts: &Arc<Hosts>, clock: Clock, phase: usize, reads: Reads, chance: &mut Chance) -> Clients {
        let stop = watch::Sender::new(false);
        let mut tasks = JoinSet::new();
        for number in 0..KEYS * CLIENTS_PER_KEY {
            let client = Client {
                hosts: hosts.clone(),
                clock,
                reads,
                key: format!("phase-{phase}-key-{}", number % KEYS),
                chance: Chance::new(chance.number()),
                values: (u64::from(number) + 1) << VALUE_SHIFT,
                doubt: None,
                revision: ABSENT,
                session: None,
                history: Vec::new(),
                notes: Notes::default(),
            };
            tasks.spawn(client.go_on(stop.subscribe()));
        }
        Clients { stop, tasks }
    }

    /// Lets them finish what they do, and collects what they have noted down.
    pub async fn stop(mut self) -> Result<Notes> {
        self.stop.send_replace(true);
        let mut all = Notes::default();
        while let Some(notes) = self.tasks.join_next().await {
            all.add(notes.map_err(|error| Error::Fleet(format!("a client of the judge broke: {error}")))?);
        }
        Ok(all)
    }
}

/// Reads keys at an instance, until that answers; the reads are added to the keys' histories.
pub async fn read_all(hosts: &Arc<Hosts>, clock: Clock, at: u8, notes: &mut Notes) -> Result<()> {
    let Notes { keys, odd, .. } = notes;
    for (key, operations) in keys {
        let start = clock.now();
        loop {
            let from = clock.now();
            match read(hosts, at, key, Reads::Linearizable).await {
                Reading::Found(value, revision) => {
                    let until = Some(clock.now());
                    operations.push(Operation { from, until, deed: Deed::Read { value, revision } });
                    break;
                }
                Reading::Odd(text) => odd.push(text),
                Reading::Nothing => {}
            }
            if clock.now().since(start) > super::hosts::DEADLINE {
                return Err(Error::Fleet(format!("{} does not let {key} be read at the end", label(at))));
            }
            tokio::time::sleep(PACE).await;
        }
    }
    Ok(())
}

struct Client {
    hosts: Arc<Hosts>,
    clock: Clock,
    reads: Reads,
    key: String,
    chance: Chance,
    /// The value it wrote last; no other client writes it.
    values: u64,
    /// The instance that gave it no answer last, which it asks less often than the others: it should not only wait.
    doubt: Option<u8>,
    /// The revision it saw last.
    revision: u64,
    session: Option<Session>,
    history: Vec<Operation>,
    notes: Notes,
}

#[derive(Clone, Copy)]
struct Session {
    id: u64,
    sequence: u64,
}

/// What became of a change.
enum Change {
    Done(u64),
    Conflict,
    /// Nothing was done.
    Nothing,
    Unknown,
    NoSession,
    Odd(String),
}

enum Reading {
    Found(u64, u64),
    Nothing,
    Odd(String),
}

impl Client {
    async fn go_on(mut self, stop: watch::Receiver<bool>) -> Notes {
        while !*stop.borrow() {
            match self.chance.below(100) {
                0..40 => self.read().await,
                40..65 => self.put().await,
                65..80 => self.put_in_session().await,
                _ => self.swap().await,
            }
            tokio::time::sleep(PACE).await;
        }
        self.notes.keys.insert(self.key, self.history);
        self.notes
    }

    /// Some instance that runs; one that is cut off, stopped or just killed is asked like all others.
    fn anybody(&mut self) -> Option<u8> {
        let mut running = self.hosts.running();
        if running.len() > 1 && self.chance.percent(DOUBT_PERCENT) {
            running.retain(|number| Some(*number) != self.doubt);
        }
        running.get(self.chance.below(running.len() as u32) as usize).copied()
    }

    async fn read(&mut self) {
        let Some(at) = self.anybody() else { return };
        let from = self.clock.now();
        match read(&self.hosts, at, &self.key, self.reads).await {
            Reading::Found(value, revision) => {
                self.revision = revision;
                self.note(from, true, Deed::Read { value, revision });
            }
            Reading::Nothing => {
                self.doubt = Some(at);
                self.notes.unread += 1;
            }
            Reading::Odd(text) => self.notes.odd.push(text),
        }
    }

    async fn put(&mut self) {
        let Some(at) = self.anybody() else { return };
        let value = self.fresh_value();
        let from = self.clock.now();
        let change = self.send(at, value, "").await;
        self.note_write(from, value, change);
    }

    /// A change that is sent again, to whatever instance, until there is an answer: it must count once.
    async fn put_in_session(&mut self) {
        let Some(session) = self.session().await else { return };
        let Session { id, sequence } = session;
        self.session = Some(Session { sequence: sequence + 1, ..session });
        let value = self.fresh_value();
        let query = format!("?session={id}&sequence={sequence}&answered_below={sequence}");
        let from = self.clock.now();
        let mut maybe = false;
        let mut last = Change::Nothing;
        for attempt in 0..ATTEMPTS_MAX {
            let Some(at) = self.anybody() else { break };
            self.notes.repeated += u64::from(attempt == 1);
            last = self.send(at, value, &query).await;
            match last {
                Change::Unknown => maybe = true,
                Change::Nothing => {}
                Change::NoSession => {
                    self.session = None;
                    break;
                }
                Change::Done(_) | Change::Conflict | Change::Odd(_) => break,
            }
            tokio::time::sleep(PACE).await;
        }
        // What an earlier attempt did is not undone by the last one's "nothing".
        let change = match last {
            Change::Nothing | Change::NoSession if maybe => Change::Unknown,
            Change::NoSession => Change::Nothing,
            change => change,
        };
        self.note_write(from, value, change);
    }

    async fn swap(&mut self) {
        let Some(at) = self.anybody() else { return };
        let (value, expected) = (self.fresh_value(), self.revision);
        let from = self.clock.now();
        let revision = match self.send(at, value, &format!("?if_revision={expected}")).await {
            Change::Done(revision) => Some(revision),
            Change::Unknown => None,
            Change::Conflict => {
                // It has seen an old revision: the next read tells it a new one.
                return self.note(from, true, Deed::Refused { expected });
            }
            Change::Nothing => return self.notes.nothing += 1,
            Change::NoSession => return self.notes.odd.push("no session, to a request without one".to_owned()),
            Change::Odd(text) => return self.notes.odd.push(text),
        };
        self.note(from, revision.is_some(), Deed::Swap { value, expected, revision });
        self.revision = revision.unwrap_or(self.revision);
    }

    fn note_write(&mut self, from: Moment, value: u64, change: Change) {
        let revision = match change {
            Change::Done(revision) => Some(revision),
            Change::Unknown => None,
            Change::Nothing => return self.notes.nothing += 1,
            Change::Conflict => {
                return self.notes.odd.push(format!("a conflict, to a write of {value:x} without a condition"));
            }
            Change::NoSession => return self.notes.odd.push("no session, to a request without one".to_owned()),
            Change::Odd(text) => return self.notes.odd.push(text),
        };
        self.note(from, revision.is_some(), Deed::Write { value, revision });
        self.revision = revision.unwrap_or(self.revision);
    }

    fn note(&mut self, from: Moment, answered: bool, deed: Deed) {
        let until = answered.then(|| self.clock.now());
        self.history.push(Operation { from, until, deed });
    }

    fn fresh_value(&mut self) -> u64 {
        self.values += 1;
        self.values
    }

    /// The session, opened when there is none.
    async fn session(&mut self) -> Option<Session> {
        if self.session.is_none() {
            let at = self.anybody()?;
            let answer = http::send(rest(at), "POST", "/sessions", b"", REQUEST_DEADLINE).await.ok()?;
            let id = json(&answer).and_then(|body| body["session"].as_u64())?;
            self.session = Some(Session { id, sequence: 1 });
        }
        self.session
    }

    async fn send(&mut self, at: u8, value: u64, query: &str) -> Change {
        let path = format!("/kv/{}{query}", self.key);
        let answer = http::send(rest(at), "PUT", &path, value.to_string().as_bytes(), REQUEST_DEADLINE).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(lost) => {
                self.doubt = Some(at);
                return match lost {
                    Lost::Unsent(_) => Change::Nothing,
                    Lost::Sent(_) => Change::Unknown,
                };
            }
        };
        let body = json(&answer).unwrap_or_default();
        match (answer.status, body["reason"].as_str(), body["index"].as_u64()) {
            (200, _, Some(index)) => Change::Done(index),
            (409, Some("conflict"), _) => Change::Conflict,
            (503, Some("unavailable"), _) | (429, Some("overloaded"), _) => Change::Nothing,
            (504, Some("unknown_outcome"), _) => Change::Unknown,
            (410, Some("no_session"), _) => Change::NoSession,
            _ => Change::Odd(odd(at, &path, &answer)),
        }
    }
}

async fn read(hosts: &Hosts, at: u8, key: &str, reads: Reads) -> Reading {
    let consistency = match reads {
        Reads::Linearizable => "linearizable",
        Reads::Local => "local",
    };
    let path = format!("/kv/{key}?consistency={consistency}");
    let Ok(answer) = hosts.get(at, &path).await else { return Reading::Nothing };
    let body = json(&answer).unwrap_or_default();
    let value = body["value"].as_str().and_then(|text| text.parse().ok());
    match (answer.status, body["reason"].as_str(), value, body["revision"].as_u64()) {
        (200, _, Some(value), Some(revision)) => Reading::Found(value, revision),
        (404, Some("not_found"), ..) => Reading::Found(ABSENT, ABSENT),
        (503, Some("unavailable"), ..) | (429, Some("overloaded"), ..) => Reading::Nothing,
        _ => Reading::Odd(odd(at, &path, &answer)),
    }
}

fn json(answer: &Response) -> Option<Value> {
    serde_json::from_slice(&answer.body).ok()
}

fn odd(at: u8, path: &str, answer: &Response) -> String {
    let body: String = String::from_utf8_lossy(&answer.body).chars().take(BODY_SHOWN).collect();
    format!("{} answers {path} with {} {body}", label(at), answer.status)
}

/// Keys of a phase.
pub const KEYS: u32 = 6;
/// Clients that use the same key at the same time.
pub const CLIENTS_PER_KEY: u32 = 4;

/// Between two requests of a client.
const PACE: Duration = Duration::from_millis(25);
/// A client that waits for a cut-off instance is of no use meanwhile.
const REQUEST_DEADLINE: Duration = Duration::from_millis(1_500);
/// How often a change in a session is sent before its outcome is called unknown.
const ATTEMPTS_MAX: u32 = 8;
/// How often a client leaves out the instance that gave it no answer last.
const DOUBT_PERCENT: u32 = 75;
/// The lower bits of a value count a client's writes.
const VALUE_SHIFT: u32 = 32;
const BODY_SHOWN: usize = 200;
