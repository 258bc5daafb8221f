//! One flow as the fleet knows it: what each sniffer counted, what it carries, and what others wrote on it.

use super::{FlowId, OBSERVERS_MAX, SnifferId};
use crate::{
    app::{Confidence, HOST_BYTES_MAX, Label},
    ids::{LogTime, Revision},
    tuple::FlowKey,
};

/// How far a flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Standing {
    /// One side was seen.
    New = 1,
    /// Both were.
    Established,
    /// One side of TCP said that it has nothing more.
    Closing,
    /// It is over.
    Ended,
}

impl Standing {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::New, Self::Established, Self::Closing, Self::Ended];

    /// In a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Ended => "ended",
        }
    }
}

/// Why a flow is over, by who saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum End {
    /// No packet for its idle timeout.
    Idle = 1,
    /// TCP said so.
    Closed,
    /// The sniffer needed its place: the flow may go on.
    Evicted,
    /// A new connection of the same ports began.
    Reused,
    /// The sniffer, or its capture, came to its end.
    Finished,
}

impl End {
    /// In a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Closed => "closed",
            Self::Evicted => "evicted",
            Self::Reused => "reused",
            Self::Finished => "finished",
        }
    }
}

/// Packets of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counts {
    /// Packets.
    pub packets: u64,
    /// Bytes of their frames on the wire.
    pub bytes: u64,
}

/// What one sniffer says of one flow. Counters are those since the flow began.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Observed {
    /// The flow.
    pub key: FlowKey,
    /// The TOS byte of the first packet and where it came in, if they are part of the key.
    pub seventh: Option<(u8, u32)>,
    /// Whether the first packet went from the key's low endpoint to the high one.
    pub from_low: bool,
    /// How far it is.
    pub standing: Standing,
    /// Why it is over, if it is.
    pub end: Option<End>,
    /// Microseconds since 1970, by the sniffer's clock, of the first packet.
    pub first_us: u64,
    /// And of the last.
    pub last_us: u64,
    /// From the low endpoint, and from the high one.
    pub counts: [Counts; 2],
    /// TCP flags, from each.
    pub tcp_flags: [u8; 2],
    /// The outermost VLAN id of the first packet.
    pub vlan: Option<u16>,
    /// One flow in so many is told of.
    pub sample: u32,
    /// What it carries, if that is known.
    pub label: Option<Label>,
}

impl Observed {
    /// The id of its flow.
    #[must_use]
    pub fn id(&self) -> FlowId {
        id_of(&self.key, self.seventh)
    }
}

/// What one sniffer counted of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Observation {
    /// Who.
    pub sniffer: SnifferId,
    /// In which life.
    pub epoch: u64,
    /// Microseconds since 1970 of the first packet: another one is another flow of the same key.
    pub first_us: u64,
    /// And of the last.
    pub last_us: u64,
    /// From the low endpoint, and from the high one.
    pub counts: [Counts; 2],
    /// What flows of the same key, and lives of this sniffer, counted before.
    pub before: [Counts; 2],
    /// TCP flags, from each.
    pub tcp_flags: [u8; 2],
    /// How far the flow is.
    pub standing: Standing,
    /// Why it is over, if it is.
    pub end: Option<End>,
    /// One flow in so many is told of.
    pub sample: u32,
}

/// What shall be done with a flow, in the words of who decides it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// What: `allow`, `drop`, `mark`, or whatever they agreed on.
    pub action: Box<str>,
    /// Who says so.
    pub source: Box<str>,
}

/// A flow as the fleet knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FlowRecord {
    /// Its endpoints.
    pub key: FlowKey,
    /// The TOS byte and the ingress, if they are part of the key.
    pub seventh: Option<(u8, u32)>,
    /// Whether its first packet went from the key's low endpoint to the high one, by who saw it first.
    pub from_low: bool,
    /// The outermost VLAN id, by who saw it first.
    pub vlan: Option<u16>,
    /// What it carries, by the surest who said so, of them by the first.
    pub label: Option<Label>,
    /// Names and values that others wrote.
    pub labels: Vec<(Box<str>, Box<str>)>,
    /// What shall be done with it, and since when in log time.
    pub verdict: Option<(Verdict, LogTime)>,
    /// The index of the entry that changed it last.
    pub revision: Revision,
    /// When it leaves, if nothing is told of it until then.
    pub expires: LogTime,
    pub(crate) observations: Vec<Observation>,
}

impl FlowRecord {
    pub(super) fn new(event: &Observed) -> Self {
        Self {
            key: event.key,
            seventh: event.seventh,
            from_low: event.from_low,
            vlan: event.vlan,
            label: None,
            labels: Vec::new(),
            verdict: None,
            revision: Revision(0),
            expires: LogTime(0),
            observations: Vec::new(),
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> FlowId {
        id_of(&self.key, self.seventh)
    }

    /// What each sniffer counted, by who told of it first.
    #[must_use]
    pub fn observations(&self) -> &[Observation] {
        &self.observations
    }

    /// Microseconds since 1970 of the first packet that anybody saw.
    #[must_use]
    pub fn first_us(&self) -> u64 {
        self.observations.iter().map(|seen| seen.first_us).min().unwrap_or_default()
    }

    /// And of the last.
    #[must_use]
    pub fn last_us(&self) -> u64 {
        self.observations.iter().map(|seen| seen.last_us).max().unwrap_or_default()
    }

    /// What the sniffer counted that saw most: what several see are the same packets, so they are not added up. What one
    /// sniffer tells in parts is.
    #[must_use]
    pub fn counts(&self) -> [Counts; 2] {
        let of = |sniffer: SnifferId| {
            let parts = self.observations.iter().filter(|seen| seen.sniffer == sniffer);
            parts.map(Observation::total).fold(<[Counts; 2]>::default(), add)
        };
        let packets = |counts: &[Counts; 2]| counts[0].packets.saturating_add(counts[1].packets);
        self.observations.iter().map(|seen| of(seen.sniffer)).max_by_key(packets).unwrap_or_default()
    }

    /// Over once it is over for all who saw it; else as far as the farthest.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let going = self.observations.iter().filter(|seen| seen.end.is_none()).map(|seen| seen.standing).max();
        going.unwrap_or(Standing::Ended)
    }

    /// Whether it is over for all who saw it.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.standing() == Standing::Ended
    }

    /// Takes over what a sniffer says; `false` if there are too many of them for another.
    pub(super) fn merge(&mut self, sniffer: SnifferId, epoch: u64, event: &Observed) -> bool {
        if event.label.as_ref().is_some_and(|new| self.label.as_ref().is_none_or(|old| is_better(new, old))) {
            self.label.clone_from(&event.label);
        }
        let mut seen = Observation {
            sniffer,
            epoch,
            first_us: event.first_us,
            last_us: event.last_us,
            counts: event.counts,
            before: Default::default(),
            tcp_flags: event.tcp_flags,
            standing: event.standing,
            end: event.end,
            sample: event.sample,
        };
        let own = |known: &&Observation| known.sniffer == sniffer && known.epoch == epoch;
        let same = |known: &Observation| own(&known) && known.first_us == event.first_us;
        // What goes on beside it is another part of the flow, seen by another worker of this sniffer: where packets have no
        // ports they are not all shared out alike.
        let over = |known: &Observation| known.sniffer == sniffer && (known.epoch != epoch || known.end.is_some());
        let place = self.observations.iter().position(same).or_else(|| self.observations.iter().position(over));
        let Some(place) = place else {
            let room = self.observations.len() < OBSERVERS_MAX;
            if room {
                self.observations.push(seen);
            }
            return room;
        };
        let known = &mut self.observations[place];
        let same = same(known);
        seen.before = if same { known.before } else { known.total() };
        seen.tcp_flags = [0, 1].map(|side| known.tcp_flags[side] | event.tcp_flags[side]);
        *known = seen;
        true
    }

    /// Writes labels and a verdict; `false`, and nothing is changed, if they are too many or too long.
    pub(super) fn annotate(&mut self, labels: &[(String, String)], verdict: Option<&Verdict>, now: LogTime) -> bool {
        // Each can take one away and another one can take its place.
        if labels.len() > 2 * LABELS_MAX {
            return false;
        }
        let mut changed = self.labels.clone();
        for (name, value) in labels {
            changed.retain(|(known, _)| **known != **name);
            if name.is_empty() || name.len() > LABEL_BYTES_MAX || value.len() > LABEL_BYTES_MAX {
                return false;
            }
            if !value.is_empty() {
                changed.push((name.as_str().into(), value.as_str().into()));
            }
        }
        let long = verdict.is_some_and(|verdict| verdict.action.len().max(verdict.source.len()) > LABEL_BYTES_MAX);
        let bytes: usize = changed.iter().map(|(name, value)| name.len() + value.len()).sum();
        if changed.len() > LABELS_MAX || bytes > LABELS_BYTES_MAX || long {
            return false;
        }
        changed.shrink_to_fit();
        self.labels = changed;
        if let Some(verdict) = verdict {
            self.verdict = Some((verdict.clone(), now));
        }
        true
    }
}

impl Observation {
    /// With what was counted before.
    #[must_use]
    pub fn total(&self) -> [Counts; 2] {
        add(self.counts, self.before)
    }
}

fn add(a: [Counts; 2], b: [Counts; 2]) -> [Counts; 2] {
    [0, 1].map(|side| Counts {
        packets: a[side].packets.saturating_add(b[side].packets),
        bytes: a[side].bytes.saturating_add(b[side].bytes),
    })
}

fn id_of(key: &FlowKey, seventh: Option<(u8, u32)>) -> FlowId {
    FlowId(match seventh {
        None => key.id(),
        Some((tos, ingress)) => key.id_with(tos, ingress),
    })
}

/// A surer label wins, and of equal ones that which tells a name where the other does not.
fn is_better(new: &Label, old: &Label) -> bool {
    let rank = |label: &Label| -> (Confidence, bool) { (label.confidence, label.host.is_some()) };
    rank(new) > rank(old)
}

/// Most labels that others write on one flow.
pub const LABELS_MAX: usize = 16;

/// Longest name or value of them, and of a verdict's words.
pub const LABEL_BYTES_MAX: usize = HOST_BYTES_MAX;

/// Most bytes of all their names and values together.
pub const LABELS_BYTES_MAX: usize = 1_024;

/// No record takes more memory, its strings included, the table's indexes of it not.
pub const RECORD_BYTES_MAX: usize = 4_096;
