//! What a capture counts. Every packet is in exactly one of the parts of each sum.

use std::iter::Sum;

use serde::Serialize;

/// What a worker, or all of them, counted.
///
/// - `received` = `handled` + `kernel_dropped` + `withheld`
/// - `handled` = `tracked` + `unsampled` + `over_count` + `not_ip` + `nonfirst_fragments` + `malformed` + `unknown_link`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Packets that passed the filter, as the kernel counts them.
    pub received: u64,
    /// Those of them that found the ring full.
    pub kernel_dropped: u64,
    /// Those of them that were not handed over: what waits in the ring, which is none at the end; with `any` also the second
    /// sight of loopback's packets, which libpcap withholds.
    pub withheld: u64,
    /// Those of them that were handed over.
    pub handled: u64,
    /// Packets that were counted in a flow.
    pub tracked: u64,
    /// Packets of flows that the sample leaves out.
    pub unsampled: u64,
    /// Packets beyond those that were asked for.
    pub over_count: u64,
    /// Frames without IP.
    pub not_ip: u64,
    /// Later fragments, which have no ports.
    pub nonfirst_fragments: u64,
    /// Frames whose headers are cut off or contradict themselves.
    pub malformed: u64,
    /// Frames below whose IP is a layer that is not known.
    pub unknown_link: u64,
    /// Bytes on the wire of all packets that were handed over.
    pub bytes: u64,
    /// Packets that the interface or its driver lost before they were received.
    pub interface_dropped: u64,
    /// Flows that began.
    pub flows: u64,
    /// Flows that go on.
    pub flows_now: u64,
    /// Flows that were ended because there were too many at once.
    pub flows_evicted: u64,
    /// Flows that were not classified to the end, because too much would have been remembered of all together.
    pub flows_unclassified: u64,
    /// Events told of.
    pub events: u64,
    /// Events that were not, because the one who hears of them was too slow.
    pub events_shed: u64,
}

impl Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), |a, b| Self {
            received: a.received + b.received,
            kernel_dropped: a.kernel_dropped + b.kernel_dropped,
            withheld: a.withheld + b.withheld,
            handled: a.handled + b.handled,
            tracked: a.tracked + b.tracked,
            unsampled: a.unsampled + b.unsampled,
            over_count: a.over_count + b.over_count,
            not_ip: a.not_ip + b.not_ip,
            nonfirst_fragments: a.nonfirst_fragments + b.nonfirst_fragments,
            malformed: a.malformed + b.malformed,
            unknown_link: a.unknown_link + b.unknown_link,
            bytes: a.bytes + b.bytes,
            // Each worker is told what the whole interface lost.
            interface_dropped: a.interface_dropped.max(b.interface_dropped),
            flows: a.flows + b.flows,
            flows_now: a.flows_now + b.flows_now,
            flows_evicted: a.flows_evicted + b.flows_evicted,
            flows_unclassified: a.flows_unclassified + b.flows_unclassified,
            events: a.events + b.events,
            events_shed: a.events_shed + b.events_shed,
        })
    }
}
