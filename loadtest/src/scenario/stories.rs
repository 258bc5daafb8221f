//! The stories themselves: what happens in each scenario, told with the verbs of the stage.

use std::time::{Duration, Instant};

use super::{Plan, Scenario, Stage, VICTIM};
use crate::error::{Error, Result};
use crate::farm::Cut;
use crate::judge::{InstanceId, Outage};

/// Tells the story of a scenario.
pub async fn tell(scenario: Scenario, plan: &Plan, stage: &Stage) -> Result<()> {
    let length = Duration::from_secs(plan.seconds);
    match scenario.name {
        "first-contact" => {
            stage.calm(length).await;
            Ok(())
        }
        "churn" => churn(stage, length / 9).await,
        "skewed-health" => skewed_health(stage, length).await,
        "leader-kill" => leader_kill(stage, length).await,
        "rolling-restart" => rolling_restart(stage, length / 8).await,
        "restart-all" => restart_all(stage, length / 4).await,
        "pause" => pause(stage, length).await,
        "partition" => partition(stage).await,
        "router-path" => router_path(stage, length / 8).await,
        other => Err(Error::Usage(format!("no story for {other}"))),
    }
}

async fn churn(stage: &Stage, gap: Duration) -> Result<()> {
    let event = stage.begin("adding s6");
    stage.add("s6", "s6", 100).await?;
    stage.end(event);
    stage.calm(gap).await;

    let event = stage.begin("draining s2");
    stage.drain("s2").await?;
    stage.end(event);
    stage.calm(gap).await;

    let event = stage.begin("s3 dies");
    stage.kill_backend("s3").await?;
    stage.calm(gap).await;
    stage.note("s3 is started");
    stage.return_backend("s3").await?;
    stage.end(event);
    stage.calm(gap).await;

    let event = stage.begin("removing s4");
    stage.remove("s4").await?;
    stage.end(event);
    stage.calm(gap).await;

    let event = stage.begin("enabling s2");
    stage.enable("s2").await?;
    stage.end(event);
    stage.calm(gap).await;

    let event = stage.begin("adding s4 again with another address: another backend");
    stage.add("s4", "s4-again", 100).await?;
    stage.end(event);
    stage.calm(gap).await;

    let event = stage.begin("s1 dies for a moment");
    stage.kill_backend("s1").await?;
    stage.calm(BLINK).await;
    stage.return_backend("s1").await?;
    stage.end(event);
    stage.calm(gap).await;
    Ok(())
}

async fn skewed_health(stage: &Stage, length: Duration) -> Result<()> {
    let leader = stage.leader().await?;
    let follower = a_follower(stage, leader)?;
    for instance in [follower, leader] {
        let event = stage.begin(format!("{} alone cannot reach {VICTIM}", stage.label(instance)));
        stage.skew(VICTIM, instance, Some(Cut::Drop)).await?;
        stage.calm(length * 15 / 100).await;
        stage.note(format!("{} can reach {VICTIM} again", stage.label(instance)));
        stage.skew(VICTIM, instance, None).await?;
        stage.calm(HEALTH_SETTLES).await;
        stage.end(event);
        stage.calm(length * 20 / 100).await;
    }
    Ok(())
}

async fn leader_kill(stage: &Stage, length: Duration) -> Result<()> {
    let begun = Instant::now();
    for round in 0.. {
        if round >= LEADER_KILLS_MIN && begun.elapsed() > length {
            break;
        }
        let leader = stage.leader().await?;
        let event = stage.begin(format!("kill -9 of the leader {}", stage.label(leader)));
        let killed = stage.kill_instance(leader).await?;
        stage.measure_recovery(killed, &stage.others(leader)).await?;
        stage.calm(BREATH).await;
        stage.restart_instance(leader).await?;
        stage.end(event);
        stage.calm(BREATH).await;
    }
    Ok(())
}

async fn rolling_restart(stage: &Stage, gap: Duration) -> Result<()> {
    for instance in stage.ground.instances() {
        let event = stage.begin(format!("SIGTERM to {}", stage.label(instance)));
        stage.out_of_service(instance, Outage::Down);
        stage.ground.fleet.terminate(instance).await?;
        stage.note(format!("{} has left; starting it", stage.label(instance)));
        stage.restart_instance(instance).await?;
        stage.end(event);
        stage.calm(gap).await;
    }
    Ok(())
}

async fn restart_all(stage: &Stage, gap: Duration) -> Result<()> {
    for _ in 0..2 {
        let event = stage.begin("kill -9 of all instances");
        for instance in stage.ground.instances() {
            stage.out_of_service(instance, Outage::Down);
        }
        for instance in stage.ground.instances() {
            stage.ground.fleet.kill(instance).await?;
        }
        stage.note("all are started again");
        for instance in stage.ground.instances() {
            stage.ground.fleet.start(instance).await?;
        }
        for instance in stage.ground.instances() {
            stage.back_in_service(instance).await?;
        }
        stage.end(event);
        stage.calm(gap).await;
    }
    Ok(())
}

async fn pause(stage: &Stage, length: Duration) -> Result<()> {
    let begun = Instant::now();
    for round in 0.. {
        if round >= PAUSES_MIN && begun.elapsed() > length {
            break;
        }
        let leader = stage.leader().await?;
        let event = stage.begin(format!("SIGSTOP of the leader {}", stage.label(leader)));
        let stopped = stage.out_of_service(leader, Outage::Down);
        stage.ground.fleet.pause(leader).await?;
        stage.measure_recovery(stopped, &stage.others(leader)).await?;
        a_death_meanwhile(stage).await?;
        stage.note(format!("SIGCONT of {}", stage.label(leader)));
        stage.ground.fleet.resume(leader).await?;
        stage.back_in_service(leader).await?;
        stage.end(event);
        stage.calm(BREATH * 2).await;
    }
    Ok(())
}

async fn partition(stage: &Stage) -> Result<()> {
    for who in ["leader", "follower"] {
        let leader = stage.leader().await?;
        let instance = if who == "leader" { leader } else { a_follower(stage, leader)? };
        let label = stage.label(instance);
        let event = stage.begin(format!("the {who} {label} is cut off from the others"));
        let cut = stage.out_of_service(instance, Outage::CutOff);
        stage.ground.fleet.isolate(instance).await?;
        if who == "leader" {
            stage.measure_recovery(cut, &stage.others(instance)).await?;
        }
        a_death_meanwhile(stage).await?;
        // Whoever goes on alone does not hear of this one, and chooses otherwise.
        let newcomer = if who == "leader" { "s6" } else { "s7" };
        stage.note(format!("adding {newcomer}"));
        stage.add(newcomer, newcomer, 100).await?;
        stage.calm(NEWS).await;
        let rest = ISOLATION_SHOWS.saturating_sub(stage.now().since(cut));
        stage.calm(rest).await;
        if stage.ground.fleet.knows_isolation() && stage.ground.fleet.is_ready(instance).await {
            stage.fail(format!("{label} was cut off for {} s and still said ready", ISOLATION_SHOWS.as_secs()));
        }
        let announced = stage.ground.fleet.knows_isolation() && stage.ground.fleet.is_anycast();
        if announced && stage.ground.fleet.is_announced(instance).await {
            stage.fail(format!("{label} was cut off for {} s and still announced the VIP", ISOLATION_SHOWS.as_secs()));
        }
        stage.note(format!("{label} is reconnected"));
        stage.ground.fleet.rejoin(instance).await?;
        stage.back_in_service(instance).await?;
        stage.end(event);
        stage.calm(BREATH * 4).await;
    }
    Ok(())
}

async fn router_path(stage: &Stage, gap: Duration) -> Result<()> {
    for round in 1..=4 {
        let event = stage.begin("the router spreads clients otherwise");
        stage.change_paths(round)?;
        stage.end(event);
        stage.calm(gap.max(BREATH) * 2).await;
    }
    Ok(())
}

/// While somebody cannot hear of it, clients of the victim get another backend, and the victim returns: whoever answers
/// from an old table afterwards sends them back to it.
async fn a_death_meanwhile(stage: &Stage) -> Result<()> {
    stage.note(format!("{VICTIM} dies"));
    stage.kill_backend(VICTIM).await?;
    stage.calm(DEATH).await;
    stage.note(format!("{VICTIM} is started"));
    stage.return_backend(VICTIM).await
}

fn a_follower(stage: &Stage, leader: InstanceId) -> Result<InstanceId> {
    let others = stage.others(leader);
    others.first().copied().ok_or_else(|| Error::NotApplicable("there is only one instance".to_owned()))
}

const LEADER_KILLS_MIN: usize = 3;
const PAUSES_MIN: usize = 2;
const BREATH: Duration = Duration::from_millis(500);
/// Long enough that fresh clients meet the dead backend, short enough that a check may never see it.
const BLINK: Duration = Duration::from_millis(300);
/// So long fresh clients arrive after a change that an instance cannot have heard of.
const NEWS: Duration = Duration::from_secs(2);
const DEATH: Duration = Duration::from_secs(2);
/// Rise times interval, and a little more.
const HEALTH_SETTLES: Duration = Duration::from_secs(2);
/// By then an instance without peers must have said that it is not ready.
const ISOLATION_SHOWS: Duration = Duration::from_secs(5);
