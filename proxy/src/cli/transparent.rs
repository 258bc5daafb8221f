//! `rocinante transparent`: this machine's packet rules for the transparent pools of a file.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{Console, Failure, Result, args::DEFAULT_CONFIG};
use crate::{
    config,
    transparent::{
        host::{self, Error},
        plan::{Difference, Line, Numbers, Plan},
    },
};

/// `rocinante transparent`
#[derive(Debug, Subcommand)]
pub enum TransparentCommand {
    /// Make the packet rules those that the file's transparent pools need; once more changes nothing
    #[command(after_help = "Example:\n  rocinante transparent install --config conf/pool.toml")]
    Install(TransparentArgs),
    /// Show the packet rules that are there, and how they differ from what the file's transparent pools need
    #[command(after_help = "Example:\n  rocinante transparent show --json")]
    Show(TransparentArgs),
    /// Remove all packet rules, routing rules and routes that install made
    #[command(after_help = "Example:\n  rocinante transparent remove")]
    Remove {
        /// Print JSON for scripts; errors too, on standard error
        #[arg(long)]
        json: bool,
    },
}

/// For which pools, and by which numbers.
#[derive(Debug, Args)]
pub struct TransparentArgs {
    /// The file with the pools; it is the same on every instance, and so are the rules
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Mark packets that are for this machine by this number
    #[arg(long, value_name = "N", default_value_t = Numbers::default().mark, value_parser = clap::value_parser!(u32).range(1..))]
    mark: u32,
    /// Have marked packets ask this routing table
    #[arg(long, value_name = "N", default_value_t = Numbers::default().table, value_parser = route_table)]
    table: u32,
    /// Print JSON for scripts; errors too, on standard error
    #[arg(long)]
    json: bool,
}

impl TransparentCommand {
    pub(super) fn json(&self) -> bool {
        match self {
            Self::Install(args) | Self::Show(args) => args.json,
            Self::Remove { json } => *json,
        }
    }
}

impl TransparentArgs {
    fn numbers(&self) -> Numbers {
        Numbers { mark: self.mark, table: self.table }
    }

    fn plan(&self) -> Result<Plan> {
        let config = config::check_file(&self.config).map_err(|mistakes| Failure::reason(mistakes.to_string()))?;
        Ok(Plan::of(&config.pools, self.numbers()))
    }
}

pub(super) fn perform(console: &mut Console<'_>, command: TransparentCommand) -> Result<()> {
    match command {
        TransparentCommand::Install(args) => install(console, &args),
        TransparentCommand::Show(args) => show(console, &args),
        TransparentCommand::Remove { json } => remove(console, json),
    }
}

fn install(console: &mut Console<'_>, args: &TransparentArgs) -> Result<()> {
    let plan = args.plan()?;
    if plan.pools.is_empty() {
        let file = args.config.display();
        return Err(Failure::reason(format!(
            "no pool of {file} has transparent = true: there is nothing to install; rocinante transparent remove takes away what is there"
        )));
    }
    host::install(&plan, args.numbers())?;
    let notes = host::settings()?;
    if args.json {
        return console.json(&described(&plan, &plan.lines, &Difference::default(), &notes));
    }
    writeln!(console.out, "installed for {}; {WAY_BACK}", pools(&plan))?;
    tell(console, &notes)
}

fn show(console: &mut Console<'_>, args: &TransparentArgs) -> Result<()> {
    let plan = args.plan()?;
    let found = host::look()?;
    let difference = plan.compare(&found);
    // What is not there cannot be in the way of anything.
    let notes = if found.is_empty() { Vec::new() } else { host::settings()? };
    if args.json {
        return console.json(&described(&plan, &found, &difference, &notes));
    }
    for line in &found {
        writeln!(console.out, "{line}")?;
    }
    let (file, pools) = (args.config.display(), pools(&plan));
    match (found.is_empty(), difference.is_empty()) {
        (true, true) => writeln!(console.out, "nothing is installed, and {file} wants nothing")?,
        (false, true) => writeln!(console.out, "as {file} wants it, for {pools}")?,
        (true, false) => writeln!(console.out, "nothing is installed; {file} wants it for {pools}")?,
        (false, false) => {
            writeln!(console.out, "not as {file} wants it, for {pools}; rocinante transparent install makes it so:")?;
        }
    }
    for line in &difference.missing {
        writeln!(console.out, "+ {line}")?;
    }
    for line in &difference.surplus {
        writeln!(console.out, "- {line}")?;
    }
    tell(console, &notes)
}

fn remove(console: &mut Console<'_>, json: bool) -> Result<()> {
    let removed = host::remove()?;
    if json {
        return console.json(&json!({ "removed": texts(&removed) }));
    }
    if removed.is_empty() {
        writeln!(console.out, "there was nothing to remove")?;
    }
    for line in &removed {
        writeln!(console.out, "removed {line}")?;
    }
    Ok(())
}

fn tell(console: &mut Console<'_>, notes: &[String]) -> Result<()> {
    for note in notes {
        writeln!(console.out, "note: {note}")?;
    }
    Ok(())
}

fn described(plan: &Plan, found: &[Line], difference: &Difference, notes: &[String]) -> Value {
    json!({
        "pools": plan.pools,
        "installed": texts(found),
        "as_wanted": difference.is_empty(),
        "missing": texts(&difference.missing),
        "surplus": texts(&difference.surplus),
        "notes": notes,
    })
}

fn texts(lines: &[Line]) -> Vec<String> {
    lines.iter().map(ToString::to_string).collect()
}

/// `pool web`, `pools web, site`.
fn pools(plan: &Plan) -> String {
    match plan.pools.as_slice() {
        [] => "no pool".to_owned(),
        [one] => format!("pool {one}"),
        many => format!("pools {}", many.join(", ")),
    }
}

/// A routing table that is none of the kernel's own.
fn route_table(text: &str) -> std::result::Result<u32, String> {
    match text.parse() {
        Ok(0 | 253..=255) | Err(_) => Err("a number from 1, and not 253 to 255, which are the kernel's own".to_owned()),
        Ok(table) => Ok(table),
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::reason(error.to_string())
    }
}

const WAY_BACK: &str =
    "servers have to send what is for clients back by this machine (docs/operations.md, Transparent mode)";
