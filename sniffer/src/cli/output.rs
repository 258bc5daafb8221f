//! What flows look like: rows for people, lines of JSON for scripts.

use std::io::{self, Write};

use serde::Serialize;
use sniffer::record::Record;

/// An object on a line of its own.
pub fn line(out: &mut impl Write, object: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, object)?;
    writeln!(out)
}

/// What the columns of rows are.
pub fn header(out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{:<6}{:<24}{:<24}{:>9}{:>9}{:>12}  {:<12}name",
        "proto", "from", "to", "there", "back", "bytes", "app"
    )
}

/// A flow.
pub fn row(out: &mut impl Write, flow: &Record) -> io::Result<()> {
    let end = |address: &str, port: u16| match address.contains(':') {
        true => format!("[{address}]:{port}"),
        false => format!("{address}:{port}"),
    };
    let (from, to) = (end(&flow.src, flow.sport), end(&flow.dst, flow.dport));
    let (app, host) = (flow.app.unwrap_or("-"), flow.host.as_deref().unwrap_or("-"));
    let (there, back, bytes) = (flow.packets_fwd, flow.packets_rev, flow.bytes_wire);
    writeln!(out, "{:<6}{from:<24}{to:<24}{there:>9}{back:>9}{bytes:>12}  {app:<12}{host}", flow.proto)
}
