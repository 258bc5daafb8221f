//! The demo: what twelve clients see at three instances while a backend and the leader are killed.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::chance::Chance;
use crate::crowd::{self, Ground, Habits};
use crate::error::{Error, Result};
use crate::farm::Farm;
use crate::fleet::POOLS;
use crate::fleet::site::Site;
use crate::judge::{BackendId, Budget, ClientId, InstanceId, Outcome, Verdict, judge_tally};
use crate::moment::Clock;
use crate::report;
use crate::scenario::{Maker, Stage, plant};

/// How it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A table that is drawn again and again.
    Screen,
    /// Lines, for files and pipes.
    Plain,
}

/// Runs the demo from nothing to nothing; true when the fleet kept its promise.
pub async fn show(maker: &dyn Maker, clients: u32, style: Style) -> Result<bool> {
    let seed = Chance::fresh_seed();
    let mut chance = Chance::new(seed);
    let site = Arc::new(Site::new()?);
    let farm = Arc::new(Farm::new(None)?);
    let servers = plant(&farm, &site, None).await?;
    let fleet = maker.make(site.clone(), INSTANCES, &servers).await?;
    let ground = Ground::new(fleet.clone(), farm, site.first_client(), Clock::start(), seed);
    let stage = Stage::new(ground, site.clone(), &servers);
    println!("starting {INSTANCES} instances of {} and {} backends", fleet.product(), servers.len());
    let board = Arc::new(Board::default());
    let played = play(&stage, &board, clients, style, chance.number()).await;
    fleet.stop().await;
    let verdict = judge_tally(&stage.ground.judge().tally, BUDGET, usize::from(INSTANCES));
    if let Err(error) = &played {
        println!("\nthe demo broke: {error}");
    }
    println!("\n{}", conclusion(&stage, &verdict));
    let passed = played.is_ok() && verdict.passed();
    if let Some(logs) = fleet.logs().filter(|_| !passed) {
        site.keep()?;
        println!("logs are in {}", logs.display());
    }
    Ok(passed)
}

async fn play(stage: &Stage, board: &Arc<Board>, clients: u32, style: Style, seed: u64) -> Result<()> {
    stage.raise_fleet().await?;
    let mut actors = JoinSet::new();
    for _ in 0..clients {
        let client = stage.ground.fresh_client();
        actors.spawn(act(stage.ground.clone(), board.clone(), board.row(client), client));
    }
    // A crowd behind those on the screen, so that the count means something.
    let habits =
        Habits { clients: CROWD, visits_per_second: CROWD_VISITS, fresh_percent: 20, first_connections: 2, seed };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let crowd = crowd::run(stage.ground.clone(), habits, async {
        // A sender that is gone means stop as well.
        stopped.await.ok();
    });
    let story = async {
        let told = tell(stage, board).await;
        drop(stop);
        told
    };
    let draw = async {
        match style {
            Style::Screen => draw_screen(stage, board).await,
            Style::Plain => print_lines(stage, board).await,
        }
    };
    let told = tokio::select! {
        (told, ()) = async { tokio::join!(story, crowd) } => told,
        drawn = draw => drawn,
    };
    if style == Style::Plain {
        println!("{}", plain_rows(stage, board));
    }
    told
}

async fn tell(stage: &Stage, board: &Board) -> Result<()> {
    let scene = |text: String| {
        board.lock().scene.clone_from(&text);
        text
    };
    stage.note(scene("every client asks all instances at the same moment; each has one backend".into()));
    stage.calm(SCENE).await;

    let event = stage.begin(scene("the backend s2 is killed: its clients, and only they, get another one".into()));
    board.lock().dead_backend = Some("s2");
    stage.kill_backend("s2").await?;
    stage.calm(SCENE).await;

    stage.note(scene("s2 is started again: nobody is moved back".into()));
    board.lock().dead_backend = None;
    stage.return_backend("s2").await?;
    stage.end(event);
    stage.calm(SCENE).await;

    let leader = stage.leader().await?;
    let event = stage.begin(scene(format!("kill -9 of the leader {}: nobody is moved", stage.label(leader))));
    board.lock().dead_instance = Some(leader);
    let killed = stage.kill_instance(leader).await?;
    stage.measure_recovery(killed, &stage.others(leader)).await?;
    stage.calm(SCENE).await;

    stage.note(scene(format!("{} is started again and catches up", stage.label(leader))));
    stage.restart_instance(leader).await?;
    board.lock().dead_instance = None;
    stage.end(event);
    stage.calm(SCENE).await;
    Ok(())
}

/// One client on the screen.
async fn act(ground: Arc<Ground>, board: Arc<Board>, row: usize, client: ClientId) {
    let instances = ground.instances();
    let mut pace = tokio::time::interval(ACT_PACE);
    loop {
        pace.tick().await;
        let asks = ground.visit(client, &instances, 1).await;
        if let Some(row) = board.lock().rows.get_mut(row) {
            row.answers = instances
                .iter()
                .map(|instance| {
                    asks.iter().find(|ask| ask.instance == *instance).and_then(|ask| match ask.outcome {
                        Outcome::Answered(backend) => Some(backend),
                        Outcome::Refused | Outcome::Silent | Outcome::Garbled => None,
                    })
                })
                .collect();
        }
    }
}

/// What is on the screen.
#[derive(Debug, Default)]
struct Board(Mutex<Shown>);

#[derive(Debug, Default)]
struct Shown {
    scene: String,
    rows: Vec<Row>,
    dead_backend: Option<&'static str>,
    dead_instance: Option<InstanceId>,
}

#[derive(Debug)]
struct Row {
    client: ClientId,
    answers: Vec<Option<BackendId>>,
}

impl Board {
    fn lock(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a row for a client.
    fn row(&self, client: ClientId) -> usize {
        let mut shown = self.lock();
        shown.rows.push(Row { client, answers: Vec::new() });
        shown.rows.len() - 1
    }
}

async fn draw_screen(stage: &Stage, board: &Board) -> Result<()> {
    print!("\x1b[2J");
    let mut pace = tokio::time::interval(FRAME);
    let mut told = Vec::new();
    loop {
        pace.tick().await;
        told.extend(stage.take_notes());
        let keep_from = told.len().saturating_sub(NOTES_SHOWN);
        told.drain(..keep_from);
        let frame = frame(stage, board, &told);
        let mut out = std::io::stdout().lock();
        // Home, the frame, and what is left below it cleared: no flicker.
        write!(out, "\x1b[H{}\x1b[J", frame.replace('\n', "\x1b[K\n"))
            .and_then(|()| out.flush())
            .map_err(Error::io("drawing"))?;
    }
}

fn frame(stage: &Stage, board: &Board, told: &[String]) -> String {
    let shown = board.lock();
    let ground = &stage.ground;
    let mut text = format!("Rocinante: one fleet, one answer\n\n{:<18}{:<6}", "client", "pool");
    for instance in ground.instances() {
        let dead = shown.dead_instance == Some(instance);
        text += &format!("{:<9}", format!("{}{}", ground.fleet.label(instance), if dead { " (killed)" } else { "" }));
    }
    text.push('\n');
    for row in &shown.rows {
        let pool = POOLS.get(crowd::pool_of(row.client)).map_or("", |pool| pool.name);
        text += &format!("{:<18}{pool:<6}", ground.address(row.client).to_string());
        for answer in &row.answers {
            text += &match answer {
                Some(backend) => {
                    let color = COLORS.get(usize::from(backend.0) % COLORS.len()).copied().unwrap_or_default();
                    format!("\x1b[{color}m{:<9}\x1b[0m", ground.farm.name(*backend))
                }
                None => format!("{:<9}", "-"),
            };
        }
        text.push('\n');
    }
    let dead = shown.dead_backend.map_or_else(String::new, |name| format!(" ({name} is dead)"));
    let tally = ground.judge().tally.clone();
    text += &format!(
        "\nbackends: {}{dead}\nclients {}  asks {}  answered {:.2} %  \x1b[1msplit {}  moved {}\x1b[0m  lost {}\n\n> {}\n",
        ground.farm.backends().iter().map(|backend| backend.name.clone()).collect::<Vec<_>>().join(" "),
        tally.clients,
        tally.asks,
        tally.answered_share() * 100.0,
        tally.split,
        tally.moved,
        tally.lost(),
        shown.scene
    );
    for note in told.iter().filter(|note| **note != shown.scene) {
        text += &format!("  {note}\n");
    }
    text
}

async fn print_lines(stage: &Stage, board: &Board) -> Result<()> {
    let mut pace = tokio::time::interval(Duration::from_secs(1));
    pace.tick().await;
    let mut scene = String::new();
    for second in 1.. {
        pace.tick().await;
        let (tally, now) = (stage.ground.judge().tally.clone(), board.lock().scene.clone());
        if now != scene {
            println!("{}", plain_rows(stage, board));
            scene = now;
        }
        println!(
            "{second:>4} s  clients {}  asks {}  answered {:.2} %  split {}  moved {}  lost {}  {}",
            tally.clients,
            tally.asks,
            tally.answered_share() * 100.0,
            tally.split,
            tally.moved,
            tally.lost(),
            stage.take_notes().join("; ")
        );
    }
    Ok(())
}

/// Who has which backend, one client per line.
fn plain_rows(stage: &Stage, board: &Board) -> String {
    let ground = &stage.ground;
    let shown = board.lock();
    let mut lines = Vec::new();
    for row in &shown.rows {
        let answers: Vec<String> = ground
            .instances()
            .iter()
            .zip(&row.answers)
            .map(|(instance, answer)| {
                let name = answer.map_or_else(|| "-".to_owned(), |backend| ground.farm.name(backend));
                format!("{}: {name}", ground.fleet.label(*instance))
            })
            .collect();
        lines.push(format!("        {:<16} {}", ground.address(row.client).to_string(), answers.join("  ")));
    }
    lines.join("\n")
}

fn conclusion(stage: &Stage, verdict: &Verdict) -> String {
    let tally = stage.ground.judge().tally.clone();
    let mut text = format!(
        "{} clients asked {} times: {:.2} % answered, {} split, {} moved, {} lost",
        tally.clients,
        tally.asks,
        tally.answered_share() * 100.0,
        tally.split,
        tally.moved,
        tally.lost()
    );
    if let Some(recovery) = report::percentile(&stage.recoveries(), 50) {
        text += &format!("; from the death of the leader to the next new client {} ms", recovery.as_millis());
    }
    text += if verdict.passed() { "\nPASS: one fleet, one answer" } else { "\nFAIL" };
    for reason in &verdict.reasons {
        text += &format!("\n  {reason}");
    }
    text
}

const INSTANCES: u8 = 3;
const CROWD: u32 = 300;
const CROWD_VISITS: u32 = 150;
/// What may be lost while the backend and the leader die: half a second of the visits.
const BUDGET: Budget = Budget { lost_inside: CROWD_VISITS as u64 * 3 / 2 };
const SCENE: Duration = Duration::from_secs(5);
const ACT_PACE: Duration = Duration::from_millis(300);
const FRAME: Duration = Duration::from_millis(200);
const NOTES_SHOWN: usize = 6;
const COLORS: [u8; 6] = [32, 33, 36, 35, 34, 31];
