//! Single values: what a text or number must be to mean a name, a duration, an address.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
};

use flow::Bind;
use toml::de::DeValue;

use super::{
    checked::Host,
    error::Wrong,
    raw::{describe, list, nearest, shown_text},
    rules::{not_an_address, parse_host, usable},
};

/// Longest name of a fleet, instance, pool or server, in characters.
pub(super) const NAME_CHARS_MAX: usize = 63;

/// Longest duration that a setting may have: a year.
pub(super) const YEAR_MS: u64 = 366 * DAY_MS;

/// Longest path of an HTTP health check, in bytes.
const HTTP_PATH_BYTES_MAX: usize = 1_024;

/// Longest host name, in bytes (RFC 1035).
const HOST_BYTES_MAX: usize = 253;

/// Most ranges of statuses that a health check may expect.
const EXPECT_RANGES_MAX: usize = 32;

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// Units of durations, the longest first.
const UNITS: [(&str, u64); 5] = [("d", DAY_MS), ("h", 60 * 60 * 1_000), ("m", 60 * 1_000), ("s", 1_000), ("ms", 1)];

/// A duration as a configuration writes it: in the longest unit that needs no fraction. `1800000` is `30m`.
#[must_use]
pub fn duration_text(millis: u64) -> String {
    if millis == 0 {
        return "0s".to_owned();
    }
    let fits = UNITS.iter().find(|(_, unit)| millis.is_multiple_of(*unit));
    // Every number is a multiple of a millisecond.
    let (name, unit) = fits.unwrap_or(&("ms", 1));
    format!("{}{name}", millis / unit)
}

/// Reads what [`duration_text`] writes: a whole number with one of the units ms, s, m, h, d.
///
/// # Errors
/// What is wrong with `text`, in words.
pub fn parse_duration_ms(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shown = shown_text(text);
    if number.is_empty() {
        return Err(format!("{shown} is no duration"));
    }
    let Some((_, unit_ms)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(match unit {
            "" => format!("{shown} has no unit"),
            _ if unit.starts_with(['.', ',']) => format!("{shown} is not a whole number"),
            _ => format!("{shown} has the unknown unit {}", shown_text(unit)),
        });
    };
    let millis = number.parse::<u64>().ok().and_then(|number| number.checked_mul(*unit_ms));
    millis.ok_or_else(|| format!("{shown} is too long"))
}

pub(super) fn text<'v>(value: &'v DeValue<'_>, example: &str) -> Result<&'v str, Wrong> {
    value.as_str().ok_or_else(|| Wrong::new(found(value), format!("write a text in quotes, as {example:?}")))
}

pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, Wrong> {
    value.as_bool().ok_or_else(|| Wrong::new(found(value), "write true or false, without quotes"))
}

/// A whole number within `range`.
pub(super) fn integer(value: &DeValue<'_>, range: RangeInclusive<u64>) -> Result<u64, Wrong> {
    let right = format!("write a whole number from {} to {}", range.start(), range.end());
    let DeValue::Integer(written) = value else {
        let quoted = value.as_str().is_some_and(|text| text.parse::<u64>().is_ok_and(|n| range.contains(&n)));
        let right = if quoted { format!("{right}, without quotes") } else { right };
        return Err(Wrong::new(found(value), right));
    };
    match i128::from_str_radix(written.as_str(), written.radix()) {
        Ok(number) if number < i128::from(*range.start()) => Err(Wrong::new(format!("{written} is too small"), right)),
        Ok(number) if number > i128::from(*range.end()) => Err(Wrong::new(format!("{written} is too large"), right)),
        Ok(number) => u64::try_from(number).map_err(|_| Wrong::new(format!("{written} is too large"), right)),
        Err(_) => Err(Wrong::new(format!("{} is too large", shown_text(written.as_str())), right)),
    }
}

/// A whole number within `range`, for fields of 32 bits.
pub(super) fn integer_u32(value: &DeValue<'_>, range: RangeInclusive<u32>) -> Result<u32, Wrong> {
    let number = integer(value, u64::from(*range.start())..=u64::from(*range.end()))?;
    Ok(u32::try_from(number).unwrap_or(*range.end()))
}

pub(super) fn port(value: &DeValue<'_>) -> Result<u16, Wrong> {
    let number = integer(value, 1..=u64::from(u16::MAX))?;
    Ok(u16::try_from(number).unwrap_or(u16::MAX))
}

/// A duration within `range`, in milliseconds.
pub(super) fn duration(value: &DeValue<'_>, range: RangeInclusive<u64>) -> Result<u64, Wrong> {
    let (least, most) = (duration_text(*range.start()), duration_text(*range.end()));
    let right = format!("write a whole number with a unit (ms, s, m, h, d), from \"{least}\" to \"{most}\"");
    if let DeValue::Integer(number) = value {
        return Err(Wrong::new(format!("{number} has no unit"), right));
    }
    let Some(text) = value.as_str() else {
        return Err(Wrong::new(found(value), right));
    };
    match parse_duration_ms(text) {
        Err(problem) => Err(Wrong::new(problem, right)),
        Ok(millis) if millis < *range.start() => Err(Wrong::new(format!("{text:?} is too short"), right)),
        Ok(millis) if millis > *range.end() => Err(Wrong::new(format!("{text:?} is too long"), right)),
        Ok(millis) => Ok(millis),
    }
}

/// One of a few words.
pub(super) fn word<T: Copy>(value: &DeValue<'_>, words: &[(&'static str, T)]) -> Result<T, Wrong> {
    let names = || words.iter().map(|(name, _)| *name);
    let right = || {
        let quoted: Vec<_> = names().map(|name| format!("{name:?}")).collect();
        format!("write {}", list(quoted.iter().map(String::as_str)).replace(" and ", " or "))
    };
    let written = value.as_str().ok_or_else(|| Wrong::new(found(value), right()))?;
    if let Some((_, meaning)) = words.iter().find(|(name, _)| *name == written) {
        return Ok(*meaning);
    }
    let remedy = match nearest(written, names()) {
        Some(near) => format!("did you mean {near:?}?"),
        None => right(),
    };
    Err(Wrong::new(format!("found {}", shown_text(written)), remedy))
}

/// A name of a fleet, instance, pool or server. It is part of paths, addresses of REST and labels of metrics.
pub(super) fn name(value: &DeValue<'_>) -> Result<String, Wrong> {
    let text = text(value, "web")?;
    check_name(text).map(|()| text.to_owned())
}

/// Whether a text may be such a name.
pub(super) fn check_name(text: &str) -> Result<(), Wrong> {
    let right = format!("write 1 to {NAME_CHARS_MAX} characters of a-z A-Z 0-9 - _ . with a letter or digit first");
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() {
        Err(Wrong::new("the name is empty", right))
    } else if text.chars().count() > NAME_CHARS_MAX {
        Err(Wrong::new(format!("the name has {} characters", text.chars().count()), right))
    } else if let Some(odd) = text.chars().find(|c| !plain(*c)) {
        Err(Wrong::new(format!("{text:?} has the character {odd:?}"), right))
    } else if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        Err(Wrong::new(format!("{text:?} begins with a sign"), right))
    } else {
        Ok(())
    }
}

pub(super) fn directory(value: &DeValue<'_>) -> Result<PathBuf, Wrong> {
    let text = text(value, "data")?;
    if text.is_empty() || text.contains('\0') {
        return Err(Wrong::new(format!("{text:?} is no directory"), "write a path, as \"data\""));
    }
    Ok(PathBuf::from(text))
}

/// A path in which `{label}` stands for an instance's label.
pub(super) fn file_pattern(value: &DeValue<'_>, example: &str) -> Result<String, Wrong> {
    let text = text(value, example)?;
    let right = format!("write a path, as {example:?}");
    if text.is_empty() || text.contains('\0') {
        return Err(Wrong::new(format!("{} is no file", shown_text(text)), right));
    }
    if text.replace(super::tls::LABEL, "").contains(['{', '}']) {
        return Err(Wrong::new(format!("{} has braces other than {{label}}", shown_text(text)), right));
    }
    Ok(text.to_owned())
}

/// The IP address of a server.
pub(super) fn server_address(value: &DeValue<'_>) -> Result<IpAddr, Wrong> {
    let text = text(value, "127.0.0.1")?;
    let right = "write the server's IP address, as \"127.0.0.1\"";
    match text.parse::<IpAddr>() {
        Ok(address) => usable(address).map_err(|problem| Wrong::new(problem, right)),
        Err(_) if is_host_name(text) => {
            Err(Wrong::new(format!("{text:?} is a host name, and a server is known by its address"), right))
        }
        Err(_) => Err(not_an_address(text, right)),
    }
}

/// The IP address or host name of an instance.
pub(super) fn host(value: &DeValue<'_>) -> Result<Host, Wrong> {
    let text = text(value, "127.0.0.1")?;
    parse_host(text)
}

/// Where a pool listens.
pub(super) fn bind(value: &DeValue<'_>) -> Result<Bind, Wrong> {
    let right = "write \":PORT\" for the instance's own address or \"IP:PORT\" for a VIP";
    if let DeValue::Integer(number) = value {
        return Err(Wrong::new(found(value), format!("write \":{number}\", in quotes and with a colon")));
    }
    let text = text(value, ":9001")?;
    let port_zero = || Wrong::new(format!("{text:?} has port 0"), "write a port from 1 to 65535");
    if let Some(port) = text.strip_prefix(':').and_then(|port| port.parse::<u32>().ok()) {
        return match u16::try_from(port) {
            Ok(0) => Err(port_zero()),
            Ok(port) => Ok(Bind::Own(port)),
            Err(_) => Err(Wrong::new(format!("port {port} is too large"), "write a port from 1 to 65535")),
        };
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => Err(port_zero()),
        Ok(address) if address.ip().is_multicast() => {
            Err(Wrong::new(format!("{} is a multicast address", address.ip()), right))
        }
        Ok(address) => Ok(Bind::Vip(SocketAddr::new(address.ip().to_canonical(), address.port()))),
        Err(_) if text.parse::<u16>().is_ok() => {
            Err(Wrong::new(format!("{text:?} has no colon"), format!("write \":{text}\"")))
        }
        Err(_) if text.parse::<IpAddr>().is_ok() => Err(Wrong::new(format!("{text:?} has no port"), right)),
        Err(_) if text.split_once(':').is_some_and(|(host, _)| is_host_name(host)) => {
            Err(Wrong::new(format!("{} begins with a host name", shown_text(text)), right))
        }
        Err(_) => Err(Wrong::new(format!("{} is neither", shown_text(text)), right)),
    }
}

/// The path of an HTTP health check.
pub(super) fn http_path(value: &DeValue<'_>) -> Result<String, Wrong> {
    let text = text(value, "/health")?;
    let right = format!("write a path of at most {HTTP_PATH_BYTES_MAX} characters without spaces, as \"/health\"");
    if !text.starts_with('/') {
        Err(Wrong::new(format!("{} does not begin with /", shown_text(text)), right))
    } else if text.len() > HTTP_PATH_BYTES_MAX {
        Err(Wrong::new(format!("the path has {} bytes", text.len()), right))
    } else if let Some(odd) = text.chars().find(|c| !c.is_ascii_graphic()) {
        Err(Wrong::new(format!("the path has the character {odd:?}"), right))
    } else {
        Ok(text.to_owned())
    }
}

/// Statuses: `200`, `"200"`, `"200-399"`, `"200-299,304"`, or a list of those.
pub(super) fn statuses(value: &DeValue<'_>) -> Result<Vec<(u16, u16)>, Wrong> {
    let right = "write statuses from 100 to 599, as \"200-399\" or \"200,204\"";
    let written: Vec<String> = match value {
        DeValue::Array(entries) => {
            entries.iter().map(|entry| status_text(entry.get_ref(), right)).collect::<Result<_, _>>()?
        }
        single => vec![status_text(single, right)?],
    };
    let mut ranges = Vec::new();
    for part in written.iter().flat_map(|text| text.split(',')).map(str::trim) {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        match (low.trim().parse::<u16>(), high.trim().parse::<u16>()) {
            (Ok(low), Ok(high)) if low > high => {
                return Err(Wrong::new(format!("{part:?} runs backwards"), right));
            }
            (Ok(low), Ok(high)) if (100..=599).contains(&low) && (100..=599).contains(&high) => {
                ranges.push((low, high));
            }
            _ => return Err(Wrong::new(format!("{} is no status", shown_text(part)), right)),
        }
    }
    match ranges.len() {
        0 => Err(Wrong::new("the list is empty", right)),
        1..=EXPECT_RANGES_MAX => Ok(ranges),
        count => Err(Wrong::new(format!("{count} ranges"), format!("write at most {EXPECT_RANGES_MAX}"))),
    }
}

/// What [`statuses`] reads.
pub(super) fn statuses_text(ranges: &[(u16, u16)]) -> String {
    let text = |(low, high): &(u16, u16)| if low == high { low.to_string() } else { format!("{low}-{high}") };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}

fn status_text(value: &DeValue<'_>, right: &str) -> Result<String, Wrong> {
    match value {
        DeValue::Integer(number) => Ok(number.to_string()),
        DeValue::String(text) => Ok(text.to_string()),
        other => Err(Wrong::new(found(other), right)),
    }
}

fn found(value: &DeValue<'_>) -> String {
    format!("found {}", describe(value))
}

/// Letters, digits and inner hyphens between dots (RFC 1123), and not something that looks like a bad IPv4 address.
pub(super) fn is_host_name(text: &str) -> bool {
    let good = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= HOST_BYTES_MAX && text.split('.').all(good) && !last.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("500ms", 500),
            ("1s", 1_000),
            ("90s", 90_000),
            ("30m", 1_800_000),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
            ("0s", 0),
            ("1500ms", 1_500),
        ] {
            assert_eq!(parse_duration_ms(text), Ok(millis));
            assert_eq!(duration_text(millis), text);
        }
        for (text, problem) in [
            ("", "\"\" is no duration"),
            ("s", "\"s\" is no duration"),
            ("-1s", "\"-1s\" is no duration"),
            ("1x", "\"1x\" has the unknown unit \"x\""),
            ("1 s", "\"1 s\" has the unknown unit \" s\""),
            ("10", "\"10\" has no unit"),
            ("1.5s", "\"1.5s\" is not a whole number"),
            ("99999999999999999999s", "\"99999999999999999999s\" is too long"),
            ("9999999999999999999d", "\"9999999999999999999d\" is too long"),
        ] {
            assert_eq!(parse_duration_ms(text), Err(problem.to_owned()));
        }
    }

    #[test]
    fn host_names() {
        for good in ["a", "db1", "db-1.example", "1a.example"] {
            assert!(is_host_name(good), "{good}");
        }
        for bad in ["", ".", "a.", "-a", "a_b", "127.0.0.1", "300.1.1.1", "1.2.3", "a b", "é"] {
            assert!(!is_host_name(bad), "{bad}");
        }
    }
}
