//! The stage: the verbs of the stories. Each states the ground truth to the judge before it does the deed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::{Outcome, Plan, STEADY, Scenario, describe};
use crate::crowd::Ground;
use crate::error::{Error, Result};
use crate::farm::{Backend, Cut};
use crate::fleet::site::Site;
use crate::fleet::{Change, POOLS, Server};
use crate::http;
use crate::judge::{BackendId, EventId, InstanceId, Outage, judge_tally};
use crate::moment::Moment;

/// A fleet, its farm and the crowd, with everything that can be done to them.
pub struct Stage {
    /// Whom the crowd asks.
    pub ground: Arc<Ground>,
    site: Arc<Site>,
    /// The name at the farm of each server name in the pools.
    members: Mutex<HashMap<String, String>>,
    notes: Mutex<Vec<String>>,
    recoveries: Mutex<Vec<Duration>>,
    failures: Mutex<Vec<String>>,
    slowest_answer: Mutex<Duration>,
}

impl Stage {
    /// A stage on which nothing runs yet.
    pub fn new(ground: Arc<Ground>, site: Arc<Site>, servers: &[Server]) -> Stage {
        Stage {
            ground,
            site,
            members: Mutex::new(servers.iter().map(|server| (server.name.clone(), server.name.clone())).collect()),
            notes: Mutex::default(),
            recoveries: Mutex::default(),
            failures: Mutex::default(),
            slowest_answer: Mutex::default(),
        }
    }

    /// Starts every instance and waits until clients reach every steady backend.
    pub async fn raise_fleet(&self) -> Result<()> {
        let starting = self.ground.judge().timeline.event_begins(self.now());
        let instances = self.ground.instances();
        for instance in &instances {
            self.ground.fleet.start(*instance).await?;
        }
        for instance in &instances {
            self.wait_ready(*instance).await?;
        }
        let mut regulars = Vec::new();
        let mut pace = tokio::time::interval(PROBE_PACE);
        let begun = Instant::now();
        while !STEADY.iter().all(|name| self.landed_since(name, Moment(0)).unwrap_or(false)) {
            pace.tick().await;
            if begun.elapsed() > START_DEADLINE {
                return Err(Error::Fleet(format!(
                    "all instances said ready, but after {} s clients still do not reach every backend",
                    START_DEADLINE.as_secs()
                )));
            }
            let fresh = self.ground.fresh_client();
            self.ground.visit(fresh, &instances, 1).await;
            if regulars.len() < REGULARS_AT_START {
                regulars.push(fresh);
            }
            regulars.rotate_left(1);
            if let Some(regular) = regulars.first() {
                self.ground.visit(*regular, &instances, 1).await;
            }
        }
        for regular in regulars {
            self.ground.visit(regular, &instances, 1).await;
        }
        let mut judge = self.ground.judge();
        let now = self.now();
        judge.timeline.event_ends(starting, now);
        judge.begin();
        Ok(())
    }

    /// Waits until so many clients have come once.
    pub async fn crowd_has_come(&self, clients: u32) -> Result<()> {
        self.until(CROWD_DEADLINE, "the crowd did not come", async || {
            self.ground.judge().tally.clients >= u64::from(clients)
        })
        .await
    }

    /// Lets the crowd ask for a while.
    pub async fn calm(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// The present moment.
    pub fn now(&self) -> Moment {
        self.ground.clock.now()
    }

    /// Something is about to be done.
    pub fn begin(&self, what: impl Into<String>) -> EventId {
        self.note(what);
        self.ground.judge().timeline.event_begins(self.now())
    }

    /// It is done; what is still on its way has a little longer.
    pub fn end(&self, event: EventId) {
        self.ground.judge().timeline.event_ends(event, self.now().plus(EVENT_TAIL));
    }

    /// Tells the people who watch.
    pub fn note(&self, what: impl Into<String>) {
        lock(&self.notes).push(what.into());
    }

    /// The times from each fault to the next committed first contact.
    pub fn recoveries(&self) -> Vec<Duration> {
        lock(&self.recoveries).clone()
    }

    /// What was told since the last time.
    pub fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.notes))
    }

    /// States something that speaks against the fleet but shows in no count.
    pub fn fail(&self, reason: impl Into<String>) {
        let reason = reason.into();
        self.note(format!("FAILED: {reason}"));
        lock(&self.failures).push(reason);
    }

    /// The name of an instance.
    pub fn label(&self, instance: InstanceId) -> String {
        self.ground.fleet.label(instance)
    }

    /// Who leads now; waits until somebody does.
    pub async fn leader(&self) -> Result<InstanceId> {
        let begun = Instant::now();
        loop {
            if let Some(leader) = self.ground.fleet.leader().await? {
                return Ok(leader);
            }
            if begun.elapsed() > LEADER_DEADLINE {
                return Err(Error::Fleet(format!("no single leader within {} s", LEADER_DEADLINE.as_secs())));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Everyone but one.
    pub fn others(&self, instance: InstanceId) -> Vec<InstanceId> {
        self.ground.instances().into_iter().filter(|other| *other != instance).collect()
    }

    /// Takes an instance out of service for the judge; to be called before the deed. Returns the moment of it.
    pub fn out_of_service(&self, instance: InstanceId, outage: Outage) -> Moment {
        let now = self.now();
        self.ground.judge().timeline.instance_leaves(instance, outage, now);
        now
    }

    /// Waits until an instance says that it is ready, and puts it back into service for the judge.
    pub async fn back_in_service(&self, instance: InstanceId) -> Result<()> {
        self.wait_ready(instance).await?;
        let now = self.now();
        self.ground.judge().timeline.instance_is_back(instance, now);
        self.note(format!("{} is ready", self.label(instance)));
        Ok(())
    }

    /// Kills an instance, with notice to the judge.
    pub async fn kill_instance(&self, instance: InstanceId) -> Result<Moment> {
        let moment = self.out_of_service(instance, Outage::Down);
        self.ground.fleet.kill(instance).await?;
        Ok(moment)
    }

    /// Starts an instance again and waits until it is ready.
    pub async fn restart_instance(&self, instance: InstanceId) -> Result<()> {
        self.ground.fleet.start(instance).await?;
        self.back_in_service(instance).await
    }

    /// Measures the time from `since` until a fresh client that came after it is answered by one of `live`.
    pub async fn measure_recovery(&self, since: Moment, live: &[InstanceId]) -> Result<()> {
        let live: Arc<[InstanceId]> = live.into();
        let mut probes = JoinSet::new();
        let mut pace = tokio::time::interval(PROBE_PACE);
        let begun = Instant::now();
        let recovered = loop {
            tokio::select! {
                _ = pace.tick(), if begun.elapsed() < RECOVERY_DEADLINE => {
                    for instance in live.iter().copied() {
                        let ground = self.ground.clone();
                        probes.spawn(async move {
                            let client = ground.fresh_client();
                            let asks = ground.visit(client, &[instance], 1).await;
                            // The same client asks everybody else at its next visit; here it leaves for good.
                            ground.judge().forget(client);
                            asks.into_iter().filter(is_answered).map(|ask| ask.end).min()
                        });
                    }
                }
                probe = probes.join_next(), if !probes.is_empty() => {
                    if let Some(Ok(Some(end))) = probe {
                        break Some(end);
                    }
                }
                else => break None,
            }
        };
        while probes.join_next().await.is_some() {}
        match recovered {
            Some(end) => {
                let time = end.since(since);
                self.note(format!("first contact committed again after {} ms", time.as_millis()));
                lock(&self.recoveries).push(time);
                Ok(())
            }
            None => Err(Error::Fleet(format!("no first contact within {} s", RECOVERY_DEADLINE.as_secs()))),
        }
    }

    /// Stops a backend, so that every connect to it is refused.
    pub async fn kill_backend(&self, server: &str) -> Result<()> {
        let (backend, id) = self.member(server)?;
        self.for_pools(|timeline, pool, now| timeline.backend_leaves(pool, id, now));
        backend.stop().await;
        Ok(())
    }

    /// Starts a backend again and waits until fresh clients reach it in every pool.
    pub async fn return_backend(&self, server: &str) -> Result<()> {
        let (backend, id) = self.member(server)?;
        backend.start().await?;
        // Checks that failed before it was back may still be on their way to a verdict.
        self.calm(LATE_VOTES).await;
        self.wait_landed(server, self.now()).await?;
        self.for_pools(|timeline, pool, now| timeline.backend_is_back(pool, id, now));
        self.note(format!("{server} serves again"));
        Ok(())
    }

    /// Cuts one instance off from a backend, or ends that.
    pub async fn skew(&self, server: &str, instance: InstanceId, cut: Option<Cut>) -> Result<()> {
        let (backend, _) = self.member(server)?;
        self.ground.fleet.skew(instance, &backend, cut).await
    }

    /// Has the router of a farm choose other instances for the same connections.
    pub fn change_paths(&self, round: u32) -> Result<()> {
        match self.site.net() {
            Some(net) => net.change_paths(round),
            None => Err(Error::NotApplicable("there is no router before the instances".to_owned())),
        }
    }

    /// Adds a server to every pool: a new backend of the farm called `at_farm`. Fresh clients must come to reach it.
    pub async fn add(&self, server: &str, at_farm: &str, weight: u32) -> Result<()> {
        let listen = self.site.backend(self.ground.farm.backends().len());
        let backend = self.ground.farm.add(at_farm, listen).await?;
        let begun = self.now();
        let server = Server { name: server.to_owned(), address: backend.address, weight };
        lock(&self.members).insert(server.name.clone(), at_farm.to_owned());
        self.change_all(&Change::Add(server.clone())).await?;
        self.wait_landed(&server.name, begun).await
    }

    /// Removes a server from every pool.
    pub async fn remove(&self, server: &str) -> Result<()> {
        let (_, id) = self.member(server)?;
        self.for_pools(|timeline, pool, now| timeline.backend_leaves(pool, id, now));
        self.change_all(&Change::Remove(server.to_owned())).await?;
        self.for_pools(|timeline, pool, now| timeline.removal_acknowledged(pool, id, now));
        Ok(())
    }

    /// Drains a server in every pool.
    pub async fn drain(&self, server: &str) -> Result<()> {
        let (_, id) = self.member(server)?;
        self.change_all(&Change::Drain(server.to_owned())).await?;
        self.for_pools(|timeline, pool, now| timeline.drain_acknowledged(pool, id, now));
        Ok(())
    }

    /// Ends the draining; fresh clients must come to reach it.
    pub async fn enable(&self, server: &str) -> Result<()> {
        let (_, id) = self.member(server)?;
        self.for_pools(|timeline, pool, now| timeline.drain_revoked(pool, id, now));
        let begun = self.now();
        self.change_all(&Change::Enable(server.to_owned())).await?;
        self.wait_landed(server, begun).await
    }

    /// Watches how fast the farm itself answers; never ends. On a machine that is too busy checks fail by the judge's fault.
    pub async fn watch_itself(&self) {
        let mut pace = tokio::time::interval(SELF_CHECK_PACE);
        let backends = self.ground.farm.backends();
        for backend in backends.iter().cycle() {
            pace.tick().await;
            let begun = Instant::now();
            if http::get(backend.address, "/healthz", SELF_CHECK_DEADLINE).await.is_ok() {
                let mut slowest = lock(&self.slowest_answer);
                *slowest = slowest.max(begun.elapsed());
            }
        }
    }

    /// What came of it all.
    pub fn outcome(&self, scenario: Scenario, plan: &Plan) -> Outcome {
        let judge = self.ground.judge();
        let budget = scenario.budget(plan);
        let mut verdict = judge_tally(&judge.tally, budget, usize::from(plan.instances));
        verdict.reasons.append(&mut lock(&self.failures));
        verdict.reasons.extend(self.ground.own_faults().into_iter().map(|fault| format!("the judge itself: {fault}")));
        let slowest = *lock(&self.slowest_answer);
        if slowest > CHECK_TIMEOUT && !verdict.passed() {
            let slowest = slowest.as_millis();
            let reason =
                format!("the judge itself: a backend took {slowest} ms to answer, as if dead; use a smaller --rate");
            verdict.reasons.insert(0, reason);
        }
        Outcome {
            product: self.ground.fleet.product(),
            scenario,
            clients: plan.clients,
            tally: judge.tally.clone(),
            budget,
            recoveries: lock(&self.recoveries).clone(),
            verdict,
            evidence: judge.offences.iter().map(|offence| describe(&self.ground, offence)).collect(),
            logs: None,
            not_applicable: None,
        }
    }

    /// Waits until fresh clients that came after `since` reach a server in every pool. Scouts beside the crowd see to it
    /// that a server of small weight is met soon, too.
    async fn wait_landed(&self, server: &str, since: Moment) -> Result<()> {
        let mut scouts = JoinSet::new();
        let mut pace = tokio::time::interval(PROBE_PACE);
        let begun = Instant::now();
        while !self.landed_since(server, since)? {
            if begun.elapsed() > LANDING_DEADLINE {
                let limit = LANDING_DEADLINE.as_secs();
                return Err(Error::Fleet(format!("no fresh client came to {server} in every pool within {limit} s")));
            }
            pace.tick().await;
            while scouts.try_join_next().is_some() {}
            if scouts.len() < SCOUTS_MAX {
                let instances = self.in_service();
                let ground = self.ground.clone();
                scouts.spawn(async move {
                    let client = ground.fresh_client();
                    ground.visit(client, &instances, 1).await;
                    ground.judge().forget(client);
                });
            }
        }
        while scouts.join_next().await.is_some() {}
        Ok(())
    }

    /// The instances that the judge has not taken out of service.
    fn in_service(&self) -> Vec<InstanceId> {
        let (judge, now) = (self.ground.judge(), self.now());
        let serves = |instance: &InstanceId| judge.timeline.outage(*instance, now, now).is_none();
        self.ground.instances().into_iter().filter(serves).collect()
    }

    fn landed_since(&self, server: &str, since: Moment) -> Result<bool> {
        let (_, id) = self.member(server)?;
        Ok((0..POOLS.len()).all(|pool| self.ground.landed(pool, id).is_some_and(|landed| landed >= since)))
    }

    async fn wait_ready(&self, instance: InstanceId) -> Result<()> {
        let fleet = &self.ground.fleet;
        let begun = Instant::now();
        while !(fleet.is_ready(instance).await && fleet.is_announced(instance).await) {
            if let Some(how) = fleet.obituary(instance).await {
                return Err(Error::Fleet(format!("{} ended by itself: {how}", self.label(instance))));
            }
            if begun.elapsed() > READY_DEADLINE {
                let limit = READY_DEADLINE.as_secs();
                return Err(Error::Fleet(format!(
                    "{} was not ready, and announced where that is to be, within {limit} s",
                    self.label(instance)
                )));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    async fn until(&self, deadline: Duration, failure: &str, condition: impl AsyncFn() -> bool) -> Result<()> {
        let begun = Instant::now();
        while !condition().await {
            if begun.elapsed() > deadline {
                return Err(Error::Fleet(failure.to_owned()));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    async fn change_all(&self, change: &Change) -> Result<()> {
        // An operator talks to the side that works.
        let via = self.in_service();
        for pool in 0..POOLS.len() {
            self.ground.fleet.change(pool, change, &via).await?;
        }
        Ok(())
    }

    fn member(&self, server: &str) -> Result<(Arc<Backend>, BackendId)> {
        let name = lock(&self.members).get(server).cloned().unwrap_or_else(|| server.to_owned());
        let farm = &self.ground.farm;
        match (farm.backend(&name), farm.id(&name)) {
            (Some(backend), Some(id)) => Ok((backend, id)),
            _ => Err(Error::Usage(format!("the farm has no {server}"))),
        }
    }

    fn for_pools(&self, tell: impl Fn(&mut crate::judge::Timeline, u8, Moment)) {
        let mut judge = self.ground.judge();
        let now = self.now();
        for pool in 0..POOLS.len() {
            tell(&mut judge.timeline, pool as u8, now);
        }
    }
}

fn is_answered(ask: &crate::judge::Ask) -> bool {
    matches!(ask.outcome, crate::judge::Outcome::Answered(_))
}

/// The lock of a plain table; a panic elsewhere leaves such a table whole.
fn lock<T>(table: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An event lasts this much longer than the deed and what was waited for.
const EVENT_TAIL: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(20);
const READY_DEADLINE: Duration = Duration::from_secs(30);
const START_DEADLINE: Duration = Duration::from_secs(30);
const CROWD_DEADLINE: Duration = Duration::from_secs(120);
const LEADER_DEADLINE: Duration = Duration::from_secs(15);
const LANDING_DEADLINE: Duration = Duration::from_secs(20);
const RECOVERY_DEADLINE: Duration = Duration::from_secs(15);
/// Fall times interval plus timeout of a check, and a little more.
const LATE_VOTES: Duration = Duration::from_millis(2500);
/// The timeout of a health check in every fleet's configuration.
const CHECK_TIMEOUT: Duration = Duration::from_millis(500);
const SELF_CHECK_PACE: Duration = Duration::from_millis(100);
const SELF_CHECK_DEADLINE: Duration = Duration::from_secs(3);
const PROBE_PACE: Duration = Duration::from_millis(10);
const SCOUTS_MAX: usize = 64;
const REGULARS_AT_START: usize = 20;
