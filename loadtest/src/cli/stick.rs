//! `loadtest stick` and `loadtest rivals`: play scenarios, print tables, judge.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use async_trait::async_trait;
use loadtest::anycast::net::Net;
use loadtest::chance::Chance;
use loadtest::demo;
use loadtest::error::{Error, Result};
use loadtest::fleet::haproxy::HaProxy;
use loadtest::fleet::process::in_path;
use loadtest::fleet::rocinante::Rocinante;
use loadtest::fleet::site::Site;
use loadtest::fleet::{Fleet, Server};
use loadtest::report;
use loadtest::scenario::{self, Beat, Keep, Maker, Outcome, Plan, SCENARIOS, Scenario};

use super::{DemoArguments, StickArguments};

/// Whose fleets are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Rocinante, and with `--rivals` the others beside it.
    Ours,
    /// Only the others.
    Rivals,
}

/// Plays the scenarios that were asked for.
pub async fn run(arguments: StickArguments, who: Who, net: Option<Arc<Net>>) -> Result<ExitCode> {
    let scenarios = chosen(&arguments.scenario, net.is_some())?;
    let products = products(&arguments, who)?;
    let seconds = arguments.seconds.unwrap_or(if net.is_some() { SECONDS_ON_A_FARM } else { SECONDS });
    let seed = arguments.seed.unwrap_or_else(Chance::fresh_seed);
    let say = |line: String| {
        if !arguments.json {
            println!("{line}");
        }
    };
    say(format!(
        "{} clients, {} visits/s, {} instances, seed {seed}",
        arguments.clients, arguments.rate, arguments.instances
    ));
    let mut outcomes = Vec::new();
    for scenario in scenarios {
        for product in &products {
            let plan = Plan {
                instances: arguments.instances,
                clients: arguments.clients,
                visits_per_second: arguments.rate,
                seconds,
                seed,
                keep: keep(&arguments, product),
            };
            say(format!("\n{} {}: {}", product.name(), scenario.name, scenario.about));
            say(format!(
                "budget: split 0, moved 0, lost 0 outside events and {} inside; at least 99 % of the asks answered",
                scenario.budget(&plan).lost_inside
            ));
            say(report::beat_head());
            let live = |beat: &Beat| say(report::beat_line(beat));
            let outcome = scenario::perform(scenario, &plan, product, net.as_ref(), &live).await?;
            for line in report::remarks(&outcome) {
                say(line);
            }
            outcomes.push(outcome);
        }
    }
    if arguments.json {
        let list: Vec<_> = outcomes.iter().map(report::to_json).collect();
        println!("{}", serde_json::json!({ "seed": seed, "scenarios": list }));
    } else {
        println!("\n{}", report::table(&outcomes));
    }
    Ok(status(&outcomes))
}

/// Shows a fleet to people.
pub async fn demo(arguments: DemoArguments) -> Result<ExitCode> {
    let maker = Product::Rocinante(binary(arguments.bin.as_deref())?, false);
    let style =
        if arguments.plain || !std::io::stdout().is_terminal() { demo::Style::Plain } else { demo::Style::Screen };
    let passed = demo::show(&maker, arguments.clients, style).await?;
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Rivals are shown, not judged: only ours can fail.
fn status(outcomes: &[Outcome]) -> ExitCode {
    let failed = outcomes
        .iter()
        .any(|outcome| outcome.product == OURS && outcome.not_applicable.is_none() && !outcome.verdict.passed());
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// A rival's bad verdict is no defect that somebody would look into.
fn keep(arguments: &StickArguments, product: &Product) -> Keep {
    match product {
        _ if arguments.keep => Keep::Always,
        Product::Rocinante(..) => Keep::OnFailure,
        Product::HaProxy(_) => Keep::Never,
    }
}

fn chosen(names: &str, farm: bool) -> Result<Vec<Scenario>> {
    if names == "all" {
        return Ok(SCENARIOS.into_iter().filter(|scenario| farm || !scenario.needs_farm()).collect());
    }
    let known = || SCENARIOS.map(|scenario| scenario.name).join(", ");
    names
        .split(',')
        .map(|name| {
            Scenario::named(name.trim())
                .ok_or_else(|| Error::Usage(format!("no scenario is called {name}; there are: all, {}", known())))
        })
        .collect()
}

fn products(arguments: &StickArguments, who: Who) -> Result<Vec<Product>> {
    let mut products = Vec::new();
    if who == Who::Ours {
        products.push(Product::Rocinante(binary(arguments.bin.as_deref())?, arguments.tls));
        if arguments.rivals {
            match in_path("haproxy") {
                Some(path) => products.push(Product::HaProxy(path)),
                None => eprintln!("haproxy is not installed; its rows are left out"),
            }
        }
    } else {
        let path = arguments.bin.clone().or_else(|| in_path("haproxy"));
        let missing = || Error::Usage("haproxy is not installed: apt-get install haproxy".to_owned());
        products.push(Product::HaProxy(path.ok_or_else(missing)?));
    }
    Ok(products)
}

/// The binary under test: the one that was named, the one beside this program, or the one in PATH.
pub fn binary(named: Option<&Path>) -> Result<PathBuf> {
    let beside = || {
        let own = std::env::current_exe().ok()?;
        Some(own.parent()?.join(OURS)).filter(|path| path.is_file())
    };
    let path = match named {
        Some(path) if path.is_file() => Some(path.to_path_buf()),
        Some(path) => return Err(Error::Usage(format!("{} is no file", path.display()))),
        None => beside().or_else(|| in_path(OURS)),
    };
    let path =
        path.ok_or_else(|| Error::Usage("found no rocinante beside loadtest or in PATH: give --bin".to_owned()))?;
    // The fleet runs in a directory of its own.
    std::path::absolute(&path).map_err(Error::io(path.display().to_string()))
}

/// A product that can be judged, with its binary.
enum Product {
    /// With its binary, and whether its instances have certificates.
    Rocinante(PathBuf, bool),
    HaProxy(PathBuf),
}

impl Product {
    fn name(&self) -> &'static str {
        match self {
            Product::Rocinante(..) => OURS,
            Product::HaProxy(_) => "haproxy",
        }
    }
}

#[async_trait]
impl Maker for Product {
    async fn make(&self, site: Arc<Site>, instances: u8, servers: &[Server]) -> Result<Arc<dyn Fleet>> {
        Ok(match self {
            Product::Rocinante(binary, tls) => {
                Arc::new(Rocinante::new(binary.clone(), site, instances, servers, *tls).await?)
            }
            Product::HaProxy(binary) => Arc::new(HaProxy::new(binary.clone(), site, instances, servers).await?),
        })
    }
}

const OURS: &str = "rocinante";
const SECONDS: u64 = 20;
/// All scenarios, with the fleet of each started anew, are to take less than four minutes.
const SECONDS_ON_A_FARM: u64 = 8;
