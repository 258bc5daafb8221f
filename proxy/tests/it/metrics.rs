//! What Prometheus is given.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use api::v1::{self, flows_client::FlowsClient};
use flow::flows::{FlowCounters, SnifferId};
use prometheus::TextEncoder;
use prost::Message;
use proxy::{
    choice::Source,
    control::{GroupStatus, Role, Standing, TableStatus},
    metrics::{Metrics, NodeCounters},
};
use tokio::{net::TcpListener, sync::oneshot};

use crate::client::Instance;

fn counters() -> NodeCounters {
    let table = TableStatus { name: "pins".into(), rows: 9, digest: u64::MAX };
    let group = GroupStatus {
        group: 1,
        standing: Standing { role: Role::Leader, term: 4, leader: Some("a".into()) },
        first_index: 1,
        last_index: 12,
        committed_index: 11,
        applied_index: 10,
        lease_ms: Some(1_500),
        tables: vec![table],
    };
    NodeCounters {
        elections: 2,
        appends_sent: 30,
        appends_received: 31,
        votes_sent: 5,
        votes_received: 6,
        submitted: 40,
        committed: 41,
        groups: vec![group],
        epoch: flow::Epoch(3),
        ready: true,
        flows: vec![
            FlowCounters { begun: 50, expired: 51, evicted: 52, again: 53, unplaced: 54 },
            FlowCounters::default(),
        ],
        peers: vec![("b".into(), true), ("c".into(), false)],
        ..Default::default()
    }
}

#[test]
fn a_scrape_shows_the_replica_the_choices_and_the_process() {
    let metrics = Metrics::new("a").unwrap();
    metrics.watch(counters).unwrap();
    assert!(metrics.watch(counters).is_err(), "one replica");
    metrics.decisions().record(Source::Cache, Duration::from_nanos(200));
    metrics.decisions().record(Source::Commit, Duration::from_millis(2));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics.watch_runtime("test", runtime.handle().clone());
    let text = scrape(&metrics, "/metrics");
    for line in [
        "rocinante_elections_total 2",
        "rocinante_appends_sent_total 30",
        "rocinante_appends_received_total 31",
        "rocinante_votes_sent_total 5",
        "rocinante_votes_received_total 6",
        "rocinante_entries_submitted_total 40",
        "rocinante_entries_committed_total 41",
        "rocinante_applied_index{group=\"1\"} 10",
        "rocinante_committed_index{group=\"1\"} 11",
        "rocinante_last_index{group=\"1\"} 12",
        "rocinante_group_term{group=\"1\"} 4",
        "rocinante_group_role{group=\"1\",role=\"leader\"} 1",
        "rocinante_group_role{group=\"1\",role=\"follower\"} 0",
        "rocinante_lease_seconds{group=\"1\"} 1.5",
        "rocinante_table_rows{group=\"1\",table=\"pins\"} 9",
        "rocinante_table_digest{group=\"1\",table=\"pins\"} 4503599627370495",
        "rocinante_flows_begun_total{shard=\"0\"} 50",
        "rocinante_flows_begun_total{shard=\"1\"} 0",
        "rocinante_flows_expired_total{shard=\"0\"} 51",
        "rocinante_flows_evicted_total{shard=\"0\"} 52",
        "rocinante_flow_batches_again_total{shard=\"0\"} 53",
        "rocinante_flow_observations_unplaced_total{shard=\"0\"} 54",
        "rocinante_epoch 3",
        "rocinante_ready 1",
        "rocinante_peer_reachable{peer=\"c\"} 0",
        "rocinante_decisions_total{source=\"cache\"} 1",
        "rocinante_decisions_total{source=\"table\"} 0",
        "rocinante_decision_seconds_bucket{source=\"cache\",le=\"0.00000025\"} 1",
        "rocinante_decision_seconds_bucket{source=\"commit\",le=\"0.001\"} 0",
        "rocinante_decision_seconds_bucket{source=\"commit\",le=\"0.0025\"} 1",
        "rocinante_decision_seconds_bucket{source=\"commit\",le=\"+Inf\"} 1",
        "rocinante_decision_seconds_count{source=\"commit\"} 1",
        "rocinante_build_info{label=\"a\",version=\"0.0.0\"} 1",
        "# TYPE rocinante_decision_seconds histogram",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    for name in ["memory_bytes", "threads", "descriptors"] {
        let prefix = format!("rocinante_process_{name} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap();
        assert!(value.parse::<f64>().unwrap() > 0.0, "{name} {value}");
    }
    assert!(text.contains("\nrocinante_process_tasks{runtime=\"test\"} "), "{text}");
    assert!(text.contains("\nrocinante_process_cpu_seconds_total "), "{text}");
}

#[test]
fn a_fleet_that_is_not_born_yet_can_be_scraped() {
    let metrics = Metrics::new("a").unwrap();
    metrics.watch(NodeCounters::default).unwrap();
    let text = scrape(&metrics, "/metrics");
    assert!(text.contains("\nrocinante_ready 0\n"), "{text}");
    assert!(scrape(&metrics, "/").contains("the metrics are at /metrics"));
}

/// Asks over a real port.
fn scrape(metrics: &Metrics, path: &str) -> String {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let server = runtime.spawn(proxy::rest::serve(listener, metrics.router(), crate::client::doors(), async {
        stopped.await.unwrap_or(())
    }));
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    stop.send(()).unwrap();
    runtime.block_on(server).unwrap();
    text
}

#[test]
fn what_sniffers_push_is_counted_by_its_outcome() {
    let instance = Instance::start();
    let batch = |epoch, sequence| {
        let sniffer = SnifferId::of("tap").0;
        let report = v1::FlowReport { sniffer, epoch, sequence, name: "tap".into(), events: Vec::new() };
        v1::FlowBatch { shard: 0, report: report.encode_to_vec().into() }
    };
    let count = |line: &str| TextEncoder::new().encode_to_string(&instance.registry.gather()).unwrap().contains(line);
    assert!(count("\nrocinante_flow_pushes_open 0\n"), "what never happened is shown");
    let endpoint = tonic::transport::Channel::from_shared(format!("http://{}", instance.grpc)).unwrap();
    instance.runtime.block_on(async {
        let mut flows = FlowsClient::new(endpoint.connect().await.unwrap());
        let (batches, pushed) = tokio::sync::mpsc::channel(1);
        let stream = tokio_stream::wrappers::ReceiverStream::new(pushed);
        let mut answers = flows.push(stream).await.unwrap().into_inner();
        answers.message().await.unwrap().unwrap();
        assert!(count("\nrocinante_flow_pushes_open 1\n"));
        for (epoch, sequence) in [(5, 1), (5, 1), (5, 3), (4, 1)] {
            batches.send(batch(epoch, sequence)).await.unwrap();
            answers.message().await.unwrap().unwrap();
        }
        instance.control.fail(Some(proxy::control::ControlError::Unavailable("no leader".into())));
        batches.send(batch(5, 2)).await.unwrap();
        answers.message().await.unwrap().unwrap();
        batches.send(v1::FlowBatch { shard: 0, report: vec![0xff; 3].into() }).await.unwrap();
        assert!(answers.message().await.is_err(), "a batch that makes no sense ends the stream");
    });
    for outcome in ["acked", "again", "gap", "other_epoch", "later", "malformed"] {
        let line = format!("\nrocinante_flow_batches_total{{outcome=\"{outcome}\"}} 1\n");
        assert!(count(&line), "{outcome}");
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !count("\nrocinante_flow_pushes_open 0\n") {
        assert!(std::time::Instant::now() < deadline, "the push is over");
        std::thread::yield_now();
    }
    instance.stop();
}

#[test]
fn the_documentation_has_every_name() {
    let document = include_str!("../../../docs/api.md");
    let names = include_str!("../../src/metric_names.rs").split('"').filter(|text| text.starts_with("rocinante_"));
    for name in names {
        assert!(document.contains(&format!("| `{name}` |")), "docs/api.md lacks {name}");
    }
}
