//! What operators are told, by a fleet whose replica is the test.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{
        OnceLock,
        atomic::AtomicU64,
        mpsc::{Receiver, sync_channel},
    },
};

use arc_swap::ArcSwap;
use flow::{Birth, FleetId, GroupView, Lease, LogTime, PinTable};
use tokio::runtime::Runtime;

use super::*;
use crate::{
    metrics::Decisions,
    node::{disk::DiskUsage, fleet::Inner, health::Health, shared::Shared},
};

/// How long anything may take before a test fails.
const WAIT: Duration = Duration::from_secs(20);

struct Fixture {
    runtime: Runtime,
    fleet: Fleet,
    inputs: Receiver<Input>,
}

impl Fixture {
    /// An instance that waits for a majority of its fleet.
    fn starting() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (sender, inputs) = sync_channel(64);
        let shared = Arc::new(Shared::new());
        // What the health task says is nobody's business here.
        let health = Health::start(runtime.handle(), [127, 0, 0, 1].into(), shared.pools(), sync_channel(64).0);
        let inner = Inner {
            label: "a".to_owned(),
            fleet_name: "test".to_owned(),
            configured: Tuning {
                heartbeat_ms: 50,
                election_ms: 300,
                detector: flow::Detector::Phi(80),
                spread: true,
                shuffle_ms: 0,
            },
            shared,
            inputs: sender,
            health,
            decisions: Arc::new(Decisions::new()),
            cache_entries: NonZeroUsize::MIN,
            resolved: ArcSwap::from_pointee(HashMap::new()),
            lookups_failed: AtomicU64::new(0),
            transport: OnceLock::new(),
            usage: Arc::new(DiskUsage::default()),
            connections: OnceLock::new(),
            vip: OnceLock::new(),
        };
        Self { runtime, fleet: Fleet { inner: Arc::new(inner) }, inputs }
    }

    /// One that knows its fleet: a pool `web` without servers.
    fn started() -> Self {
        let fixture = Self::starting();
        let pool = crate::config::parse("test", CONFIG.as_bytes()).unwrap().pools.remove(0);
        let birth = Birth {
            fleet: FleetId(1),
            pick_key: [0; 16],
            pin_groups: 1,
            lease_ms: 1_000,
            founders: Vec::new(),
            pools: vec![pool],
        };
        let mut table = ControlTable::default();
        table.apply(Revision(1), LogTime(0), &ControlCommand::Birth(birth));
        fixture.fleet.inner.shared.publish_control(table);
        let view = GroupView { table: PinTable::new(), generation: 0, lease: Lease::default() };
        fixture.fleet.inner.shared.set_groups(vec![view]);
        fixture
    }

    fn next(&self) -> Input {
        self.inputs.recv_timeout(WAIT).expect("an input")
    }

    /// Everything committed before is applied here.
    fn catch_up(&self) {
        match self.next() {
            Input::CatchUp { answer, .. } => {
                answer.send(Ok(ControlOutcome::Done { revision: Revision(1), epoch: Epoch(1) })).unwrap();
            }
            _ => panic!("a read comes first"),
        }
    }

    fn put(&self, if_revision: Option<Revision>) -> tokio::task::JoinHandle<Result<Applied>> {
        let fleet = self.fleet.clone();
        self.runtime.spawn(async move {
            fleet.kv_put("k".to_owned(), Bytes::from_static(b"v"), Terms { if_revision, request: None }).await
        })
    }
}

const CONFIG: &str = r#"
[fleet]
name = "test"
[[fleet.instance]]
label = "a"
address = "127.0.0.1"
grpc = 1
rest = 2
metrics = 3
[[pool]]
name = "web"
bind = ":9001"
"#;

#[test]
fn a_put_goes_by_a_session_and_says_when_its_outcome_is_lost() {
    let fixture = Fixture::started();
    for condition in [None, Some(Revision(0)), Some(Revision(7))] {
        let put = fixture.put(condition);
        let Input::Submit { again, answer, .. } = fixture.next() else { panic!("a put is submitted") };
        assert!(!again, "carried out again, it could overwrite what was acknowledged in between");
        answer.send(Err(SubmitError::Unknown)).unwrap();
        let error = fixture.runtime.block_on(put).unwrap().unwrap_err();
        assert_eq!(error.reason(), "unknown_outcome", "{error}");
    }
}

#[test]
fn what_must_not_be_done_by_a_late_copy_goes_once() {
    let fixture = Fixture::started();
    let fleet = fixture.fleet.clone();
    let asked = fixture.runtime.spawn(async move { fleet.session_open().await.map(drop) });
    let Input::Submit { again, answer, .. } = fixture.next() else { panic!("a session is asked for") };
    assert!(!again, "each copy would open a session");
    answer.send(Err(SubmitError::Unknown)).unwrap();
    assert_eq!(fixture.runtime.block_on(asked).unwrap().unwrap_err().reason(), "unknown_outcome");
    let fleet = fixture.fleet.clone();
    let asked = fixture.runtime.spawn(async move { fleet.tune(None).await.map(drop) });
    let Input::Submit { again, answer, .. } = fixture.next() else { panic!("settings are committed") };
    assert!(!again, "a late copy would undo what others committed in between");
    answer.send(Err(SubmitError::Unknown)).unwrap();
    assert_eq!(fixture.runtime.block_on(asked).unwrap().unwrap_err().reason(), "unknown_outcome");
}

#[test]
fn a_request_of_a_session_goes_as_it_is_and_refusals_are_told_apart() {
    let fixture = Fixture::started();
    let request = Request { session: SessionId(5), sequence: 3, answered_below: 2 };
    for (refusal, reason) in [
        (SessionRefusal::NoSession(SessionId(5)), "no_session"),
        (SessionRefusal::Answered { sequence: 3, answered_below: 4 }, "answered"),
        (SessionRefusal::WindowFull(SessionId(5)), "overloaded"),
    ] {
        let fleet = fixture.fleet.clone();
        let terms = Terms { if_revision: None, request: Some(request) };
        // No read comes first: the key may have been removed by an earlier try.
        let asked = fixture.runtime.spawn(async move { fleet.kv_delete("k".to_owned(), terms).await });
        let Input::Submit { request: sent, answer, .. } = fixture.next() else { panic!("a delete is submitted") };
        assert_eq!(sent, Some(request));
        answer.send(Ok(ControlOutcome::Refused(refusal))).unwrap();
        let error = fixture.runtime.block_on(asked).unwrap().unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
    }
}

#[test]
fn an_unknown_server_is_not_found() {
    let fixture = Fixture::started();
    for change in [ServerChange::Remove, ServerChange::Drain, ServerChange::Enable] {
        let (fleet, change) = (fixture.fleet.clone(), change("s9".to_owned()));
        let asked = fixture.runtime.spawn(async move { fleet.server_change("web".to_owned(), change).await });
        fixture.catch_up();
        let error = fixture.runtime.block_on(asked).unwrap().unwrap_err();
        assert_eq!(error.reason(), "not_found", "{error}");
        assert!(error.to_string().contains("pool web has no server s9"), "{error}");
    }
}

#[test]
fn an_instance_that_starts_or_stops_is_unavailable() {
    let fixture = Fixture::starting();
    let fleet = fixture.fleet.clone();
    let asked = fixture.runtime.spawn(async move { fleet.log_size(0).await });
    // The thread of a newborn drops what it is asked.
    drop(fixture.next());
    let error = fixture.runtime.block_on(asked).unwrap().unwrap_err();
    assert_eq!((error.reason(), error.to_string().as_str()), ("unavailable", "this instance is starting"));

    let Fixture { runtime, fleet, inputs } = Fixture::started();
    drop(inputs);
    for error in [
        runtime.block_on(fleet.log_size(0)).unwrap_err(),
        runtime.block_on(fleet.kv_put("k".to_owned(), Bytes::new(), Terms::default())).unwrap_err(),
        runtime.block_on(fleet.kv("k".to_owned(), Consistency::Linearizable)).unwrap_err(),
    ] {
        assert_eq!(error.reason(), "unavailable", "{error}");
        assert!(error.to_string().contains("stopping"), "{error}");
    }
}

#[test]
fn an_instance_is_cut_off_only_if_that_is_so() {
    let fixture = Fixture::starting();
    let error = fixture.runtime.block_on(fixture.fleet.set_grpc(false)).unwrap_err();
    assert_eq!(error.reason(), "unavailable", "{error}");
    assert!(!fixture.fleet.is_cut_off() && fixture.inputs.try_recv().is_err());

    let Fixture { runtime, fleet, inputs } = Fixture::started();
    for _ in 0..64 {
        fleet.inner.inputs.try_send(Input::HandOver(None)).unwrap();
    }
    let error = runtime.block_on(fleet.set_grpc(false)).unwrap_err();
    assert_eq!(error.reason(), "overloaded", "{error}");
    assert_eq!(inputs.try_iter().count(), 64);
    for open in [false, true] {
        runtime.block_on(fleet.set_grpc(open)).unwrap();
        assert!(matches!(inputs.try_recv(), Ok(Input::FollowPeers)), "the links are still as they were");
        assert_eq!(fleet.is_cut_off(), !open);
    }
    assert_eq!(fleet.events(0, 10).len(), 2, "one event for each change");
}

#[test]
fn keys_come_in_pages_of_bounded_size() {
    let fixture = Fixture::starting();
    let mut table = ControlTable::default();
    let founders = Vec::new();
    let birth =
        Birth { fleet: FleetId(1), pick_key: [0; 16], pin_groups: 1, lease_ms: 1000, founders, pools: Vec::new() };
    table.apply(Revision(1), LogTime(0), &ControlCommand::Birth(birth));
    for index in 2..=41 {
        let put = ControlCommand::KvPut { key: format!("k{index:02}"), value: vec![0; 256 << 10], if_revision: None };
        table.apply(Revision(index), LogTime(0), &put);
    }
    fixture.fleet.inner.shared.publish_control(table);
    let (mut seen, mut after, mut pages) = (0, None, 0);
    loop {
        let query = KvQuery { prefix: "k".to_owned(), after, limit: 1_000 };
        let page = fixture.runtime.block_on(fixture.fleet.kv_list(query, Consistency::Local)).unwrap().value;
        assert!(page.items.iter().map(|item| item.value.len()).sum::<usize>() <= PAGE_BYTES_MAX);
        (seen, pages) = (seen + page.items.len(), pages + 1);
        after = page.items.last().map(|item| item.key.clone());
        if !page.more {
            break;
        }
    }
    assert_eq!((seen, pages), (40, 3));
}

#[test]
fn a_page_ends_at_its_rows_or_its_bytes_and_says_so() {
    let rows = || [1_usize << 20; 6].into_iter();
    assert_eq!(page(rows(), 100, |bytes| *bytes).0.len(), 3, "the fourth MiB does not fit with what a row adds");
    assert_eq!(page(rows(), 2, |_| 0), (vec![1 << 20; 2], true));
    assert_eq!(page(rows(), 6, |_| 0), (vec![1 << 20; 6], false));
    assert_eq!(page([5 << 20].into_iter(), 1, |bytes| *bytes), (vec![5 << 20], false), "the first one in any case");
}
