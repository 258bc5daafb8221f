//! Flows as scripts, for tests.

use flow::{
    flows::{Counts, End, FlowCommand, Observation, Observed, Standing},
    tuple::{Endpoint, FlowKey},
};

use super::Seen;
use crate::track::Kind;

/// An event of the flow of that port, which began at `first_us` and has so many packets.
pub(super) fn seen(kind: Kind, port: u16, first_us: u64, packets: u64) -> Seen {
    let (version, source) = Endpoint::new("192.0.2.1".parse().unwrap(), port);
    let (_, destination) = Endpoint::new("198.51.100.1".parse().unwrap(), 443);
    let (key, from_low) = FlowKey::of(version, 6, source, destination);
    let end = match kind {
        Kind::End(end) | Kind::Short(end) => Some(end),
        Kind::Start | Kind::Update => None,
    };
    let observed = Observed {
        key,
        seventh: None,
        from_low,
        standing: if end.is_some() { Standing::Ended } else { Standing::Established },
        end,
        first_us,
        last_us: first_us + packets,
        counts: [Counts { packets, bytes: packets * 100 }, Counts { packets: packets / 2, bytes: packets * 10 }],
        tcp_flags: [2, if packets > 5 { 17 } else { 16 }],
        vlan: None,
        sample: 1,
        label: None,
    };
    Seen { kind, observed }
}

/// What one sniffer counted, without its epoch.
pub(super) fn standing_of(seen: &Observation) -> String {
    format!("{:?}", Observation { epoch: 0, ..*seen })
}

/// The command around a report.
pub(super) fn command_of(report: &[u8]) -> FlowCommand {
    let mut bytes = vec![0x0a];
    let mut length = report.len();
    while length >= 0x80 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(report);
    FlowCommand::decode(&bytes).unwrap()
}

/// Makes up what a sniffer sees of a few ports that are used again and again.
pub(super) struct Script {
    chance: u64,
    now_us: u64,
}

impl Script {
    pub fn new(seed: u64) -> Self {
        Self { chance: seed.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1, now_us: 1_000_000 }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance % bound
    }

    /// So many events of one life: all flows begin anew with it.
    pub fn life(&mut self, events: usize) -> Vec<Seen> {
        let mut flows: Vec<Option<(u64, u64)>> = vec![None; PORTS];
        let mut told = Vec::new();
        while told.len() < events {
            self.now_us += 1 + self.below(50);
            let port = self.below(PORTS as u64) as usize;
            let more = 1 + self.below(9);
            let over = self.below(4) == 0;
            let (kind, first_us, packets) = match flows[port] {
                None if over => (Kind::Short(End::Closed), self.now_us, more),
                None => (Kind::Start, self.now_us, more),
                Some((first_us, packets)) if over => (Kind::End(End::Idle), first_us, packets + more),
                Some((first_us, packets)) => (Kind::Update, first_us, packets + more),
            };
            flows[port] = (!over).then_some((first_us, packets));
            told.push(seen(kind, 1_000 + port as u16, first_us, packets));
        }
        told
    }
}

const PORTS: usize = 40;
