//! Payloads of one flow straight into classification, those of QUIC encrypted here so that what is inside gets looked at.

use rustls::quic::Version;

use super::{byte, check_label, piece, put_piece};
use crate::classify::{self, Limits, Payload, Pending, Verdict, forge};

/// The first byte is the protocol and the port, then come payloads, each behind a byte for its direction and place.
pub fn classify(input: &[u8]) {
    let mut rest = input;
    let how = byte(&mut rest);
    let protocol = if how & 1 == 0 { TCP } else { UDP };
    let port = PORTS[usize::from(how >> 1) % PORTS.len()];
    let limits = Limits { packets: 12, bytes: 4096, bytes_of_all: usize::MAX };
    let mut pending: Option<Box<Pending>> = None;
    let mut sequences = [1000_u32, u32::MAX - 20];
    for _ in 0..limits.packets {
        let how = byte(&mut rest);
        let Some(bytes) = piece(&mut rest) else { break };
        let forward = how & 1 == 0;
        let encrypted = if how & 2 != 0 && protocol == UDP { encrypt(how, bytes) } else { None };
        let bytes = encrypted.as_deref().unwrap_or(bytes);
        let bytes = &bytes[..bytes.len().min(limits.bytes as usize)];
        if bytes.is_empty() {
            continue;
        }
        let sequence = &mut sequences[usize::from(!forward)];
        // Sometimes a gap, or something again.
        *sequence = sequence.wrapping_add([0, 0, 0, 7, 0u32.wrapping_sub(9)][usize::from(how >> 2) % 5]);
        let ports = if forward { (50_000, port) } else { (port, 50_000) };
        let payload = Payload { protocol, ports, sequence: *sequence, bytes };
        *sequence = sequence.wrapping_add(bytes.len() as u32);
        let verdict = classify::examine(&mut pending, &payload, forward, &limits);
        assert!(pending.as_ref().is_none_or(|pending| pending.bytes() <= PENDING_BYTES_MAX), "what is kept is bounded");
        match verdict {
            Verdict::Known(label) => return check_label(&label),
            Verdict::Partly(label) => check_label(&label),
            Verdict::More => {}
        }
    }
}

/// As a client's Initial packet with these frames.
fn encrypt(how: u8, frames: &[u8]) -> Option<Vec<u8>> {
    let version = VERSIONS[usize::from(how >> 2) % VERSIONS.len()];
    forge::initial(version, b"12345678", frames.iter().copied().take(3000).collect())
}

const VERSIONS: [(u32, Version); 3] = [(1, Version::V1), (0x6b33_43cf, Version::V2), (0xff00_001d, Version::V1Draft)];

const PORTS: [u16; 24] = [
    4000, 21, 22, 25, 53, 67, 69, 80, 88, 110, 123, 137, 143, 161, 389, 443, 500, 502, 1080, 3306, 3389, 5060, 5353,
    11211,
];

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Two directions of a few segments each, and the parts of a handshake.
const PENDING_BYTES_MAX: usize = 256 << 10;

pub fn seeds() -> Vec<Vec<u8>> {
    let port = |port: u16| PORTS.iter().position(|known| *known == port).unwrap_or_default() as u8;
    let mut seeds = Vec::new();
    let mut add = |protocol: u8, number: u16, pieces: &[(u8, &[u8])]| {
        let mut input = vec![port(number) << 1 | u8::from(protocol == UDP)];
        for (how, bytes) in pieces {
            input.push(*how);
            put_piece(&mut input, bytes);
        }
        seeds.push(input);
    };
    let hello = forge::client_hello("www.example.net", &[b"h2", b"http/1.1"]).unwrap_or_default();
    let (first, second) = hello.split_at(hello.len() / 2);
    let request = b"GET / HTTP/1.1\r\nAccept: */*\r\nHost: www.example.net:80\r\n\r\n";
    let question = [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x03www\x07example\0\0\x01\0\x01"].concat();
    let long = [&(question.len() as u16).to_be_bytes()[..], &question].concat();
    add(TCP, 443, &[(0, &hello)]);
    add(TCP, 443, &[(0, first), (0, second)]);
    add(TCP, 80, &[(0, &request[..30]), (1, b"HTTP/1.1 200 OK\r\n"), (0, &request[30..])]);
    add(TCP, 80, &[(0, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")]);
    add(TCP, 53, &[(0, &long)]);
    add(UDP, 53, &[(0, &question), (1, &question)]);
    add(UDP, 5353, &[(0, &question)]);
    let frames = forge::crypto(hello.get(5..).unwrap_or_default(), 200);
    for how in [2, 6, 10] {
        add(UDP, 443, &[(how, &frames)]);
    }
    // Half of the hello, an acknowledgement, and the other half.
    let (early, late) =
        (forge::crypto(hello.get(5..105).unwrap_or_default(), 100), [2, 4, 1, 0, 1, 6, 0x40, 100, 1, 9]);
    add(UDP, 443, &[(2, &early), (2, &late)]);
    let datagrams: [(u16, &[u8]); 6] = [
        (4000, &[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7]),
        (123, &[0x23; 48]),
        (161, &[0x30; 20]),
        (500, &[0x10; 40]),
        (69, b"\x00\x01file\x00octet\x00"),
        (5060, b"INVITE sip:bob@example.net SIP/2.0\r\nVia: x\r\n"),
    ];
    for (number, bytes) in datagrams {
        add(UDP, number, &[(0, bytes)]);
    }
    let rtp: Vec<Vec<u8>> = (0..6).map(|number| [&[0x80, 0, 1, number][..], &[0; 4], &[7; 30]].concat()).collect();
    add(UDP, 4000, &rtp.iter().map(|bytes| (0, bytes.as_slice())).collect::<Vec<_>>());
    let dtls: Vec<u8> =
        [&[22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 60, 1, 0, 0, 48][..], &[0; 5], &[0, 0, 48], &[3; 48]].concat();
    add(UDP, 4000, &[(0, &dtls)]);
    let lines: [(u16, &[u8]); 6] = [
        (22, b"SSH-2.0-OpenSSH_9.6\r\n"),
        (25, b"220 mail.example.net ESMTP ready\r\n"),
        (110, b"+OK POP3 ready\r\n"),
        (143, b"* OK IMAP4rev1 ready\r\n"),
        (3306, b"\x4a\0\0\0\x0a8.0.36\0aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        (4000, b"*1\r\n$4\r\nPING\r\n"),
    ];
    for (number, bytes) in lines {
        add(TCP, number, &[(1, bytes)]);
    }
    seeds
}
