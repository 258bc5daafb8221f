//! Every planted bug in a process of its own: which of them the judge catches, and by what.

use std::{
    process::{Command, ExitCode},
    time::Instant,
};

use flow::plant::Plant;

/// Runs each plant over at most `seeds` seeds and prints what caught it.
pub fn run(seeds: u64, threads: usize) -> ExitCode {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => {
            eprintln!("sim: cannot find the program that runs the plants: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("{:<26} | {:<20} | what the judge said", "plant", "caught after");
    let mut missed = Vec::new();
    for (name, _, breaks) in Plant::ALL {
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
                println!("{name:<26} | {:<20} | {said}", format!("{ran} seeds, {seconds:.1} s"));
            }
            _ => {
                println!("{name:<26} | {:<20} | nothing, though it breaks: {breaks}", format!("-, {seconds:.1} s"));
                missed.push(*name);
            }
        }
    }
    if missed.is_empty() {
        println!("{} plants, all caught", Plant::ALL.len());
        return ExitCode::SUCCESS;
    }
    println!("{} plants, not caught: {}", Plant::ALL.len(), missed.join(", "));
    ExitCode::FAILURE
}
