//! Each protocol by a message of its own, cut at every byte, and beside bytes that only look like it.

use rustls::quic::Version;

use super::*;
use crate::{
    decode::{Link, decode},
    wires::{at, ip, tcp, udp},
};

/// What is known after these payloads of one direction, in order.
fn judge(protocol: u8, ports: (u16, u16), payloads: &[&[u8]]) -> Option<Label> {
    let mut pending = None;
    let mut sequence = 1000_u32;
    let mut known = None;
    for payload in payloads {
        let transport = match protocol {
            6 => tcp(ports.0, ports.1, sequence, 0x18, payload),
            _ => udp(ports.0, ports.1, payload),
        };
        sequence = sequence.wrapping_add(payload.len() as u32);
        let packet = ip(protocol, at("192.0.2.1"), at("198.51.100.1"), 0, &transport);
        let packet = decode(Link::Raw, &packet).unwrap();
        let payload = Payload { protocol, ports, sequence: packet.sequence, bytes: packet.payload };
        match examine(&mut pending, &payload, true, &Limits::default()) {
            Verdict::Known(label) => return Some(label),
            Verdict::Partly(label) => known = Some(label),
            Verdict::More => {}
        }
    }
    known
}

fn over_tcp(port: u16, payload: &[u8]) -> Option<Label> {
    judge(6, (50_000, port), &[payload])
}

fn over_udp(port: u16, payload: &[u8]) -> Option<Label> {
    judge(17, (50_000, port), &[payload])
}

fn client_hello(name: &'static str, protocols: &[&[u8]]) -> Vec<u8> {
    forge::client_hello(name, protocols).unwrap()
}

#[test]
fn a_tls_client_says_its_names_however_its_hello_is_cut() {
    let hello = client_hello("www.Example.net", &[b"h2", b"http/1.1"]);
    for cut in 1..hello.len() {
        let label = judge(6, (50_000, 8443), &[&hello[..cut], &hello[cut..]]).unwrap();
        assert_eq!(
            (label.app, label.host.as_deref(), label.alpn.as_deref()),
            (App::Tls, Some("www.example.net"), Some("h2"))
        );
        let ja4 = label.ja4.unwrap();
        assert!(ja4.starts_with("t13d") && ja4.len() == 36, "{ja4}");
    }
    let single: Vec<&[u8]> = hello.chunks(300).collect();
    assert_eq!(judge(6, (50_000, 443), &single).unwrap().host.as_deref(), Some("www.example.net"));
}

/// JA4 by its specification's own example.
#[test]
fn ja4_is_that_of_its_specification() {
    let body = |extensions: &[u8]| {
        let mut hello = vec![3, 3];
        hello.extend([0; 32]);
        hello.push(0);
        let ciphers: [u16; 16] = [
            0x0a0a, 0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013, 0xc014, 0x009c,
            0x009d, 0x002f, 0x0035,
        ];
        hello.extend((ciphers.len() as u16 * 2).to_be_bytes());
        ciphers.iter().for_each(|cipher| hello.extend(cipher.to_be_bytes()));
        hello.extend([1, 0]);
        hello.extend((extensions.len() as u16).to_be_bytes());
        hello.extend(extensions);
        hello
    };
    let mut extensions = Vec::new();
    let mut add = |kind: u16, data: &[u8]| {
        extensions.extend(kind.to_be_bytes());
        extensions.extend((data.len() as u16).to_be_bytes());
        extensions.extend(data);
    };
    add(0x2a2a, &[]);
    add(0x001b, &[]);
    add(0x0000, &[0, 4, 0, 0, 1, b'a']);
    add(0x0033, &[]);
    add(0x0010, &[0, 3, 2, b'h', b'2']);
    add(0x4469, &[]);
    add(0x0017, &[]);
    add(0x002d, &[]);
    add(0x000d, &[0, 16, 4, 3, 8, 4, 4, 1, 5, 3, 8, 5, 5, 1, 8, 6, 6, 1]);
    add(0x0005, &[]);
    add(0x0023, &[]);
    add(0x0012, &[]);
    add(0x002b, &[6, 0xaa, 0xaa, 3, 4, 3, 3]);
    add(0xff01, &[]);
    add(0x000b, &[]);
    add(0x000a, &[]);
    add(0x0015, &[]);
    let bytes = body(&extensions);
    let hello = tls::hello_body(tls::Reader(&bytes), false).unwrap();
    assert_eq!(hello.label(App::Tls, 't').ja4.as_deref(), Some("t13d1516h2_8daaf6152771_e5627efa2ab1"));
}

/// A client's first datagram, its ClientHello in CRYPTO frames of so many bytes, the last first.
fn quic_initial(version: (u32, Version), id: &[u8], hello: &[u8], part: usize) -> Vec<u8> {
    forge::initial(version, id, forge::crypto(hello, part)).unwrap()
}

#[test]
fn a_quic_client_says_its_names_in_every_version_that_can_be_read() {
    // QUIC's handshake has no record layer.
    let record = client_hello("quic.example", &[b"h3"]);
    let hello = &record[5..];
    let versions = [(1, Version::V1), (0x6b33_43cf, Version::V2), (0xff00_001d, Version::V1Draft)];
    for version in versions {
        for part in [50, 4000] {
            let datagram = quic_initial(version, b"12345678", hello, part);
            let label = over_udp(443, &datagram).unwrap();
            assert_eq!((label.app, label.host.as_deref()), (App::Quic, Some("quic.example")), "{:x} {part}", version.0);
            assert_eq!((label.quic_version, label.alpn.as_deref()), (Some(version.0), Some("h3")));
            assert!(label.ja4.unwrap().starts_with("q13d"));
        }
    }
    // In two datagrams, of which the second comes first.
    let (first, second) = hello.split_at(100);
    let mut shifted = quic_initial((1, Version::V1), b"12345678", first, 4000);
    let label = over_udp(443, &shifted).unwrap();
    assert_eq!((label.app, label.host), (App::Quic, None), "half of a hello tells no name");
    assert!(!second.is_empty());
    for place in 0..shifted.len() {
        shifted[place] ^= 0x55;
        over_udp(443, &shifted);
        over_udp(443, &shifted[..place]);
        shifted[place] ^= 0x55;
    }
}

#[test]
fn versions_that_cannot_be_read_are_known_by_their_numbers() {
    let long = |version: u32| [&[0xc3][..], &version.to_be_bytes(), &[8], &[7; 8], &[0], &[0; 1200]].concat();
    for version in [0xff00_001b, 0xface_b002, u32::from_be_bytes(*b"Q046"), u32::from_be_bytes(*b"T051"), 0x1a2a_3a4a] {
        let label = over_udp(443, &long(version)).unwrap();
        assert_eq!((label.app, label.quic_version), (App::Quic, Some(version)));
    }
    let negotiation = [&[0x80, 0, 0, 0, 0, 8][..], &[7; 8], &[0], &[0, 0, 0, 1]].concat();
    assert_eq!(over_udp(443, &negotiation).unwrap().app, App::Quic);
    let google =
        [&[0x0d][..], &[7; 8], b"Q043", &[1], b"CHLO", &[1, 0, 0, 0], b"SNI\0", &[4, 0, 0, 0], b"a.de"].concat();
    let label = over_udp(443, &google).unwrap();
    assert_eq!((label.app, label.host.as_deref()), (App::Quic, Some("a.de")));
}

#[test]
fn requests_of_http_say_their_host() {
    let cases: &[(&[u8], Option<&str>)] = &[
        (b"GET / HTTP/1.1\r\nAccept: */*\r\nhOsT:  WWW.example.net:8080 \r\n\r\n", Some("www.example.net")),
        (b"GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n", Some("[2001:db8::1]")),
        (b"GET http://proxy.example:3128/x HTTP/1.0\r\n\r\n", Some("proxy.example")),
        (b"POST /x HTTP/1.0\r\n\r\n", None),
    ];
    for (request, host) in cases {
        for cut in 1..request.len() {
            let label = judge(6, (50_000, 8080), &[&request[..cut], &request[cut..]]).unwrap();
            assert_eq!((label.app, label.host.as_deref()), (App::Http, *host), "cut at {cut}");
        }
    }
    assert_eq!(over_tcp(80, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap().app, App::Http2);
    assert_eq!(over_tcp(80, b"GET is a word\r\n"), None);
    assert_eq!(over_tcp(554, b"OPTIONS rtsp://x RTSP/1.0\r\n\r\n").unwrap().app, App::Rtsp);
}

fn question(name: &[u8]) -> Vec<u8> {
    let mut message = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split(|byte| *byte == b'.') {
        message.push(label.len() as u8);
        message.extend(label);
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

#[test]
fn questions_say_their_name() {
    let message = question(b"www.Example.net");
    for (port, app) in [(53, App::Dns), (5353, App::Mdns), (5355, App::Llmnr)] {
        let label = over_udp(port, &message).unwrap();
        assert_eq!(
            (label.app, label.host.as_deref(), label.confidence),
            (app, Some("www.example.net"), Confidence::Payload)
        );
    }
    let elsewhere = over_udp(8053, &message).unwrap();
    assert_eq!((elsewhere.app, elsewhere.confidence), (App::Dns, Confidence::Partial));
    let length = (message.len() as u16).to_be_bytes();
    assert_eq!(over_tcp(53, &[&length[..], &message].concat()).unwrap().host.as_deref(), Some("www.example.net"));
    // A name that points at itself, or beyond, is no name.
    for pointer in [[0xc0, 12], [0xc0, 40], [0xff, 0xff]] {
        let looped = [&message[..12], &pointer, &[0, 1, 0, 1]].concat();
        assert_eq!(over_udp(53, &looped), None);
    }
}

#[test]
fn each_other_protocol_is_known_by_its_first_message() {
    let stun = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
    let dtls = [&[22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12][..], &[2; 12]].concat();
    let ntp = [&[0x23][..], &[0; 47]].concat();
    let dhcp = [&[1, 1, 6, 0][..], &[0; 232], &[0x63, 0x82, 0x53, 0x63]].concat();
    let wireguard = [&[1, 0, 0, 0][..], &[9; 144]].concat();
    let utp = [&[0x41, 0, 1, 2][..], &[3; 12], &[0, 1, 0, 0]].concat();
    let datagrams: &[(u16, &[u8], App)] = &[
        (3478, &stun, App::Stun),
        (4433, &dtls, App::Dtls),
        (123, &ntp, App::Ntp),
        (67, &dhcp, App::Dhcp),
        (51820, &wireguard, App::WireGuard),
        (6881, &utp, App::BitTorrent),
        (6881, b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping", App::BitTorrent),
        (5060, b"INVITE sip:bob@example.net SIP/2.0\r\nVia: x\r\n", App::Sip),
        (1900, b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n", App::Ssdp),
        (69, b"\x00\x01file\x00octet\x00", App::Tftp),
    ];
    for (port, payload, app) in datagrams {
        assert_eq!(over_udp(*port, payload).map(|label| label.app), Some(*app));
    }
    let mysql = [&[74, 0, 0, 0, 10][..], b"8.0.36\0", &[1; 66]].concat();
    let postgres = [&[0, 0, 0, 20, 0, 3, 0, 0][..], b"user\0me\0\0\0\0\0"].concat();
    let streams: &[(u16, &[u8], App)] = &[
        (22, b"SSH-2.0-OpenSSH_9.6\r\n", App::Ssh),
        (6881, b"\x13BitTorrent protocol\0\0\0\0", App::BitTorrent),
        (25, b"220 mail.example.net ESMTP ready\r\n", App::Smtp),
        (21, b"220 ftp.example.net FTP server\r\n", App::Ftp),
        (110, b"+OK POP3 ready\r\n", App::Pop3),
        (143, b"* OK IMAP4rev1 ready\r\n", App::Imap),
        (3306, &mysql, App::MySql),
        (5432, &postgres, App::PostgreSql),
        (5432, &[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f], App::PostgreSql),
        (6379, b"*1\r\n$4\r\nPING\r\n", App::Redis),
        (1883, b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04abcd", App::Mqtt),
        (5672, b"AMQP\x00\x00\x09\x01", App::Amqp),
    ];
    for (port, payload, app) in streams {
        assert_eq!(over_tcp(*port, payload).map(|label| label.app), Some(*app));
    }
}

#[test]
fn rtp_is_believed_once_packets_follow_each_other() {
    let packet = |sequence: u16, source: u8| {
        [&[0x80, 0][..], &sequence.to_be_bytes(), &[0; 4], &[source; 4], &[9; 160]].concat()
    };
    let follow: Vec<Vec<u8>> = (100..106).map(|sequence| packet(sequence, 7)).collect();
    let follow: Vec<&[u8]> = follow.iter().map(Vec::as_slice).collect();
    assert_eq!(judge(17, (4000, 4002), &follow).map(|label| label.app), Some(App::Rtp));
    let jump: Vec<Vec<u8>> = (0..6).map(|number| packet(number * 1000, 7)).collect();
    let jump: Vec<&[u8]> = jump.iter().map(Vec::as_slice).collect();
    assert_eq!(judge(17, (4000, 4002), &jump), None);
}

#[test]
fn a_port_alone_is_said_to_be_a_guess() {
    let short = [&[0x40][..], &[9; 40]].concat();
    let label = over_udp(443, &short).unwrap();
    assert_eq!((label.app, label.confidence), (App::Quic, Confidence::Port));
}

#[test]
fn any_bytes_are_survived_and_what_is_remembered_is_bounded() {
    let seeds: Vec<Vec<u8>> = vec![
        client_hello("a.example", &[b"h2"]),
        question(b"a.example"),
        b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n".to_vec(),
        [&[0xc3, 0, 0, 0, 1, 8][..], &[7; 1200]].concat(),
        [&[22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 200, 1, 0, 0, 188, 0, 0, 0, 0, 0, 0, 0, 188][..], &[3; 188]]
            .concat(),
    ];
    let mut random = 11_u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) as usize
    };
    for _ in 0..30_000 {
        let mut bytes = seeds[next() % seeds.len()].clone();
        for _ in 0..next() % 6 {
            let place = next() % bytes.len();
            bytes[place] = next() as u8;
        }
        bytes.truncate(1 + next() % bytes.len());
        let ports = [22, 25, 53, 80, 443, 5353, 6379, 3478, 4000];
        let port = ports[next() % ports.len()];
        if let Some(label) = judge(if next() % 2 == 0 { 6 } else { 17 }, (50_000, port), &[&bytes, &bytes]) {
            assert!(label.host.is_none_or(|host| !host.is_empty() && host.len() <= flow::app::HOST_BYTES_MAX));
        }
    }
}
