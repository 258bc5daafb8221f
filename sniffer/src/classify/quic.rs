//! QUIC (RFC 9000, 9369, drafts 29 to 32): the client's Initial packets are decrypted with the keys that everybody can
//! derive (RFC 9001, section 5.2), and the TLS ClientHello in them is read. Older versions are known by their number.

use rustls::{
    Side,
    crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
    quic::{Keys, Version},
};

use super::{App, Confidence, Label, Verdict, tls, tls::Reader};

/// What is remembered of a handshake.
#[derive(Clone, Debug, Default)]
pub struct Handshake {
    /// The connection id from which the client's first keys come.
    first_id: Option<Box<[u8]>>,
    /// Parts of the client's first message, by their place.
    parts: Vec<(usize, Vec<u8>)>,
}

/// What a datagram says; none: it is no QUIC that tells its version.
pub fn examine(state: &mut Handshake, datagram: &[u8], most: usize) -> Option<Verdict> {
    let [first, a, b, c, d, ..] = datagram else { return None };
    if first & 0x80 == 0 {
        return google(datagram);
    }
    let version = u32::from_be_bytes([*a, *b, *c, *d]);
    let mut label = Label::sure(App::Quic);
    label.quic_version = Some(version);
    let Some(decrypted) = readable(version) else {
        return named_version(datagram, version).then_some(Verdict::Partly(label));
    };
    // A datagram holds several packets, one after the other.
    let mut rest = datagram;
    let (mut any, mut initials) = (false, 0);
    while let Some(packet) = LongHeader::read(rest) {
        if packet.version != version {
            break;
        }
        any = true;
        if packet.is_initial() && initials < INITIALS_MAX {
            initials += 1;
            state.take_initial(&packet, decrypted, most);
        }
        rest = &rest[packet.end..];
    }
    if !any {
        // Retry has no length; its version is known.
        return Some(Verdict::Partly(label)).filter(|_| first & 0x40 != 0);
    }
    Some(match state.client_hello() {
        Some(mut label) => {
            label.quic_version = Some(version);
            Verdict::Known(label)
        }
        None => Verdict::Partly(label),
    })
}

/// Versions whose Initial packets can be read.
fn readable(version: u32) -> Option<Version> {
    match version {
        1 => Some(Version::V1),
        0x6b33_43cf => Some(Version::V2),
        0xff00_001d..=0xff00_0020 => Some(Version::V1Draft),
        _ => None,
    }
}

/// Versions that are known by their number alone, where the rest looks like them: other drafts, those of Google, Facebook
/// and Mozilla, those reserved for negotiation, and negotiation itself.
fn named_version(datagram: &[u8], version: u32) -> bool {
    let text = version.to_be_bytes();
    let google = matches!(text, [b'Q' | b'T', b'0', b'4'..=b'5', b'0'..=b'9']);
    let draft = (0xff00_0001..=0xff00_0040).contains(&version);
    let facebook = (0xface_b000..=0xface_b0ff).contains(&version);
    let reserved = version & 0x0f0f_0f0f == 0x0a0a_0a0a;
    let negotiation = version == 0 && negotiates(datagram);
    google || draft || facebook || negotiation || (reserved && datagram.len() >= 1200)
}

/// Two connection ids, and versions one after the other.
fn negotiates(datagram: &[u8]) -> bool {
    let mut rest = Reader(datagram);
    let ids = rest.take(5).and_then(|_| rest.short()).and_then(|_| rest.short());
    let versions = rest.0;
    ids.is_some() && !versions.is_empty() && versions.len().is_multiple_of(4) && versions.len() <= 256
}

/// Google's QUIC up to Q043: public flags, a connection id of 8 bytes, and the version in letters.
fn google(datagram: &[u8]) -> Option<Verdict> {
    let [flags, ids @ ..] = datagram else { return None };
    let version = ids.get(8..12)?;
    let known = flags & 0x09 == 0x09 && matches!(version, [b'Q', b'0', b'1'..=b'4', b'0'..=b'9']);
    known.then(|| {
        let mut label = Label::sure(App::Quic);
        label.quic_version = version.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
        label.host = sni_of_google(datagram);
        if label.host.is_some() { Verdict::Known(label) } else { Verdict::Partly(label) }
    })
}

/// The value of the tag SNI in a CHLO that is not encrypted.
fn sni_of_google(datagram: &[u8]) -> Option<Box<str>> {
    let place = datagram.windows(4).position(|window| window == b"CHLO")?;
    let hello = &datagram[place..];
    let tags = usize::from(u16::from_le_bytes(*hello.get(4..)?.first_chunk()?));
    let values = hello.get(8 + tags.min(128) * 8..)?;
    let mut begin = 0;
    for entry in hello.get(8..)?.chunks_exact(8).take(tags.min(128)) {
        let end = usize::try_from(u32::from_le_bytes(*entry.last_chunk()?)).ok()?;
        if &entry[..4] == b"SNI\0" {
            return super::label::name(values.get(begin..end)?);
        }
        begin = end;
    }
    None
}

/// A packet with a long header, and where the next one begins.
struct LongHeader<'a> {
    version: u32,
    destination: &'a [u8],
    kind: u8,
    /// Header up to the packet number, and all of the packet.
    header: usize,
    packet: &'a [u8],
    end: usize,
}

impl<'a> LongHeader<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = Reader(bytes);
        let first = rest.u8()?;
        let version = u32::from_be_bytes(*rest.take(4)?.first_chunk()?);
        if first & 0xc0 != 0xc0 {
            return None;
        }
        let (destination, source) = (rest.short()?, rest.short()?);
        if destination.len() > 20 || source.len() > 20 {
            return None;
        }
        // The second version has other numbers for the same kinds (RFC 9369, section 3.2).
        let kind = if version == 0x6b33_43cf { ((first >> 4) & 3).wrapping_sub(1) & 3 } else { (first >> 4) & 3 };
        if kind == RETRY {
            return None;
        }
        if kind == INITIAL {
            let token = varint(&mut rest)?;
            rest.take(token)?;
        }
        let length = varint(&mut rest)?;
        let header = bytes.len() - rest.0.len();
        // A datagram that was not captured whole.
        let end = (header + length.min(bytes.len())).min(bytes.len());
        Some(Self { version, destination, kind, header, packet: &bytes[..end], end })
    }

    fn is_initial(&self) -> bool {
        self.kind == INITIAL
    }

    /// The payload, if these keys fit.
    fn decrypt(&self, id: &[u8], version: Version) -> Option<Vec<u8>> {
        let suite = TLS13_AES_128_GCM_SHA256.tls13()?.quic_suite()?;
        let keys: Keys = suite.keys(id, Side::Server, version);
        let mut bytes = self.packet.to_vec();
        let sample: [u8; 16] = *bytes.get(self.header + 4..)?.first_chunk()?;
        let (head, tail) = bytes.split_at_mut(self.header);
        let (number, _) = tail.split_at_mut_checked(4)?;
        keys.remote.header.decrypt_in_place(&sample, head.first_mut()?, number).ok()?;
        let number_bytes = usize::from(head[0] & 3) + 1;
        let number = number[..number_bytes].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let (header, payload) = bytes.split_at_mut(self.header + number_bytes);
        keys.remote.packet.decrypt_in_place(number, header, payload).ok().map(<[u8]>::to_vec)
    }
}

impl Handshake {
    /// Bytes of memory besides itself.
    pub fn allocated(&self) -> usize {
        let parts: usize = self.parts.iter().map(|(_, bytes)| bytes.capacity()).sum();
        let id = self.first_id.as_ref().map_or(0, |id| id.len());
        parts + self.parts.capacity() * size_of::<(usize, Vec<u8>)>() + id
    }

    fn take_initial(&mut self, packet: &LongHeader<'_>, version: Version, most: usize) {
        // After a Retry the client's keys come from the id that the server chose; else from the first one.
        let mut opened = packet.decrypt(packet.destination, version);
        if opened.is_some() {
            self.first_id.get_or_insert_with(|| packet.destination.into());
        } else if let Some(first) = self.first_id.as_ref().filter(|first| ***first != *packet.destination) {
            opened = packet.decrypt(first, version);
        }
        if let Some(payload) = opened {
            self.frames(&payload, most);
        }
    }

    /// Collects what CRYPTO frames carry. Initial packets have few kinds of frames (RFC 9000, section 12.4).
    fn frames(&mut self, payload: &[u8], most: usize) -> Option<()> {
        let mut rest = Reader(payload);
        loop {
            match rest.u8()? {
                0 | 1 => {}
                2 | 3 => {
                    let kind = payload[payload.len() - rest.0.len() - 1];
                    varint(&mut rest)?;
                    varint(&mut rest)?;
                    let ranges = varint(&mut rest)?;
                    varint(&mut rest)?;
                    for _ in 0..ranges {
                        varint(&mut rest)?;
                        varint(&mut rest)?;
                    }
                    if kind == 3 {
                        for _ in 0..3 {
                            varint(&mut rest)?;
                        }
                    }
                }
                6 => {
                    let (place, length) = (varint(&mut rest)?, varint(&mut rest)?);
                    let part = rest.take(length)?;
                    if place.saturating_add(length) <= most && self.parts.len() < PARTS_MAX {
                        self.parts.push((place, part.to_vec()));
                    }
                }
                _ => return None,
            }
        }
    }

    /// The label by the ClientHello, once all of it is there.
    fn client_hello(&mut self) -> Option<Label> {
        self.parts.sort_by_key(|(place, _)| *place);
        let mut whole: Vec<u8> = Vec::new();
        for (place, part) in &self.parts {
            if *place > whole.len() {
                break;
            }
            if let Some(new) = part.get(whole.len() - place..) {
                whole.extend_from_slice(new);
            }
        }
        let length =
            4 + (usize::from(*whole.get(1)?) << 16 | usize::from(*whole.get(2)?) << 8 | usize::from(*whole.get(3)?));
        tls::client_hello(whole.get(..length)?).map(|hello| hello.label(App::Quic, 'q'))
    }
}

/// A number of 1, 2, 4 or 8 bytes (RFC 9000, section 16).
fn varint(rest: &mut Reader<'_>) -> Option<usize> {
    let first = rest.u8()?;
    let more = rest.take((1 << (first >> 6)) - 1)?;
    let number = more.iter().fold(u64::from(first & 0x3f), |sum, byte| sum << 8 | u64::from(*byte));
    usize::try_from(number).ok()
}

/// A short header alone says nothing for certain; at the port of HTTP/3 it is a guess.
pub fn guess(datagram: &[u8], ports: (u16, u16)) -> Option<Verdict> {
    let at_port = ports.0 == 443 || ports.1 == 443;
    let short = datagram.len() >= 21 && datagram[0] & 0xc0 == 0x40;
    (at_port && short).then(|| Verdict::Partly(Label::new(App::Quic, Confidence::Port)))
}

const INITIAL: u8 = 0;
const RETRY: u8 = 3;

/// Most Initial packets of a datagram that are decrypted: clients send one, and each costs microseconds.
const INITIALS_MAX: usize = 4;

/// Most parts of a first message.
const PARTS_MAX: usize = 64;
