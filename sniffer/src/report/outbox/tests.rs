//! One rule of the outbox after the other.

use flow::flows::{EVENTS_PER_BATCH_MAX, End, FlowCommand, Observed};

use super::{
    super::testing::{command_of, seen},
    *,
};
use crate::track::Kind;

/// An outbox whose instance answers what the test says.
struct Told {
    outbox: Outbox,
    now_ms: u64,
}

impl Told {
    fn new(closing: Closing, pending_max: usize, shards: u32) -> Self {
        let config =
            Config { name: "test".to_owned(), epoch: 100, closing, pending_max, batch_max: EVENTS_PER_BATCH_MAX };
        let mut told = Self { outbox: Outbox::new(config), now_ms: 1_000 };
        if shards > 0 {
            told.begin(shards);
        }
        told
    }

    /// A connection, and the first batches acknowledged.
    fn begin(&mut self, shards: u32) {
        self.outbox.handle_hello(hello(shards)).unwrap();
        let firsts = self.sent();
        assert_eq!(firsts.len(), shards as usize);
        for (shard, epoch, sequence, events) in firsts {
            assert_eq!((sequence, events.len()), (1, 0), "a life begins with an empty batch in each shard");
            self.answer(shard, epoch, sequence, ACKED);
        }
    }

    fn offer(&mut self, kind: Kind, port: u16, first_us: u64, packets: u64) {
        self.outbox.offer(self.now_ms, &seen(kind, port, first_us, packets));
        self.outbox.check_invariants();
    }

    /// All that leaves now.
    fn sent(&mut self) -> Vec<(u32, u64, u64, Vec<Observed>)> {
        let mut all = Vec::new();
        while let Some(outgoing) = self.outbox.poll_send(self.now_ms) {
            let FlowCommand::Report { epoch, sequence, events, .. } = command_of(&outgoing.report) else { panic!() };
            all.push((outgoing.shard, epoch, sequence, events));
        }
        self.outbox.check_invariants();
        all
    }

    /// What leaves within so many milliseconds: shard, number, how many events.
    fn sent_within(&mut self, ms: u64) -> Vec<(u32, u64, usize)> {
        let until = self.now_ms + ms;
        let mut all = Vec::new();
        loop {
            all.extend(self.sent().into_iter().map(|(shard, _, sequence, events)| (shard, sequence, events.len())));
            match self.outbox.poll_time(self.now_ms) {
                Some(next) if next <= until => {
                    assert!(next > self.now_ms, "what is due was sent");
                    self.now_ms = next;
                }
                _ => break,
            }
        }
        self.now_ms = until;
        all
    }

    fn answer(&mut self, shard: u32, epoch: u64, sequence: u64, answer: Answer) {
        self.outbox.handle_answer(self.now_ms, shard, epoch, sequence, answer);
        self.outbox.check_invariants();
    }

    /// Batches of one event each, one after the other; gives the numbers that left.
    fn batches(&mut self, ports: std::ops::Range<u16>) -> Vec<u64> {
        let mut numbers = Vec::new();
        for port in ports {
            self.offer(Kind::Start, port, 1, 1);
            numbers.extend(self.sent_within(BATCH_AGE_MS).into_iter().map(|(_, sequence, _)| sequence));
        }
        numbers
    }
}

fn hello(shards: u32) -> Hello {
    Hello { fleet: vec![1], shards, in_flight: 4 }
}

fn packets(events: &[Observed]) -> Vec<(u64, u64)> {
    events.iter().map(|event| (event.first_us, event.counts[0].packets)).collect()
}

const ACKED: Answer = Answer::Acked { again: false };

#[test]
fn a_batch_leaves_when_it_is_old_or_large() {
    let mut told = Told::new(Closing::ByAge, PENDING_MAX, 1);
    told.offer(Kind::Start, 1, 1, 1);
    assert_eq!(told.sent_within(BATCH_AGE_MS - 1), []);
    assert_eq!(told.sent_within(1), [(0, 2, 1)]);
    for port in 0..EVENTS_PER_BATCH_MAX as u16 + 1 {
        told.offer(Kind::Start, port, 2, 1);
    }
    assert_eq!(told.sent_within(0), [(0, 3, EVENTS_PER_BATCH_MAX)]);
    assert_eq!(told.sent_within(BATCH_AGE_MS), [(0, 4, 1)]);
    // Names make events long.
    let mut label = flow::app::Label::new(flow::app::App::Tls, flow::app::Confidence::Payload);
    (label.host, label.alpn) = (Some("h".repeat(250).into()), Some("a".repeat(32).into()));
    let mut bytes = 0;
    for port in 0..1_000 {
        let mut long = seen(Kind::Start, port, 3, 1);
        long.observed.label = Some(label.clone());
        bytes += long.observed.encode_event().len();
        told.outbox.offer(told.now_ms, &long);
    }
    assert!((BATCH_BYTES_MAX..2 * BATCH_BYTES_MAX).contains(&bytes));
    let fit = BATCH_BYTES_MAX / (bytes / 1_000);
    let sent = told.sent_within(0);
    assert!(sent.len() == 1 && sent[0].2.abs_diff(fit) <= 3, "{sent:?}, {fit}");
    assert_eq!(told.outbox.counters().in_flight + told.outbox.counters().pending, 1 + 2_001 + 1_000);
}

#[test]
fn few_batches_of_a_shard_wait_for_their_answers() {
    let mut told = Told::new(Closing::ByAge, PENDING_MAX, 1);
    assert_eq!(told.batches(1..7), [2, 3, 4, 5]);
    told.answer(0, 100, 3, ACKED);
    assert_eq!(told.sent_within(BATCH_AGE_MS), [(0, 6, 2)], "what waited leaves together; 3 says that 2 counts too");
    assert_eq!((told.outbox.counters().acked, told.outbox.counters().strays), (2, 0));
    told.answer(0, 100, 3, ACKED);
    told.answer(0, 99, 4, ACKED);
    told.answer(5, 100, 4, ACKED);
    told.answer(0, 100, u64::MAX, Answer::Later(String::new()));
    assert_eq!((told.outbox.counters().acked, told.outbox.counters().strays), (2, 4));
}

#[test]
fn a_newer_event_takes_the_place_of_an_older_one_of_its_flow() {
    let mut told = Told::new(Closing::ByAge, PENDING_MAX, 1);
    told.offer(Kind::Start, 1, 10, 1);
    told.offer(Kind::Start, 2, 11, 1);
    told.offer(Kind::Update, 1, 10, 5);
    told.offer(Kind::End(End::Reused), 1, 10, 7);
    // The same ports again: another flow, told after the end of the first.
    told.offer(Kind::Start, 1, 20, 1);
    told.offer(Kind::Update, 1, 20, 2);
    told.now_ms += BATCH_AGE_MS;
    let sent = told.sent();
    assert_eq!(packets(&sent[0].3), [(10, 7), (11, 1), (20, 2)]);
    assert_eq!(sent[0].3[0].end, Some(End::Reused));
    // What is in flight is not changed any more.
    told.offer(Kind::End(End::Idle), 1, 20, 3);
    told.now_ms += BATCH_AGE_MS;
    assert_eq!(packets(&told.sent()[0].3), [(20, 3)]);
    assert_eq!(told.outbox.counters().coalesced, 3);
}

#[test]
fn updates_are_shed_first_then_ends_then_begins() {
    let mut told = Told::new(Closing::ByAge, 4, 0);
    told.offer(Kind::Start, 1, 1, 1);
    told.offer(Kind::End(End::Idle), 2, 1, 1);
    told.offer(Kind::Update, 3, 1, 1);
    told.offer(Kind::Short(End::Idle), 4, 1, 1);
    // A start that ends stays a beginning, an update that ends becomes an end.
    told.offer(Kind::End(End::Closed), 1, 1, 2);
    assert_eq!(told.outbox.counters().shed, Shed::default());
    let mut shed = Vec::new();
    for (kind, port) in [(Kind::Update, 5), (Kind::Start, 6), (Kind::Start, 7), (Kind::Start, 8), (Kind::Update, 9)] {
        told.offer(kind, port, 1, 1);
        let Shed { updates, ends, begins } = told.outbox.counters().shed;
        shed.push((updates, ends, begins));
    }
    assert_eq!(shed, [(1, 0, 0), (2, 0, 0), (2, 1, 0), (2, 1, 1), (3, 1, 1)]);
    told.begin(1);
    told.now_ms += BATCH_AGE_MS;
    let ports: Vec<u16> = told.sent()[0].3.iter().map(|event| event.key.low.port).collect();
    assert_eq!(ports, [4, 6, 7, 8]);
    assert_eq!(told.outbox.counters().offered, 10);
}

#[test]
fn what_waits_is_sorted_into_shards_once_they_are_known() {
    let mut told = Told::new(Closing::ByAge, PENDING_MAX, 0);
    for port in 0..200 {
        told.offer(Kind::Start, port, 1, 1);
    }
    told.begin(3);
    told.now_ms += BATCH_AGE_MS;
    let sent = told.sent();
    assert_eq!(sent.len(), 3);
    for (shard, _, _, events) in &sent {
        assert!(events.iter().all(|event| flow::flows::shard_of(flow::flows::FlowId(event.key.id()), 3) == *shard));
        assert!(events.windows(2).all(|pair| pair[0].key.low.port < pair[1].key.low.port), "in their order");
    }
    assert_eq!(sent.iter().map(|(_, _, _, events)| events.len()).sum::<usize>(), 200);
}

#[test]
fn a_lost_connection_sends_again_in_order_and_not_too_fast() {
    let mut told = Told::new(Closing::ByAge, PENDING_MAX, 1);
    assert_eq!(told.batches(1..5), [2, 3, 4, 5]);
    told.outbox.handle_disconnected(told.now_ms);
    assert_eq!((told.sent_within(100), told.outbox.poll_time(told.now_ms)), (vec![], None));
    told.outbox.handle_hello(hello(1)).unwrap();
    let gap = 1_000 / RESENDS_PER_SECOND_MAX;
    assert_eq!(told.sent_within(gap - 1), [(0, 2, 1)]);
    assert_eq!(told.sent_within(3 * gap), [(0, 3, 1), (0, 4, 1), (0, 5, 1)]);
    assert_eq!(told.outbox.counters().batches_resent, 4);
    told.answer(0, 100, 5, Answer::Acked { again: true });
    assert!(told.outbox.is_done());
}

#[test]
fn several_refusals_for_one_gap_send_again_once() {
    let mut told = Told::new(Closing::ByAge, PENDING_MAX, 1);
    assert_eq!(told.batches(1..5), [2, 3, 4, 5]);
    told.answer(0, 100, 2, Answer::Later("no leader".to_owned()));
    for sequence in [3, 4] {
        told.answer(0, 100, sequence, Answer::Expected(2));
        assert_eq!(told.sent_within(100), [], "the last answer is not there yet");
    }
    told.answer(0, 100, 5, Answer::Expected(2));
    assert_eq!(told.sent_within(RETRY_PAUSE_MS - 1), []);
    assert_eq!(told.sent_within(100), [(0, 2, 1)], "the first goes alone");
    told.answer(0, 100, 2, ACKED);
    assert_eq!(told.sent_within(100), [(0, 3, 1), (0, 4, 1), (0, 5, 1)]);
}

#[test]
fn only_a_fleet_that_has_forgotten_the_sniffer_gets_other_numbers() {
    let mut told = Told::new(Closing::ByAge, PENDING_MAX, 1);
    assert_eq!(told.batches(1..3), [2, 3]);
    told.answer(0, 100, 3, Answer::Expected(1));
    told.answer(0, 100, 2, Answer::Expected(1));
    for refusals in 1..=FORGOTTEN_REFUSALS {
        assert_eq!(told.sent_within(RETRY_PAUSE_MS_MAX), [(0, 2, 1)], "after {refusals} refusals it is what it was");
        told.answer(0, 100, 2, Answer::Expected(1));
    }
    assert_eq!(told.sent_within(RETRY_PAUSE_MS_MAX), [(0, 1, 1)]);
    told.answer(0, 100, 1, ACKED);
    assert_eq!(told.sent_within(RETRY_PAUSE_MS_MAX), [(0, 2, 1)]);
    told.offer(Kind::Start, 9, 1, 1);
    assert_eq!(told.sent_within(BATCH_AGE_MS), [(0, 3, 1)]);
}

#[test]
fn a_batch_that_makes_no_sense_leaves_its_number_behind() {
    let mut told = Told::new(Closing::ByAge, PENDING_MAX, 1);
    assert_eq!(told.batches(1..3), [2, 3]);
    told.answer(0, 100, 2, Answer::Malformed("bad field app".to_owned()));
    told.answer(0, 100, 3, Answer::Expected(2));
    assert_eq!(told.sent_within(100), [(0, 2, 0)]);
    told.answer(0, 100, 2, ACKED);
    assert_eq!(told.sent_within(100), [(0, 3, 1)]);
    told.answer(0, 100, 3, ACKED);
    let counted = told.outbox.counters();
    assert_eq!((counted.malformed, counted.acked, counted.batches_refused), (1, 1, 2));
    assert_eq!(told.batches(5..6), [4]);
    told.answer(0, 100, 4, Answer::Malformed("no".to_owned()));
    assert_eq!(told.sent_within(100), [(0, 4, 0)]);
    told.answer(0, 100, 4, Answer::Malformed("no".to_owned()));
    assert_eq!(told.outbox.fatal(), Some(&Fatal::Refused("no".to_owned())));
}

#[test]
fn a_clock_that_went_back_takes_a_higher_epoch_before_anything_counts() {
    let mut told = Told::new(Closing::ByAge, PENDING_MAX, 0);
    told.outbox.handle_hello(hello(2)).unwrap();
    told.offer(Kind::Start, 1, 1, 1);
    told.now_ms += BATCH_AGE_MS;
    assert_eq!(told.sent().len(), 2);
    told.answer(0, 100, 1, ACKED);
    assert_eq!(told.sent(), [], "nothing else leaves before both shards have begun");
    told.answer(1, 100, 1, Answer::OtherEpoch(500));
    let again = told.sent();
    assert_eq!(again.iter().map(|(_, epoch, sequence, _)| (*epoch, *sequence)).collect::<Vec<_>>(), [(501, 1); 2]);
    told.answer(0, 501, 1, ACKED);
    told.answer(1, 501, 1, ACKED);
    assert_eq!(told.sent().len(), 1);
    told.answer(0, 501, 2, Answer::OtherEpoch(600));
    told.answer(1, 501, 2, Answer::OtherEpoch(600));
    assert_eq!(told.outbox.fatal(), Some(&Fatal::OtherLife { other: 600, own: 501 }));
    // A file has one epoch for ever.
    let mut file = Told::new(Closing::BySize, PENDING_MAX, 0);
    file.outbox.handle_hello(hello(1)).unwrap();
    assert_eq!(file.sent().len(), 1);
    file.answer(0, 100, 1, Answer::OtherEpoch(500));
    assert!(file.outbox.fatal().is_some());
}

#[test]
fn a_file_makes_the_same_batches_whenever_they_are_sent() {
    let batches = |at_once: usize| {
        let mut told = Told::new(Closing::BySize, 100, 0);
        told.outbox.config.batch_max = 10;
        assert_eq!(told.outbox.room(), 0, "shards are not known");
        told.begin(2);
        let mut all = Vec::new();
        let mut events = (0..300_u16).map(|event| (event / 3, u64::from(event)));
        loop {
            for (port, packets) in events.by_ref().take(told.outbox.room().min(at_once)) {
                told.offer(Kind::Update, port, 1, packets);
            }
            if events.len() == 0 {
                told.outbox.flush();
            }
            if told.outbox.is_done() {
                break;
            }
            for (shard, epoch, sequence, events) in told.sent() {
                told.answer(shard, epoch, sequence, ACKED);
                all.push((shard, sequence, packets(&events)));
            }
        }
        assert_eq!(told.outbox.counters().shed, Shed::default());
        all.sort();
        all
    };
    let quick = batches(usize::MAX);
    assert!(quick.len() >= 10);
    assert_eq!(quick, batches(1));
}

#[test]
fn an_instance_that_makes_no_sense_or_is_of_another_fleet_is_told_nothing() {
    let mut told = Told::new(Closing::ByAge, PENDING_MAX, 0);
    for (shards, in_flight) in [(0, 4), (SHARDS_MAX + 1, 4), (4, 0)] {
        let hello = Hello { fleet: vec![1], shards, in_flight };
        assert_eq!(told.outbox.handle_hello(hello), Err(BadHello::Senseless(shards, in_flight)));
    }
    assert_eq!(told.outbox.handle_hello(Hello { fleet: Vec::new(), ..hello(2) }), Err(BadHello::NoFleet));
    told.begin(2);
    told.outbox.handle_disconnected(told.now_ms);
    assert_eq!(told.outbox.handle_hello(hello(3)), Err(BadHello::OtherFleet));
    let stranger = Hello { fleet: vec![2], ..hello(2) };
    assert_eq!(told.outbox.handle_hello(stranger), Err(BadHello::OtherFleet));
    told.offer(Kind::Start, 1, 1, 1);
    assert_eq!(told.sent_within(1_000), []);
    assert_eq!(told.outbox.handle_hello(hello(2)), Ok(()));
    assert_eq!(told.sent_within(0).len(), 1);
}

#[test]
fn an_instance_that_does_not_answer_is_given_up() {
    let mut told = Told::new(Closing::ByAge, PENDING_MAX, 1);
    assert_eq!(told.batches(1..2), [2]);
    told.now_ms += ANSWER_MS_MAX - 1;
    assert!(!told.outbox.is_stalled(told.now_ms));
    assert_eq!(told.outbox.poll_time(told.now_ms), Some(told.now_ms + 1));
    assert!(told.outbox.is_stalled(told.now_ms + 1));
}
