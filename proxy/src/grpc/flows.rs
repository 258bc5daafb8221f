//! The service Flows: sniffers push batches, others read the table, follow it and write on it.

use std::{pin::Pin, sync::Arc};

use api::v1::{self, flow_ack, flow_refused, flows_server::Flows};
use bytes::Bytes;
use flow::{
    Revision,
    flows::{FlowCommand, FlowId, FlowOutcome, SNIFFERS_MAX, SnifferId, Verdict, shard_of},
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Duration, Instant, sleep_until, timeout},
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

use super::{
    PushCounters,
    convert::{consistency, rows},
};
use crate::control::{
    Consistency, Control, ControlError, Result as Answer, blocking,
    check::{PAGE_ROWS_MAX, parse_prefix},
    flows::{FlowCursor, FlowFilter, FlowName, FlowNews, FlowPosition, FlowWatch, FoundFlow, annotate, tables_with},
};

/// Most batches of one shard that one sniffer may have without an answer.
pub const IN_FLIGHT: u32 = 4;
/// Most sniffers that push to one instance at once.
pub const PUSHES_MAX: usize = 256;
/// Most that follow the table at one instance at once, over REST and gRPC each.
pub const WATCHES_MAX: usize = 64;

pub struct FlowsService<C> {
    control: C,
    pushes: Arc<Semaphore>,
    watches: Arc<Semaphore>,
    counters: PushCounters,
}

impl<C: Control> FlowsService<C> {
    pub fn new(control: C, counters: PushCounters) -> Self {
        let semaphore = |most| Arc::new(Semaphore::new(most));
        Self { control, pushes: semaphore(PUSHES_MAX), watches: semaphore(WATCHES_MAX), counters }
    }
}

type Stream_<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl<C: Control> Flows for FlowsService<C> {
    type PushStream = Stream_<v1::FlowAck>;
    type WatchStream = Stream_<v1::FlowsWatchResponse>;

    async fn push(&self, request: Request<Streaming<v1::FlowBatch>>) -> Result<Response<Self::PushStream>, Status> {
        let Ok(turn) = Arc::clone(&self.pushes).try_acquire_owned() else {
            return Err(ControlError::Overloaded(format!("{PUSHES_MAX} sniffers push already")).into());
        };
        let tables = self.control.flows(Consistency::Local).await?;
        let fleet = self.control.status().await.fleet_id;
        let hello = v1::FlowHello {
            fleet_id: fleet.map(|id| id.0.to_be_bytes().to_vec().into()).unwrap_or_default(),
            shards: tables.shard_count(),
            in_flight: IN_FLIGHT,
        };
        // Room for all answers that may be outstanding: answering never waits for whoever does not read.
        let (acks, answers) = mpsc::channel((tables.shard_count() * IN_FLIGHT) as usize + 1);
        let hello = flow_ack::Kind::Hello(hello);
        drop(acks.send(Ok(v1::FlowAck { kind: Some(hello) })).await);
        let counters = self.counters.clone();
        let open = counters.open();
        let push = Push { control: self.control.clone(), shards: tables.shard_count(), acks, counters };
        let batches = request.into_inner();
        tokio::spawn(async move {
            let _held = (turn, open);
            push.run(batches).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn get(&self, request: Request<v1::FlowGetRequest>) -> Result<Response<v1::FlowGetResponse>, Status> {
        let v1::FlowGetRequest { name, consistency: fresh } = request.into_inner();
        let name = flow_name(name)?;
        let tables = self.control.flows(consistency(fresh)?).await?;
        let (control, applied_index) = (self.control.clone(), tables.applied());
        let looked_up = blocking(move || {
            let (found, _) = tables.look_up(&[name])?;
            Ok::<_, ControlError>(found.iter().map(|found| shown(&control, found)).collect::<Vec<_>>())
        });
        let flows = looked_up.await??;
        if flows.is_empty() {
            return Err(ControlError::NotFound("there is no such flow".to_owned()).into());
        }
        Ok(Response::new(v1::FlowGetResponse { flows, applied_index }))
    }

    async fn lookup(
        &self,
        request: Request<v1::FlowLookupRequest>,
    ) -> Result<Response<v1::FlowLookupResponse>, Status> {
        let v1::FlowLookupRequest { names, consistency: fresh } = request.into_inner();
        if names.len() > PAGE_ROWS_MAX {
            let text = format!("{} names, at most {PAGE_ROWS_MAX} are looked up at once", names.len());
            return Err(ControlError::Invalid(text).into());
        }
        let names: Vec<FlowName> = names.into_iter().map(|name| flow_name(Some(name))).collect::<Answer<_>>()?;
        let tables = self.control.flows(consistency(fresh)?).await?;
        let control = self.control.clone();
        let answer = blocking(move || {
            let (found, missing) = tables.look_up(&names)?;
            let flows = found.iter().map(|found| shown(&control, found)).collect();
            let missing = missing.into_iter().map(|place| place as u32).collect();
            Ok::<_, ControlError>(v1::FlowLookupResponse { flows, missing })
        });
        Ok(Response::new(answer.await??))
    }

    async fn list(&self, request: Request<v1::FlowsListRequest>) -> Result<Response<v1::FlowsListResponse>, Status> {
        let v1::FlowsListRequest { filter, limit, cursor, consistency: fresh } = request.into_inner();
        let (filter, limit) = (flow_filter(filter)?, rows(limit)?);
        let cursor = if cursor.is_empty() { None } else { Some(FlowCursor::parse(&cursor)?) };
        let tables = tables_with(&self.control, consistency(fresh)?, cursor.as_ref()).await?;
        let revisions = revisions(&FlowPosition::now(&tables));
        let control = self.control.clone();
        let (flows, next) = blocking(move || {
            let page = tables.page(&filter, limit, cursor)?;
            Ok::<_, ControlError>((page.flows.iter().map(|found| shown(&control, found)).collect(), page.next))
        })
        .await??;
        let next = next.map(|cursor| cursor.to_string()).unwrap_or_default();
        Ok(Response::new(v1::FlowsListResponse { flows, next, revisions }))
    }

    async fn watch(&self, request: Request<v1::FlowsWatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let Ok(turn) = Arc::clone(&self.watches).try_acquire_owned() else {
            return Err(ControlError::Overloaded(format!("{WATCHES_MAX} follow the table already")).into());
        };
        let v1::FlowsWatchRequest { filter, after } = request.into_inner();
        let filter = flow_filter(filter)?;
        let mut changed = self.control.flows_changed();
        let tables = self.control.flows(Consistency::Local).await?;
        let fleet = after.iter().map(|one| one.fleet).find(|fleet| *fleet != 0);
        let after = after.into_iter().map(|one| (one.shard, Revision(one.revision), one.left));
        let position = FlowPosition::of(&tables, fleet, after)?;
        let tables = tables_with(&self.control, Consistency::Local, Some(&position)).await?;
        let mut watch = FlowWatch::new(&tables, filter, Some(position))?;
        let (news, told) = mpsc::channel(NEWS_AHEAD);
        let control = self.control.clone();
        tokio::spawn(async move {
            let _turn = turn;
            let ends = Instant::now() + WATCH_LIFETIME;
            // From where it goes on, should it break off before there is any news.
            let mut greeting = Some(v1::FlowsWatchResponse { kind: None, reached: revisions(watch.position()) });
            while Instant::now() < ends {
                changed.borrow_and_update();
                let Ok(tables) = control.flows(Consistency::Local).await else { return };
                // Much may have changed, of which little is let through.
                let looked = tokio::task::spawn_blocking(move || (watch.news(&tables, NEWS_MAX), watch));
                let Ok((batch, after)) = looked.await else { return };
                watch = after;
                let (count, reached) = (batch.len(), revisions(watch.position()));
                let told = batch.iter().enumerate().map(|(place, one)| {
                    let reached = if place + 1 == count { reached.clone() } else { Vec::new() };
                    v1::FlowsWatchResponse { kind: Some(news_kind(&control, one)), reached }
                });
                let all: Vec<_> = greeting.take().into_iter().chain(told).collect();
                for one in all {
                    // Who takes nothing for so long is let go, and can come back.
                    if !matches!(timeout(STALL_TIMEOUT, news.send(Ok(one))).await, Ok(Ok(()))) {
                        return;
                    }
                }
                if count == 0 {
                    tokio::select! {
                        ended = changed.changed() => if ended.is_err() { return },
                        () = news.closed() => return,
                        () = sleep_until(ends) => return,
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(told))))
    }

    async fn annotate(&self, request: Request<v1::FlowAnnotateRequest>) -> Result<Response<v1::Applied>, Status> {
        let v1::FlowAnnotateRequest { name, if_revision, labels, verdict } = request.into_inner();
        let name = flow_name(name)?;
        let verdict = verdict.map(|it| Verdict { action: it.action.into(), source: it.source.into() });
        let mut labels: Vec<(String, String)> = labels.into_iter().collect();
        labels.sort();
        let applied = annotate(&self.control, &name, Revision(if_revision), labels, verdict).await?;
        Ok(Response::new(applied.into()))
    }

    async fn stats(&self, _: Request<v1::FlowStatsRequest>) -> Result<Response<v1::FlowStatsResponse>, Status> {
        let tables = self.control.flows(Consistency::Local).await?;
        let shard = |(shard, table): (u32, &Arc<flow::flows::FlowTable>)| v1::FlowShard {
            shard,
            flows: table.len() as u64,
            begun: table.counters().begun,
            expired: table.counters().expired,
            evicted: table.counters().evicted,
            batches_again: table.counters().again,
            applied_index: table.applied().0,
        };
        let sniffers = tables.sniffer_reports().into_iter().map(|report| v1::FlowSniffer {
            sniffer: report.id.0,
            epoch: report.epoch,
            sequences: report.sequences,
            silent_ms: report.silent_ms,
            name: report.name.to_string(),
        });
        Ok(Response::new(v1::FlowStatsResponse {
            shards: (0..).zip(&tables.shards).map(shard).collect(),
            sniffers: sniffers.collect(),
        }))
    }
}

/// Takes batches of one sniffer, in their order, and answers them as they are committed.
struct Push<C> {
    control: C,
    shards: u32,
    acks: mpsc::Sender<Result<v1::FlowAck, Status>>,
    counters: PushCounters,
}

/// A batch that was read.
struct Batch {
    shard: u32,
    epoch: u64,
    sequence: u64,
    /// What is proposed, or why it is not.
    command: Answer<Bytes>,
}

impl<C: Control> Push<C> {
    async fn run(self, mut batches: Streaming<v1::FlowBatch>) {
        let most = (self.shards * IN_FLIGHT) as usize;
        let mut waiting = FuturesUnordered::new();
        let (mut begun, begins) = (false, Instant::now() + BEGIN_TIMEOUT);
        loop {
            tokio::select! {
                // First, or a sniffer that pushes more than it may is never answered.
                biased;
                Some(kind) = waiting.next(), if !waiting.is_empty() => {
                    self.counters.answered(&kind);
                    let ack = v1::FlowAck { kind: Some(kind) };
                    // There is room for all that it may have waiting: one that sends more and reads nothing is let go.
                    if self.acks.try_send(Ok(ack)).is_err() {
                        return;
                    }
                }
                // Sniffers begin with a batch for each shard.
                () = sleep_until(begins), if !begun => return,
                batch = batches.message(), if waiting.len() < most => match batch {
                    Ok(Some(batch)) => match self.read(batch).await {
                        Ok(batch) => {
                            begun = true;
                            let control = self.control.clone();
                            // It is begun before the next is read: batches are proposed in the order in which they came.
                            waiting.push(async move {
                                let outcome = match &batch.command {
                                    Ok(command) => control.flow_report(batch.shard, command.clone()).await,
                                    Err(error) => Err(error.clone()),
                                };
                                answer(&batch, outcome)
                            });
                        }
                        Err(status) => {
                            self.counters.unreadable();
                            drop(self.acks.try_send(Err(status)));
                            return;
                        }
                    },
                    Ok(None) => break,
                    Err(error) => {
                        debug!(%error, "a sniffer's stream broke off");
                        break;
                    }
                },
            }
        }
        // What was proposed is still answered.
        while let Some(kind) = waiting.next().await {
            self.counters.answered(&kind);
            let ack = v1::FlowAck { kind: Some(kind) };
            if self.acks.try_send(Ok(ack)).is_err() {
                return;
            }
        }
    }

    /// Reads a batch, apart from the threads that carry the links to peers. What does not even tell its number ends the stream:
    /// there is nothing to answer.
    async fn read(&self, batch: v1::FlowBatch) -> Result<Batch, Status> {
        let shards = self.shards;
        let read = tokio::task::spawn_blocking(move || {
            let v1::FlowBatch { shard, report } = batch;
            if report.len() > REPORT_BYTES_MAX {
                return Err(format!("a batch of {} bytes, at most {REPORT_BYTES_MAX} are possible", report.len()));
            }
            let command = Bytes::from(FlowCommand::of_report(&report));
            match FlowCommand::decode(&command) {
                Ok(FlowCommand::Report { sniffer, name, epoch, sequence, events }) => {
                    let stray = events.iter().find(|one| shard_of(FlowId(one.key.id()), shards) != shard);
                    let command = if shard >= shards {
                        Err(ControlError::Invalid(format!("there is no shard {shard}, but {shards} of them")))
                    } else if SnifferId::of(&name) != sniffer {
                        Err(ControlError::Invalid(format!("the sniffer's number is not that of its name {name:?}")))
                    } else if let Some(event) = stray {
                        let text = format!("flow {} belongs to another shard than {shard}", event.key.id());
                        Err(ControlError::Invalid(text))
                    } else {
                        Ok(command)
                    };
                    Ok(Batch { shard, epoch, sequence, command })
                }
                Ok(_) => Err("it is no report".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        });
        match read.await {
            Ok(Ok(batch)) => Ok(batch),
            Ok(Err(text)) => Err(ControlError::Invalid(text).into()),
            Err(error) => Err(ControlError::Internal(error.to_string()).into()),
        }
    }
}

fn answer(batch: &Batch, outcome: Answer<FlowOutcome>) -> flow_ack::Kind {
    let Batch { shard, epoch, sequence, .. } = *batch;
    let acked = |index| flow_ack::Kind::Acked(v1::FlowAcked { shard, epoch, sequence, index });
    let refused = |why| flow_ack::Kind::Refused(v1::FlowRefused { shard, epoch, sequence, why: Some(why) });
    match outcome {
        Ok(FlowOutcome::Done(revision)) => acked(revision.0),
        Ok(FlowOutcome::Again) => acked(0),
        Ok(FlowOutcome::Gap(expected)) => refused(flow_refused::Why::Expected(expected)),
        Ok(FlowOutcome::OldEpoch(epoch)) => refused(flow_refused::Why::OtherEpoch(epoch)),
        Ok(FlowOutcome::TooManySniffers) => refused(flow_refused::Why::Later(format!(
            "{SNIFFERS_MAX} sniffers reported lately, and there may not be more: one that is silent makes room"
        ))),
        Ok(other) => refused(flow_refused::Why::Malformed(format!("the log answered {other:?}"))),
        Err(ControlError::Invalid(text)) => refused(flow_refused::Why::Malformed(text)),
        // Sent again it counts once.
        Err(error) => refused(flow_refused::Why::Later(error.to_string())),
    }
}

fn flow_name(name: Option<v1::FlowName>) -> Answer<FlowName> {
    use v1::flow_name::Name;
    match name.and_then(|name| name.name) {
        Some(Name::Id5(id)) => Ok(FlowName::Five(FlowId(id))),
        Some(Name::Id7(id)) => Ok(FlowName::Seven(FlowId(id))),
        Some(Name::CommunityId(text)) => FlowName::community(&text),
        Some(Name::Key(key)) => {
            let invalid = |what: &str| ControlError::Invalid(format!("the key's {what} makes no sense"));
            let address = |bytes: &[u8]| match bytes.len() {
                4 => <[u8; 4]>::try_from(bytes).map(std::net::IpAddr::from).map_err(|_| invalid("address")),
                _ => <[u8; 16]>::try_from(bytes).map(std::net::IpAddr::from).map_err(|_| invalid("address")),
            };
            let port = |port| u16::try_from(port).map_err(|_| invalid("port"));
            let ends = [(address(&key.low)?, port(key.low_port)?), (address(&key.high)?, port(key.high_port)?)];
            FlowName::key(u8::try_from(key.protocol).map_err(|_| invalid("protocol"))?, ends)
        }
        None => Err(ControlError::Invalid("name is missing".to_owned())),
    }
}

fn flow_filter(filter: Option<v1::FlowFilter>) -> Answer<FlowFilter> {
    let filter = filter.unwrap_or_default();
    let given = |text: String| (!text.is_empty()).then_some(text);
    Ok(FlowFilter {
        prefix: given(filter.prefix).map(|text| parse_prefix(&text)).transpose()?,
        port: filter.port.map(u16::try_from).transpose().map_err(|_| no_number("port"))?,
        protocol: filter.protocol.map(u8::try_from).transpose().map_err(|_| no_number("protocol"))?,
        app: given(filter.app).map(|text| FlowFilter::app_named(&text)).transpose()?,
        host: given(filter.host),
        state: given(filter.state).map(|text| FlowFilter::state_named(&text)).transpose()?,
        observer: given(filter.observer).map(|text| FlowFilter::observer_named(&text)),
    })
}

fn no_number(what: &str) -> ControlError {
    ControlError::Invalid(format!("{what}: out of range"))
}

fn revisions(position: &FlowPosition) -> Vec<v1::FlowRevision> {
    let of = |(shard, (revision, left)): (u32, (Revision, Option<u64>))| v1::FlowRevision {
        shard,
        revision: revision.0,
        left,
        fleet: position.fleet(),
    };
    (0..).zip(position.shards()).map(of).collect()
}

fn news_kind<C: Control>(control: &C, news: &FlowNews) -> v1::flows_watch_response::Kind {
    use v1::flows_watch_response::Kind;
    match news {
        FlowNews::Reset => Kind::Reset(v1::FlowsReset {}),
        FlowNews::Changed(found) => Kind::Changed(shown(control, found)),
        FlowNews::Left { id, shard, revision } => {
            Kind::Left(v1::FlowLeft { id: id.0, shard: *shard, revision: revision.0 })
        }
        FlowNews::Lagged { shard, revision, missed } => {
            Kind::Lagged(v1::FlowLagged { shard: *shard, revision: revision.0, missed: *missed })
        }
    }
}

fn shown<C: Control>(control: &C, found: &FoundFlow) -> v1::Flow {
    let record = &found.record;
    let [low, high] = record.counts();
    let text = |text: &Option<Box<str>>| text.as_deref().unwrap_or_default().to_owned();
    v1::Flow {
        id5: record.key.id(),
        id7: record.seventh.map(|_| found.id.0),
        community_id: record.key.community_id(),
        key: Some(key(&record.key)),
        tos: record.seventh.map(|(tos, _)| tos.into()),
        ingress: record.seventh.map_or(0, |(_, ingress)| ingress),
        vlan: record.vlan.map(Into::into),
        from_low: record.from_low,
        state: record.standing() as u32,
        first_us: record.first_us(),
        last_us: record.last_us(),
        low_packets: low.packets,
        low_bytes: low.bytes,
        high_packets: high.packets,
        high_bytes: high.bytes,
        label: record.label.as_ref().map(|label| v1::FlowLabel {
            app: label.app.number().into(),
            confidence: label.confidence as u32,
            host: text(&label.host),
            alpn: text(&label.alpn),
            ja4: text(&label.ja4),
            quic_version: label.quic_version,
        }),
        observations: record.observations().iter().zip(&found.observers).map(observation).collect(),
        labels: record.labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        verdict: record.verdict.as_ref().map(|(verdict, at)| v1::FlowVerdict {
            action: verdict.action.to_string(),
            source: verdict.source.to_string(),
            age_ms: found.now.0.saturating_sub(at.0),
        }),
        backends: control.flow_backends(record).into_iter().map(backend).collect(),
        shard: found.shard,
        revision: record.revision.0,
        expires_in_ms: record.expires.0.saturating_sub(found.now.0),
    }
}

fn key(key: &flow::tuple::FlowKey) -> v1::FlowKey {
    let bytes = |address: std::net::IpAddr| match address {
        std::net::IpAddr::V4(address) => address.octets().to_vec().into(),
        std::net::IpAddr::V6(address) => address.octets().to_vec().into(),
    };
    v1::FlowKey {
        protocol: key.protocol.into(),
        low: bytes(key.low.ip(key.version)),
        high: bytes(key.high.ip(key.version)),
        low_port: key.low.port.into(),
        high_port: key.high.port.into(),
    }
}

fn observation((seen, name): (&flow::flows::Observation, &Arc<str>)) -> v1::FlowObservation {
    let [low, high] = seen.total();
    v1::FlowObservation {
        sniffer: seen.sniffer.0,
        name: name.to_string(),
        epoch: seen.epoch,
        first_us: seen.first_us,
        last_us: seen.last_us,
        low_packets: low.packets,
        low_bytes: low.bytes,
        high_packets: high.packets,
        high_bytes: high.bytes,
        tcp_flags: u32::from(seen.tcp_flags[0]) | u32::from(seen.tcp_flags[1]) << 8,
        state: seen.standing as u32,
        end: seen.end.map_or(0, |end| end as u32),
        sample: seen.sample,
    }
}

fn backend(backend: crate::control::flows::FlowBackend) -> v1::FlowBackend {
    v1::FlowBackend {
        pool: backend.pool,
        client: backend.client.map(|client| client.to_string()).unwrap_or_default(),
        server: backend.server,
        address: backend.address.to_string(),
    }
}

/// Most bytes of a batch: what an entry of the log holds, with room to spare.
const REPORT_BYTES_MAX: usize = 512 << 10;

/// How long a sniffer may take to its first batch.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(30);

/// How long who follows the table may take nothing.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the table is followed at once; then it has to be taken up again.
const WATCH_LIFETIME: Duration = Duration::from_mins(10);

/// Most news looked for at once.
const NEWS_MAX: usize = 500;

/// Most news that wait for whoever follows the table.
const NEWS_AHEAD: usize = 64;
