//! New clients of a pool: each comes once, to two instances, and must be given the same server by both.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::hosts::{Hosts, entrance, label};
use super::wire;
use crate::ask::{Door, Reply, ask};
use crate::chance::Chance;
use crate::error::{Error, Result};

/// What new clients were told.
#[derive(Debug, Default)]
pub struct Choices {
    /// How often an instance in service was asked.
    pub asked: u64,
    /// How often it gave no server.
    pub refused: u64,
    /// Clients that two instances gave a server.
    pub compared: u64,
    /// Those of them that were given different ones.
    pub split: u64,
    /// The first of those that were refused or split, for people.
    pub evidence: Vec<String>,
}

/// Clients that go on coming until they are stopped.
#[derive(Debug)]
pub struct Visitors {
    stop: watch::Sender<bool>,
    tasks: JoinSet<Result<Choices>>,
}

impl Visitors {
    /// Sends clients; `numbers` gives each an address that was never used.
    pub fn start(hosts: &Arc<Hosts>, numbers: &Arc<AtomicU16>, chance: &mut Chance) -> Visitors {
        let stop = watch::Sender::new(false);
        let mut tasks = JoinSet::new();
        for _ in 0..AT_ONCE {
            let (hosts, numbers, chance) = (hosts.clone(), numbers.clone(), Chance::new(chance.number()));
            tasks.spawn(come(hosts, numbers, chance, stop.subscribe()));
        }
        Visitors { stop, tasks }
    }

    /// Lets those that are there finish, and sums up.
    pub async fn stop(mut self) -> Result<Choices> {
        self.stop.send_replace(true);
        let mut all = Choices::default();
        while let Some(choices) = self.tasks.join_next().await {
            let choices = choices.map_err(|error| Error::Fleet(format!("a client of the judge broke: {error}")))??;
            all.asked += choices.asked;
            all.refused += choices.refused;
            all.compared += choices.compared;
            all.split += choices.split;
            all.evidence.extend(choices.evidence);
        }
        all.evidence.truncate(EVIDENCE_MAX);
        Ok(all)
    }
}

async fn come(
    hosts: Arc<Hosts>,
    numbers: Arc<AtomicU16>,
    mut chance: Chance,
    stop: watch::Receiver<bool>,
) -> Result<Choices> {
    let mut choices = Choices::default();
    while !*stop.borrow() {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        let (mut given, mut asked): (Option<(u8, String)>, Option<u8>) = (None, None);
        for _ in 0..2 {
            let mut serving = hosts.serving();
            serving.retain(|number| Some(*number) != asked);
            let Some(&at) = serving.get(chance.below(serving.len() as u32) as usize) else { continue };
            let Some(_visit) = hosts.visit(at) else { continue };
            let source = wire::visitor(number);
            let reply = ask(source, entrance(at), Door::Tcp, DEADLINE).await;
            (choices.asked, asked) = (choices.asked + 1, Some(at));
            match reply.map_err(Error::io(format!("asking {} from {source}", label(at))))? {
                Reply::Name(name, _) => match &given {
                    Some((first, other)) => {
                        choices.compared += 1;
                        if *other != name {
                            choices.split += 1;
                            let (first, at) = (label(*first), label(at));
                            choices.note(format!("{source} was given {other} by {first} and {name} by {at}"));
                        }
                    }
                    None => given = Some((at, name)),
                },
                other => {
                    choices.refused += 1;
                    choices.note(format!("{source} was given no server by {}: {other:?}", label(at)));
                }
            }
        }
        tokio::time::sleep(PACE).await;
    }
    Ok(choices)
}

impl Choices {
    fn note(&mut self, evidence: String) {
        if self.evidence.len() < EVIDENCE_MAX {
            self.evidence.push(evidence);
        }
    }
}

/// Clients that ask at the same moment.
const AT_ONCE: usize = 3;
const PACE: Duration = Duration::from_millis(30);
const DEADLINE: Duration = Duration::from_secs(3);
const EVIDENCE_MAX: usize = 5;
