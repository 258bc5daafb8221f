//! The scenarios: what is done to a fleet while the crowd asks.

mod stage;
mod stories;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::anycast::net::Net;
use crate::chance::Chance;
use crate::crowd::{self, Ground, Habits};
use crate::error::{Error, Result};
use crate::farm::Farm;
use crate::fleet::site::Site;
use crate::fleet::{Fleet, Server};
use crate::judge::{Budget, Offence, Tally, Verdict};
use crate::moment::{Clock, Moment};

pub use stage::Stage;

/// One scenario.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What happens in it, in one line.
    pub about: &'static str,
    /// So many percent of the visits are made by fresh clients.
    pub fresh_percent: u32,
    /// Connections to each instance at a client's first visit.
    pub first_connections: usize,
    /// So many of a thousand planned asks may be lost inside its events.
    pub lost_permille: u64,
    /// The weight of the backend that suffers, beside four of weight 100.
    pub victim_weight: u32,
    /// The recovery that is aimed at; a slower one is pointed out.
    pub recovery_goal: Option<Duration>,
}

/// All scenarios, in the order in which they are played.
pub const SCENARIOS: [Scenario; 9] = [
    Scenario {
        name: "first-contact",
        about: "fresh clients open two connections to every instance at the same moment; nothing else happens",
        fresh_percent: 50,
        first_connections: 2,
        lost_permille: 0,
        victim_weight: 10,
        recovery_goal: None,
    },
    Scenario {
        name: "churn",
        about: "servers are added, drained, die, return, are removed and replaced while fresh clients keep arriving",
        fresh_percent: 30,
        first_connections: 2,
        lost_permille: 2,
        victim_weight: 10,
        recovery_goal: None,
    },
    Scenario {
        name: "skewed-health",
        about: "one instance alone cannot reach a healthy server",
        fresh_percent: 20,
        first_connections: 1,
        lost_permille: 8,
        victim_weight: 30,
        recovery_goal: None,
    },
    Scenario {
        name: "leader-kill",
        about: "kill -9 of the leader, then it is started again, over and over",
        fresh_percent: 20,
        first_connections: 1,
        lost_permille: 5,
        victim_weight: 10,
        recovery_goal: Some(Duration::from_millis(500)),
    },
    Scenario {
        name: "rolling-restart",
        about: "SIGTERM to one instance after the other, each started again before the next",
        fresh_percent: 20,
        first_connections: 1,
        lost_permille: 5,
        victim_weight: 10,
        recovery_goal: None,
    },
    Scenario {
        name: "restart-all",
        about: "kill -9 of all instances at once in the middle of everything, then all are started again",
        fresh_percent: 20,
        first_connections: 1,
        lost_permille: 5,
        victim_weight: 10,
        recovery_goal: None,
    },
    Scenario {
        name: "pause",
        about: "SIGSTOP of the leader; a server dies and returns meanwhile; SIGCONT",
        fresh_percent: 20,
        first_connections: 1,
        lost_permille: 8,
        victim_weight: 10,
        recovery_goal: Some(Duration::from_millis(1500)),
    },
    Scenario {
        name: "partition",
        about: "the leader, then a follower, is cut off; a server dies and returns and one is added meanwhile; healed",
        fresh_percent: 20,
        first_connections: 1,
        lost_permille: 8,
        victim_weight: 10,
        recovery_goal: None,
    },
    Scenario {
        name: "router-path",
        about: "the router changes by what it spreads clients over the instances, back and forth (on a farm only)",
        fresh_percent: 30,
        first_connections: 2,
        lost_permille: 5,
        victim_weight: 10,
        recovery_goal: None,
    },
];

impl Scenario {
    /// The scenario of that name.
    pub fn named(name: &str) -> Option<Scenario> {
        SCENARIOS.into_iter().find(|scenario| scenario.name == name)
    }

    /// Whether it takes a router before the instances.
    #[must_use]
    pub fn needs_farm(&self) -> bool {
        self.name == "router-path"
    }

    /// How much may be lost, known before it starts: a share of the asks that are planned.
    pub fn budget(&self, plan: &Plan) -> Budget {
        let asks = u64::from(plan.visits_per_second) * u64::from(plan.instances) * plan.seconds;
        Budget { lost_inside: asks * self.lost_permille / 1000 }
    }
}

/// How large and how long a scenario is played.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Instances of the fleet.
    pub instances: u8,
    /// Clients that come back again and again.
    pub clients: u32,
    /// Visits per second.
    pub visits_per_second: u32,
    /// Roughly how long; what has begun is played to its end.
    pub seconds: u64,
    /// Chance follows from it.
    pub seed: u64,
    /// When to leave the files behind.
    pub keep: Keep,
}

/// When configuration, data and logs are left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Never.
    Never,
    /// When the verdict is bad.
    OnFailure,
    /// Always.
    Always,
}

/// Makes a fleet of some product at a place, with these servers in every pool; no instance runs yet.
#[async_trait]
pub trait Maker: Send + Sync {
    /// Makes it.
    async fn make(&self, site: Arc<Site>, instances: u8, servers: &[Server]) -> Result<Arc<dyn Fleet>>;
}

/// What came of a scenario.
#[derive(Debug)]
pub struct Outcome {
    /// Which product was judged.
    pub product: &'static str,
    /// Which scenario.
    pub scenario: Scenario,
    /// The clients that were planned.
    pub clients: u32,
    /// What was counted.
    pub tally: Tally,
    /// What was allowed to be lost.
    pub budget: Budget,
    /// From each fault to the next committed first contact.
    pub recoveries: Vec<Duration>,
    /// Whether it passed.
    pub verdict: Verdict,
    /// The first offences, in words.
    pub evidence: Vec<String>,
    /// Where logs were left, if any.
    pub logs: Option<std::path::PathBuf>,
    /// Why the scenario does not apply to this product, if so.
    pub not_applicable: Option<String>,
}

/// One second of a scenario, for the live table.
#[derive(Clone, Debug)]
pub struct Beat {
    /// Seconds since the crowd came.
    pub second: u64,
    /// What was counted in this second.
    pub asks: u64,
    /// Of these, answered.
    pub answered: u64,
    /// Split, moved and stray visits in this second.
    pub split: u64,
    /// Moved visits in this second.
    pub moved: u64,
    /// Stray visits in this second.
    pub stray: u64,
    /// Asks lost, at instances in service.
    pub lost: u64,
    /// Asks of instances that the judge had taken down.
    pub down: u64,
    /// Asks declined by an instance that was cut off.
    pub refused: u64,
    /// What was done in this second.
    pub notes: Vec<String>,
}

/// Plays one scenario from a fresh fleet to the verdict, on the farm with these networks if there is one. `live` is told of
/// every second.
pub async fn perform(
    scenario: Scenario,
    plan: &Plan,
    maker: &dyn Maker,
    net: Option<&Arc<Net>>,
    live: &(dyn Fn(&Beat) + Sync),
) -> Result<Outcome> {
    let mut chance = Chance::new(plan.seed);
    let site = Arc::new(net.map_or_else(Site::new, |net| Site::at(Arc::clone(net)))?);
    let farm = Arc::new(Farm::new(net.cloned())?);
    let servers = plant(&farm, &site, Some(scenario.victim_weight)).await?;
    let fleet = maker.make(site.clone(), plan.instances, &servers).await?;
    let ground = Ground::new(fleet.clone(), farm, site.first_client(), Clock::start(), plan.seed);
    let stage = Stage::new(ground, site.clone(), &servers);
    let played = play(scenario, plan, &stage, &mut chance, live).await;
    fleet.stop().await;
    // The next scenario has the same addresses.
    for backend in stage.ground.farm.backends() {
        backend.stop().await;
    }
    let mut outcome = stage.outcome(scenario, plan);
    match played {
        Ok(()) => {}
        Err(Error::NotApplicable(why)) => outcome.not_applicable = Some(why),
        Err(error) => outcome.verdict.reasons.insert(0, format!("the scenario broke: {error}")),
    }
    if plan.keep == Keep::Always || plan.keep == Keep::OnFailure && !outcome.verdict.passed() {
        site.keep()?;
        outcome.logs = fleet.logs();
    }
    Ok(outcome)
}

/// Starts the backends: four of equal weight, and the victim when it has a weight.
pub async fn plant(farm: &Farm, site: &Site, victim_weight: Option<u32>) -> Result<Vec<Server>> {
    let steady = STEADY.map(|name| (name, STEADY_WEIGHT));
    let victim = victim_weight.map(|weight| (VICTIM, weight));
    let mut servers = Vec::new();
    for (index, (name, weight)) in steady.into_iter().chain(victim).enumerate() {
        let backend = farm.add(name, site.backend(index)).await?;
        servers.push(Server { name: name.to_owned(), address: backend.address, weight });
    }
    Ok(servers)
}

async fn play(
    scenario: Scenario,
    plan: &Plan,
    stage: &Stage,
    chance: &mut Chance,
    live: &(dyn Fn(&Beat) + Sync),
) -> Result<()> {
    stage.raise_fleet().await?;
    let habits = Habits {
        clients: plan.clients,
        visits_per_second: plan.visits_per_second,
        fresh_percent: scenario.fresh_percent,
        first_connections: scenario.first_connections,
        seed: chance.number(),
    };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let crowd = crowd::run(stage.ground.clone(), habits, async {
        // A sender that is gone means stop as well.
        stopped.await.ok();
    });
    let story = async {
        let told = async {
            stage.crowd_has_come(plan.clients).await?;
            stories::tell(scenario, plan, stage).await?;
            stage.calm(CALM_AT_THE_END).await;
            Ok(())
        };
        let told = told.await;
        drop(stop);
        told
    };
    tokio::select! {
        (told, ()) = async { tokio::join!(story, crowd) } => told,
        () = watch(stage, live) => Ok(()),
        () = stage.watch_itself() => Ok(()),
    }
}

/// Tells `live` of every second; never ends by itself.
async fn watch(stage: &Stage, live: &(dyn Fn(&Beat) + Sync)) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.tick().await;
    let mut before = Tally::default();
    for second in 1.. {
        ticks.tick().await;
        let now = stage.ground.judge().tally.clone();
        live(&Beat {
            second,
            asks: now.asks - before.asks,
            answered: now.answered - before.answered,
            split: now.split - before.split,
            moved: now.moved - before.moved,
            stray: now.stray - before.stray,
            lost: now.lost() - before.lost(),
            down: now.down - before.down,
            refused: now.refused - before.refused,
            notes: stage.take_notes(),
        });
        before = now;
    }
}

/// One offence in words: who, when, through whom, to whom.
fn describe(ground: &Ground, offence: &Offence) -> String {
    let label = |instance| ground.fleet.label(instance);
    let span = |start: Moment, end: Moment| format!("{start}..{end}");
    let mut text = format!("{:?}: client {}", offence.fault, ground.address(offence.client));
    for ask in &offence.asks {
        let what = match ask.outcome {
            crate::judge::Outcome::Answered(backend) => ground.farm.name(backend),
            other => format!("{other:?}").to_lowercase(),
        };
        text += &format!("; {} said {what} at {}", label(ask.instance), span(ask.start, ask.end));
    }
    for answer in &offence.before {
        let name = ground.farm.name(answer.backend);
        text += &format!("; before that {} said {name} at {}", label(answer.instance), span(answer.start, answer.end));
    }
    text
}

/// The backends that make up most of the farm, and the one that most is done to.
const STEADY: [&str; 4] = ["s1", "s2", "s3", "s4"];
const STEADY_WEIGHT: u32 = 100;
const VICTIM: &str = "s5";
/// After the last event, so that nothing is still on its way.
const CALM_AT_THE_END: Duration = Duration::from_millis(1500);
