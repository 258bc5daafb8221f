//! `rocinante snapshot`: backups saved, looked into, restored.

use std::{
    fs::{self, File},
    io::{BufReader, BufWriter},
    path::{Path, PathBuf},
};

use replica::{
    GroupState,
    backup::{Backup, read},
};
use serde_json::json;

use super::{
    Console, Failure, Result,
    args::{Reach, SnapshotCommand},
    operate::time_text,
    pki::{SECRET, make_anew},
    table::{Column, Table, numbers, words},
};
use crate::{config, node};

pub(super) fn perform(console: &mut Console<'_>, command: SnapshotCommand) -> Result<()> {
    match command {
        SnapshotCommand::Save { file, force, reach } => save(console, &file, force, &reach),
        SnapshotCommand::Inspect { file, json } => inspect(console, &file, json),
        SnapshotCommand::Restore { file, config, instance, data_dir } => {
            restore(console, &file, &config, &instance, data_dir)
        }
    }
}

/// Saves under a name of its own first, and only what reads as a whole gets the name asked for.
fn save(console: &mut Console<'_>, file: &Path, force: bool, reach: &Reach) -> Result<()> {
    if file.exists() && !force {
        return Err(Failure::reason(format!("{} is there already; --force overwrites it", file.display())));
    }
    let mut staged = file.as_os_str().to_owned();
    staged.push(".new");
    let staged = PathBuf::from(staged);
    let failed = |error: std::io::Error| Failure::reason(format!("{}: {error}", staged.display()));
    // It holds all values of the key-value store.
    let mut out = BufWriter::new(make_anew(&staged, SECRET).map_err(failed)?);
    let endpoint = console.client(reach)?.download("/snapshot", &mut out)?;
    out.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)?;
    let backup = load(&staged)?;
    fs::rename(&staged, file).map_err(failed)?;
    let bytes = fs::metadata(file).map_or(0, |found| found.len());
    match reach.json {
        true => console.json(&described(&backup, bytes)),
        false => {
            let name = file.display();
            Ok(writeln!(console.out, "{name}: {bytes} bytes, all tables as {endpoint} has them, read and checked")?)
        }
    }
}

fn inspect(console: &mut Console<'_>, file: &Path, json: bool) -> Result<()> {
    let backup = load(file)?;
    let bytes = fs::metadata(file).map_or(0, |found| found.len());
    if json {
        return console.json(&described(&backup, bytes));
    }
    let head = &backup.head;
    let uuid = head.fleet_id().map_or("unknown".to_owned(), |id| id.to_string());
    writeln!(console.out, "fleet     {} ({uuid})", super::table::printable(&head.fleet_name))?;
    writeln!(
        console.out,
        "taken     {} of instance {}",
        time_text(head.taken_at * 1000),
        super::table::printable(&head.instance)
    )?;
    writeln!(console.out, "size      {bytes} bytes, checked to its end\n")?;
    let mut table = Table::new(GROUPS);
    for (group, state) in &backup.states {
        table.row([group.to_string(), state.applied().to_string(), contents(state)]);
    }
    Ok(write!(console.out, "{table}")?)
}

fn restore(console: &mut Console<'_>, file: &Path, path: &Path, label: &str, dir: Option<PathBuf>) -> Result<()> {
    let config = config::check_file(path).map_err(|mistakes| Failure::reason(mistakes.to_string()))?;
    let backup = load(file)?;
    let dir = dir.unwrap_or_else(|| config.fleet.data_dir.join(label));
    let groups = backup.states.len();
    let identity = node::restore(&config, label, &dir, backup)
        .map_err(|error| Failure::reason(format!("{} is not restored: {error}", dir.display())))?;
    let uuid = identity.fleet.map_or_else(String::new, |id| id.to_string());
    let dir = dir.display();
    writeln!(console.out, "{dir}: instance {label} of the new fleet {uuid}, {groups} groups")?;
    Ok(writeln!(console.out, "restore every other instance of {} from the same file, then start them", path.display())?)
}

fn load(file: &Path) -> Result<Backup> {
    let failed = |error: String| Failure::reason(format!("{}: {error}", file.display()));
    let opened = File::open(file).map_err(|error| failed(error.to_string()))?;
    read(&mut BufReader::new(opened)).map_err(|error| failed(error.to_string()))
}

fn contents(state: &GroupState) -> String {
    match state {
        GroupState::Control(table) => {
            let (members, pools, keys) = (table.members().count(), table.pools().count(), table.kv_len());
            format!("{members} members, {pools} pools, {keys} keys, {} sessions", table.sessions().len())
        }
        GroupState::Pins(state) => format!("{} pins", state.0.len()),
        GroupState::Flows(state) => format!("{} flows", state.0.len()),
    }
}

fn described(backup: &Backup, bytes: u64) -> serde_json::Value {
    let head = &backup.head;
    let groups: Vec<_> = backup
        .states
        .iter()
        .map(|(group, state)| json!({ "group": group.0, "applied_index": state.applied().0, "contents": contents(state) }))
        .collect();
    json!({
        "fleet": head.fleet_name,
        "uuid": head.fleet_id().map(|id| id.to_string()),
        "instance": head.instance,
        "taken_at": head.taken_at,
        "bytes": bytes,
        "groups": groups,
    })
}

const GROUPS: &[Column] = &[numbers("GROUP"), numbers("INDEX"), words("CONTENTS")];
