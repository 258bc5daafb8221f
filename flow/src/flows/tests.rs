//! Batches, sniffers, expiry and who follows the table.

use super::*;
use crate::{
    app::{ALPN_BYTES_MAX, App, Confidence, HOST_BYTES_MAX, JA4_BYTES_MAX, Label},
    tuple::{Endpoint, FlowKey},
};

struct Applier {
    table: FlowTable,
    expiry: Expiry,
    now: u64,
}

impl Applier {
    fn new(limits: FlowLimits) -> Self {
        Self { table: FlowTable::new(limits), expiry: Expiry::new(), now: 1000 }
    }

    fn apply(&mut self, command: &FlowCommand) -> FlowOutcome {
        let index = Revision(self.table.applied().0 + 1);
        let outcome = self.table.apply(index, LogTime(self.now), command, &mut self.expiry);
        self.table.check_invariants(&self.expiry);
        outcome
    }

    /// Looking through large tables takes long.
    fn report_unchecked(&mut self, sequence: u64, events: Vec<Observed>) {
        let command = FlowCommand::Report { sniffer: SnifferId(7), epoch: 1, sequence, name: "tap".into(), events };
        let index = Revision(self.table.applied().0 + 1);
        self.table.apply(index, LogTime(self.now), &command, &mut self.expiry);
    }

    fn report(&mut self, sniffer: u64, epoch: u64, sequence: u64, events: Vec<Observed>) -> FlowOutcome {
        self.apply(&FlowCommand::Report { sniffer: SnifferId(sniffer), epoch, sequence, name: "tap".into(), events })
    }
}

fn event(port: u16, packets: u64) -> Observed {
    let (version, source) = Endpoint::new("192.0.2.1".parse().unwrap(), port);
    let (_, destination) = Endpoint::new("198.51.100.1".parse().unwrap(), 443);
    let (key, from_low) = FlowKey::of(version, 6, source, destination);
    Observed {
        key,
        seventh: None,
        from_low,
        standing: Standing::Established,
        end: None,
        first_us: 10,
        last_us: 10 + packets,
        counts: [Counts { packets, bytes: packets * 100 }, Counts::default()],
        tcp_flags: [2, 16],
        vlan: None,
        sample: 1,
        label: None,
    }
}

fn packets(record: &FlowRecord) -> u64 {
    record.counts()[0].packets
}

#[test]
fn a_batch_counts_once_and_in_order() {
    let mut one = Applier::new(FlowLimits::default());
    assert_eq!(one.report(7, 1, 2, vec![event(1, 5)]), FlowOutcome::Gap(1));
    assert_eq!(one.report(7, 1, 1, vec![event(1, 5)]), FlowOutcome::Done(Revision(2)));
    let digest = one.table.digest();
    assert_eq!(one.report(7, 1, 1, vec![event(1, 9)]), FlowOutcome::Again);
    assert_eq!(packets(one.table.get(event(1, 0).id()).unwrap()), 5, "what comes again changes nothing");
    assert_ne!(one.table.digest(), digest, "but the index is another one");
    assert_eq!(one.report(7, 1, 2, vec![event(1, 8)]), FlowOutcome::Done(Revision(4)));
    assert_eq!(
        packets(one.table.get(event(1, 0).id()).unwrap()),
        8,
        "counters are since the beginning, not differences"
    );
    // Another life begins at 1 again, and the earlier one is heard no more.
    assert_eq!(one.report(7, 2, 2, Vec::new()), FlowOutcome::Gap(1));
    assert_eq!(one.report(7, 2, 1, vec![event(1, 3)]), FlowOutcome::Done(Revision(6)));
    assert_eq!(one.report(7, 1, 3, vec![event(1, 99)]), FlowOutcome::OldEpoch(2));
    assert_eq!(packets(one.table.get(event(1, 0).id()).unwrap()), 11, "what the earlier life counted is not lost");
}

#[test]
fn several_sniffers_of_one_flow_make_one_record() {
    let mut one = Applier::new(FlowLimits::default());
    one.report(7, 1, 1, vec![event(1, 5)]);
    let mut other = event(1, 6);
    other.label = Some(Label::new(App::Tls, Confidence::Payload).named(b"example.net"));
    one.report(8, 1, 1, vec![other]);
    let mut guess = event(1, 7);
    guess.label = Some(Label::new(App::Quic, Confidence::Port));
    guess.end = Some(End::Idle);
    one.report(7, 1, 2, vec![guess]);
    assert_eq!(one.table.len(), 1);
    let record = one.table.get(event(1, 0).id()).unwrap();
    assert_eq!((packets(record), record.observations().len()), (7, 2), "they saw the same packets");
    assert_eq!(record.label.as_ref().unwrap().app, App::Tls, "the surest says what it is");
    assert_eq!(record.standing(), Standing::Established, "it goes on for the other");
    let mut over = event(1, 6);
    over.end = Some(End::Closed);
    one.report(8, 1, 2, vec![over]);
    assert!(one.table.get(event(1, 0).id()).unwrap().has_ended());
    for sniffer in 10..10 + OBSERVERS_MAX as u64 {
        one.report(sniffer, 1, 1, vec![event(1, 1)]);
    }
    assert_eq!(one.table.counters().unplaced, 2);
}

#[test]
fn records_leave_by_log_time_and_those_that_ended_sooner() {
    let limits = FlowLimits { flows: 100, ttl_ms: 1000, ended_ttl_ms: 100 };
    let mut one = Applier::new(limits);
    let mut over = event(2, 1);
    over.end = Some(End::Closed);
    one.report(7, 1, 1, vec![event(1, 1), over]);
    one.now += 100;
    one.apply(&FlowCommand::Tick);
    assert!(one.table.get(event(2, 0).id()).is_none() && one.table.get(event(1, 0).id()).is_some());
    one.now += 900;
    one.apply(&FlowCommand::Tick);
    assert!(one.table.is_empty());
    assert_eq!(one.table.counters().expired, 2);
}

#[test]
fn a_full_table_gives_up_what_would_leave_first() {
    let mut one = Applier::new(FlowLimits { flows: 10, ttl_ms: 1000, ended_ttl_ms: 100 });
    for port in 1..=30 {
        one.now += 1;
        one.report(7, 1, port.into(), vec![event(port, 1)]);
    }
    assert_eq!((one.table.len(), one.table.counters().evicted), (10, 20));
    assert!((21..=30).all(|port| one.table.get(event(port, 0).id()).is_some()));
}

#[test]
fn who_follows_the_table_misses_nothing_or_is_told_so() {
    let mut one = Applier::new(FlowLimits { flows: 8, ttl_ms: 1000, ended_ttl_ms: 100 });
    let mut seen = std::collections::BTreeMap::new();
    let mut at = Revision(0);
    for step in 1..=500_u64 {
        one.now += 7;
        one.report(7, 1, step, vec![event((step * 31 % 20) as u16, step), event((step % 7) as u16, step)]);
        if step % 3 == 0 {
            for change in one.table.changes_after(at, 1000) {
                assert!(change.revision() > at || at == Revision(0));
                match change {
                    Change::Now(_, flow) => seen.insert(flow, one.table.get(flow).unwrap().clone()),
                    Change::Left(_, flow) => seen.remove(&flow),
                };
            }
            at = one.table.applied();
            let now: std::collections::BTreeMap<_, _> =
                one.table.newest().map(|(flow, record)| (flow, record.clone())).collect();
            assert_eq!(seen, now, "step {step}");
        }
    }
}

#[test]
fn pages_hold_each_record_once() {
    let mut one = Applier::new(FlowLimits::default());
    one.report(7, 1, 1, (1..=25).map(|port| event(port, 1)).collect());
    one.report(7, 1, 2, (26..=40).map(|port| event(port, 1)).collect());
    let mut pages: Vec<FlowId> = one.table.newest().take(7).map(|(flow, _)| flow).collect();
    loop {
        let last = *pages.last().unwrap();
        let revision = one.table.get(last).unwrap().revision;
        let next: Vec<FlowId> = one.table.newest_before((revision, last)).take(7).map(|(flow, _)| flow).collect();
        if next.is_empty() {
            break;
        }
        pages.extend(next);
    }
    assert_eq!(pages.len(), 40);
    assert_eq!(pages.iter().collect::<BTreeSet<_>>().len(), 40);
}

#[test]
fn annotations_go_by_revision_and_are_bounded() {
    let mut one = Applier::new(FlowLimits::default());
    one.report(7, 1, 1, vec![event(1, 1)]);
    let flow = event(1, 0).id();
    let annotate = |revision, labels: &[(&str, &str)], verdict| FlowCommand::Annotate {
        flow,
        revision: Revision(revision),
        labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        verdict,
    };
    let drop = Verdict { action: "drop".into(), source: "firewall".into() };
    assert_eq!(one.apply(&annotate(1, &[("os", "linux")], Some(drop))), FlowOutcome::Done(Revision(2)));
    assert_eq!(one.apply(&annotate(1, &[("os", "bsd")], None)), FlowOutcome::Changed(Revision(2)));
    let long = "x".repeat(300);
    assert_eq!(one.apply(&annotate(2, &[("os", &long)], None)), FlowOutcome::TooMany);
    assert_eq!(one.apply(&annotate(2, &[("os", "")], None)), FlowOutcome::Done(Revision(5)));
    let record = one.table.get(flow).unwrap();
    assert!(record.labels.is_empty());
    assert_eq!(&*record.verdict.as_ref().unwrap().0.action, "drop", "it stays until another one comes");
    let none = FlowCommand::Annotate { flow: FlowId(1), revision: Revision(0), labels: Vec::new(), verdict: None };
    assert_eq!(one.apply(&none), FlowOutcome::NoFlow);
}

#[test]
fn a_record_takes_no_more_memory_than_is_said() {
    let mut one = Applier::new(FlowLimits::default());
    let word = |length| Some("a".repeat(length).into_boxed_str());
    let mut label = Label::new(App::Tls, Confidence::Payload);
    (label.host, label.alpn, label.ja4) = (word(HOST_BYTES_MAX), word(ALPN_BYTES_MAX), word(JA4_BYTES_MAX));
    for sniffer in 0..=OBSERVERS_MAX as u64 {
        one.report(sniffer, 1, 1, vec![Observed { label: Some(label.clone()), ..event(1, 1) }]);
    }
    let flow = event(1, 0).id();
    let long = "x".repeat(LABEL_BYTES_MAX);
    let each = LABELS_BYTES_MAX / LABELS_MAX;
    let labels = |value: usize| (0..LABELS_MAX).map(|at| (format!("{at:03}"), "y".repeat(value - 3))).collect();
    let verdict = Some(Verdict { action: long.as_str().into(), source: long.as_str().into() });
    let mut annotate = |labels| {
        let revision = one.table.get(flow).unwrap().revision;
        one.apply(&FlowCommand::Annotate { flow, revision, labels, verdict: verdict.clone() })
    };
    assert_eq!(annotate(labels(each + 1)), FlowOutcome::TooMany, "all together are bounded");
    assert!(matches!(annotate(labels(each)), FlowOutcome::Done(_)));
    let record = one.table.get(flow).unwrap();
    let text = |text: &str| text.len();
    let strings = record.labels.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
        + record.verdict.as_ref().map_or(0, |(verdict, _)| text(&verdict.action) + text(&verdict.source))
        + record
            .label
            .iter()
            .flat_map(|label| [&label.host, &label.alpn, &label.ja4])
            .flatten()
            .map(|it| text(it))
            .sum::<usize>();
    let lists = record.observations.capacity() * size_of::<Observation>()
        + record.labels.capacity() * size_of::<(Box<str>, Box<str>)>();
    let whole = size_of::<FlowRecord>() + lists + strings;
    assert_eq!((record.observations.len(), record.labels.len()), (OBSERVERS_MAX, LABELS_MAX));
    assert!(whole <= RECORD_BYTES_MAX, "{whole}");
}

#[test]
fn a_place_of_a_sniffer_is_given_away_when_it_has_nothing_left_in_the_table() {
    let mut one = Applier::new(FlowLimits { flows: 100, ttl_ms: 1000, ended_ttl_ms: 100 });
    for sniffer in 0..SNIFFERS_MAX as u64 {
        one.report(sniffer, 1, 1, Vec::new());
    }
    one.now += 999;
    one.report(0, 1, 2, vec![event(1, 1)]);
    assert_eq!(one.report(5_000, 1, 1, Vec::new()), FlowOutcome::TooManySniffers);
    assert!(one.table.sniffer(SnifferId(1)).is_some() && one.table.sniffer(SnifferId(5_000)).is_none());
    one.now += 1;
    assert!(
        matches!(one.report(5_000, 1, 1, Vec::new()), FlowOutcome::Done(_)),
        "others were silent for a record's time"
    );
    assert!(one.table.sniffer(SnifferId(1)).is_none() && one.table.sniffer(SnifferId(0)).is_some());
    // The one that was forgotten is told with which number it goes on.
    assert_eq!(one.report(1, 1, 2, Vec::new()), FlowOutcome::Gap(1));
}

#[test]
fn a_life_of_a_wrong_clock_keeps_its_name_only_while_it_reports() {
    let mut one = Applier::new(FlowLimits { flows: 100, ttl_ms: 1000, ended_ttl_ms: 100 });
    one.report(7, u64::MAX, 1, vec![event(1, 5)]);
    one.now += 999;
    assert_eq!(one.report(7, 3, 1, Vec::new()), FlowOutcome::OldEpoch(u64::MAX));
    one.now += 1;
    assert_eq!(one.report(7, 3, 2, Vec::new()), FlowOutcome::Gap(1), "a life begins at its beginning");
    assert!(matches!(one.report(7, 3, 1, vec![event(1, 2)]), FlowOutcome::Done(_)));
    assert_eq!(one.table.sniffer(SnifferId(7)).unwrap().epoch, 3);
    assert!(matches!(one.report(7, 4, 1, Vec::new()), FlowOutcome::Done(_)));
    assert_eq!(one.report(7, 3, 2, Vec::new()), FlowOutcome::OldEpoch(4));
}

/// A table that has a bit of everything.
fn busy() -> Applier {
    let mut one = Applier::new(FlowLimits { flows: 20, ttl_ms: 1000, ended_ttl_ms: 100 });
    for step in 1..=200_u64 {
        one.now += 13;
        let mut seventh = event((step % 11) as u16, step);
        seventh.seventh = Some(((step % 3) as u8, 5));
        seventh.label = Some(Label::new(App::Tls, Confidence::Payload).named(b"example.net"));
        let mut over = event((step * 7 % 31) as u16, step);
        over.end = step.is_multiple_of(5).then_some(End::Closed);
        one.report(step % 3, 1, step.div_ceil(3), vec![seventh, over]);
    }
    let (flow, record) = one.table.newest().next().map(|(flow, record)| (flow, record.revision)).unwrap();
    let labels = vec![("os".to_owned(), "linux".to_owned())];
    let verdict = Some(Verdict { action: "drop".into(), source: "firewall".into() });
    one.apply(&FlowCommand::Annotate { flow, revision: record, labels, verdict });
    one
}

#[test]
fn a_table_comes_back_from_its_snapshot_as_it_was() {
    let one = busy();
    let mut bytes = Vec::new();
    one.table.write_to(&mut bytes).unwrap();
    let (table, expiry) = FlowTable::read_from(&mut bytes.as_slice(), one.table.limits()).unwrap();
    table.check_invariants(&expiry);
    assert_eq!(table.digest(), one.table.digest());
    assert_eq!(expiry, one.expiry);
    assert_eq!(table.changes_after(Revision(0), 1 << 20), one.table.changes_after(Revision(0), 1 << 20));
    let records = |table: &FlowTable| -> Vec<(FlowId, FlowRecord)> {
        table.newest().map(|(flow, record)| (flow, record.clone())).collect()
    };
    assert_eq!(records(&table), records(&one.table));
    assert!(table.left() > 0 && table.sniffers().count() == 3, "there was something to lose");
}

#[test]
fn a_damaged_snapshot_is_an_error_or_a_sound_table_and_never_a_panic() {
    let one = busy();
    let mut whole = Vec::new();
    one.table.write_to(&mut whole).unwrap();
    for place in (0..whole.len()).step_by(7) {
        assert!(FlowTable::read_from(&mut &whole[..place], one.table.limits()).is_err(), "cut at {place}");
        let mut bytes = whole.clone();
        bytes[place] ^= 1 << (place / 7 % 8);
        if let Ok((table, expiry)) = FlowTable::read_from(&mut bytes.as_slice(), one.table.limits()) {
            table.check_invariants(&expiry);
        }
    }
}

#[test]
fn a_page_of_changes_never_ends_within_an_entry() {
    let one = busy();
    let all = one.table.changes_after(Revision(0), 1 << 20);
    let (mut pages, mut at) = (Vec::new(), Revision(0));
    loop {
        let page = one.table.changes_after(at, 1);
        let Some(last) = page.last() else { break };
        at = last.revision();
        assert!(page.iter().all(|change| change.revision() == at), "most is one, so a page is one entry's");
        pages.extend(page);
    }
    assert_eq!(pages, all);
}

#[test]
fn what_is_forgotten_is_counted_exactly() {
    let mut one = Applier::new(FlowLimits { flows: 2_000, ttl_ms: 1000, ended_ttl_ms: 100 });
    let (mut position, mut left) = (Revision(0), 0);
    for step in 1..=60_u64 {
        let events = (0..2_000).map(|flow| event(flow, step)).map(|event| Observed {
            key: FlowKey { protocol: (step % 200) as u8 + 18, ..event.key },
            seventh: Some(((step % 250) as u8, event.key.low.port.into())),
            ..event
        });
        one.report_unchecked(step, events.collect());
        if step == 10 {
            (position, left) = (one.table.applied(), one.table.left());
        }
    }
    let told = one.table.changes_after(position, usize::MAX);
    let told_left = told.iter().filter(|change| matches!(change, Change::Left(..))).count() as u64;
    let missed = one.table.missed_after(position, left);
    assert!(missed > 0 && one.table.has_forgotten_after(position));
    assert_eq!(left + told_left + missed, one.table.left());
    assert_eq!(one.table.missed_after(one.table.applied(), one.table.left()), 0);
}

#[test]
fn a_five_tuple_finds_its_seven_tuples() {
    let mut one = Applier::new(FlowLimits::default());
    let with = |tos: Option<u8>| Observed { seventh: tos.map(|tos| (tos, 9)), ..event(1, 1) };
    one.report(7, 1, 1, vec![with(None), with(Some(0)), with(Some(8)), event(2, 1)]);
    let five = with(None).id();
    let found: BTreeSet<FlowId> = one.table.of_five(five).map(|(flow, _)| flow).collect();
    assert_eq!(found, BTreeSet::from([five, with(Some(0)).id(), with(Some(8)).id()]));
}

#[test]
fn a_sniffers_number_is_that_of_its_name_in_every_version() {
    // Vectors, worked out by another implementation of SipHash-2-4 too: a change would make every sniffer a stranger.
    assert_eq!(SnifferId::of("host:eth0"), SnifferId(0x90b88c0350895a7c));
    assert_eq!(SnifferId::of("a"), SnifferId(0xbea5da91d1c1f352));
}

#[test]
fn parts_of_a_flow_that_one_sniffer_tells_apart_are_added_up_once() {
    let mut one = Applier::new(FlowLimits::default());
    for step in 1..=50 {
        // Two workers see packets of one flow without ports, and tell of it in turns.
        let part = |first_us| Observed { first_us, ..event(1, step * 10) };
        one.report(7, 1, step, vec![part(10), part(20)]);
    }
    let record = one.table.get(event(1, 0).id()).unwrap();
    assert_eq!((packets(record), record.observations().len()), (1000, 2));
    // Another life of the sniffer goes on with each.
    one.report(7, 2, 1, vec![Observed { first_us: 30, ..event(1, 1) }, Observed { first_us: 40, ..event(1, 2) }]);
    let record = one.table.get(event(1, 0).id()).unwrap();
    assert_eq!((packets(record), record.observations().len()), (1003, 2));
    // One that is over makes room for the next of the same ports.
    one.report(7, 2, 2, vec![Observed { first_us: 30, end: Some(End::Closed), ..event(1, 1) }]);
    one.report(7, 2, 3, vec![Observed { first_us: 50, ..event(1, 7) }]);
    let record = one.table.get(event(1, 0).id()).unwrap();
    assert_eq!((packets(record), record.observations().len()), (1010, 2));
}
