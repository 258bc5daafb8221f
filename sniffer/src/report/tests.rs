//! The door against instances of our own, whose table of flows is the fleet's.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use api::v1::{
    self as proto, FlowAck, FlowAcked, FlowBatch, FlowHello, FlowRefused,
    flow_ack::Kind::{Acked, Hello, Refused},
    flow_refused::Why,
    flows_server::{Flows, FlowsServer},
};
use flow::{
    flows::{End, Expiry, FlowCommand, FlowLimits, FlowOutcome, FlowTable, SnifferId},
    ids::{LogTime, Revision},
};
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    sync::{Semaphore, mpsc},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Identity, Server, ServerTlsConfig, server::TcpIncoming},
};

use super::{
    testing::{Script, command_of, seen, standing_of},
    *,
};
use crate::track::Kind;

/// What all instances agree on.
#[derive(Clone)]
struct Fleet(Arc<Mutex<Vec<(FlowTable, Expiry)>>>);

impl Fleet {
    fn new() -> Self {
        let shards = (0..SHARDS).map(|_| (FlowTable::new(FlowLimits::default()), Expiry::new()));
        Self(Arc::new(Mutex::new(shards.collect())))
    }

    fn apply(&self, shard: u32, command: &FlowCommand) -> FlowOutcome {
        let mut tables = self.0.lock().unwrap();
        let (table, expiry) = &mut tables[shard as usize];
        table.apply(Revision(table.applied().0 + 1), LogTime(1), command, expiry)
    }

    /// What was counted of each flow.
    fn records(&self) -> BTreeMap<u64, Vec<String>> {
        let tables = self.0.lock().unwrap();
        let all = tables.iter().flat_map(|(table, _)| table.newest());
        all.map(|(id, record)| (id.0, record.observations().iter().map(standing_of).collect())).collect()
    }

    fn again(&self) -> u64 {
        self.0.lock().unwrap().iter().map(|(table, _)| table.counters().again).sum()
    }
}

/// How an instance behaves.
struct Mood {
    /// An answer takes one.
    answers: Semaphore,
    /// The stream breaks after so many batches, the last of which is applied.
    cut_after: AtomicUsize,
    /// So many batches are refused for now.
    refuse: AtomicUsize,
    /// Whether what comes makes sense to it.
    understands: bool,
    /// Whether its fleet has flow groups.
    has_table: bool,
    /// Batches that came.
    batches: AtomicUsize,
    /// Most batches of one shard that waited for their answers.
    outstanding_most: AtomicUsize,
    in_flight: u32,
    fleet_id: u8,
}

impl Default for Mood {
    fn default() -> Self {
        Self {
            answers: Semaphore::new(1_000_000),
            cut_after: AtomicUsize::new(usize::MAX),
            refuse: AtomicUsize::new(0),
            understands: true,
            has_table: true,
            batches: AtomicUsize::new(0),
            outstanding_most: AtomicUsize::new(0),
            in_flight: 4,
            fleet_id: 1,
        }
    }
}

#[derive(Clone)]
struct Service {
    fleet: Fleet,
    mood: Arc<Mood>,
}

impl Service {
    fn hello(&self) -> FlowAck {
        let hello =
            FlowHello { fleet_id: vec![self.mood.fleet_id].into(), shards: SHARDS, in_flight: self.mood.in_flight };
        FlowAck { kind: Some(Hello(hello)) }
    }

    /// The answer to a batch; none: the instance breaks off.
    fn take(&self, batch: &FlowBatch) -> Option<FlowAck> {
        self.mood.batches.fetch_add(1, Ordering::SeqCst);
        let command = command_of(&batch.report);
        let FlowCommand::Report { epoch, sequence, .. } = command else { panic!() };
        let shard = batch.shard;
        let refused = |why| Some(Refused(FlowRefused { shard, epoch, sequence, why: Some(why) }));
        let less = |left: usize| left.checked_sub(1);
        let kind = if self.mood.refuse.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok() {
            refused(Why::Later("no leader".to_owned()))
        } else {
            match self.fleet.apply(shard, &command) {
                FlowOutcome::Done(at) => Some(Acked(FlowAcked { shard, epoch, sequence, index: at.0 })),
                FlowOutcome::Again => Some(Acked(FlowAcked { shard, epoch, sequence, index: 0 })),
                FlowOutcome::Gap(expected) => refused(Why::Expected(expected)),
                FlowOutcome::OldEpoch(other) => refused(Why::OtherEpoch(other)),
                outcome => panic!("{outcome:?}"),
            }
        };
        let cut = self.mood.cut_after.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_err();
        (!cut).then_some(FlowAck { kind })
    }
}

#[tonic::async_trait]
impl Flows for Service {
    type PushStream = ReceiverStream<Result<FlowAck, Status>>;

    async fn push(&self, request: Request<Streaming<FlowBatch>>) -> Result<Response<Self::PushStream>, Status> {
        if !self.mood.has_table {
            let mut status = Status::unimplemented("this fleet has no table of flows");
            status.metadata_mut().insert(api::REASON, "unsupported".parse().unwrap());
            return Err(status);
        }
        let mut batches = request.into_inner();
        let (answer, answers) = mpsc::channel(1_024);
        let service = self.clone();
        let (queue, mut queued) = mpsc::unbounded_channel::<FlowBatch>();
        let outstanding: Arc<Vec<AtomicUsize>> = Arc::new((0..SHARDS).map(|_| AtomicUsize::new(0)).collect());
        let waiting = outstanding.clone();
        let mood = self.mood.clone();
        tokio::spawn(async move {
            while let Some(Ok(batch)) = batches.next().await {
                let now = waiting[batch.shard as usize].fetch_add(1, Ordering::SeqCst) + 1;
                mood.outstanding_most.fetch_max(now, Ordering::SeqCst);
                if queue.send(batch).is_err() {
                    break;
                }
            }
        });
        tokio::spawn(async move {
            answer.send(Ok(service.hello())).await.ok();
            while let Some(batch) = queued.recv().await {
                service.mood.answers.acquire().await.unwrap().forget();
                if !service.mood.understands {
                    answer.send(Err(Status::invalid_argument("bad field app"))).await.ok();
                    return;
                }
                let Some(ack) = service.take(&batch) else {
                    answer.send(Err(Status::unavailable("it goes"))).await.ok();
                    return;
                };
                outstanding[batch.shard as usize].fetch_sub(1, Ordering::SeqCst);
                if answer.send(Ok(ack)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn get(&self, _: Request<proto::FlowGetRequest>) -> Result<Response<proto::FlowGetResponse>, Status> {
        Err(Status::unimplemented("get"))
    }

    async fn lookup(
        &self,
        _: Request<proto::FlowLookupRequest>,
    ) -> Result<Response<proto::FlowLookupResponse>, Status> {
        Err(Status::unimplemented("lookup"))
    }

    async fn list(&self, _: Request<proto::FlowsListRequest>) -> Result<Response<proto::FlowsListResponse>, Status> {
        Err(Status::unimplemented("list"))
    }

    type WatchStream = ReceiverStream<Result<proto::FlowsWatchResponse, Status>>;

    async fn watch(&self, _: Request<proto::FlowsWatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("watch"))
    }

    async fn annotate(&self, _: Request<proto::FlowAnnotateRequest>) -> Result<Response<proto::Applied>, Status> {
        Err(Status::unimplemented("annotate"))
    }

    async fn stats(&self, _: Request<proto::FlowStatsRequest>) -> Result<Response<proto::FlowStatsResponse>, Status> {
        Err(Status::unimplemented("stats"))
    }
}

/// An instance that dies with all its connections when it is dropped.
struct Instance {
    runtime: Option<Runtime>,
    address: SocketAddr,
    mood: Arc<Mood>,
}

impl Instance {
    fn start(fleet: &Fleet, mood: Mood) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), fleet, mood, None)
    }

    fn start_at(address: SocketAddr, fleet: &Fleet, mood: Mood, identity: Option<Identity>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mood = Arc::new(mood);
        let service = Service { fleet: fleet.clone(), mood: mood.clone() };
        let deadline = Instant::now() + PATIENCE;
        let listener = loop {
            match runtime.block_on(TcpListener::bind(address)) {
                // The one that was there before goes in its own time.
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                    std::thread::yield_now();
                }
                bound => break bound.unwrap(),
            }
        };
        let address = listener.local_addr().unwrap();
        let mut server = Server::builder();
        if let Some(identity) = identity {
            server = server.tls_config(ServerTlsConfig::new().identity(identity)).unwrap();
        }
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        runtime.spawn(server.add_service(FlowsServer::new(service)).serve_with_incoming(incoming));
        Self { runtime: Some(runtime), address, mood }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

fn targets(addresses: &[SocketAddr]) -> Targets {
    Targets::new(addresses.iter().map(|address| address.to_string().parse().unwrap()).collect(), None).unwrap()
}

/// Of small batches, so that there are many. The first target is the first that is asked.
fn options(addresses: &[SocketAddr], closing: Closing) -> Options {
    let names = (0..).map(|number| format!("test {number}"));
    let first = |name: &String| SnifferId::of(name).0.is_multiple_of(addresses.len() as u64);
    let name = names.into_iter().find(first).unwrap();
    Options {
        name,
        epoch: EPOCH.fetch_add(1, Ordering::SeqCst),
        closing,
        batch_max: 20,
        ..Options::of_interface(targets(addresses), None, "lo")
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "it does not come: {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

fn check_sum(counters: Counters) {
    let Counters { offered, acked, coalesced, pending, in_flight, shed, malformed, orphaned, .. } = counters;
    let lost = shed.total() + malformed + orphaned;
    assert_eq!(offered, acked + coalesced + pending + in_flight + lost, "{counters:?}");
}

/// The fleet's records if every event comes by itself.
fn without_faults(events: &[Seen]) -> BTreeMap<u64, Vec<String>> {
    let fleet = Fleet::new();
    let mut sequences = [0; SHARDS as usize];
    for seen in events {
        let shard = flow::flows::shard_of(flow::flows::FlowId(seen.observed.key.id()), SHARDS);
        sequences[shard as usize] += 1;
        let (name, sequence, events) = ("x".into(), sequences[shard as usize], vec![seen.observed.clone()]);
        let report = FlowCommand::Report { sniffer: SnifferId::of("x"), epoch: 1, sequence, name, events };
        assert!(matches!(fleet.apply(shard, &report), FlowOutcome::Done(_)));
    }
    fleet.records()
}

/// Without who said it.
fn same(left: &BTreeMap<u64, Vec<String>>, right: &BTreeMap<u64, Vec<String>>) {
    let plain = |records: &BTreeMap<u64, Vec<String>>| -> BTreeMap<u64, Vec<String>> {
        let cut = |text: &String| text.split_once("epoch").unwrap().1.to_owned();
        records.iter().map(|(id, seen)| (*id, seen.iter().map(cut).collect())).collect()
    };
    assert_eq!(plain(left), plain(right));
}

#[test]
fn what_is_offered_is_committed_and_finish_waits_for_it() {
    let fleet = Fleet::new();
    let instance = Instance::start(&fleet, Mood::default());
    let events = Script::new(1).life(500);
    let reporter = Reporter::start(options(&[instance.address], Closing::ByAge)).unwrap();
    for some in events.chunks(7) {
        reporter.offer(some.to_vec());
        check_sum(reporter.counters());
    }
    until("all is told without being asked to", || {
        let counters = reporter.counters();
        check_sum(counters);
        counters.acked + counters.coalesced == 500
    });
    assert_eq!(reporter.connected(), Some(instance.address.to_string()));
    assert_eq!((reporter.trouble(), reporter.ended()), (None, None));
    let counters = reporter.finish(PATIENCE).unwrap();
    assert_eq!((counters.shed, counters.malformed, counters.batches_again), (Shed::default(), 0, 0));
    same(&fleet.records(), &without_faults(&events));
}

#[test]
fn slow_answers_hold_back_what_is_sent_and_nothing_else() {
    let fleet = Fleet::new();
    let mood = Mood { in_flight: 2, answers: Semaphore::new(SHARDS as usize), ..Mood::default() };
    let instance = Instance::start(&fleet, mood);
    let events: Vec<Seen> = (0..1_000).map(|port| seen(Kind::Start, port, 1, 1)).collect();
    let reporter = Reporter::start(options(&[instance.address], Closing::ByAge)).unwrap();
    reporter.offer(events.clone());
    let batches = || instance.mood.batches.load(Ordering::SeqCst);
    until("the beginning is acknowledged", || batches() == SHARDS as usize);
    until("as many as may be are in flight", || reporter.counters().in_flight == u64::from(SHARDS) * 2 * 20);
    assert_eq!(reporter.counters().pending, 1_000 - u64::from(SHARDS) * 2 * 20);
    instance.mood.answers.add_permits(1_000_000);
    let counters = reporter.finish(PATIENCE).unwrap();
    assert_eq!((counters.acked, counters.batches_resent), (1_000, 0));
    assert_eq!(instance.mood.outstanding_most.load(Ordering::SeqCst), 2);
    same(&fleet.records(), &without_faults(&events));
}

#[test]
fn a_stream_that_breaks_goes_on_at_another_instance_and_each_batch_counts_once() {
    let fleet = Fleet::new();
    let breaking = Mood { cut_after: AtomicUsize::new(10), refuse: AtomicUsize::new(2), ..Mood::default() };
    let instances = [Instance::start(&fleet, breaking), Instance::start(&fleet, Mood::default())];
    let addresses = [instances[0].address, instances[1].address];
    let events = Script::new(2).life(2_000);
    let reporter = Reporter::start(options(&addresses, Closing::ByAge)).unwrap();
    for some in events.chunks(50) {
        reporter.offer(some.to_vec());
    }
    let counters = reporter.finish(PATIENCE).unwrap();
    assert_eq!(counters.acked + counters.coalesced, 2_000);
    assert!(counters.batches_resent > 0 && counters.batches_refused >= 2, "{counters:?}");
    assert!(fleet.again() >= 1 && counters.batches_again == fleet.again(), "what was applied came once more");
    assert!(instances[1].mood.batches.load(Ordering::SeqCst) > 0);
    same(&fleet.records(), &without_faults(&events));
}

#[test]
fn an_instance_that_dies_is_replaced_by_another() {
    let fleet = Fleet::new();
    let mut instances = vec![Instance::start(&fleet, Mood::default()), Instance::start(&fleet, Mood::default())];
    let addresses = [instances[0].address, instances[1].address];
    let events = Script::new(3).life(2_000);
    let reporter = Reporter::start(options(&addresses, Closing::ByAge)).unwrap();
    for (number, some) in events.chunks(50).enumerate() {
        reporter.offer(some.to_vec());
        if number == 20 {
            until("something is told", || reporter.counters().acked > 0);
            assert_eq!(reporter.connected(), Some(addresses[0].to_string()));
            instances.remove(0);
        }
    }
    until("the other one is told", || reporter.connected() == Some(addresses[1].to_string()));
    let counters = reporter.finish(PATIENCE).unwrap();
    assert_eq!(counters.acked + counters.coalesced, 2_000);
    same(&fleet.records(), &without_faults(&events));
}

#[test]
fn without_an_instance_events_are_shed_in_order_and_what_is_left_is_told_later() {
    let fleet = Fleet::new();
    let address = Instance::start(&fleet, Mood::default()).address;
    let mut options = options(&[address], Closing::ByAge);
    options.pending_max = 15;
    let reporter = Reporter::start(options).unwrap();
    let event = |kind, from| (0..10_u16).map(|port| seen(kind, from + port, 1, 1)).collect::<Vec<_>>();
    let (begins, ends) = (event(Kind::Start, 100), event(Kind::End(End::Idle), 200));
    for events in [begins.clone(), ends.clone(), event(Kind::Update, 300)] {
        reporter.offer(events);
    }
    until("too much is given up", || reporter.counters().shed.total() == 15);
    assert_eq!(reporter.counters().shed, Shed { updates: 10, ends: 5, begins: 0 });
    until("it says what is wrong", || reporter.trouble().is_some_and(|why| why.starts_with(&address.to_string())));
    let instance = Instance::start_at(address, &fleet, Mood::default(), None);
    until("the instance is found", || reporter.connected().is_some());
    let counters = reporter.finish(PATIENCE).unwrap();
    check_sum(counters);
    assert_eq!(counters.acked, 15);
    same(&fleet.records(), &without_faults(&[&begins[..], &ends[5..]].concat()));
    drop(instance);
}

#[test]
fn finish_says_how_much_is_not_acknowledged_when_its_time_is_over() {
    let fleet = Fleet::new();
    let instance = Instance::start(&fleet, Mood { answers: Semaphore::new(0), ..Mood::default() });
    let reporter = Reporter::start(options(&[instance.address], Closing::ByAge)).unwrap();
    reporter.offer((0..30).map(|port| seen(Kind::Start, port, 1, 1)).collect());
    until("it is connected", || reporter.connected().is_some());
    let unfinished = reporter.finish(Duration::from_millis(50)).unwrap_err();
    assert_eq!((unfinished.unacknowledged, unfinished.why.as_str()), (30, "time is up"));
    check_sum(*unfinished.counters);
    // Nobody there: it says why.
    let address = instance.address;
    drop(instance);
    let reporter = Reporter::start(options(&[address], Closing::ByAge)).unwrap();
    reporter.offer(vec![seen(Kind::Start, 1, 1, 1)]);
    until("it has tried", || reporter.trouble().is_some());
    let unfinished = reporter.finish(Duration::ZERO).unwrap_err();
    assert!(unfinished.unacknowledged == 1 && unfinished.why.starts_with(&address.to_string()), "{unfinished}");
    // Nothing to tell is told.
    let reporter = Reporter::start(options(&[address], Closing::ByAge)).unwrap();
    assert_eq!(reporter.finish(PATIENCE), Ok(Counters::default()));
}

#[test]
fn a_file_is_told_whole_however_slowly_and_again_without_counting_twice() {
    let fleet = Fleet::new();
    let instance = Instance::start(&fleet, Mood { answers: Semaphore::new(12), ..Mood::default() });
    let events = Script::new(4).life(3_000);
    let mut options = options(&[instance.address], Closing::BySize);
    (options.pending_max, options.queue_max) = (200, 50);
    let killed = Reporter::start(options.clone()).unwrap();
    killed.offer_waiting(events[..500].to_vec()).unwrap();
    until("some of it is committed", || killed.counters().batches_acked == 12);
    drop(killed);
    instance.mood.answers.add_permits(1_000_000);
    for again in [false, true] {
        let reporter = Reporter::start(options.clone()).unwrap();
        for some in events.chunks(900) {
            reporter.offer_waiting(some.to_vec()).unwrap();
            check_sum(reporter.counters());
        }
        let counters = reporter.finish(PATIENCE).unwrap();
        assert_eq!((counters.shed, counters.acked + counters.coalesced), (Shed::default(), 3_000));
        assert!(counters.batches_again >= 12);
        assert_eq!(counters.batches_again == counters.batches_acked, again);
    }
    same(&fleet.records(), &without_faults(&events));
}

#[test]
fn a_second_sniffer_of_one_name_ends_the_first() {
    let fleet = Fleet::new();
    let instance = Instance::start(&fleet, Mood::default());
    let options = options(&[instance.address], Closing::ByAge);
    let first = Reporter::start(options.clone()).unwrap();
    first.offer(vec![seen(Kind::Start, 1, 1, 1)]);
    until("the first is heard", || first.counters().acked == 1);
    let second = Reporter::start(Options { epoch: options.epoch + 1, ..options }).unwrap();
    second.offer(vec![seen(Kind::Start, 2, 1, 1)]);
    until("the second is heard", || second.counters().acked == 1);
    first.offer(vec![seen(Kind::Update, 1, 1, 2)]);
    until("the first ends", || matches!(first.ended(), Some(Ended::Fatal(Fatal::OtherLife { .. }))));
    first.offer(vec![seen(Kind::Update, 1, 1, 3)]);
    assert_eq!(first.counters().shed.updates, 1);
    assert!(first.offer_waiting(vec![seen(Kind::Update, 1, 1, 4)]).is_err());
    let unfinished = first.finish(PATIENCE).unwrap_err();
    assert!(unfinished.unacknowledged == 1 && unfinished.why.contains("another sniffer of this name"), "{unfinished}");
    assert!(second.finish(PATIENCE).is_ok());
}

#[test]
fn what_the_fleet_does_not_understand_is_not_said_again_and_again() {
    let instance = Instance::start(&Fleet::new(), Mood { understands: false, ..Mood::default() });
    let reporter = Reporter::start(options(&[instance.address], Closing::ByAge)).unwrap();
    reporter.offer(vec![seen(Kind::Start, 1, 1, 1)]);
    until("it ends", || reporter.ended().is_some());
    let unfinished = reporter.finish(PATIENCE).unwrap_err();
    assert!(unfinished.unacknowledged == 1 && unfinished.why.contains("bad field app"), "{unfinished}");
    for name in [String::new(), "n".repeat(129)] {
        assert!(Reporter::start(Options { name, ..options(&[instance.address], Closing::ByAge) }).is_err());
    }
}

#[test]
fn an_instance_of_another_fleet_is_told_nothing() {
    let (fleet, other) = (Fleet::new(), Fleet::new());
    let first = Instance::start(&fleet, Mood::default());
    let stranger = Instance::start(&other, Mood { fleet_id: 2, ..Mood::default() });
    let reporter = Reporter::start(options(&[first.address, stranger.address], Closing::ByAge)).unwrap();
    reporter.offer(vec![seen(Kind::Start, 1, 1, 1)]);
    until("the first is told", || reporter.counters().acked == 1);
    let address = first.address;
    drop(first);
    until("the other one is asked", || reporter.trouble().is_some_and(|why| why.contains("another fleet")));
    reporter.offer(vec![seen(Kind::Start, 2, 1, 1)]);
    let first = Instance::start_at(address, &fleet, Mood::default(), None);
    assert_eq!(reporter.finish(PATIENCE).unwrap().acked, 2);
    assert!(other.records().is_empty());
    drop(first);
}

#[test]
fn a_fleet_that_was_founded_anew_is_told_without_a_restart() {
    let old = Fleet::new();
    let first = Instance::start(&old, Mood::default());
    let other = Instance::start(&old, Mood::default());
    let addresses = [first.address, other.address];
    let reporter = Reporter::start(options(&addresses, Closing::ByAge)).unwrap();
    reporter.offer(vec![seen(Kind::Start, 1, 1, 1), seen(Kind::Start, 2, 1, 1)]);
    until("the old fleet is told", || reporter.counters().acked == 2);
    drop((first, other));
    // One of the new fleet alone may be a stranger.
    let new = Fleet::new();
    let founded = || Mood { fleet_id: 2, ..Mood::default() };
    let first = Instance::start_at(addresses[0], &new, founded(), None);
    until("it is met", || reporter.trouble().is_some_and(|why| why.contains("another fleet")));
    assert_eq!(reporter.connected(), None);
    let other = Instance::start_at(addresses[1], &new, founded(), None);
    until("both are of it", || reporter.connected().is_some());
    let events = [seen(Kind::Update, 1, 1, 9), seen(Kind::End(End::Idle), 2, 1, 5)];
    reporter.offer(events.to_vec());
    let counters = reporter.finish(PATIENCE).unwrap();
    check_sum(counters);
    assert_eq!((counters.acked, counters.orphaned), (4, 0));
    same(&new.records(), &without_faults(&events));
    drop((first, other));
}

#[test]
fn a_file_is_not_told_to_two_fleets_in_parts() {
    let first = Instance::start(&Fleet::new(), Mood::default());
    let address = first.address;
    let reporter = Reporter::start(options(&[address], Closing::BySize)).unwrap();
    until("the first is there", || reporter.connected().is_some());
    drop(first);
    let other = Instance::start_at(address, &Fleet::new(), Mood { fleet_id: 2, ..Mood::default() }, None);
    until("it ends", || reporter.ended() == Some(Ended::Fatal(Fatal::NewFleet)));
    drop(other);
}

#[test]
fn a_fleet_without_a_table_of_flows_ends_it_and_what_is_no_instance_is_named() {
    let none = Instance::start(&Fleet::new(), Mood { has_table: false, ..Mood::default() });
    let reporter = Reporter::start(options(&[none.address], Closing::ByAge)).unwrap();
    until("it ends", || matches!(reporter.ended(), Some(Ended::Fatal(Fatal::NoTable(_)))));
    let why = reporter.finish(PATIENCE).unwrap_err().why;
    assert_eq!(why, format!("{}: this fleet has no table of flows", none.address));
    // Not gRPC: it may be a typing error, or an instance that comes up behind a proxy.
    let web = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = web.local_addr().unwrap();
    // As long as the test runs: it is asked again and again.
    std::thread::spawn(move || {
        for mut stream in web.incoming().flatten() {
            std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").ok();
        }
    });
    let reporter = Reporter::start(options(&[address], Closing::ByAge)).unwrap();
    until("it says what may help", || reporter.trouble().is_some_and(|why| why.contains("is this the gRPC port")));
    assert_eq!(reporter.ended(), None);
}

#[test]
fn with_tls_only_who_the_authority_vouches_for_is_told() {
    let fleet = Fleet::new();
    let authority = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        (pem, rcgen::Issuer::new(params, key))
    };
    let (pem, issuer) = authority("ours");
    let (foreign, _) = authority("another");
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let identity = Identity::from_pem(leaf.pem(), key.serialize_pem());
    let instance = Instance::start_at("127.0.0.1:0".parse().unwrap(), &fleet, Mood::default(), Some(identity));
    let file = std::env::temp_dir().join(format!("sniffer-report-{}.pem", std::process::id()));
    let told = |ca: Option<&str>| {
        let ca = ca.map(|pem| {
            std::fs::write(&file, pem).unwrap();
            file.as_path()
        });
        let mut options = options(&[instance.address], Closing::ByAge);
        options.targets = Targets::new(vec![instance.address.to_string().parse().unwrap()], ca).unwrap();
        let reporter = Reporter::start(options).unwrap();
        reporter.offer(vec![seen(Kind::Start, 1, 1, 1)]);
        until("it is told, or is not", || reporter.counters().acked == 1 || reporter.trouble().is_some());
        let trouble = reporter.trouble();
        (reporter.counters().acked, trouble)
    };
    assert_eq!(told(Some(&pem)), (1, None));
    let (acked, trouble) = told(Some(&foreign));
    assert!(acked == 0 && trouble.as_ref().is_some_and(|why| why.contains("certificate")), "{trouble:?}");
    let (acked, trouble) = told(None);
    assert!(acked == 0 && trouble.is_some());
    std::fs::remove_file(&file).unwrap();
}

const SHARDS: u32 = 3;

/// How long something may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Every life has another one.
static EPOCH: AtomicU64 = AtomicU64::new(1_000);
