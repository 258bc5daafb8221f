//! DNS (RFC 1035), mDNS (RFC 6762) and LLMNR (RFC 4795): the name of the first question.

use super::{App, Confidence, Label, Verdict, tls::Reader};

/// A datagram; none: it is no such message.
pub fn over_udp(datagram: &[u8], ports: (u16, u16)) -> Option<Verdict> {
    let at = |port| ports.0 == port || ports.1 == port;
    let app = if at(5353) {
        App::Mdns
    } else if at(5355) {
        App::Llmnr
    } else {
        App::Dns
    };
    let usual = at(53) || app != App::Dns;
    let found = message(datagram)?;
    // Elsewhere only what cannot well be anything else.
    let certain = found.questions == 1 && found.known_type && found.name.as_ref().is_some_and(|name| name.len() > 3);
    if !usual && !certain {
        return None;
    }
    let confidence = if usual { Confidence::Payload } else { Confidence::Partial };
    let mut label = Label::new(app, confidence);
    label.host = found.name.as_deref().and_then(super::label::name);
    let named = label.host.is_some() || found.questions > 0;
    Some(if named && usual { Verdict::Known(label) } else { Verdict::Partly(label) })
}

/// What one side of a connection said; messages have their length in front (RFC 1035, section 4.2.2).
pub fn over_tcp(bytes: &[u8], ports: (u16, u16)) -> Option<Verdict> {
    if ports.0 != 53 && ports.1 != 53 {
        return None;
    }
    let mut rest = Reader(bytes);
    let length = usize::from(rest.u16()?);
    if length < 12 {
        return None;
    }
    let found = message(&rest.0[..length.min(rest.0.len())])?;
    let mut label = Label::sure(App::Dns);
    label.host = found.name.as_deref().and_then(super::label::name);
    Some(Verdict::Known(label))
}

struct Found {
    questions: u16,
    name: Option<Vec<u8>>,
    known_type: bool,
}

fn message(bytes: &[u8]) -> Option<Found> {
    let mut rest = Reader(bytes);
    let (_, flags) = (rest.u16()?, rest.u16()?);
    let (questions, answers, authorities, additional) = (rest.u16()?, rest.u16()?, rest.u16()?, rest.u16()?);
    let (operation, reserved) = ((flags >> 11) & 15, flags & 0x40);
    let most = if flags & 0x8000 == 0 { 16 } else { 512 };
    let known = matches!(operation, 0..=2 | 4..=6);
    let none = questions == 0 && answers == 0 && authorities == 0 && additional == 0;
    if !known
        || reserved != 0
        || none && flags & 0x8000 == 0
        || questions > 32
        || answers.max(authorities).max(additional) > most
    {
        return None;
    }
    if questions == 0 {
        return Some(Found { questions, name: None, known_type: false });
    }
    let name = question(&mut rest, bytes)?;
    let (kind, class) = (rest.u16(), rest.u16());
    // The uppermost bit of mDNS asks for an answer to the asker alone.
    let known_type = kind.is_some_and(|kind| matches!(kind, 1..=65 | 99 | 249..=257))
        && class.is_some_and(|class| matches!(class & 0x7fff, 1 | 3 | 4 | 255));
    Some(Found { questions, name: Some(name), known_type })
}

/// A name of labels; dots between them, none behind. The empty name is the root.
fn question<'a>(rest: &mut Reader<'a>, message: &'a [u8]) -> Option<Vec<u8>> {
    let mut name = Vec::new();
    let mut at = *rest;
    let mut jumped = false;
    // Pointers lead only backwards, so they come to an end; the length bounds the rest.
    loop {
        let length = at.u8()?;
        match length {
            0 => break,
            1..=63 => {
                let label = at.take(length.into())?;
                if name.len() + label.len() > NAME_BYTES_MAX {
                    return None;
                }
                if !name.is_empty() {
                    name.push(b'.');
                }
                name.extend_from_slice(label);
            }
            0xc0..=0xff => {
                let here = message.len() - at.0.len() - 1;
                let target = usize::from(length & 0x3f) << 8 | usize::from(at.u8()?);
                if target >= here {
                    return None;
                }
                if !jumped {
                    *rest = at;
                }
                jumped = true;
                at = Reader(&message[target..]);
            }
            _ => return None,
        }
    }
    if !jumped {
        *rest = at;
    }
    Some(name)
}

/// Longest name (RFC 1035, section 2.3.4).
const NAME_BYTES_MAX: usize = 255;
