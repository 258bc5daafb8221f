//! The simulator: whole fleets in one thread, seed by seed, judged by their answers.

mod check;
mod node;
mod plants;
mod random;
mod world;

use std::{
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use flow::plant::{self, Plant};

struct Options {
    seeds: u64,
    first: u64,
    verbose: bool,
    plant: Option<Plant>,
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
    if let Some(plant) = options.plant {
        plant::sow(plant);
        // This one is a bug of the log, which knows nothing of what it carries.
        if plant == Plant::ClockOutlivesLeader {
            raftlog::plant::sow(raftlog::plant::Plant::ClockOutlivesLeader);
        }
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
        "{seeds} seeds, {steps} steps, {violations} violations ({answers} answers, {moves} legitimate moves, {:.1} s)",
        started.elapsed().as_secs_f64()
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
    let mut world = world::World::new(seed, options.verbose);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run()));
    if let Err(panic) = outcome {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        world.judge.blame(format!("a panic: {}", text.unwrap_or("of no words")));
    }
    if options.twice {
        let mut again = world::World::new(seed, false);
        again.run();
        if again.trace != world.trace {
            world.judge.blame("the same seed gave another trace".to_owned());
        }
    }
    let counts = [1, world.steps, world.judge.violations.len() as u64, world.judge.answers, world.judge.moves];
    for (total, count) in totals.iter().zip(counts) {
        total.fetch_add(count, Ordering::Relaxed);
    }
    for violation in &world.judge.violations {
        println!("VIOLATION seed {seed}, step {}, at {} us: {violation}", world.steps, world.now_us());
        println!("  replay: ./x sim --seed {seed} --seeds 1 --verbose");
    }
    if options.seeds == 1 {
        println!("{}", world.summary());
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let mut options = Options {
        seeds: 500,
        first: 1,
        verbose: false,
        plant: None,
        twice: false,
        stop: false,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        all_plants: false,
    };
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
                let found = Plant::ALL.iter().find(|(known, ..)| *known == name);
                options.plant = Some(found.ok_or(format!("there is no plant {name}: see --list-plants"))?.1);
            }
            "--list-plants" => {
                for (name, _, breaks) in Plant::ALL {
                    println!("{name:<26} {breaks}");
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
    Ok(Some(options))
}

/// A seed takes a fraction of a second.
const SEED_MAX: Duration = Duration::from_mins(2);

const HELP: &str = "\
Whole fleets in one thread under a seeded simulation: lost, late and doubled messages, partitions, crashes with torn
writes, pauses, skewed and jumping clocks, dying and one-sided backends, pool changes. Every answer is judged.

Usage: ./x sim [--seeds N] [--seed S] [--plant NAME | --all-plants] [--stop] [--threads N] [--verbose] [--twice]

  --seeds N        run seeds S to S+N-1 (default 500)
  --seed S         the first seed (default 1)
  --plant NAME     switch a planted bug on; must end with exit status 1
  --list-plants    the planted bugs
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
