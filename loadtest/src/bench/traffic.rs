//! Traffic through one proxy: ours, HAProxy, nginx and none take turns, round after round, so that whatever else the machine
//! does meanwhile hits all of them.

use std::time::Duration;

use serde::Serialize;

use super::figures::Spread;
use super::load::{Act, Load, Origin, Sample};
use super::own_word::Decisions;
use super::subject::{Product, Subject};
use super::{MICROS_PER_SECOND, Part, Steps, cpu, micros};
use crate::ask::Door;
use crate::error::Result;

/// A kind of traffic.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Which part of the bench it belongs to.
    pub part: Part,
    /// Its name in tables.
    pub name: &'static str,
    act: Act,
    door: Door,
    clients: u16,
    /// The unit of [`Figures::rate`].
    pub rate_unit: &'static str,
    /// The unit of [`Figures::cpu`].
    pub cpu_unit: &'static str,
}

/// All kinds, in the order of the table.
pub const KINDS: [Kind; 5] = [
    asks(Part::Http, "HTTP kept", Act::HttpKept, Door::Http),
    asks(Part::Http, "HTTP new", Act::HttpNew, Door::Http),
    asks(Part::Tcp, "TCP kept", Act::TcpKept, Door::Tcp),
    asks(Part::Tcp, "TCP new", Act::TcpNew, Door::Tcp),
    Kind {
        part: Part::Bulk,
        name: "TCP bulk",
        act: Act::Bulk,
        door: Door::Tcp,
        clients: 4,
        rate_unit: "Gbit/s",
        cpu_unit: "ms/GB",
    },
];

const fn asks(part: Part, name: &'static str, act: Act, door: Door) -> Kind {
    Kind { part, name, act, door, clients: 64, rate_unit: "/s", cpu_unit: "us" }
}

/// One product under one kind of traffic.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The kind of traffic.
    pub traffic: &'static str,
    /// The product.
    pub product: &'static str,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What came of a measurement.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Figures of all rounds.
    Measured(Box<Figures>),
    /// Not to be had here, and why.
    Missing(String),
    /// It should have been measured and was not, and why.
    Failed(String),
}

/// The figures of one product under one kind of traffic, over all rounds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// Requests or connections per second, or Gbit/s.
    pub rate: Spread,
    /// The unit of it.
    pub rate_unit: &'static str,
    /// CPU time of the proxy per request or connection in microseconds, or per GB in milliseconds; none without a proxy.
    pub cpu: Option<Spread>,
    /// The unit of it.
    pub cpu_unit: &'static str,
    /// How much of its core the proxy used, in percent.
    pub busy_percent: Option<Spread>,
    /// The median of the answers' times, in microseconds; none where nothing is asked.
    pub p50_us: Option<Spread>,
    /// The same for the slowest hundredth.
    pub p99_us: Option<Spread>,
}

/// A product that takes its turn, or why it does not.
pub struct Turn {
    /// Which one.
    pub product: Product,
    /// The running process, or why there is none.
    pub subject: std::result::Result<Subject, Outcome>,
}

/// Measures the chosen kinds of traffic.
pub async fn measure(
    kinds: &[Kind],
    turns: &[Turn],
    rounds: u32,
    warm_up: Duration,
    measured: Duration,
    steps: &Steps<'_>,
) -> Vec<Row> {
    let mut rows = Vec::new();
    for kind in kinds {
        let mut all: Vec<std::result::Result<Vec<Sample>, Outcome>> =
            turns.iter().map(|turn| turn.subject.as_ref().map(|_| Vec::new()).map_err(Clone::clone)).collect();
        for round in 1..=rounds {
            for (turn, samples) in turns.iter().zip(&mut all) {
                steps.next(format!("{}: {}, round {round}", kind.name, turn.product.name()));
                let (Ok(subject), Ok(so_far)) = (&turn.subject, samples.as_mut()) else { continue };
                match once(kind, subject, warm_up, measured).await {
                    Ok(sample) => so_far.push(sample),
                    Err(error) => *samples = Err(Outcome::Failed(error.to_string())),
                }
            }
        }
        for (turn, samples) in turns.iter().zip(all) {
            let outcome = match samples {
                Ok(samples) => figures(kind, turn.product, &samples).map_or_else(
                    || Outcome::Failed("no round was measured".to_owned()),
                    |it| Outcome::Measured(Box::new(it)),
                ),
                Err(outcome) => outcome,
            };
            rows.push(Row { traffic: kind.name, product: turn.product.name(), outcome });
        }
    }
    rows
}

async fn once(kind: &Kind, subject: &Subject, warm_up: Duration, measured: Duration) -> Result<Sample> {
    let load = Load {
        act: kind.act,
        origin: Origin::Same,
        entrances: subject.entrances(kind.door),
        clients: kind.clients,
        warm_up,
        measured,
        groups: subject.group().into_iter().collect(),
    };
    load.run().await
}

fn figures(kind: &Kind, product: Product, samples: &[Sample]) -> Option<Figures> {
    let of = |figure: &dyn Fn(&Sample) -> f64| Spread::of(&samples.iter().map(figure).collect::<Vec<f64>>());
    let bulk = kind.act == Act::Bulk;
    let proxied = product != Product::Direct;
    let seconds = |sample: &Sample| sample.elapsed.as_secs_f64();
    let (rate, cpu) = if bulk {
        (
            of(&|sample| sample.bytes as f64 * BITS_PER_BYTE / GIGA / seconds(sample)),
            of(&|sample| sample.cpu.as_secs_f64() * MILLIS_PER_SECOND / (sample.bytes as f64 / GIGA)),
        )
    } else {
        (
            of(&|sample| sample.asks as f64 / seconds(sample)),
            of(&|sample| sample.cpu.as_secs_f64() * MICROS_PER_SECOND / sample.asks as f64),
        )
    };
    let latency = |share: f64| of(&|sample| micros(sample.latency.value_at_quantile(share))).filter(|_| !bulk);
    Some(Figures {
        rate: rate?,
        rate_unit: kind.rate_unit,
        cpu: cpu.filter(|_| proxied),
        cpu_unit: kind.cpu_unit,
        busy_percent: of(&|sample| sample.cpu.as_secs_f64() / seconds(sample) * 100.0).filter(|_| proxied),
        p50_us: latency(0.5),
        p99_us: latency(0.99),
    })
}

/// What a product uses of a core while nobody asks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Idle {
    /// The product.
    pub product: &'static str,
    /// CPU time in percent of the time that passed.
    pub busy_percent: f64,
}

/// Watches all products for a while in which nobody asks.
pub async fn idle(turns: &[Turn], time: Duration) -> Result<Vec<Idle>> {
    let groups = groups(turns);
    let read = || groups.iter().map(|(_, group)| cpu::of_group(*group)).collect::<Result<Vec<Duration>>>();
    let (before, start) = (read()?, std::time::Instant::now());
    tokio::time::sleep(time).await;
    let (after, elapsed) = (read()?, start.elapsed());
    let used = before.into_iter().zip(after).map(|(before, after)| cpu::since(before, after));
    let percent = used.map(|used| used.as_secs_f64() / elapsed.as_secs_f64() * 100.0);
    let idle = groups.iter().zip(percent);
    Ok(idle.map(|((product, _), busy_percent)| Idle { product: product.name(), busy_percent }).collect())
}

/// The CPU time so far of everything on the machine that is neither a product nor this process.
pub fn others(turns: &[Turn]) -> Result<Duration> {
    let ours: Result<Duration> = groups(turns).iter().map(|(_, group)| cpu::of_group(*group)).sum();
    Ok(cpu::since(ours? + cpu::of_this_process()?, cpu::of_machine()?))
}

fn groups(turns: &[Turn]) -> Vec<(Product, i32)> {
    turns.iter().filter_map(|turn| Some((turn.product, turn.subject.as_ref().ok()?.group()?))).collect()
}

/// Decisions that our instance made from its cache so far, by its own word; none where it does not run.
pub async fn cached(turns: &[Turn]) -> Result<Option<Decisions>> {
    let metrics = turns.iter().find_map(|turn| turn.subject.as_ref().ok()?.metrics);
    match metrics {
        Some(metrics) => Decisions::ask(metrics, "cache").await.map(Some),
        None => Ok(None),
    }
}

const BITS_PER_BYTE: f64 = 8.0;
const GIGA: f64 = 1e9;
const MILLIS_PER_SECOND: f64 = 1e3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figures::histogram;

    fn sample(asks: u64, bytes: u64, cpu_ms: u64) -> Sample {
        let mut latency = histogram().unwrap();
        latency.record(50_000).unwrap();
        let (elapsed, cpu) = (Duration::from_secs(2), Duration::from_millis(cpu_ms));
        Sample { asks, bytes, elapsed, cpu, latency, visits: (0, 0) }
    }

    #[test]
    fn figures_are_per_ask_or_per_gigabyte() {
        let samples = [sample(1000, 0, 20), sample(2000, 0, 20), sample(4000, 0, 20)];
        let asked = figures(&KINDS[0], Product::Rocinante, &samples).unwrap();
        assert_eq!(asked.rate, Spread { median: 1000.0, low: 500.0, high: 2000.0 });
        assert_eq!(asked.cpu.unwrap(), Spread { median: 10.0, low: 5.0, high: 20.0 });
        assert_eq!(asked.busy_percent.unwrap().median, 1.0);
        assert!((asked.p50_us.unwrap().median - 50.0).abs() < 0.1);

        let carried = figures(&KINDS[4], Product::HaProxy, &[sample(0, 4_000_000_000, 1600)]).unwrap();
        assert_eq!((carried.rate.median, carried.cpu.unwrap().median), (16.0, 400.0));
        assert_eq!(carried.p50_us, None);

        let direct = figures(&KINDS[0], Product::Direct, &samples).unwrap();
        assert_eq!((direct.cpu, direct.busy_percent), (None, None));
        assert!(figures(&KINDS[0], Product::Direct, &[]).is_none());
    }
}
