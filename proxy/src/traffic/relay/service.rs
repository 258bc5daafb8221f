//! The asked side: connects to a backend for another instance and carries the bytes.

use std::{net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use flow::BackendId;
use prometheus::IntGauge;
use raftlog::net::Caller;
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::timeout,
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

use super::{
    proto::{
        Connect, Connected, Failed, RelayFrame,
        failed::Reason,
        relay_frame::Frame,
        relay_server::{Relay, RelayServer},
    },
    pump::{Ended, Link, pump},
};
use crate::{
    choice::{Chooser, Member},
    traffic::{
        counters::Metrics,
        limits,
        pool::millis,
        socket::{self, Blame, Source},
        tunnel::Rhythm,
        workers::Phase,
    },
};

/// Relays for other instances.
pub struct RelayService<C> {
    chooser: C,
    own: IpAddr,
    metrics: Arc<Metrics>,
    permits: Arc<Semaphore>,
    phase: watch::Receiver<Phase>,
}

/// The gRPC service that relays for other instances, for at most `limit` connections at once.
pub fn server<C: Chooser>(
    chooser: C,
    own: IpAddr,
    limit: usize,
    metrics: Arc<Metrics>,
    phase: watch::Receiver<Phase>,
) -> RelayServer<RelayService<C>> {
    let permits = Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS)));
    RelayServer::new(RelayService { chooser, own, metrics, permits, phase })
        .max_decoding_message_size(limits::RELAY_FRAME_BYTES_MAX)
}

type Frames = Pin<Box<dyn Stream<Item = Result<RelayFrame, Status>> + Send>>;

#[tonic::async_trait]
impl<C: Chooser> Relay for RelayService<C> {
    type OpenStream = Frames;

    async fn open(&self, request: Request<Streaming<RelayFrame>>) -> Result<Response<Frames>, Status> {
        if request.extensions().get::<Caller>().is_some_and(|caller| !caller.is_trusted()) {
            return Err(Status::permission_denied("only instances of this fleet may ask for connections"));
        }
        let mut inbound = request.into_inner();
        let asked = match timeout(limits::RELAY_CONNECT_MAX, inbound.message()).await {
            Ok(first) => first?.and_then(|first| first.frame),
            Err(_elapsed) => return Err(Status::deadline_exceeded("no `connect` frame in time")),
        };
        let (connect, permit, backend) = match self.accept(asked).await {
            Ok(accepted) => accepted,
            Err(failed) => {
                self.metrics.relay(failed.reason().as_str_name());
                debug!(reason = failed.reason().as_str_name(), message = failed.message, "does not relay");
                let only = RelayFrame { frame: Some(Frame::Failed(failed)) };
                return Ok(Response::new(Box::pin(tokio_stream::once(Ok(only)))));
            }
        };
        self.metrics.relay("connected");
        debug!(backend = connect.backend, client = connect.client, "relays");
        let (outbound, frames) = mpsc::channel(limits::RELAY_FRAMES_QUEUED);
        let first = RelayFrame { frame: Some(Frame::Connected(Connected {})) };
        outbound.send(first).await.map_err(|_closed| Status::cancelled("gone before it was connected"))?;
        let idle = millis(connect.idle_timeout_ms).min(limits::RELAY_IDLE_MAX);
        let relayed = Relayed { backend, link: Link { inbound, outbound }, idle };
        let open = Open::new(&self.metrics.relays_open, permit);
        tokio::spawn(relayed.run(open, self.phase.clone()));
        Ok(Response::new(Box::pin(ReceiverStream::new(frames).map(Ok))))
    }
}

impl<C: Chooser> RelayService<C> {
    /// The connection that was asked for, if it may be made and can be made.
    async fn accept(&self, asked: Option<Frame>) -> Result<(Connect, OwnedSemaphorePermit, TcpStream), Failed> {
        let Some(Frame::Connect(connect)) = asked else {
            return Err(failed(Reason::Protocol, "the first frame has to be `connect`"));
        };
        if *self.phase.borrow() != Phase::Serving {
            return Err(failed(Reason::Limit, "this instance is draining"));
        }
        let permit = Arc::clone(&self.permits)
            .try_acquire_owned()
            .map_err(|_none| failed(Reason::Limit, "this instance carries as many relays as it may"))?;
        let member = self
            .chooser
            .member(BackendId(connect.backend))
            .ok_or_else(|| failed(Reason::NotAMember, "not a member of a committed pool"))?;
        let (address, source) = (member.address, self.source(member, &connect)?);
        let patience = millis(connect.connect_timeout_ms.into()).min(limits::RELAY_CONNECT_MAX);
        match socket::connect(source, address, patience).await {
            Ok(backend) => Ok((connect, permit, backend)),
            Err(error) => Err(match socket::blame(&error) {
                Blame::Backend(_) => failed(Reason::Unreachable, &format!("{address}: {error}")),
                Blame::Us => failed(Reason::Limit, &error.to_string()),
                Blame::Client(reason) => failed(Reason::Unreachable, &reason.to_string()),
            }),
        }
    }

    /// Where a connection that was asked for comes from: never from another address than the asker thinks.
    fn source(&self, member: Member, connect: &Connect) -> Result<Source, Failed> {
        match (connect.transparent, member.transparent) {
            (false, false) => Ok(Source::Own(self.own)),
            (true, true) => match connect.client.parse() {
                Ok(client) => Ok(Source::Client(client)),
                Err(_) => Err(failed(Reason::Protocol, "`client` is no address with a port")),
            },
            (asked, _) => Err(failed(Reason::NotAMember, &format!("transparent is {asked} there and {} here", !asked))),
        }
    }
}

/// A connection carried for another instance.
struct Relayed {
    backend: TcpStream,
    link: Link,
    idle: Duration,
}

impl Relayed {
    async fn run(self, open: Open, mut phase: watch::Receiver<Phase>) {
        let rhythm = Rhythm { idle: self.idle, touch: limits::RELAY_IDLE_MAX };
        tokio::select! {
            ended = pump(self.backend, self.link, Vec::new(), rhythm, |_, _| {}, || {}) => {
                if ended != Ended::Closed {
                    debug!(?ended, "a relayed connection broke");
                }
            }
            _ = phase.wait_for(|phase| *phase == Phase::Cut) => {}
        }
        drop(open);
    }
}

/// One relayed connection in the gauge and under the limit, until it is dropped.
struct Open {
    gauge: IntGauge,
    _permit: OwnedSemaphorePermit,
}

impl Open {
    fn new(gauge: &IntGauge, permit: OwnedSemaphorePermit) -> Self {
        gauge.inc();
        Self { gauge: gauge.clone(), _permit: permit }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

fn failed(reason: Reason, message: &str) -> Failed {
    Failed { reason: reason.into(), message: message.to_owned() }
}
