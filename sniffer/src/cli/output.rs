//! What flows look like: rows for people, lines of JSON for scripts.

use std::io::{self, Write};

use serde::Serialize;
use sniffer::record::Record;

/// An object on a line of its own.
pub fn line(out: &mut impl Write, object: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, object)?;
    writeln!(out)
}

/// Rows for people, whose columns of addresses are as wide as the widest so far.
pub struct Rows {
    from: usize,
    to: usize,
}

impl Rows {
    /// For these flows, and IPv4.
    pub fn of<'a>(flows: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut rows = Self { from: IPV4_WIDTH, to: IPV4_WIDTH };
        for flow in flows {
            rows.widen(&ends(flow));
        }
        rows
    }

    /// What the columns are.
    pub fn header(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { from, to } = self;
        writeln!(
            out,
            "{:<7}{:<from$}  {:<to$}{:>9}{:>9}{:>12}  {:<12}name",
            "proto", "from", "to", "there", "back", "bytes", "app"
        )
    }

    /// A flow.
    pub fn row(&mut self, out: &mut impl Write, flow: &Record) -> io::Result<()> {
        let both = ends(flow);
        self.widen(&both);
        let ([from, to], Self { from: from_width, to: to_width }) = (both, self);
        let (app, host) = (flow.app.unwrap_or("-"), flow.host.as_deref().unwrap_or("-"));
        let (there, back, bytes) = (flow.packets_fwd, flow.packets_rev, flow.bytes_wire);
        writeln!(
            out,
            "{:<7}{from:<from_width$}  {to:<to_width$}{there:>9}{back:>9}{bytes:>12}  {app:<12}{host}",
            flow.protocol_name
        )
    }

    fn widen(&mut self, [from, to]: &[String; 2]) {
        self.from = self.from.max(from.len());
        self.to = self.to.max(to.len());
    }
}

fn ends(flow: &Record) -> [String; 2] {
    let end = |address: &str, port: u16| match address.contains(':') {
        true => format!("[{address}]:{port}"),
        false => format!("{address}:{port}"),
    };
    [end(&flow.src, flow.sport), end(&flow.dst, flow.dport)]
}

/// `255.255.255.255:65535`
const IPV4_WIDTH: usize = 21;

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use sniffer::track::{Flow, State};

    use super::*;

    fn flow(source: &str, destination: &str, protocol: u8) -> Record {
        let end = |address: &str| flow::tuple::Endpoint::new(address.parse::<IpAddr>().unwrap(), 65_535);
        let ((version, source), (_, destination)) = (end(source), end(destination));
        let (key, from_low) = flow::tuple::FlowKey::of(version, protocol, source, destination);
        Record::of(&Flow {
            key,
            from_low,
            state: State::New,
            tos: 0,
            tcp_flags: [0; 2],
            vlan: None,
            first_us: 1,
            last_us: 1,
            counts: Default::default(),
            label: None,
        })
    }

    #[test]
    fn columns_stay_in_line_however_long_addresses_are() {
        let long = "2001:db8:1111:2222:3333:4444:5555:6666";
        let flows =
            [flow("192.0.2.1", "198.51.100.1", 6), flow(long, "2001:db8::1", 58), flow("10.0.0.1", "10.0.0.2", 200)];
        let mut out = Vec::new();
        let mut rows = Rows::of(&flows);
        rows.header(&mut out).unwrap();
        flows.iter().try_for_each(|flow| rows.row(&mut out, flow)).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let place = lines[0].find("app").unwrap();
        assert!(
            lines[1..].iter().all(|line| line[place..].starts_with("-  ") && line[..place].ends_with("  ")),
            "{text}"
        );
        let names: Vec<&str> = lines[1..].iter().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(names, ["tcp", "icmpv6", "200"]);
        // A capture does not know what comes: it goes on as wide as it has to be.
        let mut growing = Rows::of([]);
        let mut out = Vec::new();
        flows.iter().try_for_each(|flow| growing.row(&mut out, flow)).unwrap();
        let grown = String::from_utf8(out).unwrap();
        assert_eq!(grown.lines().skip(1).collect::<Vec<_>>(), lines[2..]);
    }
}
