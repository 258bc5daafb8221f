//! `sniffer capture --list`: the interfaces there are.

use std::io::{self, Write};

use sniffer::capture::{Listed, list};

use super::{Failure, output};

/// Prints them.
pub fn run(json: bool) -> Result<(), Failure> {
    let interfaces = list().map_err(Failure::List)?;
    let mut out = io::stdout().lock();
    if json {
        output::line(&mut out, &interfaces)?;
    } else {
        table(&mut out, &interfaces)?;
    }
    Ok(())
}

fn table(out: &mut impl Write, interfaces: &[Listed]) -> io::Result<()> {
    let rows: Vec<_> = interfaces
        .iter()
        .map(|one| {
            let state = match (one.up, one.running) {
                (true, true) => "running",
                (true, false) => "up",
                (false, _) => "down",
            };
            let addresses = one.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            (one.name.as_str(), state, addresses, one.description.as_deref().unwrap_or_default())
        })
        .collect();
    let names = rows.iter().map(|row| row.0.len()).fold(4, usize::max);
    let addresses = rows.iter().map(|row| row.2.len()).fold(9, usize::max);
    writeln!(out, "{:<names$}  {:<7}  {:<addresses$}  description", "name", "state", "addresses")?;
    for (name, state, own, description) in &rows {
        let row = format!("{name:<names$}  {state:<7}  {own:<addresses$}  {description}");
        writeln!(out, "{}", row.trim_end())?;
    }
    Ok(())
}
