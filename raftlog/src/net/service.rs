//! The side of the transport that is dialled: takes frames and snapshots from those whom the gate lets in.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::coop::consume_budget;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::counters::{add, one};
use super::gate::{Event, Refused};
use super::generated::link_server::Link;
use super::generated::{Hello, HelloReply, LinkReply, LinkRequest, SnapshotPart, SnapshotReply};
use super::inbound::Ticket;
use super::incoming::{Caller, Proof};
use super::options::{BATCH_FRAMES_MAX, FRAME_BYTES_MAX, LINK_VERSION, REFUSAL_TEXT_CHARS_MAX};
use super::receive;
use super::tasks::Alive;
use super::transport::Shared;
use crate::NodeId;

/// Serves the peers' protocol; made by [`Transport::service`](super::Transport::service).
#[derive(Clone)]
pub struct LinkService {
    shared: Arc<Shared>,
}

impl LinkService {
    pub(super) fn new(shared: Arc<Shared>) -> LinkService {
        LinkService { shared }
    }

    /// The first message of a stream, in time and while not too many others are waited for.
    async fn first<M>(&self, stream: &mut Streaming<M>) -> Result<M, Status> {
        let counters = &self.shared.counters;
        let Ok(_place) = self.shared.hellos.try_acquire() else {
            one(&counters.inbound_shed);
            return Err(Status::resource_exhausted("too many streams are waiting for their hello"));
        };
        let first = tokio::select! {
            () = self.shared.closed() => return Err(closing()),
            first = timeout(self.shared.options.hello_timeout, stream.message()) => first,
        };
        let missing = match first {
            Ok(Ok(Some(message))) => return Ok(message),
            Ok(Ok(None)) => Status::invalid_argument("no hello"),
            Ok(Err(status)) => status,
            Err(_) => Status::deadline_exceeded("no hello in time"),
        };
        one(&counters.inbound_hellos_missing);
        Err(missing)
    }

    /// The gate's answer to a hello.
    fn admit(&self, hello: Option<&Hello>, caller: &Caller) -> Result<Result<Admitted, Refused>, Status> {
        let counters = &self.shared.counters;
        let Some(hello) = hello else {
            one(&counters.inbound_hellos_missing);
            return Err(Status::invalid_argument("the first message has no hello"));
        };
        let answer = if hello.version == LINK_VERSION {
            self.judge(&hello.payload, caller)
        } else {
            let text = format!(
                "version {} of the protocol between peers is not spoken here, only {LINK_VERSION}",
                hello.version
            );
            Err(Refused::new(Refused::VERSION, text))
        };
        if let Err(refused) = &answer {
            one(&counters.inbound_hellos_refused);
            tracing::debug!(remote = %caller.remote, code = refused.code, reason = refused.text, "hello refused");
        }
        Ok(answer)
    }

    /// Says no to who shows no certificate where peers have to, before a word of it is waited for: a client of the API
    /// could else take the places of all peers.
    fn check_proof(&self, caller: &Caller) -> Result<(), Refused> {
        if caller.is_trusted() {
            return Ok(());
        }
        one(&self.shared.counters.inbound_hellos_refused);
        Err(Refused::new(Refused::IDENTITY, "peers have to show a certificate of this fleet"))
    }

    /// Who says that hello, if it comes from the instance that the certificate names and the gate lets it in.
    fn judge(&self, hello: &[u8], caller: &Caller) -> Result<Admitted, Refused> {
        let gate = &self.shared.gate;
        let label = gate.label_of(hello)?;
        // Whoever has no proof does not get so far.
        if let Proof::Instance(proven) = &caller.proof
            && label != **proven
        {
            let text = format!("the hello says it is instance {label}, and the certificate is that of {proven}");
            return Err(Refused::new(Refused::IDENTITY, text));
        }
        let (from, payload) = gate.admit(hello, caller.remote)?;
        Ok(Admitted { from, label: label.into(), payload })
    }
}

/// Someone whom the gate let in.
struct Admitted {
    from: NodeId,
    label: Arc<str>,
    /// What to answer.
    payload: Bytes,
}

#[tonic::async_trait]
impl Link for LinkService {
    type LinkStream = ReceiverStream<Result<LinkReply, Status>>;
    type SnapshotStream = ReceiverStream<Result<SnapshotReply, Status>>;

    async fn link(&self, request: Request<Streaming<LinkRequest>>) -> Result<Response<Self::LinkStream>, Status> {
        let caller = caller(&request)?;
        let mut requests = request.into_inner();
        let (replies, stream) = mpsc::channel(REPLIES_WAITING_MAX);
        // Known before anybody is let in: peers may leave meanwhile.
        let changes = self.shared.directory.changes();
        let (hello, answer) = match self.check_proof(&caller) {
            Ok(()) => {
                let hello = self.first(&mut requests).await?.hello;
                let answer = self.admit(hello.as_ref(), &caller)?;
                (hello, answer)
            }
            Err(refused) => (None, Err(refused)),
        };
        match answer {
            Ok(Admitted { from, label, payload }) => {
                say_hello(&replies, HelloReply { accepted: true, payload, ..HelloReply::default() })?;
                let still_welcome = || {
                    let left = self.shared.directory.changes() != changes;
                    let again = hello.filter(|_| left).map(|hello| self.judge(&hello.payload, &caller));
                    again.is_none_or(|again| again.is_ok())
                };
                self.open((from, label), requests, replies, still_welcome)?;
            }
            Err(Refused { code, text }) => {
                say_hello(&replies, HelloReply { code, text: shortened(&text), ..HelloReply::default() })?;
            }
        }
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<SnapshotPart>>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let caller = caller(&request)?;
        let mut parts = request.into_inner();
        if let Err(refused) = self.check_proof(&caller) {
            let (replies, stream) = mpsc::channel(REPLIES_WAITING_MAX);
            receive::refuse(&self.shared, &replies, refused).await;
            return Ok(Response::new(ReceiverStream::new(stream)));
        }
        let header = self.first(&mut parts).await?.header.ok_or_else(|| Status::invalid_argument("no header"))?;
        let (replies, stream) = mpsc::channel(REPLIES_WAITING_MAX);
        match self.admit(header.hello.as_ref(), &caller)? {
            Ok(Admitted { from, .. }) => receive::start(&self.shared, from, header, parts, replies)?,
            Err(refused) => receive::refuse(&self.shared, &replies, refused).await,
        }
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// A link that was let in.
struct IncomingLink {
    shared: Arc<Shared>,
    from: NodeId,
    requests: Streaming<LinkRequest>,
    replies: mpsc::Sender<Result<LinkReply, Status>>,
}

impl IncomingLink {
    async fn run(mut self, mut ticket: Ticket, _alive: Alive) {
        loop {
            tokio::select! {
                _ = &mut ticket.closed => break,
                request = self.requests.message() => match request {
                    Ok(Some(request)) => if !self.take(request) { break },
                    Ok(None) => break,
                    Err(status) => {
                        // Too large a message, or one that cannot be decoded; everything else is a lost connection.
                        if matches!(status.code(), Code::OutOfRange | Code::Internal) {
                            one(&self.shared.counters.inbound_links_broken);
                        }
                        break;
                    }
                },
            }
            // A flood must not keep the thread from others.
            consume_budget().await;
        }
        self.shared.inbound.ended(self.from, &ticket);
        one(&self.shared.counters.inbound_links_closed);
    }

    /// Hands the frames on; false when the link has to close.
    fn take(&self, request: LinkRequest) -> bool {
        let counters = &self.shared.counters;
        if request.frames.len() > BATCH_FRAMES_MAX || request.hello.is_some() {
            one(&counters.inbound_links_broken);
            return false;
        }
        for bytes in request.frames {
            let len = bytes.len();
            if len > FRAME_BYTES_MAX {
                one(&counters.dropped_received_oversized);
            } else if self.shared.inbox.offer(Event::Frame { from: self.from, bytes }).is_ok() {
                one(&counters.frames_received);
                add(&counters.frame_bytes_received, len);
            } else {
                one(&counters.dropped_inbox_full);
            }
        }
        // A peer that does not read its pongs loses the link by itself.
        let pong = LinkReply { hello: None, pong: request.ping };
        request.ping == 0 || self.replies.try_send(Ok(pong)).is_ok()
    }
}

impl LinkService {
    /// Takes what comes from `from` until the link ends. Whether it may still come in is asked once its link can be closed.
    fn open(
        &self,
        (from, label): (NodeId, Arc<str>),
        requests: Streaming<LinkRequest>,
        replies: mpsc::Sender<Result<LinkReply, Status>>,
        still_welcome: impl FnOnce() -> bool,
    ) -> Result<(), Status> {
        let alive = self.shared.tasks.enter();
        let Some(ticket) = self.shared.inbound.open(from, label, self.shared.options.inbound_links_max) else {
            one(&self.shared.counters.inbound_shed);
            return Err(Status::resource_exhausted("too many links"));
        };
        // A shutdown closes the links that it finds; one that is entered later finds the shutdown.
        if self.shared.is_closed() {
            self.shared.inbound.ended(from, &ticket);
            return Err(closing());
        }
        // As for those whom a change of the peers finds.
        if !still_welcome() {
            self.shared.inbound.ended(from, &ticket);
            one(&self.shared.counters.inbound_hellos_refused);
            return Err(Status::aborted("it is no peer any more"));
        }
        one(&self.shared.counters.inbound_links_opened);
        let incoming = IncomingLink { shared: self.shared.clone(), from, requests, replies };
        self.shared.runtime.spawn(incoming.run(ticket, alive));
        self.shared.directory.redial(from);
        Ok(())
    }
}

fn caller<M>(request: &Request<M>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| Status::internal("the server does not say who its clients are"))
}

fn say_hello(replies: &mpsc::Sender<Result<LinkReply, Status>>, hello: HelloReply) -> Result<(), Status> {
    let reply = LinkReply { hello: Some(hello), pong: 0 };
    replies.try_send(Ok(reply)).map_err(|_| Status::internal("no room for the first reply"))
}

pub(super) fn closing() -> Status {
    Status::unavailable("this instance is closing its links")
}

pub(super) fn shortened(text: &str) -> String {
    text.chars().take(REFUSAL_TEXT_CHARS_MAX).collect()
}

/// How many replies may wait for a peer that does not read.
const REPLIES_WAITING_MAX: usize = 8;
