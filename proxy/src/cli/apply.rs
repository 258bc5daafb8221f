//! `rocinante apply`: shows what a file would change in the committed pools, asks, and commits it.

use flow::PoolSpec;
use serde_json::json;

use super::{Client, Console, Failure, Result, args::ApplyArgs, instances_of, table::printable};
use crate::{
    config::{self, Difference},
    rest::{
        json::{AppliedJson, ApplyJson, PoolsJson},
        pool_json::PoolJson,
    },
};

/// How often an epoch that changed for another reason (a verdict) is taken up before giving up.
const ATTEMPTS_MAX: u32 = 10;

/// Does it.
pub fn apply(console: &mut Console<'_>, args: &ApplyArgs) -> Result<()> {
    let wrong = |mistakes: config::Mistakes| Failure::reason(mistakes.to_string());
    let wanted = config::check_file(&args.config).map_err(wrong)?.pools;
    let client = match args.reach.endpoints.is_empty() {
        true => Client::new(instances_of(&args.config)?),
        false => console.client(&args.reach)?,
    };
    let (mut epoch, committed) = read_pools(&client)?;
    let differences = config::diff(&committed, &wanted);
    if differences.is_empty() {
        return report(console, args, &differences, None);
    }
    if !args.reach.json {
        for difference in &differences {
            writeln!(console.out, "{}", printable(&difference.to_string()))?;
        }
    }
    if !args.yes && !confirm(console, differences.len())? {
        return Err(Failure::reason("nothing was changed".into()));
    }
    let pools: Vec<PoolJson> = wanted.iter().map(PoolJson::from).collect();
    for _ in 0..ATTEMPTS_MAX {
        let body = json!(ApplyJson { epoch, pools: pools.clone() }).to_string();
        match client.post("/pools", body.as_bytes()) {
            Ok(answer) => return report(console, args, &differences, Some(&answer.read()?)),
            Err(Failure::Refused(error)) if error.reason == "conflict" => {
                let (now, seen) = read_pools(&client)?;
                if seen != committed {
                    let text = "the pools were changed by someone else meanwhile: run it again to see the difference";
                    return Err(Failure::reason(text.into()));
                }
                epoch = now;
            }
            Err(other) => return Err(other),
        }
    }
    Err(Failure::reason(format!("the epoch changed {ATTEMPTS_MAX} times meanwhile: nothing was changed, try again")))
}

/// The epoch and the committed pools.
fn read_pools(client: &Client) -> Result<(u64, Vec<PoolSpec>)> {
    let read: PoolsJson = client.get("/pools?consistency=linearizable")?.read()?;
    let specs = read.pools.into_iter().map(PoolSpec::try_from).collect::<std::result::Result<_, _>>();
    let unknown = |error| Failure::reason(format!("the fleet has a pool that this version does not know: {error}"));
    Ok((read.epoch, specs.map_err(unknown)?))
}

fn confirm(console: &mut Console<'_>, changes: usize) -> Result<bool> {
    if !console.terminal {
        return Err(Failure::reason("nothing was changed: without a terminal to ask at, say --yes".into()));
    }
    let noun = if changes == 1 { "this change" } else { "these changes" };
    write!(console.out, "Apply {noun} to the fleet? [y/N] ")?;
    console.out.flush()?;
    let mut line = String::new();
    console.input.read_line(&mut line)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

fn report(
    console: &mut Console<'_>,
    args: &ApplyArgs,
    differences: &[Difference],
    applied: Option<&AppliedJson>,
) -> Result<()> {
    if args.reach.json {
        let lines: Vec<String> = differences.iter().map(ToString::to_string).collect();
        return console.json(&json!({ "changes": lines, "applied": applied }));
    }
    match applied {
        Some(AppliedJson { index, epoch }) => Ok(writeln!(console.out, "applied (index {index}, epoch {epoch})")?),
        None => Ok(writeln!(console.out, "nothing to change")?),
    }
}
