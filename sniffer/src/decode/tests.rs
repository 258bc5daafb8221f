//! Every layer above and below IP, and every prefix and flip of what they make.

use super::*;
use crate::wires::{at, ethernet, ip, ip_type, tagged, tcp, udp};

const CLIENT: &str = "192.0.2.9";
const SERVER: &str = "198.51.100.1";

fn v4() -> Vec<u8> {
    ip(17, at(CLIENT), at(SERVER), 0xb8, &udp(1000, 53, b"payload"))
}

fn v6() -> Vec<u8> {
    ip(6, at("2001:db8::9"), at("2001:db8::1"), 0x28, &tcp(1000, 443, 7, 0x12, b"payload"))
}

fn read(link: Link, frame: &[u8]) -> (u16, u16, Vec<u8>, Option<u16>, u8) {
    let packet = decode(link, frame).unwrap();
    (packet.source.port, packet.destination.port, packet.payload.to_vec(), packet.vlan, packet.tos)
}

#[test]
fn ports_payload_vlan_and_tos_are_found_behind_every_link() {
    let packet = v4();
    let pppoe = [&[0x11, 0, 0, 1, 0, 0, 0, 0x21][..], &packet].concat();
    let mpls = [&[0, 1, 0, 64, 0, 2, 1, 64][..], &packet].concat();
    let wire = [&[0, 1, 1, 64, 0, 0, 0, 0][..], &ethernet(0x0800, &packet)].concat();
    let snap = [&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0][..], &packet].concat();
    let frames: Vec<(Link, Vec<u8>, Option<u16>)> = vec![
        (Link::Ethernet, ethernet(0x0800, &packet), None),
        (Link::Ethernet, ethernet(0x8100, &tagged(0x6005, 0x0800, &packet)), Some(5)),
        (Link::Ethernet, ethernet(0x88a8, &tagged(7, 0x8100, &tagged(9, 0x0800, &packet))), Some(7)),
        (Link::Ethernet, ethernet(0x8864, &pppoe), None),
        (Link::Ethernet, ethernet(0x8847, &mpls), None),
        (Link::Ethernet, ethernet(0x8847, &wire), None),
        (Link::Ethernet, ethernet(snap.len() as u16, &snap), None),
        (Link::Raw, packet.clone(), None),
        (Link::Loopback, [&2_u32.to_le_bytes()[..], &packet].concat(), None),
        (Link::Loopback, [&2_u32.to_be_bytes()[..], &packet].concat(), None),
        (Link::Sll, [&[0; 14][..], &[8, 0], &packet].concat(), None),
        (Link::Sll2, [&[8, 0][..], &[0; 18], &packet].concat(), None),
        (Link::Ppp, [&[0xff, 3, 0, 0x21][..], &packet].concat(), None),
        (Link::Ppp, [&[0x21][..], &packet].concat(), None),
        (Link::CiscoHdlc, [&[0x0f, 0, 8, 0][..], &packet].concat(), None),
    ];
    for (link, frame, vlan) in frames {
        assert_eq!(read(link, &frame), (1000, 53, b"payload".to_vec(), vlan, 0xb8), "{link:?} {frame:02x?}");
    }
    let packet = v6();
    assert_eq!(read(Link::Ethernet, &ethernet(0x86dd, &packet)), (1000, 443, b"payload".to_vec(), None, 0x28));
    let decoded = decode(Link::Raw, &packet).unwrap();
    assert_eq!((decoded.tcp_flags, decoded.sequence, decoded.protocol), (0x12, 7, 6));
}

#[test]
fn padding_is_no_payload_and_what_says_no_length_goes_to_the_end() {
    let padded = [ethernet(0x0800, &v4()), vec![0; 9]].concat();
    assert_eq!(read(Link::Ethernet, &padded).2, b"payload");
    let mut unsaid = v4();
    (unsaid[2], unsaid[3]) = (0, 0);
    assert_eq!(read(Link::Raw, &unsaid).2, b"payload");
}

#[test]
fn extension_headers_are_passed_and_later_fragments_have_no_ports() {
    let datagram = udp(1000, 53, b"payload");
    let (client, server) = (at("2001:db8::9"), at("2001:db8::1"));
    let chain =
        [&[60, 0, 1, 4, 0, 0, 0, 0][..], &[44, 0, 1, 4, 0, 0, 0, 0], &[17, 0, 0, 1, 0, 0, 0, 9], &datagram].concat();
    assert_eq!(read(Link::Raw, &ip(0, client, server, 0, &chain)).0, 1000, "the first fragment");
    let mut later = chain.clone();
    later[19] = 9;
    assert_eq!(decode(Link::Raw, &ip(0, client, server, 0, &later)), Err(Skip::Fragment));
    let mut fragment = v4();
    fragment[7] = 1;
    assert_eq!(decode(Link::Raw, &fragment), Err(Skip::Fragment));
    let authenticated = [&[17, 4, 0, 0][..], &[0; 20], &datagram].concat();
    assert_eq!(read(Link::Raw, &ip(51, client, server, 0, &authenticated)).0, 1000);
}

#[test]
fn what_is_no_ip_and_what_is_cut_off_is_told_apart() {
    assert_eq!(decode(Link::Ethernet, &ethernet(0x0806, &[0; 28])), Err(Skip::NotIp));
    assert_eq!(decode(Link::Ethernet, &[0; 13]), Err(Skip::Malformed));
    assert_eq!(decode(Link::Raw, &v4()[..19]), Err(Skip::Malformed));
    assert_eq!(decode(Link::Raw, &v4()[..23]), Err(Skip::Malformed), "half of the ports");
    assert_eq!(read(Link::Raw, &v4()[..24]).0, 1000, "the ports, and nothing else");
    let endless = (0..LAYERS).fold(v4(), |inner, _| tagged(1, 0x8100, &inner));
    assert_eq!(decode(Link::Ethernet, &ethernet(0x8100, &endless)), Err(Skip::UnknownLink));
}

const LAYERS: usize = 300;

#[test]
fn any_bytes_behind_any_link_are_survived() {
    let links = [
        Link::Ethernet,
        Link::Raw,
        Link::Loopback,
        Link::Sll,
        Link::Sll2,
        Link::Ppp,
        Link::CiscoHdlc,
        Link::Nflog,
        Link::Wifi,
        Link::Radiotap,
    ];
    let mut random = 7_u64;
    for packet in [v4(), v6()] {
        let frame = ethernet(0x88a8, &tagged(7, 0x8100, &tagged(9, ip_type(&packet), &packet)));
        for link in links {
            for end in 0..frame.len() {
                assert!(decode(link, &frame[..end]).is_err() || end > 20);
            }
            for _ in 0..20_000 {
                let mut bytes = frame.clone();
                for _ in 0..4 {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let place = (random >> 33) as usize % bytes.len();
                    bytes[place] = (random >> 24) as u8;
                }
                if let Ok(packet) = decode(link, &bytes) {
                    let (key, forward) = packet.key();
                    assert!(key.is_in_order());
                    let first = if forward { key.low } else { key.high };
                    assert_eq!(first.address, packet.source.address);
                }
            }
        }
    }
}
