//! The sniffer without a network: what decoding, tracking and classifying a packet costs in CPU time of one thread.

#![allow(clippy::expect_used, reason = "a benchmark that cannot run shall stop")]

#[path = "../sniffer/src/wires.rs"]
#[allow(dead_code, reason = "shared with the sniffer's tests")]
mod wires;

use std::{
    ffi::OsString,
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use criterion::{
    BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
    measurement::{Measurement, ValueFormatter, WallTime},
};
use rustix::time::{ClockId, clock_gettime};
use sniffer::{
    classify::{self, Limits, Payload},
    decode::{Link, decode},
    read,
    track::{Config, Timeouts, Tracker},
};

/// CPU time of this thread, so that other work on the machine counts as little as can be.
struct CpuTime;

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
    }

    fn end(&self, began: Duration) -> Duration {
        self.start() - began
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

/// Frames one after the other, as in the ring of an interface.
struct Frames {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Frames {
    fn of(frames: impl Iterator<Item = Vec<u8>>) -> Self {
        let mut all = Self { bytes: Vec::new(), ends: Vec::new() };
        for frame in frames {
            all.bytes.extend(frame);
            all.ends.push(all.bytes.len());
        }
        all
    }

    fn each(&self, mut take: impl FnMut(usize, &[u8])) {
        let mut begin = 0;
        for (number, end) in self.ends.iter().enumerate() {
            take(number, &self.bytes[begin..*end]);
            begin = *end;
        }
    }
}

fn client(flow: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 | flow >> 4).into()
}

fn server() -> IpAddr {
    Ipv4Addr::new(198, 51, 100, 1).into()
}

/// A frame of this flow, to the server or back.
fn segment(flow: u32, there: bool, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let port = 20_000 + (flow & 15) as u16;
    let (from, to) = if there { (client(flow), server()) } else { (server(), client(flow)) };
    let ports = if there { (port, 443) } else { (443, port) };
    wires::ethernet(0x0800, &wires::ip(6, from, to, 0, &wires::tcp(ports.0, ports.1, sequence, 0x10, payload)))
}

fn datagram(flow: u32, port: u16, payload: &[u8]) -> Vec<u8> {
    let udp = wires::udp(20_000 + (flow & 15) as u16, port, payload);
    wires::ethernet(0x0800, &wires::ip(17, client(flow), server(), 0, &udp))
}

/// The numbers below `count` in a random order, the same one each time.
fn shuffled(count: u32) -> Vec<u32> {
    let mut numbers: Vec<u32> = (0..count).collect();
    let mut random = 7_u64;
    for place in (1..numbers.len()).rev() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        numbers.swap(place, (random >> 33) as usize % (place + 1));
    }
    numbers
}

/// One acknowledgement without payload of each flow, in a random order, one half of them from the server.
fn one_of_each(flows: u32) -> Frames {
    Frames::of(shuffled(flows).into_iter().map(|flow| segment(flow, flow.count_ones() % 2 == 0, 1, b"")))
}

fn decoding(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("sniffer decode");
    let frames = one_of_each(1024);
    group.throughput(Throughput::Elements(1024));
    group.bench_function("tcp", |bencher| {
        bencher.iter(|| {
            let mut sum = 0;
            frames.each(|_, frame| {
                if let Ok(packet) = &decode(Link::Ethernet, frame) {
                    sum += u64::from(packet.source.port) + u64::from(packet.source.address[3]);
                }
            });
            sum
        });
    });
    group.finish();
}

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux says how much memory is resident");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line of its own");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("kibibytes") << 10
}

/// Flows that all go on, each as likely as any other.
fn tracking(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("sniffer decode+track");
    group.sample_size(20);
    for flows in [10_000, 100_000, 1_000_000] {
        let frames = one_of_each(flows);
        let before = resident();
        let mut tracker = Tracker::new(Config { flows_max: 2_000_000, ..Config::default() });
        let mut now_us = 1_700_000_000_000_000;
        let round = |tracker: &mut Tracker, now_us: &mut u64| {
            frames.each(|number, frame| {
                // Ten million packets a second.
                *now_us += u64::from(number % 10 == 0);
                if let Ok(packet) = &decode(Link::Ethernet, frame) {
                    tracker.queue_packet(*now_us, frame.len() as u32, packet);
                }
                if tracker.has_events() {
                    drop(tracker.poll_events());
                }
            });
            tracker.flush();
        };
        round(&mut tracker, &mut now_us);
        assert_eq!(tracker.len(), flows as usize);
        let bytes = resident() - before;
        println!("{flows} flows: {} bytes of resident memory each", bytes / u64::from(flows));
        group.throughput(Throughput::Elements(flows.into()));
        group.bench_function(BenchmarkId::from_parameter(flows), |bencher| {
            bencher.iter(|| round(&mut tracker, &mut now_us));
        });
    }
    group.finish();
}

/// Flows that begin: the table grows from nothing.
fn beginning(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("sniffer new flows");
    group.sample_size(20);
    let frames = one_of_each(1_000_000);
    group.throughput(Throughput::Elements(1_000_000));
    group.bench_function("1000000", |bencher| {
        let empty = || Tracker::new(Config { flows_max: 2_000_000, ..Config::default() });
        bencher.iter_batched(
            empty,
            |mut tracker| {
                frames.each(|number, frame| {
                    if let Ok(packet) = &decode(Link::Ethernet, frame) {
                        tracker.queue_packet(1_700_000_000_000_000 + number as u64 / 10, frame.len() as u32, packet);
                    }
                });
                tracker.flush();
                tracker
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn hello() -> Vec<u8> {
    let name = b"www.example.net";
    let length = |bytes: usize| (bytes as u16).to_be_bytes();
    let extension = |kind: u16, body: &[u8]| [&kind.to_be_bytes(), &length(body.len()), body].concat();
    let names = [&length(name.len() + 3)[..], &[0], &length(name.len()), name].concat();
    let extensions = [
        extension(0, &names),
        extension(16, &[0, 12, 2, b'h', b'2', 8, b'h', b't', b't', b'p', b'/', b'1', b'.', b'1']),
        extension(43, &[4, 3, 4, 3, 3]),
        extension(13, &[0, 8, 4, 3, 8, 4, 4, 1, 5, 3]),
        extension(51, &[7; 38]),
    ]
    .concat();
    let ciphers = [0x1301_u16, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030].map(u16::to_be_bytes).concat();
    let mut body = [&[3, 3][..], &[5; 32], &[32], &[6; 32], &length(ciphers.len()), &ciphers, &[1, 0]].concat();
    body.extend(length(extensions.len()));
    body.extend(extensions);
    let message = [&[1, 0][..], &length(body.len()), &body].concat();
    [&[22, 3, 1][..], &length(message.len()), &message].concat()
}

/// A client's first QUIC packet, but noise where what is encrypted would be: the keys are derived and tried, and no hello
/// comes out, so reading that is not part of it.
fn initial() -> Vec<u8> {
    let mut packet = [&[0xc3, 0, 0, 0, 1, 8][..], &[0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08], &[0, 0]].concat();
    packet.extend((1182_u16 | 0x4000).to_be_bytes());
    packet.resize(1200, 0x5a);
    packet
}

fn question() -> Vec<u8> {
    [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x03www\x07example\x03net\0", &[0, 1, 0, 1]].concat()
}

fn request() -> Vec<u8> {
    let mut text = String::from("GET /a/path?and=more HTTP/1.1\r\nHost: www.example.net\r\n");
    for number in 0..8 {
        let _ = write!(text, "X-Field-{number}: a value of some length, as browsers send\r\n");
    }
    (text + "\r\n").into_bytes()
}

fn classifying(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("sniffer classify");
    let noise = vec![0xd7; 1200];
    let payloads = [
        ("tls", 6, 443, hello()),
        ("quic", 17, 443, initial()),
        ("http", 6, 80, request()),
        ("dns", 17, 53, question()),
        ("unknown tcp", 6, 4000, noise.clone()),
        ("unknown udp", 17, 4000, noise),
    ];
    group.throughput(Throughput::Elements(1));
    for (name, protocol, port, bytes) in &payloads {
        let payload = Payload { protocol: *protocol, ports: (50_000, *port), sequence: 1, bytes };
        group.bench_function(*name, |bencher| {
            bencher.iter(|| {
                let mut pending = None;
                classify::examine(&mut pending, &payload, true, &Limits::default())
            });
        });
    }
    group.finish();
}

/// Connections of ten packets: of ten flows three TLS, one QUIC, two HTTP, three DNS, one unknown; then 1000 bytes each.
fn whole_connections(flows: u32) -> Frames {
    let (hello, initial, question, request) = (hello(), initial(), question(), request());
    let order = shuffled(flows);
    let rounds = (0..10_u32).flat_map(|round| order.iter().map(move |flow| (round, *flow)));
    Frames::of(rounds.map(|(round, flow)| match (round, flow % 10) {
        (0, 0..=2) => segment(flow, true, 1, &hello),
        (0, 3) => datagram(flow, 443, &initial),
        (0, 4..=5) => segment(flow, true, 1, &request),
        (0, 6..=8) => datagram(flow, 53, &question),
        (_, 3) => datagram(flow, 443, &[0x41; 1000]),
        (_, 6..=8) => datagram(flow, 53, &question),
        (_, 9) => segment(flow, true, 1 + round * 1000, &[0xd7; 1000]),
        _ => segment(flow, round % 2 == 0, 1 + round * 1000, &[0x17; 1000]),
    }))
}

fn everything(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("sniffer decode+track+classify");
    group.sample_size(20);
    let flows = 20_000;
    let frames = whole_connections(flows);
    group.throughput(Throughput::Elements(u64::from(flows) * 10));
    group.bench_function("connections of ten packets", |bencher| {
        bencher.iter_batched(
            || Tracker::new(Config::default()),
            |mut tracker| {
                let mut told = 0;
                frames.each(|number, frame| {
                    if let Ok(packet) = &decode(Link::Ethernet, frame) {
                        tracker.queue_packet(1_700_000_000_000_000 + number as u64, frame.len() as u32, packet);
                    }
                    if tracker.has_events() {
                        told += tracker.poll_events().len();
                    }
                });
                tracker.flush();
                (tracker, told)
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// A pcap file of these frames, so many times over.
fn savefile(frames: &Frames, times: u64) -> PathBuf {
    let mut bytes: Vec<u8> =
        [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 1].iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
    for round in 0..times {
        frames.each(|number, frame| {
            let at_us = round * 1_000_000 + number as u64;
            let length = frame.len() as u32;
            let head = [1_700_000_000 + (at_us / 1_000_000) as u32, (at_us % 1_000_000) as u32, length, length];
            head.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
            bytes.extend(frame);
        });
    }
    let path = std::env::temp_dir().join(format!("sniffer-bench-{}.pcap", std::process::id()));
    fs::write(&path, bytes).expect("room for a file");
    path
}

/// What `sniffer read` does, with its records.
fn reading(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("sniffer read");
    group.sample_size(10);
    let config = || Config { timeouts: Timeouts::all(u64::MAX), split_closed: false, ..Config::default() };
    let files = [
        ("100000 flows of 30 packets, 54 bytes each", one_of_each(100_000), 30),
        ("20000 connections of ten packets", whole_connections(20_000), 1),
    ];
    for (name, frames, times) in files {
        let path = savefile(&frames, times);
        let packets = frames.ends.len() as u64 * times;
        group.throughput(Throughput::Elements(packets));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let (report, error) = read::read(&path, None, config());
                assert!(error.is_none() && report.packets == packets);
                report
            });
        });
        fs::remove_file(&path).expect("it is ours");
    }
    group.finish();
}

/// `sniffer read` beside nDPI's and argus' readers, where they are installed, on the same file: CPU time of the whole process,
/// the least of several runs in turn. `SNIFFER` is the program; without it this is left out.
fn beside_others(_: &mut Criterion<CpuTime>) {
    let Some(sniffer) = std::env::var_os("SNIFFER") else {
        return println!("beside ndpiReader and argus: ./x bench sniffer");
    };
    let frames = whole_connections(50_000);
    let file = savefile(&frames, 1);
    let readers: [(OsString, &[&str], &[&str]); 3] = [
        (sniffer, &["read", "--json"], &[]),
        ("ndpiReader".into(), &["-q", "-i"], &[]),
        ("argus".into(), &["-F", "/dev/null", "-r"], &["-w", "/dev/null"]),
    ];
    let mut least = [None::<Duration>; 3];
    for _ in 0..5 {
        for (place, (program, before, after)) in readers.iter().enumerate() {
            let began = children_cpu();
            let run = Command::new(program).args(*before).arg(&file).args(*after).stdin(Stdio::null()).output();
            let took = children_cpu() - began;
            match run {
                Ok(ran) if ran.status.success() => {
                    least[place] = Some(least[place].map_or(took, |least| least.min(took)))
                }
                Ok(ran) => println!("{}: {}", program.display(), String::from_utf8_lossy(&ran.stderr)),
                Err(error) => println!("{}: {error}", program.display()),
            }
        }
    }
    fs::remove_file(&file).expect("it is ours");
    println!("CPU time of reading {} packets of 50000 connections from a file", frames.ends.len());
    for ((program, ..), took) in readers.iter().zip(least) {
        let name = Path::new(program).file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        match (took, least[0]) {
            (Some(took), Some(ours)) => {
                let ratio = ours.as_secs_f64() / took.as_secs_f64();
                println!("{name:12} {:>6} ms   sniffer takes {ratio:.2} of it", took.as_millis());
            }
            _ => println!("{name:12} did not run"),
        }
    }
}

/// CPU time of all children that have ended.
fn children_cpu() -> Duration {
    // SAFETY: zeroes are a valid rusage, which the call fills.
    let used = unsafe {
        let mut used: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut used), 0);
        used
    };
    let time = |of: libc::timeval| Duration::new(of.tv_sec as u64, of.tv_usec as u32 * 1000);
    time(used.ru_utime) + time(used.ru_stime)
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = decoding, tracking, beginning, classifying, everything, reading, beside_others
}
criterion_main!(benches);
