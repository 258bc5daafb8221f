//! HTTP/1 (RFC 9112) by its first request or answer, HTTP/2 (RFC 9113) by its preface.

use super::{App, Label, Verdict, label};

/// What one side of a connection said; none: that is no HTTP.
pub fn examine(bytes: &[u8]) -> Option<Verdict> {
    if begins(bytes, PREFACE) {
        return Some(if bytes.len() >= PREFACE.len() {
            Verdict::Known(Label::sure(App::Http2))
        } else {
            Verdict::More
        });
    }
    if bytes.starts_with(b"HTTP/1.") {
        // What was asked for may come, where the answer was seen first.
        return Some(Verdict::Partly(Label::sure(App::Http)));
    }
    // Most of what comes is no text, and is not searched for the end of a line.
    let begin = &bytes[..bytes.len().min(METHOD_BYTES_MAX + 1)];
    let method = begin.split(|byte| matches!(byte, b' ' | b'\n')).next()?;
    if !method.first()?.is_ascii_uppercase() || !METHODS.contains(&method) {
        let unfinished = METHODS.iter().any(|known| known.starts_with(bytes));
        return unfinished.then_some(Verdict::More);
    }
    let line_end = bytes.iter().position(|byte| *byte == b'\n');
    let line = &bytes[..line_end.unwrap_or(bytes.len())];
    let mut words = line.trim_ascii_end().rsplit(|byte| *byte == b' ');
    let version = words.next()?;
    if line_end.is_none() {
        return Some(Verdict::Partly(Label::sure(App::Http)));
    }
    if version.starts_with(b"RTSP/") {
        return Some(Verdict::Known(Label::sure(App::Rtsp)));
    }
    if version.starts_with(b"SIP/") {
        return Some(Verdict::Known(Label::sure(App::Sip)));
    }
    if !version.starts_with(b"HTTP/") {
        return None;
    }
    let (host, whole) = host(bytes);
    let mut found = Label::sure(App::Http);
    found.host = host.or_else(|| absolute(line).and_then(label::name));
    Some(if found.host.is_some() || whole { Verdict::Known(found) } else { Verdict::Partly(found) })
}

/// The value of Host without a port, and whether all fields are there.
fn host(bytes: &[u8]) -> (Option<Box<str>>, bool) {
    let mut lines = bytes.split(|byte| *byte == b'\n').skip(1);
    let mut whole = false;
    let mut found = None;
    // The last piece is a line that has not ended.
    let count = bytes.iter().filter(|byte| **byte == b'\n').count();
    for line in lines.by_ref().take(count.saturating_sub(1)) {
        let line = line.trim_ascii();
        if line.is_empty() {
            whole = true;
            break;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        if found.is_none() && line[..colon].trim_ascii().eq_ignore_ascii_case(b"host") {
            found = label::name(without_port(line[colon + 1..].trim_ascii()));
        }
    }
    (found, whole)
}

/// The authority of a request that names it in its first line, as those to proxies do.
fn absolute(line: &[u8]) -> Option<&[u8]> {
    let target = line.split(|byte| *byte == b' ').nth(1)?;
    let rest = target.strip_prefix(b"http://")?;
    let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
    Some(without_port(&rest[..end]))
}

fn without_port(host: &[u8]) -> &[u8] {
    match host.iter().rposition(|byte| *byte == b':') {
        // An IPv6 address is in brackets.
        Some(colon) if !host[colon..].contains(&b']') && host[colon + 1..].iter().all(u8::is_ascii_digit) => {
            &host[..colon]
        }
        _ => host,
    }
}

fn begins(bytes: &[u8], text: &[u8]) -> bool {
    bytes.len() >= 4 && (bytes.starts_with(text) || text.starts_with(bytes))
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Methods of RFC 9110, WebDAV (RFC 4918 and its kin), RTSP (RFC 7826) and SIP (RFC 3261).
const METHODS: &[&[u8]] = &[
    b"GET",
    b"POST",
    b"PUT",
    b"HEAD",
    b"DELETE",
    b"OPTIONS",
    b"CONNECT",
    b"TRACE",
    b"PATCH",
    b"PROPFIND",
    b"PROPPATCH",
    b"MKCOL",
    b"COPY",
    b"MOVE",
    b"LOCK",
    b"UNLOCK",
    b"SEARCH",
    b"REPORT",
    b"CHECKOUT",
    b"CHECKIN",
    b"SUBSCRIBE",
    b"UNSUBSCRIBE",
    b"NOTIFY",
    b"M-SEARCH",
    b"RPC_IN_DATA",
    b"RPC_OUT_DATA",
    b"BITS_POST",
    b"CCM_POST",
    b"SMS_POST",
    b"RPC_CONNECT",
    b"MERGE",
    b"MKACTIVITY",
    b"PURGE",
    b"SOURCE",
    b"ICY",
    b"DESCRIBE",
    b"SETUP",
    b"PLAY",
    b"PAUSE",
    b"TEARDOWN",
    b"ANNOUNCE",
    b"RECORD",
    b"GET_PARAMETER",
    b"SET_PARAMETER",
    b"REDIRECT",
    b"INVITE",
    b"ACK",
    b"BYE",
    b"CANCEL",
    b"REGISTER",
    b"INFO",
    b"PRACK",
    b"UPDATE",
    b"REFER",
    b"MESSAGE",
    b"PUBLISH",
];

/// Longest of them.
const METHOD_BYTES_MAX: usize = 13;
