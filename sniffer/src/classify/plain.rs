//! Protocols over TCP that begin with a line or a few bytes of their own.

use super::{App, Confidence, Label, Verdict};

/// What one side of a connection said; none: nothing of what is known here.
pub fn examine(bytes: &[u8], (source, destination): (u16, u16)) -> Option<Verdict> {
    let at = |port| source == port || destination == port;
    let begins = |text: &[u8]| bytes.starts_with(text);
    // Lines of servers that many protocols begin with are told apart by their words, and by their port.
    if begins(b"SSH-") {
        return sure(App::Ssh);
    }
    if begins(b"\x13BitTorrent protocol") {
        return sure(App::BitTorrent);
    }
    if begins(b"AMQP\x00") || begins(b"AMQP\x01") || begins(b"AMQP\x02") || begins(b"AMQP\x03") {
        return sure(App::Amqp);
    }
    // A frame of AMQP 0-9-1: a known type, a length that fits, and its end.
    if let [1..=3 | 8, _, _, 0, a, b, c, rest @ ..] = bytes {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        if rest.get(length) == Some(&0xce) {
            return sure(App::Amqp);
        }
    }
    if begins(b"\xffSMB") || bytes.get(4..8).is_some_and(|magic| matches!(magic, b"\xffSMB" | b"\xfeSMB")) {
        return sure(App::Smb);
    }
    if begins(b"<?xml") && contains(bytes, b"jabber") || begins(b"<stream:stream") {
        return sure(App::Xmpp);
    }
    greeting(bytes, at).or_else(|| database(bytes, at)).or_else(|| others(bytes, at))
}

fn sure(app: App) -> Option<Verdict> {
    Some(Verdict::Known(Label::sure(app)))
}

/// Mail and files: servers that speak first, and the first words of clients.
fn greeting(bytes: &[u8], at: impl Fn(u16) -> bool) -> Option<Verdict> {
    if !bytes.first()?.is_ascii_graphic() {
        return None;
    }
    let line = &bytes[..bytes.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n')?];
    let upper = line.to_ascii_uppercase();
    let says = |word: &[u8]| contains(&upper, word);
    let begins = |word: &[u8]| upper.starts_with(word);
    if begins(b"220 ") || begins(b"220-") {
        if says(b"SMTP") || at(25) || at(587) {
            return sure(App::Smtp);
        }
        if says(b"FTP") || at(21) {
            return sure(App::Ftp);
        }
        return None;
    }
    if begins(b"EHLO ") || begins(b"HELO ") || begins(b"MAIL FROM:") {
        return sure(App::Smtp);
    }
    if begins(b"+OK") || (at(110) && (begins(b"USER ") || begins(b"CAPA") || begins(b"AUTH") || begins(b"-ERR"))) {
        return if at(110) || says(b"POP") { sure(App::Pop3) } else { partly(App::Pop3) };
    }
    if begins(b"* OK") || begins(b"* PREAUTH") {
        return sure(App::Imap);
    }
    if at(143)
        && line
            .split(|byte| *byte == b' ')
            .nth(1)
            .is_some_and(|word| matches!(word.trim_ascii_end(), b"CAPABILITY" | b"LOGIN" | b"STARTTLS"))
    {
        return sure(App::Imap);
    }
    if begins(b"USER ") && at(21) {
        return sure(App::Ftp);
    }
    if begins(b"NICK ") || begins(b"USER ") && says(b" :") || line.starts_with(b":") && says(b" NOTICE ") {
        return sure(App::Irc);
    }
    None
}

/// Databases and queues.
fn database(bytes: &[u8], at: impl Fn(u16) -> bool) -> Option<Verdict> {
    // MySQL's greeting: a length of 3 bytes, number 0, protocol 10, and a version in digits.
    if let [low, high, 0, 0, 10, digit, ..] = bytes
        && digit.is_ascii_digit()
        && usize::from(u16::from_le_bytes([*low, *high])) >= 40
    {
        return sure(App::MySql);
    }
    // PostgreSQL's first message (protocol 3), and its wishes for encryption.
    if let [0, 0, high, low, code @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let code = code.first_chunk().map(|code| u32::from_be_bytes(*code));
        if length == 8 && matches!(code, Some(80_877_103 | 80_877_104)) || length > 8 && code == Some(196_608) {
            return sure(App::PostgreSql);
        }
    }
    if matches!(bytes, [b'*', b'1'..=b'9', ..]) && contains(&bytes[..bytes.len().min(16)], b"\r\n$") {
        return sure(App::Redis);
    }
    if at(6379) && matches!(bytes.first(), Some(b'+' | b'-' | b':' | b'$')) {
        return partly(App::Redis);
    }
    // MQTT's CONNECT, with its name behind a length of one or two bytes.
    if bytes.first() == Some(&0x10)
        && bytes
            .get(..16.min(bytes.len()))
            .is_some_and(|head| contains(head, b"\x00\x04MQTT") || contains(head, b"\x00\x06MQIsdp"))
    {
        return sure(App::Mqtt);
    }
    let memcached = [&b"get "[..], b"set ", b"add ", b"stats", b"gets ", b"delete ", b"VALUE ", b"STAT "];
    if at(11211) && memcached.iter().any(|word| bytes.starts_with(word)) {
        return sure(App::Memcached);
    }
    None
}

fn others(bytes: &[u8], at: impl Fn(u16) -> bool) -> Option<Verdict> {
    if bytes.starts_with(&[0xff; 16]) && bytes.len() >= 19 && matches!(bytes[18], 1..=5) {
        return sure(App::Bgp);
    }
    // TPKT and a connection request or confirmation of X.224.
    if let [3, 0, _, _, _, 0xe0 | 0xd0, ..] = bytes
        && at(3389)
    {
        return sure(App::Rdp);
    }
    if at(1080) && matches!(bytes, [5, 1..=5, ..] | [4, 1 | 2, _, _, _, _, _, _, ..]) {
        return sure(App::Socks);
    }
    if at(389) && matches!(bytes, [0x30, ..]) && bytes.len() > 7 {
        return sure(App::Ldap);
    }
    if at(88) && matches!(bytes, [0, 0, _, _, 0x6a..=0x7e, ..]) {
        return sure(App::Kerberos);
    }
    if at(502) && matches!(bytes, [_, _, 0, 0, 0, _, _, ..]) {
        return sure(App::Modbus);
    }
    if at(139) && matches!(bytes, [0 | 0x81..=0x85, 0, _, _, ..]) {
        return partly(App::NetBios);
    }
    None
}

fn partly(app: App) -> Option<Verdict> {
    Some(Verdict::Partly(Label::new(app, Confidence::Partial)))
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}

/// Longest line that is a greeting; RFC 5321 allows 512.
const LINE_BYTES_MAX: usize = 2048;
