//! What is done to the fleet, phase by phase.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::digests::Digests;
use super::hosts::{DEADLINE, Hosts, label, member, wait_until};
use crate::error::{Error, Result};

/// One phase.
#[derive(Clone, Copy, Debug)]
pub struct Phase {
    /// Its name.
    pub name: &'static str,
    /// What is done, for people.
    pub about: &'static str,
    /// Whether it is part of a short run.
    pub short: bool,
    /// Whether every new client of the pool must get a server.
    pub no_refusal: bool,
    /// Whether it takes a fleet that has grown.
    grown: bool,
    deed: Deed,
}

impl Phase {
    /// Whether ways between instances are cut.
    pub fn cuts(&self) -> bool {
        match self.deed {
            Deed::CutLeader | Deed::CutFollower | Deed::Deaf | Deed::Mute | Deed::Bridge | Deed::Minority => true,
            Deed::Nothing
            | Deed::Kill
            | Deed::KillAll
            | Deed::Pause
            | Deed::Transfer
            | Deed::Rolling
            | Deed::Grow
            | Deed::Shrink => false,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Deed {
    Nothing,
    CutLeader,
    CutFollower,
    Deaf,
    Mute,
    Bridge,
    Minority,
    Kill,
    KillAll,
    Pause,
    Transfer,
    Rolling,
    Grow,
    Shrink,
}

/// Where phases are played.
#[derive(Debug)]
pub struct Stage {
    /// The fleet.
    pub hosts: Arc<Hosts>,
    /// What the instances have shown of their tables.
    pub digests: Mutex<Digests>,
    /// The instances that join and leave again.
    pub newcomers: Vec<u8>,
    /// How long a fault lasts, and how long the fleet is left alone afterwards.
    pub fault: Duration,
}

impl Stage {
    /// Does to the fleet what the phase says.
    pub async fn play(&self, phase: &Phase) -> Result<()> {
        match phase.deed {
            Deed::Nothing => self.hold().await,
            Deed::CutLeader => self.cut_off(self.hosts.leader().await?).await,
            Deed::CutFollower => self.cut_off(self.follower().await?).await,
            Deed::Deaf => self.one_way(Way::In).await,
            Deed::Mute => self.one_way(Way::Out).await,
            Deed::Bridge => self.bridge().await,
            Deed::Minority => self.minority().await,
            Deed::Kill => self.kill().await,
            Deed::KillAll => self.kill_all().await,
            Deed::Pause => self.pause().await,
            Deed::Transfer => self.transfer().await,
            Deed::Rolling => self.rolling().await,
            Deed::Grow => self.grow().await,
            Deed::Shrink => self.shrink().await,
        }
    }

    /// Lets some time pass, in which the instances' tables are compared.
    async fn hold(&self) -> Result<()> {
        let until = Instant::now() + self.fault;
        while Instant::now() < until {
            self.look().await;
            tokio::time::sleep(LOOK.min(until.saturating_duration_since(Instant::now()))).await;
        }
        Ok(())
    }

    /// Compares what the running instances have applied: by instance the index of each group. An instance that does not
    /// answer is left out.
    async fn look(&self) -> BTreeMap<u8, BTreeMap<u64, u64>> {
        let mut applied = BTreeMap::new();
        for number in self.hosts.running() {
            let Ok(answer) = self.hosts.get(number, "/status").await else { continue };
            let Ok(status) = serde_json::from_slice::<Value>(&answer.body) else { continue };
            applied.insert(number, self.digests.lock().await.see(number, &status));
        }
        applied
    }

    /// Waits until all running instances are ready.
    pub async fn ready(&self) -> Result<()> {
        for number in self.hosts.running() {
            self.hosts.ready(number).await?;
        }
        Ok(())
    }

    /// Waits, without load, until all running instances have applied the same.
    pub async fn settle(&self) -> Result<()> {
        let until = Instant::now() + DEADLINE;
        loop {
            let applied = self.look().await;
            let all = applied.len() == self.hosts.running().len();
            let mut indexes = applied.values();
            let first = indexes.next();
            if all && first.is_some_and(|first| !first.is_empty() && indexes.all(|other| other == first)) {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(Error::Fleet(format!("the instances did not come to equal tables: {applied:?}")));
            }
            tokio::time::sleep(SETTLE_LOOK).await;
        }
    }

    async fn follower(&self) -> Result<u8> {
        let leader = self.hosts.leader().await?;
        let found = self.hosts.running().into_iter().find(|number| *number != leader);
        found.ok_or_else(|| Error::Usage("a fleet of one has no follower".to_owned()))
    }

    /// The running instances apart from this one.
    fn others(&self, than: u8) -> Vec<u8> {
        self.hosts.running().into_iter().filter(|number| *number != than).collect()
    }

    /// Cuts ways for the time of a fault, then heals them.
    async fn cut(&self, ways: &[(u8, u8)]) -> Result<()> {
        let before = self.hosts.dropped().await?;
        self.hosts.cut(ways).await?;
        self.hold().await?;
        self.hosts.cut(&[]).await?;
        if self.hosts.dropped().await? == before {
            return Err(Error::Fleet("the cut has dropped nothing: what was seen tells nothing".to_owned()));
        }
        self.ready().await?;
        self.hold().await
    }

    async fn cut_off(&self, who: u8) -> Result<()> {
        self.cut(&both_ways(&[who], &self.others(who))).await
    }

    /// The leader hears nobody, or is heard by nobody.
    async fn one_way(&self, way: Way) -> Result<()> {
        let leader = self.hosts.leader().await?;
        let ways = self.others(leader).into_iter().map(|other| match way {
            Way::In => (other, leader),
            Way::Out => (leader, other),
        });
        self.cut(&ways.collect::<Vec<_>>()).await
    }

    /// Two sides that do not hear each other, and one instance between them that hears both. The leader is at a side.
    async fn bridge(&self) -> Result<()> {
        let leader = self.hosts.leader().await?;
        let mut side = self.others(leader);
        side.pop();
        let far = side.split_off(side.len() / 2);
        side.push(leader);
        self.cut(&both_ways(&side, &far)).await
    }

    /// The leader is in the smaller part.
    async fn minority(&self) -> Result<()> {
        let leader = self.hosts.leader().await?;
        let mut most = self.others(leader);
        let mut few = most.split_off(most.len() / 2 + 1);
        few.push(leader);
        self.cut(&both_ways(&few, &most)).await
    }

    /// The leader, then one that is a follower by then, both under load and started again after the time of a fault.
    async fn kill(&self) -> Result<()> {
        self.kill_one(self.hosts.leader().await?).await?;
        self.kill_one(self.follower().await?).await?;
        self.hold().await
    }

    async fn kill_one(&self, who: u8) -> Result<()> {
        self.hosts.kill(who).await?;
        self.hold().await?;
        self.hosts.start(who).await?;
        self.hosts.ready(who).await
    }

    async fn kill_all(&self) -> Result<()> {
        let all = self.hosts.running();
        for who in &all {
            self.hosts.kill(*who).await?;
        }
        for who in &all {
            self.hosts.start(*who).await?;
        }
        self.ready().await?;
        self.hold().await
    }

    /// The leader, then one that is a follower by then.
    async fn pause(&self) -> Result<()> {
        self.pause_one(self.hosts.leader().await?).await?;
        self.pause_one(self.follower().await?).await?;
        self.hold().await
    }

    async fn pause_one(&self, who: u8) -> Result<()> {
        self.hosts.signal(who, Signal::STOP).await?;
        let held = self.hold().await;
        self.hosts.signal(who, Signal::CONT).await?;
        held?;
        self.ready().await
    }

    async fn transfer(&self) -> Result<()> {
        for who in self.hosts.running() {
            self.hand_over(who).await?;
            self.hold().await?;
        }
        Ok(())
    }

    /// Hands the leadership to an instance, and waits until it is the only one that says it leads.
    async fn hand_over(&self, who: u8) -> Result<()> {
        self.hosts.command("POST", &format!("/members/{}/transfer", label(who)), "").await?;
        let leads = || async { self.hosts.leader().await.is_ok_and(|leader| leader == who) };
        wait_until(&format!("{} leads, to which the leadership was handed", label(who)), leads).await
    }

    async fn rolling(&self) -> Result<()> {
        for who in self.hosts.running() {
            self.hosts.terminate(who).await?;
            self.hosts.start(who).await?;
            self.hosts.ready(who).await?;
        }
        self.hold().await
    }

    async fn grow(&self) -> Result<()> {
        for &who in &self.newcomers {
            self.hosts.command("POST", "/members", &member(who)).await?;
            self.hosts.start(who).await?;
            self.hosts.ready(who).await?;
            self.hosts.command("POST", &format!("/members/{}/promote", label(who)), "").await?;
            self.voters().await?;
        }
        self.hold().await
    }

    /// The newcomers leave again, each while it leads.
    async fn shrink(&self) -> Result<()> {
        for &who in self.newcomers.iter().rev() {
            self.hand_over(who).await?;
            self.hosts.withdraw(who).await?;
            self.hosts.command("DELETE", &format!("/members/{}", label(who)), "").await?;
            self.says_removed(who).await?;
            self.hosts.forget(who)?;
            self.hosts.terminate(who).await?;
            self.voters().await?;
        }
        self.hold().await
    }

    /// Waits until each running instance counts the running ones as voters, and no other members.
    async fn voters(&self) -> Result<()> {
        let running = self.hosts.running();
        let wanted: Vec<String> = running.iter().copied().map(label).collect();
        let counted = |who: u8| async move {
            let answer = self.hosts.get(who, "/members").await.ok()?;
            let body: Value = serde_json::from_slice(&answer.body).ok()?;
            let voters = body["members"].as_array()?.iter().map(|member| match member["voter"] == true {
                true => member["label"].as_str().map(str::to_owned),
                false => None,
            });
            let mut voters = voters.collect::<Option<Vec<_>>>()?;
            voters.sort_unstable();
            Some(voters)
        };
        for who in running {
            let what = format!("{} counts the voters {}", label(who), wanted.join(", "));
            wait_until(&what, || async { counted(who).await.as_ref() == Some(&wanted) }).await?;
        }
        Ok(())
    }

    async fn says_removed(&self, who: u8) -> Result<()> {
        let what = format!("{} says that it was removed", label(who));
        let says = || async {
            let answer = self.hosts.get(who, "/readyz").await;
            answer.is_ok_and(|answer| answer.status == 503 && String::from_utf8_lossy(&answer.body).contains("removed"))
        };
        wait_until(&what, says).await
    }
}

/// Which of the leader's ways are cut.
#[derive(Clone, Copy, Debug)]
enum Way {
    In,
    Out,
}

fn both_ways(some: &[u8], others: &[u8]) -> Vec<(u8, u8)> {
    some.iter().flat_map(|one| others.iter().flat_map(move |other| [(*one, *other), (*other, *one)])).collect()
}

const fn phase(name: &'static str, about: &'static str, deed: Deed) -> Phase {
    Phase { name, about, short: false, no_refusal: false, grown: false, deed }
}

const fn short(phase: Phase) -> Phase {
    Phase { short: true, ..phase }
}

const fn no_refusal(phase: Phase) -> Phase {
    Phase { no_refusal: true, ..phase }
}

const fn grown(phase: Phase) -> Phase {
    Phase { grown: true, ..phase }
}

/// The phases that are named, or those of a short or a whole run.
///
/// # Errors
/// If there is no such phase, or one that needs a grown fleet comes without `grow`.
pub fn chosen(names: &[String], short: bool) -> Result<Vec<Phase>> {
    if names.is_empty() {
        return Ok(PHASES.into_iter().filter(|phase| phase.short || !short).collect());
    }
    let known = || PHASES.map(|phase| phase.name).join(", ");
    if let Some(name) = names.iter().find(|name| PHASES.iter().all(|phase| phase.name != name.as_str())) {
        return Err(Error::Usage(format!("no phase is called {name}; there are: {}", known())));
    }
    let named: Vec<Phase> = PHASES.into_iter().filter(|phase| names.iter().any(|name| name == phase.name)).collect();
    let grows = named.iter().any(|phase| matches!(phase.deed, Deed::Grow));
    match named.iter().find(|phase| phase.grown) {
        Some(phase) if !grows => Err(Error::Usage(format!("{} needs grow before it", phase.name))),
        _ => Ok(named),
    }
}

/// All phases, in their order.
pub const PHASES: [Phase; 16] = [
    short(no_refusal(phase("calm", "nothing happens", Deed::Nothing))),
    short(phase("cut-leader", "the leader and the others do not hear each other", Deed::CutLeader)),
    phase("cut-follower", "a follower and the others do not hear each other", Deed::CutFollower),
    short(phase("deaf-leader", "the leader hears nobody, all hear it", Deed::Deaf)),
    phase("mute-leader", "nobody hears the leader, it hears all", Deed::Mute),
    phase("bridge", "two sides, the leader at one, and one instance that hears both", Deed::Bridge),
    short(phase("kill", "kill -9 of the leader, then of a follower; started again", Deed::Kill)),
    phase("kill-all", "kill -9 of all at once; started again", Deed::KillAll),
    short(phase("pause", "SIGSTOP and SIGCONT of the leader, then of a follower", Deed::Pause)),
    phase("transfer", "the leadership is handed to each in turn", Deed::Transfer),
    short(no_refusal(phase("rolling", "each in turn: SIGTERM, start, ready", Deed::Rolling))),
    short(no_refusal(phase("grow", "two more: added, started, promoted", Deed::Grow))),
    grown(phase("grown-minority", "the leader and the smaller part are cut off", Deed::Minority)),
    grown(phase("grown-bridge", "two sides, the leader at one, and one instance that hears both", Deed::Bridge)),
    short(no_refusal(grown(phase("shrink", "the two leave again, each while it leads", Deed::Shrink)))),
    no_refusal(phase("calm-again", "nothing happens", Deed::Nothing)),
];

const LOOK: Duration = Duration::from_millis(250);
const SETTLE_LOOK: Duration = Duration::from_millis(50);
