//! One request: the fleet's choice for its client, and what to do when that does not answer.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{BorrowedFd, RawFd},
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use flow::{BackendId, PinKey, PoolSpec};
use http::{Version, header};
use pingora::{
    Error, ErrorSource,
    ErrorType::{
        BindError, ConnectError, ConnectRefused, ConnectTimedout, ConnectionClosed, HTTPStatus, InternalError,
        InvalidHTTPHeader, ReadError, ReadTimedout, WriteError, WriteTimedout,
    },
    Result,
    connectors::L4Connect,
    http::{RequestHeader, ResponseHeader},
    protocols::{Digest, l4},
    proxy::{FailToProxy, ProxyHttp, Session},
    upstreams::peer::HttpPeer,
};
use rustix::net::AddressFamily;
use tokio::net::UnixStream;
use tracing::{debug, error};

use super::stream::Client;
use crate::{
    choice::{Choice, Chooser},
    traffic::{
        counters::{self, Fault, RefusedFor},
        limits::{self, Limits},
        pool::{Pool, millis, rhythm},
        relay::{self, Carried},
        socket::{self, Blame, Source},
        upstream::{Next, Shared},
    },
};

/// Gives requests to backends.
pub(super) struct Gateway<C> {
    shared: Arc<Shared<C>>,
    limits: Limits,
}

/// One request's state.
#[derive(Default)]
pub(super) struct Request {
    from: Option<From>,
    choice: Option<Choice>,
    session: Option<counters::Session>,
    /// Choices taken for this request.
    choices: usize,
    /// The choice that did not answer, until the next one is taken.
    failed: Option<Fault>,
    /// The choice lapsed before anything was sent.
    lapsed: bool,
    refused: Option<RefusedFor>,
}

/// A client with its pool's settings as they were when the request came.
struct From {
    pool: Arc<Pool>,
    spec: Arc<PoolSpec>,
    address: SocketAddr,
}

impl From {
    fn key(&self) -> PinKey {
        PinKey::new(self.pool.id, self.address.ip())
    }
}

impl<C: Chooser> Gateway<C> {
    pub(super) fn new(shared: Arc<Shared<C>>, limits: Limits) -> Self {
        Self { shared, limits }
    }

    /// The next backend for a request: the fleet's choice, or what follows a failed connect.
    async fn next(&self, request: &mut Request) -> Result<(Choice, Option<Carried>), RefusedFor> {
        let Some(from) = &request.from else { return Err(RefusedFor::NoPool) };
        request.choices += 1;
        if request.choices > limits::CHOICES_MAX {
            return Err(RefusedFor::UnreachableHere);
        }
        match (request.failed.take(), request.choice.take()) {
            (Some(fault), Some(failed)) => {
                let next = self.shared.after_failure(&from.pool, &from.spec, from.address, &failed, fault).await?;
                Ok(match next {
                    Next::Choice(choice) => (choice, None),
                    Next::Relayed(carried) => (failed, Some(carried)),
                })
            }
            _ => Ok((self.shared.choose(from.key(), &from.spec).await?, None)),
        }
    }

    /// How pingora is to reach `choice` for `from`.
    fn peer(&self, choice: &Choice, carried: Option<Carried>, from: &From, wish: Wish) -> Result<Box<HttpPeer>> {
        let spec = &from.spec;
        let mut peer = Box::new(HttpPeer::new(choice.address, false, String::new()));
        let options = &mut peer.options;
        // The front ends an upgraded connection that is silent both ways; one way alone may be silent for long.
        options.read_timeout = (wish != Wish::Upgrade).then(|| millis(spec.idle_timeout_ms));
        options.write_timeout = Some(millis(spec.idle_timeout_ms));
        if wish == Wish::Grpc {
            options.set_http_version(2, 2);
            options.max_h2_streams = self.limits.h2_streams as usize;
        }
        match carried {
            None => {
                options.idle_timeout = Some(limits::BACKEND_KEEPALIVE);
                let source = self.shared.source(spec, from.address);
                options.custom_l4 = Some(Arc::new(Direct { source, timeout: millis(spec.connect_timeout_ms) }));
                peer.group_key = group_key(choice.backend, source);
            }
            Some(carried) => {
                let (ours, theirs) = UnixStream::pair()
                    .map_err(|error| Error::because(InternalError, "no socket pair for a relay", error))?;
                tokio::spawn(relay::carry_local(theirs, carried, rhythm(spec)));
                // A relayed connection serves one request; the next is made from here again if it can be.
                options.idle_timeout = Some(Duration::ZERO);
                options.custom_l4 = Some(Arc::new(Relayed(Mutex::new(Some(ours)))));
                peer.group_key = NEXT_RELAY.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(peer)
    }
}

#[async_trait]
impl<C: Chooser> ProxyHttp for Gateway<C> {
    type CTX = Request;

    fn new_ctx(&self) -> Request {
        Request::default()
    }

    async fn request_filter(&self, session: &mut Session, request: &mut Request) -> Result<bool> {
        let owner = session.digest().and_then(|digest| digest.proxy_digest.as_deref()?.user_data.as_deref());
        if let Some(client) = owner.and_then(|owner| owner.downcast_ref::<Client>()) {
            let pool = Arc::clone(&client.pool);
            request.from = Some(From { spec: pool.spec(), pool, address: client.address });
            client.wire.upgrading.store(session.is_upgrade_req(), Ordering::Relaxed);
        }
        if session.is_upgrade_req() {
            session.set_read_timeout(None);
        }
        if session.is_http2() {
            // The front sets these for HTTP/1.
            session.set_write_timeout(Some(self.limits.write_timeout));
            session.set_total_drain_timeout(Some(limits::BODY_DRAIN_TIMEOUT));
        }
        let head = session.req_header();
        if head.version == Version::HTTP_11 && !head.headers.contains_key(header::HOST) {
            respond(session, 400, "an HTTP/1.1 request has to name its Host", false).await?;
            return Ok(true);
        }
        if head.headers.len() > self.limits.head_fields {
            respond(session, 431, "too many header fields", false).await?;
            return Ok(true);
        }
        Ok(false)
    }

    async fn upstream_peer(&self, session: &mut Session, request: &mut Request) -> Result<Box<HttpPeer>> {
        match self.next(request).await {
            Ok((choice, carried)) => {
                let Some(from) = &request.from else { return Error::e_explain(InternalError, "a request of no pool") };
                let peer = self.peer(&choice, carried, from, Wish::of(session))?;
                request.session = Some(from.pool.counters.backend(choice.backend, &choice.name).session());
                request.choice = Some(choice);
                Ok(peer)
            }
            Err(reason) => {
                request.session = None;
                request.refused = Some(reason);
                Error::e_explain(HTTPStatus(503), reason.label())
            }
        }
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        fd: RawFd,
        _digest: Option<&Digest>,
        request: &mut Request,
    ) -> Result<()> {
        let (Some(from), Some(choice)) = (&request.from, &request.choice) else {
            return Error::e_explain(InternalError, "a connection for no request");
        };
        // The key of the store keeps clients apart; this is the proof of it, before a byte is sent.
        if from.spec.transparent && !is_of(fd, from.address) {
            error!(pool = from.spec.name, client = %from.address, "a kept connection has another client's address");
            request.refused = Some(RefusedFor::NotTransparent);
            return Error::e_explain(InternalError, "a connection with another client's address");
        }
        // The process may have been paused since the choice; nothing was sent yet, so nothing is lost.
        if self.shared.chooser.still_stands(&from.key(), choice) {
            return Ok(());
        }
        if let Some(session) = &request.session {
            session.counters().fault(Fault::ChoiceLapsed);
        }
        request.lapsed = true;
        Error::e_explain(InternalError, "the choice lapsed")
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        request: &mut Request,
        mut error: Box<Error>,
    ) -> Box<Error> {
        let fault = match error.etype() {
            ConnectRefused => Some(Fault::ConnectRefused),
            ConnectTimedout => Some(Fault::ConnectTimeout),
            ConnectError => Some(Fault::ConnectFailed),
            _ => None,
        };
        match fault {
            Some(fault) => {
                // It serves nothing, and whatever is answered is not its answer.
                request.session = None;
                request.failed = Some(fault);
                error.set_retry(true);
            }
            None if matches!(error.etype(), InternalError | BindError) => {
                let client = *error.etype() == BindError;
                request.session = None;
                request.refused = Some(if client { RefusedFor::NotTransparent } else { RefusedFor::Exhausted });
                error.set_retry(false);
            }
            // Connected, but it does not speak HTTP/2.
            None => {
                if let Some(session) = &request.session {
                    session.counters().fault(Fault::BadAnswer);
                }
                error.set_retry(false);
            }
        }
        error
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        request: &mut Request,
        reused: bool,
    ) -> Box<Error> {
        if std::mem::take(&mut request.lapsed) {
            error.set_retry(true);
            return error;
        }
        if request.refused.is_some() {
            error.set_retry(false);
            return error;
        }
        // A connection that the backend had closed while it was idle: the same request again, to the same backend,
        // unless it might be done twice.
        if !session.req_header().method.is_idempotent() || session.as_ref().retry_buffer_truncated() {
            error.set_retry(false);
        } else {
            error.retry.decide_reuse(reused);
        }
        if let (Some(session), false) = (&request.session, error.retry()) {
            match (error.esource(), error.etype()) {
                (ErrorSource::Upstream, ReadTimedout | WriteTimedout) => session.counters().fault(Fault::AnswerTimeout),
                (ErrorSource::Upstream, ReadError | WriteError | ConnectionClosed) => {
                    session.counters().fault(Fault::BackendReset);
                }
                (ErrorSource::Upstream, _) => session.counters().fault(Fault::BadAnswer),
                (ErrorSource::Downstream, _) => session.counters().fault(Fault::ClientReset),
                _ => {}
            }
        }
        error
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        head: &mut RequestHeader,
        request: &mut Request,
    ) -> Result<()> {
        if let Some(from) = &request.from {
            let chain = forwarded_for(head, from.address.ip().to_canonical());
            head.insert_header(FORWARDED_FOR, chain)?;
        }
        head.insert_header(FORWARDED_PROTO, "http")
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end: bool,
        request: &mut Request,
    ) -> Result<()> {
        if let (Some(session), Some(body)) = (&request.session, body) {
            session.counters().received.inc_by(body.len() as u64);
        }
        Ok(())
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end: bool,
        request: &mut Request,
    ) -> Result<Option<Duration>> {
        if let (Some(session), Some(body)) = (&request.session, body) {
            session.counters().sent.inc_by(body.len() as u64);
        }
        Ok(None)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, request: &mut Request) -> FailToProxy {
        let (code, reason) = match request.refused {
            Some(reason) => (503, reason.label()),
            None => status_of(error),
        };
        if code > 0
            && let Err(error) = respond(session, code, reason, request.refused.is_some()).await
        {
            debug!(%error, code, "an error answer was not taken");
        }
        FailToProxy { error_code: code, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, request: &mut Request) {
        let Some(from) = &request.from else { return };
        if let Some(reason) = request.refused {
            from.pool.counters.refuse(reason);
        }
        let status = session.response_written().map_or(0, |answer| answer.status.as_u16());
        if let Some(session) = &request.session {
            session.counters().response(status);
        }
        if let Some(error) = error {
            debug!(pool = from.spec.name, client = %from.address, status, %error, "request failed");
        }
    }

    /// Failures are told by [`ProxyHttp::logging`], in our own words.
    fn suppress_error_log(&self, _session: &Session, _request: &Request, _error: &Error) -> bool {
        true
    }
}

/// Who may use an idle connection: in a transparent pool the client whose address it has, else everybody.
fn group_key(backend: BackendId, source: Source) -> u64 {
    // Keyed at random, so that nobody can look for a client's address with another one's key.
    static KEYS: LazyLock<ahash::RandomState> = LazyLock::new(ahash::RandomState::new);
    match source {
        Source::Own(_) => backend.0,
        Source::Client(client) => KEYS.hash_one((backend, client.ip().to_canonical())),
    }
}

/// Whether the connection behind `fd` has the address of `client`, or is a relay's: those serve one request.
fn is_of(fd: RawFd, client: SocketAddr) -> bool {
    // SAFETY: pingora holds the connection while it asks, and the number is used for this call alone.
    let connection = unsafe { BorrowedFd::borrow_raw(fd) };
    match rustix::net::getsockname(connection) {
        Ok(name) if name.address_family() == AddressFamily::UNIX => true,
        Ok(name) => SocketAddr::try_from(name).is_ok_and(|name| name.ip().to_canonical() == client.ip().to_canonical()),
        Err(_dead) => false,
    }
}

/// A connect to a backend.
#[derive(Debug)]
struct Direct {
    source: Source,
    timeout: Duration,
}

#[async_trait]
impl L4Connect for Direct {
    async fn connect(&self, address: &l4::socket::SocketAddr) -> Result<l4::stream::Stream> {
        let Some(address) = address.as_inet() else {
            return Error::e_explain(InternalError, "a backend has an IP address");
        };
        socket::connect(self.source, *address, self.timeout).await.map(Into::into).map_err(|error| {
            let kind = match socket::blame(&error) {
                Blame::Backend(Fault::ConnectRefused) => ConnectRefused,
                Blame::Backend(Fault::ConnectTimeout) => ConnectTimedout,
                Blame::Backend(_) => ConnectError,
                Blame::Us => InternalError,
                Blame::Client(_) => BindError,
            };
            Error::because(kind, "connect", error)
        })
    }
}

/// The end of a relayed connection that pingora gets, once.
#[derive(Debug)]
struct Relayed(Mutex<Option<UnixStream>>);

#[async_trait]
impl L4Connect for Relayed {
    async fn connect(&self, _address: &l4::socket::SocketAddr) -> Result<l4::stream::Stream> {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(stream) => Ok(stream.into()),
            None => Error::e_explain(ConnectError, "a relayed connection is made once"),
        }
    }
}

/// The status and the words for an error that is no refusal; 0 when nobody is there to be told.
fn status_of(error: &Error) -> (u16, &'static str) {
    match (error.esource(), error.etype()) {
        (_, HTTPStatus(code)) => (*code, "error"),
        (ErrorSource::Upstream, ConnectTimedout | ReadTimedout | WriteTimedout) => (504, "the backend took too long"),
        (ErrorSource::Upstream, _) => (502, "the backend broke off or gave no proper answer"),
        (ErrorSource::Downstream, ReadTimedout) => (408, "the request took too long"),
        (ErrorSource::Downstream, WriteTimedout | WriteError | ReadError | ConnectionClosed) => (0, ""),
        (ErrorSource::Downstream, InvalidHTTPHeader) => (400, "no proper HTTP request"),
        (ErrorSource::Downstream, _) => (400, "no proper HTTP request"),
        (ErrorSource::Internal | ErrorSource::Unset, _) => (500, "an error of the proxy"),
    }
}

/// A short answer of our own; the connection is closed after it.
async fn respond(session: &mut Session, code: u16, reason: &str, retry: bool) -> Result<()> {
    let body = format!("{reason}\n");
    let mut answer = ResponseHeader::build(code, Some(4))?;
    answer.insert_header(header::CONTENT_TYPE, "text/plain")?;
    answer.insert_header(header::CONTENT_LENGTH, body.len())?;
    answer.insert_header(header::CACHE_CONTROL, "no-store")?;
    if retry {
        answer.insert_header(header::RETRY_AFTER, limits::RETRY_AFTER_SECONDS)?;
    }
    session.as_downstream_mut().write_error_response(answer, body.into()).await
}

/// The chain of addresses that the request came through, this client last.
fn forwarded_for(head: &RequestHeader, client: IpAddr) -> String {
    let mut chain = String::new();
    for before in head.headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()) {
        chain.push_str(before);
        chain.push_str(", ");
    }
    chain.push_str(&client.to_string());
    chain
}

/// What a request asks of the connection to its backend.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// HTTP/1.1.
    Plain,
    /// Another protocol after the answer: WebSocket for one.
    Upgrade,
    /// HTTP/2 all the way, for its trailers.
    Grpc,
}

impl Wish {
    fn of(session: &Session) -> Self {
        let head = session.req_header();
        let kind = head.headers.get(header::CONTENT_TYPE).map(http::HeaderValue::as_bytes);
        if session.is_upgrade_req() {
            Self::Upgrade
        } else if head.version == Version::HTTP_2 && kind.is_some_and(|kind| kind.starts_with(b"application/grpc")) {
            Self::Grpc
        } else {
            Self::Plain
        }
    }
}

/// Tells relayed connections apart in pingora's store, so that none is ever used twice.
static NEXT_RELAY: AtomicU64 = AtomicU64::new(1 << 63);
const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_PROTO: &str = "x-forwarded-proto";

#[cfg(test)]
mod tests;
