//! The planted bugs of flow and of the log; every one in a process of its own: which of them is caught, and by what.

use std::{
    process::{Command, ExitCode},
    time::Instant,
};

use crate::worlds::Kind;

/// A planted bug.
#[derive(Clone, Copy)]
pub struct Planted {
    pub name: &'static str,
    pub breaks: &'static str,
    pub bug: Bug,
}

/// Whose bug it is.
#[derive(Clone, Copy)]
pub enum Bug {
    Flow(flow::plant::Plant),
    Log(raftlog::plant::Plant),
}

impl Planted {
    /// Switches it on for the whole process, for good. Those of the log are switched on by each run of its worlds.
    pub fn sow(self) {
        if let Bug::Flow(plant) = self.bug {
            flow::plant::sow(plant);
            // This one is a bug of the log that only replicas suffer from.
            if plant == flow::plant::Plant::ClockOutlivesLeader {
                raftlog::plant::sow(raftlog::plant::Plant::ClockOutlivesLeader);
            }
        }
    }
}

impl Bug {
    /// The world that catches it.
    pub fn world(self) -> Kind {
        match self {
            Self::Flow(_) => Kind::Fleet,
            Self::Log(_) => Kind::Log,
        }
    }
}

/// All of them.
pub fn all() -> impl Iterator<Item = Planted> {
    let flow = flow::plant::Plant::ALL.iter();
    let log = raftlog::plant::Plant::ALL.iter();
    flow.map(|(name, plant, breaks)| Planted { name, breaks, bug: Bug::Flow(*plant) })
        .chain(log.map(|(name, plant, breaks)| Planted { name, breaks, bug: Bug::Log(*plant) }))
}

/// Runs each plant over at most `seeds` seeds and prints what caught it.
pub fn run(seeds: u64, threads: usize) -> ExitCode {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => {
            eprintln!("sim: cannot find the program that runs the plants: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("{:<26} | world | {:<20} | what the judge said", "plant", "caught after");
    let mut missed = Vec::new();
    for Planted { name, breaks, bug } in all() {
        let world = bug.world().name();
        let started = Instant::now();
        let arguments = ["--stop", "--plant", name, "--seeds", &seeds.to_string(), "--threads", &threads.to_string()];
        let output = match Command::new(&program).args(arguments).output() {
            Ok(output) => output,
            Err(error) => {
                eprintln!("sim: cannot run the plant {name}: {error}");
                return ExitCode::FAILURE;
            }
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let said = text.lines().find(|line| line.starts_with("VIOLATION"));
        let ran = text.lines().last().and_then(|line| line.split(' ').next()).unwrap_or("?");
        let seconds = started.elapsed().as_secs_f64();
        match said {
            Some(said) if output.status.code() == Some(1) => {
                let said = said.split_once("us: ").map_or(said, |(_, said)| said);
                println!("{name:<26} | {world:<5} | {:<20} | {said}", format!("{ran} seeds, {seconds:.1} s"));
            }
            _ => {
                let took = format!("-, {seconds:.1} s");
                println!("{name:<26} | {world:<5} | {took:<20} | nothing, though it breaks: {breaks}");
                missed.push(name);
            }
        }
    }
    if missed.is_empty() {
        println!("{} plants, all caught", all().count());
        return ExitCode::SUCCESS;
    }
    println!("{} plants, not caught: {}", all().count(), missed.join(", "));
    ExitCode::FAILURE
}
