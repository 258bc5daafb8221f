//! What an instance and its keeper say to each other, as lines of text over two pipes.
//!
//! ```text
//! instance -> keeper   17 announce 192.0.2.1 2001:db8::1      again and again; silence means withdraw
//!                      18 withdraw 192.0.2.1 2001:db8::1
//! keeper -> instance   18 withdrawn 2 0 -                      heard, state, changes, errors, the last error
//! ```

use std::{collections::BTreeSet, net::IpAddr};

/// The addresses of VIPs.
pub(super) type Vips = BTreeSet<IpAddr>;

/// What the instance says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// Counts up.
    pub number: u64,
    /// Whether the VIPs are to be announced.
    pub announce: bool,
    /// The VIPs that are configured.
    pub vips: Vips,
}

/// What the keeper answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// The number of what it last heard; the rest is true after it.
    pub heard: u64,
    /// What was acknowledged.
    pub state: State,
    /// Announcements and withdrawals that were carried out.
    pub changes: u64,
    /// What failed.
    pub errors: u64,
    /// Why the last try failed, in one line; `None` after one that did not.
    pub error: Option<String>,
}

/// How the announcement stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nobody acknowledged anything, or the last word is out of date.
    Unknown,
    /// Acknowledged: no VIP is announced.
    Withdrawn,
    /// Acknowledged: the VIPs are announced.
    Announced,
}

impl Said {
    pub(super) fn line(&self) -> String {
        let word = if self.announce { ANNOUNCE } else { WITHDRAW };
        let vips: String = self.vips.iter().map(|vip| format!(" {vip}")).collect();
        format!("{} {word}{vips}\n", self.number)
    }

    /// Reads what [`Said::line`] writes; `None`: it is something else.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let number = words.next()?.parse().ok()?;
        let announce = match words.next()? {
            ANNOUNCE => true,
            WITHDRAW => false,
            _ => return None,
        };
        Some(Self { number, announce, vips: words.map(|vip| vip.parse().ok()).collect::<Option<_>>()? })
    }
}

impl Report {
    pub(super) fn line(&self) -> String {
        let state = STATES.iter().find(|(_, state)| *state == self.state).map_or("", |(word, _)| word);
        let error = self.error.as_deref().map_or_else(|| "-".to_owned(), in_one_line);
        format!("{} {state} {} {} {error}\n", self.heard, self.changes, self.errors)
    }

    /// Reads what [`Report::line`] writes; `None`: it is something else.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(5, ' ');
        let heard = words.next()?.parse().ok()?;
        let word = words.next()?;
        let (_, state) = STATES.iter().find(|(name, _)| *name == word)?;
        let changes = words.next()?.parse().ok()?;
        let errors = words.next()?.parse().ok()?;
        let error = words.next().filter(|error| *error != "-").map(str::to_owned);
        Some(Self { heard, state: *state, changes, errors, error })
    }
}

/// A text without line ends and other controls, and not too long.
pub(super) fn in_one_line(text: &str) -> String {
    text.chars().take(ERROR_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// What the keeper calls with, and what a hook is called with.
pub(super) const ANNOUNCE: &str = "announce";
pub(super) const WITHDRAW: &str = "withdraw";

const STATES: [(&str, State); 3] =
    [("unknown", State::Unknown), ("withdrawn", State::Withdrawn), ("announced", State::Announced)];

/// Longest line of an instance, in bytes: as many addresses as there may be pools fit in.
pub(super) const SAID_BYTES_MAX: usize = 64 << 10;
/// Longest line of a keeper, in bytes; less than what a pipe takes or refuses as a whole.
pub(super) const REPORT_BYTES_MAX: usize = 2 << 10;
/// Longest error that is told, in characters.
const ERROR_CHARS_MAX: usize = 400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard() {
        let vips: Vips = ["192.0.2.1", "2001:db8::1"].map(|vip| vip.parse().unwrap()).into();
        for (said, line) in [
            (Said { number: 17, announce: true, vips }, "17 announce 192.0.2.1 2001:db8::1\n"),
            (Said { number: 0, announce: false, vips: Vips::new() }, "0 withdraw\n"),
        ] {
            assert_eq!(said.line(), line);
            assert_eq!(Said::parse(line.trim_end()), Some(said));
        }
        let many = (0..1024_u128).map(|n| IpAddr::from((u128::MAX - n).to_be_bytes())).collect();
        assert!(Said { number: u64::MAX, announce: true, vips: many }.line().len() < SAID_BYTES_MAX);
        for bad in ["", "announce", "17", "17 sing", "17 announce x", "-1 withdraw", "17 announce  192.0.2.1"] {
            assert_eq!(Said::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_reported_is_heard() {
        let report = |state, error: Option<&str>| Report {
            heard: 18,
            state,
            changes: 2,
            errors: 3,
            error: error.map(str::to_owned),
        };
        for (report, line) in [
            (report(State::Withdrawn, None), "18 withdrawn 2 3 -\n"),
            (report(State::Announced, Some("a b  c")), "18 announced 2 3 a b  c\n"),
            (report(State::Unknown, Some("-x")), "18 unknown 2 3 -x\n"),
        ] {
            assert_eq!(report.line(), line);
            assert_eq!(Report::parse(line.trim_end()), Some(report));
        }
        let odd = report(State::Unknown, Some(&"\u{10ffff}\n\u{1b}".repeat(1000))).line();
        assert!(odd.len() < REPORT_BYTES_MAX && odd.lines().count() == 1, "{} bytes", odd.len());
        for bad in ["", "18", "18 gone 0 0 -", "18 unknown x 0 -", "18 unknown 0"] {
            assert_eq!(Report::parse(bad), None, "{bad}");
        }
    }
}
