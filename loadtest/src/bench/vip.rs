//! What clients notice when an instance behind a VIP goes: how long new ones are still led to it, and what becomes of
//! connections that were open, on a farm with a router that spreads by ECMP.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::anycast::net::Net;
use crate::ask::{Door, Reply, ask};
use crate::error::{Error, Result};
use crate::farm::Farm;
use crate::fleet::Fleet;
use crate::fleet::rocinante::Rocinante;
use crate::fleet::site::Site;
use crate::http;
use crate::judge::InstanceId;
use crate::report::{columns, percentile};
use crate::scenario::plant;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Our binary.
    pub rocinante: PathBuf,
    /// Instances of the fleet.
    pub instances: u8,
    /// Connections that are open when an instance goes.
    pub connections: u16,
    /// How often each way to go is measured.
    pub rounds: u32,
}

/// How an instance goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Way {
    /// It is asked to leave.
    Sigterm,
    /// It is killed.
    Sigkill,
    /// It is stopped in the middle of what it does, and goes on later.
    Sigstop,
}

/// What was measured of one way to go, all rounds together.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    /// From the deed until the router had no path to the instance, each round.
    pub path_gone_ms: Vec<f64>,
    /// From the deed to the start of the last new connection that the instance still answered or that was lost, each round.
    pub last_reached_ms: Vec<f64>,
    /// New connections that were lost.
    pub new_lost: usize,
    /// New connections in all, from the deed on.
    pub new: usize,
    /// Connections that were open through the instance, and of these how many broke.
    pub open_there: usize,
    /// How many of them broke.
    pub broken_there: usize,
    /// Connections that were open through other instances.
    pub open_elsewhere: usize,
    /// How many of them broke: those that the router leads elsewhere because it has fewer paths.
    pub broken_elsewhere: usize,
    /// From the last answer to the first one of the next connection, of those that broke.
    pub back_after_ms: Vec<f64>,
    /// How many of those that broke came back to another server than before.
    pub moved: usize,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// By the way to go.
    pub rows: Vec<(Way, Row)>,
    /// Whether BGP carried the announcements.
    pub bgp: bool,
}

/// Measures all of it.
///
/// # Errors
/// If the fleet does not do what it is told.
pub async fn run(net: &Arc<Net>, plan: &Plan, say: &dyn Fn(&str)) -> Result<Report> {
    let site = Arc::new(Site::at(Arc::clone(net))?);
    let farm = Farm::new(Some(Arc::clone(net)))?;
    let servers = plant(&farm, &site, None).await?;
    let fleet = Arc::new(Rocinante::new(plan.rocinante.clone(), site, plan.instances, &servers, false).await?);
    let bench = Bench { fleet: Arc::clone(&fleet), net: Arc::clone(net), connections: plan.connections };
    let measured = bench.all(plan, say).await;
    fleet.stop().await;
    Ok(Report { rows: measured?, bgp: net.has_bird() })
}

struct Bench {
    fleet: Arc<Rocinante>,
    net: Arc<Net>,
    connections: u16,
}

/// A connection that was open for a while, told at its end.
struct Kept {
    /// Through whom it went first.
    first: InstanceId,
    server: String,
    /// When it broke, when its successor answered, and whether that was another server.
    broke: Option<(Duration, bool)>,
}

/// A new connection.
struct Fresh {
    start: Instant,
    through: Option<InstanceId>,
}

impl Bench {
    async fn all(&self, plan: &Plan, say: &dyn Fn(&str)) -> Result<Vec<(Way, Row)>> {
        let all: Vec<InstanceId> = (0..plan.instances).map(InstanceId).collect();
        for instance in &all {
            self.fleet.start(*instance).await?;
        }
        self.whole(&all).await?;
        let mut rows = BTreeMap::<Way, Row>::new();
        for round in 0..plan.rounds {
            for way in [Way::Sigterm, Way::Sigkill, Way::Sigstop] {
                let victim = all.get(round as usize % all.len()).copied().unwrap_or(InstanceId(0));
                say(&format!("round {} of {}: {way:?} of {}", round + 1, plan.rounds, self.fleet.label(victim)));
                self.one(way, victim, round, rows.entry(way).or_default()).await?;
                self.whole(&all).await?;
            }
        }
        Ok(rows.into_iter().collect())
    }

    /// Waits until all are ready and announced.
    async fn whole(&self, all: &[InstanceId]) -> Result<()> {
        let begun = Instant::now();
        for instance in all {
            while !(self.fleet.is_ready(*instance).await && self.fleet.is_announced(*instance).await) {
                if begun.elapsed() > DEADLINE {
                    let label = self.fleet.label(*instance);
                    return Err(Error::Fleet(format!("{label} was not ready and announced within {DEADLINE:?}")));
                }
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }

    async fn one(&self, way: Way, victim: InstanceId, round: u32, row: &mut Row) -> Result<()> {
        let (stop, stopped) = watch::channel(false);
        let mut kept = JoinSet::new();
        for number in 0..self.connections {
            kept.spawn(keep(Arc::clone(&self.fleet), client(round, number), stopped.clone()));
        }
        tokio::time::sleep(SETTLE).await;
        let fresh = tokio::spawn(arrive(Arc::clone(&self.fleet), way, round, stopped));
        tokio::time::sleep(SETTLE).await;
        let deed = Instant::now();
        let gone = async {
            match way {
                Way::Sigkill => self.fleet.kill(victim).await,
                Way::Sigstop => self.fleet.pause(victim).await,
                Way::Sigterm => self.fleet.terminate(victim).await,
            }
        };
        let unreachable = async {
            while self.net.paths().await?.contains(&victim) {
                if deed.elapsed() > DEADLINE {
                    return Err(Error::Fleet(format!("the router kept its path for {DEADLINE:?}")));
                }
                tokio::time::sleep(LOOK).await;
            }
            Ok(deed.elapsed())
        };
        let (gone, path_gone) = tokio::join!(gone, async {
            let path_gone = unreachable.await;
            tokio::time::sleep(AFTERMATH).await;
            // Only now, as an instance that leaves waits for the connections that it has.
            stop.send_replace(true);
            path_gone
        });
        gone?;
        row.path_gone_ms.push(millis(path_gone?));
        let fresh = fresh.await.map_err(|_| Error::Fleet("the task of new clients ended".to_owned()))?;
        let after: Vec<&Fresh> = fresh.iter().filter(|one| one.start >= deed).collect();
        let reached = after.iter().filter(|one| one.through.is_none_or(|through| through == victim));
        row.last_reached_ms.push(reached.map(|one| millis(one.start - deed)).fold(0.0, f64::max));
        row.new += after.len();
        row.new_lost += after.iter().filter(|one| one.through.is_none()).count();
        while let Some(ended) = kept.join_next().await {
            let Some(one) = ended.map_err(|_| Error::Fleet("the task of a connection ended".to_owned()))? else {
                continue;
            };
            let there = one.first == victim;
            let (open, broken) = match there {
                true => (&mut row.open_there, &mut row.broken_there),
                false => (&mut row.open_elsewhere, &mut row.broken_elsewhere),
            };
            *open += 1;
            if let Some((after, moved)) = one.broke {
                *broken += 1;
                row.back_after_ms.push(millis(after));
                row.moved += usize::from(moved);
            }
        }
        match way {
            Way::Sigstop => self.fleet.resume(victim).await,
            Way::Sigterm | Way::Sigkill => self.fleet.start(victim).await,
        }
    }
}

/// Opens a connection and uses it until told to stop; when it breaks another one takes its place, once. `None`: it never
/// came to be, or broke for good.
async fn keep(fleet: Arc<Rocinante>, source: Ipv4Addr, mut stopped: watch::Receiver<bool>) -> Option<Kept> {
    let entrance = fleet.entrance(InstanceId(0), 0);
    let (mut stream, first, server) = begin(&fleet, source, entrance).await.ok()?;
    let mut kept = Kept { first, server, broke: None };
    let mut last = Instant::now();
    loop {
        tokio::select! {
            // An error means that the bench is gone.
            _ = stopped.wait_for(|stopped| *stopped) => return Some(kept),
            () = tokio::time::sleep(PACE) => {}
        }
        if timeout(PATIENCE, say(&mut stream, "echo still"))
            .await
            .is_ok_and(|said| said.is_ok_and(|said| said == "still"))
        {
            last = Instant::now();
            continue;
        }
        let again = loop {
            match timeout(PATIENCE, begin(&fleet, source, entrance)).await {
                Ok(Ok(again)) => break again,
                _ if *stopped.borrow() => return None,
                _ => tokio::time::sleep(POLL).await,
            }
        };
        kept.broke.get_or_insert((last.elapsed(), again.2 != kept.server));
        stream = again.0;
    }
}

/// New clients at an even pace until told to stop, each with an address of its own.
async fn arrive(fleet: Arc<Rocinante>, way: Way, round: u32, stopped: watch::Receiver<bool>) -> Vec<Fresh> {
    let entrance = fleet.entrance(InstanceId(0), 0);
    let (mut on_the_way, mut pace, mut all) = (JoinSet::new(), tokio::time::interval(ARRIVALS), Vec::new());
    let first = u32::from(crate::anycast::plan::FIRST_CLIENT) + ((round * 3 + way as u32 + 1) << 16);
    for number in 0..u32::from(u16::MAX) {
        pace.tick().await;
        if *stopped.borrow() {
            break;
        }
        let (fleet, source) = (Arc::clone(&fleet), Ipv4Addr::from(first + number));
        on_the_way.spawn(async move {
            let start = Instant::now();
            let reply = ask(source, entrance, Door::Tcp, PATIENCE).await;
            let from = if let Ok(Reply::Name(_, from)) = reply { from } else { None };
            Fresh { start, through: from.and_then(|from| fleet.instance_at(from)) }
        });
        while let Some(Ok(one)) = on_the_way.try_join_next() {
            all.push(one);
        }
    }
    all.extend(on_the_way.join_all().await);
    all
}

/// A connection, through whom it goes, and to which server.
async fn begin(
    fleet: &Rocinante,
    source: Ipv4Addr,
    entrance: SocketAddr,
) -> io::Result<(BufStream<TcpStream>, InstanceId, String)> {
    let mut stream = BufStream::new(http::connect_from(source, entrance).await?);
    let from: Option<IpAddr> = say(&mut stream, "from").await?.parse().ok();
    let through = from.and_then(|from| fleet.instance_at(from)).ok_or(io::ErrorKind::InvalidData)?;
    let server = say(&mut stream, "who").await?;
    Ok((stream, through, server))
}

async fn say(stream: &mut BufStream<TcpStream>, words: &str) -> io::Result<String> {
    stream.write_all(format!("{words}\n").as_bytes()).await?;
    stream.flush().await?;
    let mut line = String::new();
    match stream.read_line(&mut line).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end().to_owned()),
    }
}

/// The table for people.
#[must_use]
pub fn table(report: &Report) -> String {
    let head = [
        "way",
        "path gone p50/max",
        "last reached p50/max",
        "new lost",
        "open there: broken",
        "open elsewhere: broken",
        "back after p50/max",
        "moved",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (way, row) in &report.rows {
        let times = |all: &[f64]| {
            let all: Vec<Duration> = all.iter().map(|ms| Duration::from_secs_f64(ms / 1000.0)).collect();
            match (percentile(&all, 50), percentile(&all, 100)) {
                (Some(half), Some(most)) => format!("{:.0} / {:.0} ms", millis(half), millis(most)),
                _ => "-".to_owned(),
            }
        };
        rows.push(vec![
            format!("{way:?}").to_uppercase(),
            times(&row.path_gone_ms),
            times(&row.last_reached_ms),
            format!("{} of {}", row.new_lost, row.new),
            format!("{} of {}", row.broken_there, row.open_there),
            format!("{} of {}", row.broken_elsewhere, row.open_elsewhere),
            times(&row.back_after_ms),
            row.moved.to_string(),
        ]);
    }
    let way = if report.bgp { "BGP (BIRD)" } else { "a command that changes the router's route" };
    format!("{}\nannounced by {way}\n", columns(&rows, |column| column == 0))
}

fn client(round: u32, number: u16) -> Ipv4Addr {
    let first = u32::from(crate::anycast::plan::FIRST_CLIENT) + (1 << 21);
    Ipv4Addr::from(first + (round << 16) + u32::from(number))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// So long everything runs before an instance goes.
const SETTLE: Duration = Duration::from_millis(700);
/// So long clients are watched once the router has no path any more.
const AFTERMATH: Duration = Duration::from_secs(2);
/// How often a connection that is open is used.
const PACE: Duration = Duration::from_millis(20);
/// A new client comes this often.
const ARRIVALS: Duration = Duration::from_millis(3);
/// What takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(1);
const DEADLINE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
const LOOK: Duration = Duration::from_millis(2);
