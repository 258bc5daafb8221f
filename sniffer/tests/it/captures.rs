//! Capture files: some that are written here, with what must come of them written by hand, and a folder of real ones with
//! what other tools say of them, where that is at hand.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use serde_json::Value;
use sniffer::{
    capture::File,
    pcapng::Blocks,
    read::{Report, read},
    record::Record,
    track::{Config, Timeouts},
};

use crate::run::{DEADLINE, SNIFFER};
use crate::wires::{at, ethernet, ip, tagged, tcp, udp};

/// What captures hold comes from anybody: who may read every file must not be who looks at it.
#[test]
fn root_is_nobody_when_it_reads_what_it_opened() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can show it");
        return;
    }
    let whole = pcap(1, &exchange());
    // As root; as one that is root only really; and as one that was root.
    let ids: [&[&str]; 3] = [&[], &["--ruid=0", "--euid=65534"], &["--ruid=65534", "--euid=0"]];
    for (number, ids) in ids.into_iter().enumerate() {
        let path = std::env::temp_dir().join(format!("sniffer-it-{}-fifo-{number}", std::process::id()));
        // One that gives nothing until privileges were looked at.
        let made = Command::new("mkfifo").args(["-m", "644"]).arg(&path).status().unwrap();
        assert!(made.success());
        let words = ["setpriv", "--clear-groups"];
        let mut sniffer = Command::new(words[0])
            .args(&words[1..])
            .args(ids)
            .args([SNIFFER, "read", "--json"])
            .arg(&path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut writer = fs::OpenOptions::new().write(true).open(&path).unwrap();
        let deadline = Instant::now() + DEADLINE;
        loop {
            let status = fs::read_to_string(format!("/proc/{}/status", sniffer.id())).unwrap();
            let of = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
            let [uids, gids] = ["Uid:", "Gid:"].map(|name| of(name).split_whitespace().all(|id| id == "65534"));
            if uids && (gids || number == 1) && of("CapPrm:").trim_matches('0').is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "{ids:?}: {status}");
            std::thread::yield_now();
        }
        std::io::Write::write_all(&mut writer, &whole).unwrap();
        drop(writer);
        let mut out = String::new();
        std::io::Read::read_to_string(&mut sniffer.stdout.take().unwrap(), &mut out).unwrap();
        assert!(sniffer.wait().unwrap().success());
        fs::remove_file(&path).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["packets"], 2, "{ids:?}: {out}");
    }
}

/// One record a key, as `sniffer read` does.
fn config() -> Config {
    Config { timeouts: Timeouts::all(u64::MAX), split_closed: false, ..Config::default() }
}

/// A file that is gone when the test is.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("sniffer-it-{}-{name}", std::process::id()));
        fs::write(&path, bytes).unwrap();
        Self(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}

/// A pcap file (draft-ietf-opsawg-pcap), its packets a millisecond apart; `link` is a number of tcpdump.org/linktypes.html.
fn pcap(link: u32, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, link].into_iter().flat_map(u32::to_le_bytes).collect();
    for (number, frame) in frames.iter().enumerate() {
        let length = frame.len() as u32;
        let head = [1_700_000_000, number as u32 * 1000, length, length];
        bytes.extend(head.into_iter().flat_map(u32::to_le_bytes));
        bytes.extend(frame);
    }
    bytes
}

fn read_frames(name: &str, link: u32, frames: &[Vec<u8>]) -> Report {
    let file = Temporary::new(name, &pcap(link, frames));
    let (report, error) = read(&file.0, None, config());
    assert!(error.is_none(), "{error:?}");
    report
}

fn ends(record: &Record) -> (u8, String, u16, String, u16, u64, u64) {
    let Record { proto, src, sport, dst, dport, packets_fwd, packets_rev, .. } = record.clone();
    (proto, src, sport, dst, dport, packets_fwd, packets_rev)
}

const CLIENT: &str = "192.0.2.9";
const SERVER: &str = "198.51.100.1";

/// A question and its answer.
fn exchange() -> [Vec<u8>; 2] {
    let name = b"\x07example\x03net\0\0\x01\0\x01";
    let question = [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], name].concat();
    let answer = [&[0, 7, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0][..], name].concat();
    [
        ip(17, at(CLIENT), at(SERVER), 0xb8, &udp(50_000, 53, &question)),
        ip(17, at(SERVER), at(CLIENT), 0, &udp(53, 50_000, &answer)),
    ]
}

#[test]
fn a_question_and_its_answer_are_one_flow_behind_every_link() {
    type Wrap = fn(&[u8]) -> Vec<u8>;
    let links: &[(&str, u32, Option<u16>, Wrap)] = &[
        ("ethernet", 1, None, |packet| ethernet(0x0800, packet)),
        ("vlan", 1, Some(5), |packet| ethernet(0x8100, &tagged(0x6005, 0x0800, packet))),
        ("qinq", 1, Some(7), |packet| ethernet(0x88a8, &tagged(7, 0x8100, &tagged(9, 0x0800, packet)))),
        ("mpls", 1, None, |packet| ethernet(0x8847, &[&[0, 1, 0, 64, 0, 2, 1, 64][..], packet].concat())),
        ("pppoe", 1, None, |packet| ethernet(0x8864, &[&[0x11, 0, 0, 1, 0, 0, 0, 0x21][..], packet].concat())),
        ("null", 0, None, |packet| [&2_u32.to_le_bytes()[..], packet].concat()),
        ("loop", 108, None, |packet| [&2_u32.to_be_bytes()[..], packet].concat()),
        ("raw", 101, None, |packet| packet.to_vec()),
        ("ipv4", 228, None, |packet| packet.to_vec()),
        ("sll", 113, None, |packet| [&[0; 14][..], &[8, 0], packet].concat()),
        ("sll2", 276, None, |packet| [&[8, 0][..], &[0; 18], packet].concat()),
        ("ppp", 9, None, |packet| [&[0xff, 3, 0, 0x21][..], packet].concat()),
        ("chdlc", 104, None, |packet| [&[0x0f, 0, 8, 0][..], packet].concat()),
    ];
    for (name, link, vlan, wrap) in links {
        let frames = exchange().map(|packet| wrap(&packet));
        let report = read_frames(name, *link, &frames);
        assert_eq!((report.packets, report.flows.len()), (2, 1), "{name}: {report:?}");
        let flow = &report.flows[0];
        assert_eq!(ends(flow), (17, CLIENT.into(), 50_000, SERVER.into(), 53, 1, 1), "{name}");
        assert_eq!((flow.app, flow.host.as_deref()), (Some("DNS"), Some("example.net")), "{name}");
        assert_eq!((flow.vlan, flow.tos), (*vlan, 0xb8), "{name}");
        assert_eq!(flow.bytes_wire, frames.iter().map(|frame| frame.len() as u64).sum::<u64>(), "{name}");
        assert_eq!((flow.first_us, flow.last_us), (1_700_000_000_000_000, 1_700_000_000_001_000), "{name}");
        assert_eq!(flow.community_id, EXCHANGE_ID, "{name}");
    }
}

#[test]
fn every_transport_has_its_ports_and_what_has_none_is_counted() {
    let (client, server) = (at("2001:db8::9"), at("2001:db8::1"));
    let datagram = udp(1000, 2000, b"payload");
    let hops = [&[17, 0, 1, 4, 0, 0, 0, 0][..], &datagram].concat();
    let first = [&[17, 0, 0, 1, 0, 0, 0, 9][..], &datagram].concat();
    let later = [&[17, 0, 0, 9, 0, 0, 0, 9][..], b"the rest"].concat();
    let mut later4 = ip(17, at(CLIENT), at(SERVER), 0, b"the rest");
    later4[7] = 1;
    let sctp = [&[0x0b, 0x59, 0x0b, 0x5a][..], &[0; 8], b"chunk"].concat();
    let echo = |kind: u8| [kind, 0, 0, 0, 0, 1, 0, 1];
    let packets = [
        ip(0, client, server, 0, &hops),
        ip(44, client, server, 0, &first),
        ip(44, client, server, 0, &later),
        later4,
        ip(6, client, server, 0, &tcp(3000, 443, 1, 2, b"")),
        ip(6, server, client, 0, &tcp(443, 3000, 1, 0x12, b"")),
        ip(132, at(CLIENT), at(SERVER), 0, &sctp),
        ip(1, at(CLIENT), at(SERVER), 0, &echo(8)),
        ip(1, at(SERVER), at(CLIENT), 0, &echo(0)),
        ip(58, client, server, 0, &echo(128)),
        ip(58, server, client, 0, &echo(129)),
        ip(47, at(CLIENT), at(SERVER), 0, &[0, 0, 8, 0]),
        vec![0x60; 39],
        vec![0x50; 40],
    ];
    let report = read_frames("transports", 101, &packets);
    assert_eq!((report.packets, report.nonfirst_fragments, report.malformed), (14, 2, 2));
    let (c6, s6, c4, s4) = ("2001:db8::9", "2001:db8::1", CLIENT, SERVER);
    let expected = [
        (17, c6, 1000, s6, 2000, 2, 0),
        (6, c6, 3000, s6, 443, 1, 1),
        (132, c4, 2905, s4, 2906, 1, 0),
        (1, c4, 8, s4, 0, 1, 1),
        (58, c6, 128, s6, 129, 1, 1),
        (47, c4, 0, s4, 0, 1, 0),
    ];
    let expected = expected.map(|(protocol, src, sport, dst, dport, there, back)| {
        (protocol, src.to_owned(), sport, dst.to_owned(), dport, there, back)
    });
    assert_eq!(report.flows.iter().map(ends).collect::<Vec<_>>(), expected);
    let not_ip = read_frames("arp", 1, &[ethernet(0x0806, &[0; 28])]);
    assert_eq!((not_ip.packets, not_ip.not_ip, not_ip.flows.len()), (1, 1, 0));
    let unknown = read_frames("usb", 189, &[vec![0; 64]]);
    assert_eq!((unknown.packets, unknown.unknown_link, unknown.flows.len()), (1, 1, 0));
}

#[test]
fn idle_flows_are_split_and_seven_parts_tell_more_apart() {
    let [question, answer] = exchange();
    let file = Temporary::new("split", &pcap(101, &[question.clone(), answer, question]));
    let seven = Config { seven: true, ..config() };
    assert_eq!(read(&file.0, None, seven).0.flows.len(), 2, "the answer has another TOS byte");
    let idle = Config { timeouts: Timeouts::all(999), ..config() };
    assert_eq!(read(&file.0, None, idle).0.flows.len(), 3, "a millisecond is longer than that");
    let (report, error) = read(&file.0, Some("udp dst port 53"), config());
    assert!(error.is_none());
    assert_eq!((report.packets, ends(&report.flows[0]).5), (2, 2));
    let (report, error) = read(&file.0, Some("udp dst prot 53"), config());
    assert_eq!(report.packets, 0);
    assert!(error.is_some_and(|error| error.to_string().contains("udp dst prot 53")));
}

/// A pcapng file in the order of bytes of this test, with an interface for each link and a packet of each, a second apart.
fn pcapng(links: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let block = |kind: u32, body: &[u8]| {
        let padding = body.len().next_multiple_of(4) - body.len();
        let length = (12 + body.len() + padding) as u32;
        [&kind.to_le_bytes()[..], &length.to_le_bytes(), body, &vec![0; padding], &length.to_le_bytes()].concat()
    };
    let mut bytes = block(0x0a0d_0d0a, &[&0x1a2b_3c4d_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat());
    for (number, (link, frame)) in links.iter().enumerate() {
        bytes.extend(block(1, &[&link.to_le_bytes()[..], &[0, 0], &65_535_u32.to_le_bytes()].concat()));
        let at_us = 1_700_000_000_000_000 + number as u64 * 1_000_000;
        let length = frame.len() as u32;
        let numbers = [number as u32, (at_us >> 32) as u32, at_us as u32, length, length];
        let numbers: Vec<u8> = numbers.into_iter().flat_map(u32::to_le_bytes).collect();
        bytes.extend(block(6, &[&numbers[..], frame].concat()));
    }
    bytes
}

#[test]
fn a_pcapng_file_of_interfaces_that_differ_is_read_to_its_end_but_not_filtered() {
    let [question, answer] = exchange();
    let frames = [(1, ethernet(0x0800, &question)), (101, answer), (189, vec![0; 9])];
    let bytes = pcapng(&frames);
    let file = Temporary::new("differ", &bytes);
    let (report, error) = read(&file.0, None, config());
    assert!(error.is_none(), "{error:?}");
    assert_eq!((report.packets, report.unknown_link, report.flows.len()), (3, 1, 1));
    assert_eq!(ends(&report.flows[0]), (17, CLIENT.into(), 50_000, SERVER.into(), 53, 1, 1));
    assert_eq!(report.flows[0].last_us, 1_700_000_001_000_000);
    let (report, error) = read(&file.0, Some("udp"), config());
    assert_eq!(report.packets, 1, "as far as libpcap goes");
    assert!(error.is_some_and(|error| error.to_string().contains("interfaces are alike")));
    // In the padding of the last packet: what comes before is in the report, and the error says where it ends.
    let cut = Temporary::new("differ-cut", &bytes[..bytes.len() - 6]);
    let (report, error) = read(&cut.0, None, config());
    assert_eq!(report.packets, 2);
    assert!(error.is_some_and(|error| error.to_string().contains("after 2 packets: the file is cut off")));
}

#[test]
fn our_reader_of_pcapng_says_what_libpcap_says() {
    let Some(folder) = folder() else { return };
    let (mut files, mut packets) = (0, 0);
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let bytes = fs::read(&path).unwrap();
        if bytes.get(..4) != Some(&[0x0a, 0x0d, 0x0d, 0x0a]) {
            continue;
        }
        let mut blocks = Blocks::new(bytes.as_slice());
        let mut file = File::of(&path, fs::File::open(&path).unwrap()).unwrap();
        let link = file.link;
        let outcome = file.each(|captured| {
            assert!(blocks.advance().unwrap(), "{}", path.display());
            let (other_link, other) = blocks.packet();
            let all = (captured.at_us, captured.wire_bytes, captured.bytes, link);
            assert_eq!((other.at_us, other.wire_bytes, other.bytes, other_link), all, "{}", path.display());
            packets += 1;
        });
        if outcome.is_ok() {
            assert!(!blocks.advance().unwrap() && !blocks.differ(), "{}", path.display());
            files += 1;
        }
    }
    println!("{files} files, {packets} packets");
    assert!(files > 50 && packets > 500);
}

/// Where the captures are: beside the workspace, or where `SNIFFER_CAPTURES` says.
fn folder() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/captures");
    let folder = std::env::var_os("SNIFFER_CAPTURES").map_or(beside, PathBuf::from);
    let there = folder.join("manifest.json").exists();
    if !there {
        println!("NOT RUN: no captures in {}", folder.display());
    }
    there.then_some(folder)
}

/// Protocol and endpoints, the lower one first.
type Key = (u64, (IpAddr, u64), (IpAddr, u64));

fn key(protocol: u64, src: &str, sport: u64, dst: &str, dport: u64) -> Key {
    let (a, b) = ((src.parse().unwrap(), sport), (dst.parse().unwrap(), dport));
    if a <= b { (protocol, a, b) } else { (protocol, b, a) }
}

fn key_of(record: &Record) -> Key {
    key(record.proto.into(), &record.src, record.sport.into(), &record.dst, record.dport.into())
}

/// What a real capture says other than what is expected of it.
fn compare(file: &str, expected: &Value, report: &Report, misses: &mut Vec<String>) {
    let mut check = |holds: bool, what: String| {
        if !holds {
            misses.push(format!("{file}: {what}"));
        }
    };
    let number = |value: &Value, name: &str| value[name].as_u64().unwrap_or_default();
    let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    check(report.packets == number(expected, "packets"), format!("{} packets", report.packets));
    let found: BTreeMap<Key, &Record> = report
        .flows
        .iter()
        .filter(|flow| matches!(flow.proto, 6 | 17 | 132))
        .map(|flow| (key_of(flow), flow))
        .collect();
    let flows = expected["flows"].as_array().map_or(&[][..], Vec::as_slice);
    let mut keys = BTreeSet::new();
    for flow in flows {
        let (src, dst) = (text(flow, "src"), text(flow, "dst"));
        let key = key(number(flow, "proto"), &src, number(flow, "sport"), &dst, number(flow, "dport"));
        keys.insert(key);
        let Some(record) = found.get(&key) else { continue };
        let counts = (number(flow, "packets_fwd"), number(flow, "packets_rev"));
        let same_source =
            (record.src.parse::<IpAddr>(), u64::from(record.sport)) == (src.parse(), number(flow, "sport"));
        check((record.packets_fwd, record.packets_rev) == counts && same_source, format!("{key:?} counts"));
        if let Some(id) = flow["community_id"].as_str() {
            check(record.community_id == id, format!("{key:?} {id}"));
        }
        let app = text(flow, "app_agreed");
        let known = ["TLS", "HTTP", "DNS", "SSH", "NTP", "MDNS", "DHCP", "STUN", "DTLS", "WireGuard", "QUIC"];
        if known.contains(&app.as_str()) {
            let is_it = record.app.is_some_and(|found| found.eq_ignore_ascii_case(&app));
            check(is_it, format!("{key:?} {app}, not {:?}", record.app));
        }
        let host = record.host.clone().unwrap_or_default();
        if let Some(name) = flow["quic_sni_expected"].as_str() {
            check(host.eq_ignore_ascii_case(name), format!("{key:?} {name}, not {host}"));
        }
        let kind = text(&flow["host_agreed"], "kind");
        if !matches!(kind.as_str(), "" | "quic_sni" | "gquic_sni") {
            let name = text(&flow["host_agreed"], "value");
            let short = host.split(':').next().unwrap_or_default().trim_end_matches('.');
            check(short == name, format!("{key:?} {name}, not {host}"));
        }
    }
    check(keys == found.keys().copied().collect(), format!("{} flows, not {}", found.len(), keys.len()));
}

#[test]
fn real_captures_say_what_other_tools_say_of_them() {
    let Some(folder) = folder() else { return };
    let manifest: Value = serde_json::from_slice(&fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    let captures = manifest["captures"].as_array().unwrap();
    let (mut misses, mut flows, mut robust) = (Vec::new(), 0, 0);
    for capture in captures {
        let file = capture["file"].as_str().unwrap();
        let (report, error) = read(&folder.join(file), None, config());
        let counted: u64 = report.flows.iter().map(|flow| flow.packets_fwd + flow.packets_rev).sum();
        let skipped = report.not_ip + report.nonfirst_fragments + report.malformed + report.unknown_link;
        assert_eq!(counted + skipped, report.packets, "{file}: every packet is explained");
        if capture["tier"] == "robustness" {
            robust += 1;
            continue;
        }
        if let Some(error) = error {
            println!("{error}");
        }
        flows += report.flows.len();
        compare(file, &capture["expected"], &report, &mut misses);
    }
    println!("{} captures, of which {robust} broken ones; {flows} flows", captures.len());
    assert_eq!(misses, Vec::<String>::new());
}

#[test]
fn captures_that_are_cut_off_or_changed_anywhere_are_read_as_far_as_they_go() {
    let mut files = vec![("written", pcap(1, &exchange().map(|packet| ethernet(0x0800, &packet))))];
    if let Some(folder) = folder() {
        for name in DAMAGED {
            files.push((*name, fs::read(folder.join(name)).unwrap()));
        }
    }
    let mut random = 5_u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) as usize % below
    };
    for (name, whole) in files {
        let (most, _) = read(&Temporary::new("whole", &whole).0, None, config());
        for round in 0..60 {
            let mut bytes = whole.clone();
            let cut = round % 2 == 0;
            if cut {
                bytes.truncate(next(whole.len()));
            } else {
                (0..8).for_each(|_| bytes[next(whole.len())] ^= 1 << next(8));
            }
            let file = Temporary::new("damaged", &bytes);
            let (report, error) = read(&file.0, None, config());
            let counted: u64 = report.flows.iter().map(|flow| flow.packets_fwd + flow.packets_rev).sum();
            let skipped = report.not_ip + report.nonfirst_fragments + report.malformed + report.unknown_link;
            assert_eq!(counted + skipped, report.packets, "{name}, {round}");
            assert!(!cut || report.packets <= most.packets, "{name}, {round}");
            assert!(error.is_none_or(|error| !error.to_string().contains('\n')), "one line");
        }
    }
}

/// Different formats, links and protocols.
const DAMAGED: &[&str] = &[
    "cid__tcp.pcap",
    "cid__sctp.pcap",
    "cid__icmp6.pcap",
    "ndpi__quic-27.pcap",
    "ndpi__dtls_certificate_fragments.pcap",
    "ndpi__bt-dns.pcap",
    "ndpi__bt-http.pcapng",
    "tcpdump__dhcp6_reconf_asan.pcap",
    "ndpi__ssh.pcap",
    "zeek__pppoe-over-qinq.pcap",
    "tcpdump__mpls-ldp-hello.pcap",
    "zeek__http-vlan-0.pcap",
    "ndpi__sip_hello.pcapng",
    "ndpi__gre.pcapng",
    "ndpi__mullvad_wireguard.pcap",
    "tcpdump__nflog.pcap",
    "zeek__radiotap.pcap",
    "tcpdump__heapoverflow-ppp_hdlc_if_print.pcap",
];

/// The Community ID of that exchange, calculated with Python's hashlib and base64.
const EXCHANGE_ID: &str = "1:/cNUwzHxtWcMTsk9dhgEAfzEl5I=";
