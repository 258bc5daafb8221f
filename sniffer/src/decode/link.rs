//! What lies below IP: Ethernet and its tags, PPP, the links of tcpdump.org/linktypes.html.

use super::{Skip, take, u16_at};

/// How frames of a capture begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// DLT_EN10MB.
    Ethernet,
    /// IP without anything before it.
    Raw,
    /// DLT_NULL, DLT_LOOP: the address family in 4 bytes of some order.
    Loopback,
    /// Linux cooked capture v1.
    Sll,
    /// Linux cooked capture v2.
    Sll2,
    /// PPP, with or without its HDLC address.
    Ppp,
    /// Cisco HDLC.
    CiscoHdlc,
    /// Linux netfilter log.
    Nflog,
    /// 802.11 without encryption.
    Wifi,
    /// 802.11 behind a radiotap header.
    Radiotap,
}

impl Link {
    /// By the number that pcap knows it by (`pcap_datalink`); none: not known.
    #[must_use]
    pub fn of(number: i32) -> Option<Self> {
        Some(match number {
            1 => Self::Ethernet,
            // 12 and 14 are what DLT_RAW is on this system and on another, 101 is what is in files.
            12 | 14 | 101 | 228 | 229 => Self::Raw,
            0 | 108 => Self::Loopback,
            113 => Self::Sll,
            276 => Self::Sll2,
            9 | 50 => Self::Ppp,
            104 => Self::CiscoHdlc,
            239 => Self::Nflog,
            105 => Self::Wifi,
            127 => Self::Radiotap,
            _ => return None,
        })
    }
}

/// Most layers below IP: more are no network, but a trap.
const LAYERS_MAX: usize = 256;

/// The outermost VLAN id, and the bytes from the IP header on.
#[inline]
pub fn network(link: Link, frame: &[u8]) -> Result<(Option<u16>, &[u8]), Skip> {
    match link {
        Link::Ethernet => ethernet(frame),
        Link::Raw => Ok((None, frame)),
        Link::Loopback => {
            let (family, rest) = take::<4>(frame)?;
            let family = u32::from_be_bytes(*family);
            let family = if family > 0xffff { family.swap_bytes() } else { family };
            // AF_INET, and AF_INET6 of Linux, NetBSD, FreeBSD, macOS.
            if matches!(family, 2 | 10 | 24 | 28 | 30) { Ok((None, rest)) } else { Err(Skip::NotIp) }
        }
        Link::Sll => {
            let (header, rest) = take::<16>(frame)?;
            ethertype(u16::from_be_bytes([header[14], header[15]]), rest)
        }
        Link::Sll2 => {
            let (header, rest) = take::<20>(frame)?;
            ethertype(u16::from_be_bytes([header[0], header[1]]), rest)
        }
        Link::Ppp => {
            // Routers of Cisco send HDLC of their own over such links (address 0x0f, or 0x8f to all).
            if let [0x0f | 0x8f, 0, high, low, rest @ ..] = frame {
                return ethertype(u16::from_be_bytes([*high, *low]), rest);
            }
            ppp(frame.strip_prefix(&[0xff, 3]).unwrap_or(frame))
        }
        Link::CiscoHdlc => {
            let (header, rest) = take::<4>(frame)?;
            ethertype(u16::from_be_bytes([header[2], header[3]]), rest)
        }
        Link::Nflog => nflog(frame),
        Link::Wifi => wifi(frame),
        Link::Radiotap => {
            let length = frame.get(2..4).and_then(|bytes| bytes.first_chunk()).ok_or(Skip::Malformed)?;
            wifi(frame.get(usize::from(u16::from_le_bytes(*length))..).ok_or(Skip::Malformed)?)
        }
    }
}

#[inline]
fn ethernet(frame: &[u8]) -> Result<(Option<u16>, &[u8]), Skip> {
    let (header, rest) = take::<14>(frame)?;
    ethertype(u16::from_be_bytes([header[12], header[13]]), rest)
}

/// Goes through tags and labels, to the IP header.
#[inline]
fn ethertype(mut kind: u16, mut bytes: &[u8]) -> Result<(Option<u16>, &[u8]), Skip> {
    let mut vlan = None;
    for _ in 0..LAYERS_MAX {
        match kind {
            0x0800 | 0x86dd => return Ok((vlan, bytes)),
            // 802.1Q, 802.1ad, and what was used before them.
            0x8100 | 0x88a8 | 0x9100 | 0x9200 => {
                let (tag, rest) = take::<4>(bytes)?;
                vlan = vlan.or(Some(u16::from_be_bytes([tag[0], tag[1]]) & 0xfff));
                (kind, bytes) = (u16::from_be_bytes([tag[2], tag[3]]), rest);
            }
            0x8847 | 0x8848 => return mpls(bytes).map(|rest| (vlan, rest)),
            // PPPoE session (RFC 2516).
            0x8864 => return ppp(bytes.get(6..).ok_or(Skip::Malformed)?).map(|(_, rest)| (vlan, rest)),
            // 802.1ah: a service tag, then an Ethernet frame.
            0x88e7 => {
                kind = u16_at(bytes, 4 + 12).ok_or(Skip::Malformed)?;
                bytes = &bytes[18..];
            }
            // Cisco VN-Tag.
            0x8926 => {
                kind = u16_at(bytes, 4).ok_or(Skip::Malformed)?;
                bytes = &bytes[6..];
            }
            // MACsec (802.1AE), where it does not encrypt; the last 16 bytes are its check value.
            0x88e5 => {
                let first = *bytes.first().ok_or(Skip::Malformed)?;
                if first & 0x0c != 0 {
                    return Err(Skip::NotIp);
                }
                let header = if first & 0x20 == 0 { 6 } else { 14 };
                kind = u16_at(bytes, header).ok_or(Skip::Malformed)?;
                bytes = &bytes[header + 2..];
            }
            // NSH (RFC 8300).
            0x894f => {
                let (base, _) = take::<4>(bytes)?;
                let length = usize::from(base[1] & 0x3f) * 4;
                let rest = bytes.get(length.max(4)..).ok_or(Skip::Malformed)?;
                match base[3] {
                    1 | 2 => return Ok((vlan, rest)),
                    3 => (kind, bytes) = (u16_at(rest, 12).ok_or(Skip::Malformed)?, &rest[14..]),
                    5 => return mpls(rest).map(|rest| (vlan, rest)),
                    _ => return Err(Skip::NotIp),
                }
            }
            // A length: 802.2 LLC. SNAP holds an Ethernet type, and service access point 6 is IP.
            0..=1500 => match bytes {
                [0xaa, 0xaa, 3, 0, 0, 0, high, low, rest @ ..] => {
                    (kind, bytes) = (u16::from_be_bytes([*high, *low]), rest);
                }
                [6, 6, 3, rest @ ..] => return Ok((vlan, rest)),
                _ => return Err(Skip::NotIp),
            },
            _ => return Err(Skip::NotIp),
        }
    }
    Err(Skip::UnknownLink)
}

/// Behind the label that is marked as the last one (RFC 3032) is IP, or an Ethernet pseudowire with its control word
/// (RFC 4448), or something that does not say what it is.
fn mpls(mut bytes: &[u8]) -> Result<&[u8], Skip> {
    loop {
        let (label, rest) = take::<4>(bytes)?;
        bytes = rest;
        if label[2] & 1 != 0 {
            break;
        }
    }
    match bytes.first().map(|first| first >> 4) {
        Some(4 | 6) => Ok(bytes),
        Some(0) => {
            let frame = bytes.get(4..).ok_or(Skip::Malformed)?;
            match u16_at(frame, 12) {
                Some(0x0800 | 0x86dd) => Ok(&frame[14..]),
                Some(0x8100) if matches!(u16_at(frame, 16), Some(0x0800 | 0x86dd)) => Ok(&frame[18..]),
                _ => Err(Skip::NotIp),
            }
        }
        Some(_) => Err(Skip::NotIp),
        None => Err(Skip::Malformed),
    }
}

/// PPP's protocol field has two bytes, or one that is odd (RFC 1661).
fn ppp(bytes: &[u8]) -> Result<(Option<u16>, &[u8]), Skip> {
    let first = *bytes.first().ok_or(Skip::Malformed)?;
    let (protocol, rest) = if first & 1 == 1 {
        (u16::from(first), &bytes[1..])
    } else {
        (u16_at(bytes, 0).ok_or(Skip::Malformed)?, &bytes[2..])
    };
    match protocol {
        0x0021 | 0x0057 => Ok((None, rest)),
        0x0281 | 0x0283 => mpls(rest).map(|rest| (None, rest)),
        // Cisco's and Juniper's way to say an Ethernet type.
        0x0800 | 0x86dd => Ok((None, rest)),
        _ => Err(Skip::NotIp),
    }
}

/// Attributes of a length, a type and a value, padded to four bytes; the payload is of type 9.
fn nflog(frame: &[u8]) -> Result<(Option<u16>, &[u8]), Skip> {
    let (header, mut rest) = take::<4>(frame)?;
    if !matches!(header[0], 2 | 10) {
        return Err(Skip::NotIp);
    }
    loop {
        let (head, _) = take::<4>(rest)?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & 0x7fff;
        if length < 4 {
            return Err(Skip::Malformed);
        }
        if kind == 9 {
            // What was not captured of it is missing.
            return Ok((None, &rest[4..length.min(rest.len()).max(4)]));
        }
        rest = rest.get(length.next_multiple_of(4)..).ok_or(Skip::Malformed)?;
    }
}

/// Data frames of 802.11 that are not encrypted: their LLC header, or that of their first A-MSDU subframe.
fn wifi(frame: &[u8]) -> Result<(Option<u16>, &[u8]), Skip> {
    let (control, _) = take::<2>(frame)?;
    let (kind, subtype) = ((control[0] >> 2) & 3, control[0] >> 4);
    if kind != 2 || subtype & 4 != 0 || control[1] & 0x40 != 0 {
        return Err(Skip::NotIp);
    }
    let four_addresses = control[1] & 3 == 3;
    let quality = subtype & 8 != 0;
    let mut length = 24 + if four_addresses { 6 } else { 0 };
    let aggregated = quality && frame.get(length).is_some_and(|first| first & 0x80 != 0);
    length += if quality { 2 } else { 0 };
    length += if quality && control[1] & 0x80 != 0 { 4 } else { 0 };
    let body = frame.get(length..).ok_or(Skip::Malformed)?;
    let body = if aggregated { body.get(14..).ok_or(Skip::Malformed)? } else { body };
    match body {
        [0xaa, 0xaa, 3, 0, 0, 0, high, low, rest @ ..] => ethertype(u16::from_be_bytes([*high, *low]), rest),
        _ => Err(Skip::NotIp),
    }
}
