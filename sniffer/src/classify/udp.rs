//! Protocols of datagrams, each told by its own structure.

use super::{App, Confidence, Label, Limits, Pending, Verdict, dns, http, quic, tls, tls::Reader};

/// What a datagram says of its flow.
pub fn examine(
    pending: &mut Option<Box<Pending>>,
    datagram: &[u8],
    ports: (u16, u16),
    forward: bool,
    limits: &Limits,
) -> Verdict {
    let at = |port| ports.0 == port || ports.1 == port;
    let known = stun(datagram).or_else(|| dtls(datagram)).or_else(|| wireguard(datagram));
    if let Some(verdict) = known.or_else(|| dhcp(datagram, ports)).or_else(|| sip(datagram)) {
        return verdict;
    }
    if datagram.first().is_some_and(|first| first & 0x80 != 0 || first & 0x09 == 0x09)
        && let Some(verdict) = quic(pending, datagram, limits)
    {
        return verdict;
    }
    if let Some(verdict) = dns::over_udp(datagram, ports) {
        return verdict;
    }
    if let Some(verdict) = ntp(datagram, ports).or_else(|| torrent(datagram)).or_else(|| others(datagram, ports)) {
        return verdict;
    }
    if datagram.first().is_some_and(|first| first >> 6 == 2)
        && let Some(verdict) = pending.get_or_insert_default().rtp.examine(datagram, forward)
    {
        return verdict;
    }
    if let Some(verdict) = quic::guess(datagram, ports) {
        return verdict;
    }
    let by_port = [(4500, App::IpSec), (1194, App::Openvpn)];
    by_port
        .iter()
        .find(|(port, _)| at(*port))
        .map_or(Verdict::More, |(_, app)| Verdict::Partly(Label::new(*app, Confidence::Port)))
}

/// Nothing is remembered of what is no QUIC, nor of a flow that its first datagram tells all about.
fn quic(pending: &mut Option<Box<Pending>>, datagram: &[u8], limits: &Limits) -> Option<Verdict> {
    let most = limits.bytes as usize;
    if let Some(pending) = pending {
        return quic::examine(&mut pending.quic, datagram, most);
    }
    let mut handshake = quic::Handshake::default();
    let verdict = quic::examine(&mut handshake, datagram, most)?;
    if !matches!(verdict, Verdict::Known(_)) {
        pending.get_or_insert_default().quic = handshake;
    }
    Some(verdict)
}

fn sure(app: App) -> Option<Verdict> {
    Some(Verdict::Known(Label::sure(app)))
}

/// STUN (RFC 8489): the cookie, and a length that fits; older ones (RFC 3489) have no cookie but whole attributes.
pub fn stun(datagram: &[u8]) -> Option<Verdict> {
    let (header, attributes) = datagram.split_first_chunk::<20>()?;
    let kind = u16::from_be_bytes([header[0], header[1]]);
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if kind & 0xc000 != 0 || !length.is_multiple_of(4) || length > attributes.len() {
        return None;
    }
    if header[4..8] == [0x21, 0x12, 0xa4, 0x42] {
        return Some(Verdict::Partly(Label::sure(App::Stun)));
    }
    if !matches!(kind, 1 | 0x101 | 0x111 | 2 | 0x102 | 0x112) || length != attributes.len() || length == 0 {
        return None;
    }
    let mut rest = Reader(attributes);
    while let Some(attribute) = rest.u16() {
        let value = rest.long()?;
        rest.take(value.len().next_multiple_of(4) - value.len())?;
        if !matches!(attribute, 1..=0x40 | 0x8000..=0x80ff) {
            return None;
        }
    }
    Some(Verdict::Partly(Label::sure(App::Stun)))
}

/// DTLS (RFC 6347): a record, with the client's name where it is the first.
fn dtls(datagram: &[u8]) -> Option<Verdict> {
    let [kind @ 20..=25, 0xfe, 0xff | 0xfd | 0xfc, rest @ ..] = datagram else {
        // OpenSSL's before the standard.
        return matches!(datagram, [20..=23, 1, 0, 0, 0, ..]).then(|| Verdict::Partly(Label::sure(App::Dtls)));
    };
    let mut rest = Reader(rest);
    rest.take(8)?;
    let record = rest.0.get(2..)?;
    let length = usize::from(rest.u16()?);
    if length > (1 << 14) + 2048 || length == 0 {
        return None;
    }
    if *kind == 22 && record.first() == Some(&1) {
        return Some(match dtls_hello(record) {
            Some(label) => Verdict::Known(label),
            None => Verdict::Partly(Label::sure(App::Dtls)),
        });
    }
    Some(Verdict::Partly(Label::sure(App::Dtls)))
}

/// The hello in one fragment.
fn dtls_hello(record: &[u8]) -> Option<Label> {
    let mut rest = Reader(record);
    let _kind = rest.u8()?;
    let length = rest.take(3)?;
    let _sequence = rest.u16()?;
    let offset = rest.take(3)?;
    let fragment = rest.take(3)?;
    (offset == [0; 3] && fragment == length).then_some(())?;
    tls::hello_body(rest, true).map(|hello| hello.label(App::Dtls, 'd'))
}

/// WireGuard: messages of fixed sizes (wireguard.com/protocol).
fn wireguard(datagram: &[u8]) -> Option<Verdict> {
    match (datagram.first_chunk()?, datagram.len()) {
        ([1, 0, 0, 0], 148) | ([2, 0, 0, 0], 92) | ([3, 0, 0, 0], 64) => sure(App::WireGuard),
        ([4, 0, 0, 0], length @ 32..) if length.is_multiple_of(16) => {
            Some(Verdict::Partly(Label::new(App::WireGuard, Confidence::Partial)))
        }
        _ => None,
    }
}

/// DHCP (RFC 2131) with its cookie or BOOTP at its ports, and DHCPv6 (RFC 8415).
fn dhcp(datagram: &[u8], (source, destination): (u16, u16)) -> Option<Verdict> {
    let at = |low, high| (low..=high).contains(&source) || (low..=high).contains(&destination);
    let bootp = matches!(datagram.first(), Some(1 | 2)) && datagram.len() >= 44;
    if bootp && datagram.get(236..240) == Some(&[0x63, 0x82, 0x53, 0x63]) {
        return sure(App::Dhcp);
    }
    if bootp && at(67, 68) {
        return Some(Verdict::Partly(Label::new(App::Dhcp, Confidence::Partial)));
    }
    let six = at(546, 547) && matches!(datagram.first(), Some(1..=36)) && datagram.len() >= 4;
    if six { sure(App::Dhcp) } else { None }
}

/// SIP (RFC 3261).
fn sip(datagram: &[u8]) -> Option<Verdict> {
    if datagram.starts_with(b"SIP/2.0 ") {
        return sure(App::Sip);
    }
    let end = datagram.iter().take(512).position(|byte| *byte == b'\n')?;
    let line = datagram[..end].trim_ascii_end();
    if line.ends_with(b" SIP/2.0") && line.first().is_some_and(u8::is_ascii_uppercase) {
        return sure(App::Sip);
    }
    // SSDP is HTTP over datagrams.
    if line.ends_with(b" HTTP/1.1") && (line.starts_with(b"M-SEARCH") || line.starts_with(b"NOTIFY")) {
        return sure(App::Ssdp);
    }
    match http::examine(datagram) {
        Some(Verdict::Known(label)) if label.app == App::Sip => Some(Verdict::Known(label)),
        _ => None,
    }
}

/// NTP (RFC 5905): 48 bytes or with what authenticates them, a version and a mode; control messages at its port.
fn ntp(datagram: &[u8], (source, destination): (u16, u16)) -> Option<Verdict> {
    if source != 123 && destination != 123 {
        return None;
    }
    let first = *datagram.first()?;
    let (version, mode) = ((first >> 3) & 7, first & 7);
    let whole = datagram.len() >= 48 && (1..=4).contains(&version) && (mode != 0 || version == 1);
    let control = datagram.len() >= 8 && (2..=4).contains(&version) && matches!(mode, 6 | 7);
    if whole || control { sure(App::Ntp) } else { None }
}

/// BitTorrent's table (BEP 5), its trackers (BEP 15), and uTP (BEP 29) where it begins.
fn torrent(datagram: &[u8]) -> Option<Verdict> {
    let bencoded = [&b"d1:ad2:id20:"[..], b"d1:rd2:id20:", b"d1:eli20", b"d2:ip", b"d1:q"];
    if bencoded.iter().any(|begin| datagram.starts_with(begin)) {
        return sure(App::BitTorrent);
    }
    if datagram.len() >= 16 && datagram.starts_with(&[0, 0, 4, 0x17, 0x27, 0x10, 0x19, 0x80]) {
        return sure(App::BitTorrent);
    }
    if datagram.windows(20).take(64).any(|window| window == b"\x13BitTorrent protocol") {
        return sure(App::BitTorrent);
    }
    // A SYN: type 4, version 1, no or known extensions, sequence 1, acknowledgement 0.
    let (header, rest) = datagram.split_first_chunk::<20>()?;
    let syn = header[0] == 0x41 && matches!(header[1], 0..=2) && header[16..20] == [0, 1, 0, 0];
    let fits = if header[1] == 0 { rest.is_empty() } else { rest.len() < 32 };
    (syn && fits).then_some(())?;
    sure(App::BitTorrent)
}

/// What is known by a few bytes at its port.
fn others(datagram: &[u8], (source, destination): (u16, u16)) -> Option<Verdict> {
    let at = |port| source == port || destination == port;
    let begins = |bytes: &[u8]| datagram.starts_with(bytes);
    if (at(161) || at(162)) && begins(&[0x30]) && datagram.len() > 10 {
        return sure(App::Snmp);
    }
    if at(69) && matches!(datagram, [0, 1..=6, ..]) {
        return sure(App::Tftp);
    }
    if at(137) && datagram.len() >= 12 || at(138) && matches!(datagram.first(), Some(0x10..=0x16)) {
        return Some(Verdict::Known(Label::new(App::NetBios, Confidence::Partial)));
    }
    if at(88) && matches!(datagram.first(), Some(0x6a..=0x7e)) {
        return sure(App::Kerberos);
    }
    if (at(319) || at(320)) && datagram.get(1).is_some_and(|version| matches!(version & 15, 1 | 2)) {
        return sure(App::Ptp);
    }
    if at(500) && datagram.len() >= 28 && matches!(datagram[17], 0x10 | 0x20) {
        return sure(App::IpSec);
    }
    None
}

/// Two directions of what may be RTP (RFC 3550): nothing in a packet proves it, so several must fit together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rtp {
    sides: [Side; 2],
}

#[derive(Clone, Copy, Debug, Default)]
struct Side {
    source: u32,
    sequence: u16,
    fitting: u8,
}

impl Rtp {
    /// Of what has its version.
    fn examine(&mut self, datagram: &[u8], forward: bool) -> Option<Verdict> {
        let (header, _) = datagram.split_first_chunk::<12>()?;
        // Types 72 to 76 without the marker would be RTCP's (RFC 5761).
        if (200..=207).contains(&header[1]) {
            let words = usize::from(u16::from_be_bytes([header[2], header[3]]));
            return (4 * (words + 1) <= datagram.len())
                .then(|| Verdict::Partly(Label::new(App::Rtcp, Confidence::Partial)));
        }
        let side = &mut self.sides[usize::from(!forward)];
        let source = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
        let sequence = u16::from_be_bytes([header[2], header[3]]);
        let follows = side.source == source && source != 0 && (1..=16).contains(&sequence.wrapping_sub(side.sequence));
        side.fitting = if follows { side.fitting + 1 } else { 0 };
        (side.source, side.sequence) = (source, sequence);
        (side.fitting >= RTP_FITTING).then(|| Verdict::Known(Label::sure(App::Rtp)))
    }
}

/// So many packets must follow each other by number and source.
const RTP_FITTING: u8 = 3;
