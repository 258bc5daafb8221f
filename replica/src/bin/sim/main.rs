//! The simulator: whole fleets in one thread, seed by seed, judged by their answers.

mod check;
mod node;
mod plants;
mod random;
mod world;
mod worlds;

use std::{
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use self::{
    plants::{Bug, Planted},
    worlds::Kind,
};

struct Options {
    seeds: u64,
    first: u64,
    verbose: bool,
    plant: Option<Planted>,
    world: Kind,
    twice: bool,
    /// Ends with the first seed that is not clean.
    stop: bool,
    threads: usize,
    all_plants: bool,
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok(Some(options)) => run(&options),
        Ok(None) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("sim: {text}\n\n{HELP}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> ExitCode {
    if let Some(planted) = options.plant {
        planted.sow();
    }
    if options.all_plants {
        return plants::run(options.seeds, options.threads);
    }
    let started = Instant::now();
    let threads = options.threads.min(options.seeds as usize);
    let next = AtomicU64::new(0);
    let totals = [const { AtomicU64::new(0) }; 5];
    let running: Vec<Mutex<Option<(u64, Instant)>>> = (0..threads).map(|_| Mutex::new(None)).collect();
    let busy = AtomicU64::new(threads as u64);
    std::thread::scope(|scope| {
        scope.spawn(|| watch(&running, &busy));
        for place in &running {
            let (next, totals, busy) = (&next, &totals, &busy);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= options.seeds {
                        break;
                    }
                    note(place, Some((options.first + number, Instant::now())));
                    one(options, options.first + number, totals);
                    if options.stop && totals[2].load(Ordering::Relaxed) > 0 {
                        break;
                    }
                }
                note(place, None);
                busy.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    let [seeds, steps, violations, answers, moves] = totals.map(AtomicU64::into_inner);
    println!(
        "{seeds} seeds, {steps} steps, {violations} violations ({answers} answers, {moves} legitimate moves, {:.1} s, \
         {:.0} steps/s)",
        started.elapsed().as_secs_f64(),
        steps as f64 / started.elapsed().as_secs_f64()
    );
    if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A seed that does not end has a violation too: the core spins.
fn watch(running: &[Mutex<Option<(u64, Instant)>>], busy: &AtomicU64) {
    while busy.load(Ordering::Relaxed) > 0 {
        std::thread::sleep(Duration::from_millis(20));
        for place in running {
            let seed = *place.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((seed, _)) = seed.filter(|(_, since)| since.elapsed() > SEED_MAX) {
                println!("VIOLATION seed {seed}, at an unknown time us: it does not end");
                println!("1 seeds and more, cut short");
                std::process::exit(1);
            }
        }
    }
}

fn note(place: &Mutex<Option<(u64, Instant)>>, seed: Option<(u64, Instant)>) {
    *place.lock().unwrap_or_else(PoisonError::into_inner) = seed;
}

fn one(options: &Options, seed: u64, totals: &[AtomicU64; 5]) {
    let kind = options.world.of(seed);
    let log_plant = match options.plant {
        Some(Planted { bug: Bug::Log(plant), .. }) => Some(plant),
        _ => None,
    };
    let outcome = worlds::run(kind, seed, options.verbose, options.twice, log_plant);
    let counts = [1, outcome.steps, outcome.violations.len() as u64, outcome.answers, outcome.moves];
    for (total, count) in totals.iter().zip(counts) {
        total.fetch_add(count, Ordering::Relaxed);
    }
    for violation in &outcome.violations {
        println!("VIOLATION seed {seed}, step {}, at {} us: {violation}", outcome.steps, outcome.now_us);
        println!("  replay: ./x sim --world {} --seed {seed} --seeds 1 --verbose", kind.name());
    }
    if options.seeds == 1 {
        println!("{}", outcome.summary);
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let mut options = Options {
        seeds: 500,
        first: 1,
        verbose: false,
        plant: None,
        world: Kind::Both,
        twice: false,
        stop: false,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        all_plants: false,
    };
    let mut world = None;
    while let Some(argument) = arguments.next() {
        let mut number = |name: &str| -> Result<u64, String> {
            let value = arguments.next().ok_or(format!("{name} needs a number"))?;
            value.parse().map_err(|_| format!("{name}: {value} is not a number"))
        };
        match argument.as_str() {
            "--seeds" => options.seeds = number("--seeds")?,
            "--seed" => options.first = number("--seed")?,
            "--verbose" | "-v" => options.verbose = true,
            "--twice" => options.twice = true,
            "--stop" => options.stop = true,
            "--threads" => options.threads = number("--threads")?.max(1) as usize,
            "--all-plants" => options.all_plants = true,
            "--plant" => {
                let name = arguments.next().ok_or("--plant needs a name: see --list-plants")?;
                let found = plants::all().find(|planted| planted.name == name);
                options.plant = Some(found.ok_or(format!("there is no plant {name}: see --list-plants"))?);
            }
            "--world" => {
                let name = arguments.next().ok_or("--world needs log, fleet or both")?;
                world = Some(Kind::named(&name).ok_or(format!("there is no world {name}: log, fleet or both"))?);
            }
            "--list-plants" => {
                for Planted { name, breaks, bug } in plants::all() {
                    println!("{name:<26} {:<5}  {breaks}", bug.world().name());
                }
                return Ok(None);
            }
            "--help" | "-h" => {
                println!("{HELP}");
                return Ok(None);
            }
            other => return Err(format!("unknown argument {other}")),
        }
    }
    // A planted bug is looked for where it can be seen.
    options.world = world.or(options.plant.map(|planted| planted.bug.world())).unwrap_or(Kind::Both);
    Ok(Some(options))
}

/// A seed takes a fraction of a second.
const SEED_MAX: Duration = Duration::from_mins(2);

const HELP: &str = "\
Whole fleets in one thread a seed, in two kinds of worlds. Seven of eight seeds are log worlds: fleets of raftlog's drivers,
judged by the rules of the agreement (lost, late and doubled messages, partitions, crashes with torn writes, bad disks,
members that come and go). Each eighth is a fleet world: whole replicas, judged by the answers that clients get
(backends that die or are seen one-sidedly, jumping clocks, pool changes, and the same troubles).

Usage: ./x sim [--seeds N] [--seed S] [--world W] [--plant NAME | --all-plants] [--stop] [--threads N]
             [--verbose] [--twice]

  --seeds N        run seeds S to S+N-1 (default 500)
  --seed S         the first seed (default 1)
  --world W        log, fleet, or both (default: both; with a plant the one that catches it)
  --plant NAME     switch a planted bug on; must end with exit status 1
  --list-plants    the planted bugs, and the world that catches each
  --all-plants     each planted bug in a process of its own, over at most N seeds: a table of what caught it; exit
                   status 0 only if every one was
  --stop           end with the first seed that has a violation
  --threads N      seeds at once (default: one for each core)
  --verbose        tell everything that happens
  --twice          run each seed twice and compare the traces

Examples:
  ./x sim --seeds 500
  ./x sim --seed 4711 --seeds 1 --verbose
  ./x sim --plant settle-at-once --stop
  ./x sim --all-plants";
