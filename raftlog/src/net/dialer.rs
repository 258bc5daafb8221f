//! Keeps the link to one peer: dials, says hello, carries frames until the link is lost, and starts again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::backoff::{Backoff, chance};
use super::connect::{ConnectError, Connection, connect};
use super::counters::one;
use super::directory::Peer;
use super::gate::{Event, Refused};
use super::generated::link_client::LinkClient;
use super::generated::{HelloReply, LinkReply};
use super::options::REPLY_BYTES_MAX;
use super::outbox::{Outbox, OutboxGuard, Outgoing};
use super::transport::Shared;
use crate::NodeId;

/// Dials `peer` until the owner does not want it any more.
pub(super) async fn run(shared: Arc<Shared>, peer: Arc<Peer>) {
    let backoff = Backoff::new(shared.options.backoff_min, shared.options.backoff_max);
    let mut dialer = Dialer { shared: &shared, peer: &peer, backoff, process_is_gone: false, refused: None };
    tokio::select! {
        () = peer.closed() => {}
        () = dialer.dial_forever() => {}
    }
    peer.detach();
}

struct Dialer<'a> {
    shared: &'a Arc<Shared>,
    peer: &'a Arc<Peer>,
    backoff: Backoff,
    /// The owner was told that nobody listens at the peer's port, and nothing better was heard since.
    process_is_gone: bool,
    /// The no that the owner was told last.
    refused: Option<Refused>,
}

/// A link that was accepted. The client keeps the connection open.
struct Link {
    id: NodeId,
    frames: OutboxGuard,
    replies: Streaming<LinkReply>,
    _client: LinkClient<Channel>,
}

/// Why a dial led to no link.
enum Failure {
    NoConnection(ConnectError),
    NoHello(String),
    Untrusted(String),
    Refused(Refused),
}

impl Dialer<'_> {
    async fn dial_forever(&mut self) {
        loop {
            let pause = match self.open().await {
                Ok(link) => {
                    self.carry(link).await;
                    self.backoff.lost(Instant::now(), chance())
                }
                Err(failure) => {
                    self.report(failure).await;
                    self.backoff.failed(chance())
                }
            };
            tokio::select! {
                () = sleep(pause), if !pause.is_zero() => {}
                () = self.peer.redial.notified(), if !pause.is_zero() => {}
                else => {}
            }
        }
    }

    async fn open(&self) -> Result<Link, Failure> {
        let Shared { options, gate, counters, .. } = &**self.shared;
        one(&counters.dials);
        let Connection { channel, heard } = connect(options, &self.peer.address).await.map_err(no_connection)?;
        let outbox = Arc::new(Outbox::new(options));
        let frames = OutboxGuard { outbox: outbox.clone(), counters: counters.clone() };
        let outgoing = Outgoing::new(gate.hello(&self.peer.address), outbox, counters.clone());
        let mut client = LinkClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX);
        let (hello, replies) = timeout(options.hello_timeout, say_hello(&mut client, outgoing))
            .await
            .map_err(|_| Failure::NoHello("no answer in time".into()))?
            .map_err(|status| match heard.trouble() {
                Some(trouble) => Failure::Untrusted(trouble),
                None => Failure::NoHello(status.message().into()),
            })?;
        if !hello.accepted {
            return Err(Failure::Refused(Refused::from_wire(hello.code, &hello.text)));
        }
        let id = gate.accepted(&self.peer.address, &hello.payload).map_err(Failure::Refused)?;
        Ok(Link { id, frames, replies, _client: client })
    }

    /// Carries frames until the link is lost.
    async fn carry(&mut self, mut link: Link) {
        let Shared { counters, directory, .. } = &**self.shared;
        let label = self.peer.address.label.clone();
        let peer = link.id;
        self.process_is_gone = false;
        self.refused = None;
        one(&counters.links_opened);
        if directory.identify(self.peer, peer) {
            one(&counters.links_reopened);
        }
        self.peer.attach(link.frames.outbox.clone());
        tracing::info!(peer = %label, node = peer.0, "link up");
        self.tell(Event::LinkUp { peer, label: label.clone() }).await;

        let reason = self.until_lost(&mut link).await;
        self.peer.detach();
        drop(link);
        one(&counters.links_lost);
        tracing::info!(peer = %label, node = peer.0, reason, "link down");
        self.tell(Event::LinkDown { label, peer: Some(peer), refused: false }).await;
    }

    /// Pings and waits for pongs; says why no more of them will come.
    async fn until_lost(&self, link: &mut Link) -> String {
        let options = &self.shared.options;
        let mut ticks = interval(options.ping_interval.max(PING_INTERVAL_MIN));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pings = 0;
        let mut unanswered = 0;
        loop {
            tokio::select! {
                biased;
                reply = link.replies.message() => match reply {
                    Ok(Some(_)) => unanswered = 0,
                    Ok(None) => return "the peer closed it".into(),
                    Err(status) => return status.message().into(),
                },
                _ = ticks.tick() => {
                    if unanswered >= options.pings_unanswered_max {
                        return format!("{unanswered} pings without an answer");
                    }
                    unanswered += 1;
                    pings += 1;
                    link.frames.outbox.ping(pings);
                }
            }
        }
    }

    async fn report(&mut self, failure: Failure) {
        let counters = &self.shared.counters;
        let PeerDescription { label, address } = self.describe();
        match failure {
            Failure::NoConnection(error) => {
                one(&counters.dials_failed);
                tracing::debug!(peer = %label, address, %error, "no connection");
                if matches!(error, ConnectError::NobodyListens) {
                    one(&counters.dials_refused);
                    if !std::mem::replace(&mut self.process_is_gone, true) {
                        self.tell(Event::LinkDown { label, peer: self.peer.id(), refused: true }).await;
                    }
                }
            }
            Failure::NoHello(reason) => {
                one(&counters.dials_failed);
                tracing::debug!(peer = %label, address, reason, "no hello");
            }
            Failure::Untrusted(text) => {
                one(&counters.dials_failed);
                self.tell_refusal(Refused::new(Refused::UNTRUSTED, text)).await;
            }
            Failure::Refused(refused) => {
                one(&counters.hellos_turned_down);
                self.tell_refusal(refused).await;
            }
        }
    }

    /// Tells of a no, unless it is the one that was told last.
    async fn tell_refusal(&mut self, refused: Refused) {
        let PeerDescription { label, address } = self.describe();
        if self.refused.as_ref() != Some(&refused) {
            tracing::warn!(peer = %label, address, code = refused.code, reason = refused.text, "link refused");
            self.refused = Some(refused.clone());
            self.tell(Event::Refused { label, address, refused }).await;
        }
    }

    /// Offers the event until the owner takes it.
    async fn tell(&self, mut event: Event) {
        while let Err(back) = self.shared.inbox.offer(event) {
            event = back;
            one(&self.shared.counters.events_delayed);
            sleep(EVENT_RETRY).await;
        }
    }

    fn describe(&self) -> PeerDescription {
        PeerDescription { label: self.peer.address.label.clone(), address: self.peer.address.to_string() }
    }
}

struct PeerDescription {
    label: Arc<str>,
    address: String,
}

fn no_connection(error: ConnectError) -> Failure {
    match error {
        ConnectError::Untrusted(text) => Failure::Untrusted(text),
        other => Failure::NoConnection(other),
    }
}

async fn say_hello(
    client: &mut LinkClient<Channel>,
    outgoing: Outgoing,
) -> Result<(HelloReply, Streaming<LinkReply>), Status> {
    let mut replies = client.link(outgoing).await?.into_inner();
    let first = replies.message().await?;
    let hello = first.and_then(|reply| reply.hello).ok_or_else(|| Status::invalid_argument("no hello in the reply"))?;
    Ok((hello, replies))
}

/// When news that the inbox did not take are offered again.
const EVENT_RETRY: Duration = Duration::from_millis(10);
/// Pings do not come faster, whatever the options say.
const PING_INTERVAL_MIN: Duration = Duration::from_millis(1);
