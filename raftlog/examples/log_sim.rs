//! Runs seeds of the log's simulator, for whoever works on the log: `log_sim FIRST COUNT [PLANT | -v]`.

use std::time::Instant;

use raftlog::{plant::Plant, sim};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |place: usize, or| arguments.get(place).and_then(|text| text.parse().ok()).unwrap_or(or);
    let (first, count) = (number(0, 1), number(1, 100));
    let verbose = arguments.iter().any(|argument| argument == "-v");
    let plant = arguments.get(2).and_then(|name| Plant::ALL.iter().find(|(known, ..)| known == name));
    let options = sim::Options { plant: plant.map(|(_, plant, _)| *plant), verbose };
    let (began, mut steps, mut broken, mut answers) = (Instant::now(), 0, 0, 0);
    for seed in first..first + count {
        let report = sim::run(seed, &options);
        for line in &report.story {
            println!("{line}");
        }
        steps += report.steps;
        answers += report.answers;
        broken += u64::from(!report.violations.is_empty());
        if !report.violations.is_empty() || count == 1 {
            println!("seed {seed}, step {}, {} ms: {:?}", report.steps, report.simulated_ms, report.violations);
            println!("  {}, trace {:016x}", report.summary, report.trace);
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{count} seeds, {broken} broken, {steps} steps, {answers} answers, {seconds:.2} s, {:.0} steps/s",
        steps as f64 / seconds
    );
}
