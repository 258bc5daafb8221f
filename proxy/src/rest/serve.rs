//! The door of REST and metrics: HTTP/1.1 connections with a limit for everything a client can hold on to.

use std::{
    error::Error,
    future::Future,
    io,
    pin::pin,
    time::{Duration, Instant},
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use prometheus::{IntCounter, IntCounterVec, Opts};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use super::moving::Moving;
use crate::metric_names as names;

/// Most connections of one port at once; more are closed at once.
pub const CONNECTIONS_MAX: usize = 1_024;
/// Largest request line plus headers, in bytes.
pub const HEADER_BYTES_MAX: usize = 32 << 10;
/// Most bytes read ahead of a connection.
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// Most header lines of a request.
pub const HEADERS_MAX: usize = 64;
/// How long a connection may take to send a request's headers, waiting for its next request included.
pub const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may take nothing of an answer that waits for it.
pub const WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a connection lives, whatever it does: the end of slow readers, and time enough for a backup.
pub const CONNECTION_LIFETIME: Duration = Duration::from_mins(10);
/// How long a connection may take to finish the request at hand, once it is to close.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait before accepting again after the system refused to.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often a port says that it has too many connections, at most.
const SHED_WARNING: Duration = Duration::from_secs(1);

/// What a port counts of connections that were not served to their end.
#[derive(Clone)]
pub struct DoorCounters {
    /// Closed at once: [`CONNECTIONS_MAX`] were open.
    shed: IntCounter,
    /// Closed because of [`HEADER_READ_TIMEOUT`], [`WRITE_STALL_TIMEOUT`], [`CONNECTION_LIFETIME`] or
    /// [`CLOSE_TIMEOUT`].
    timeout: IntCounter,
    /// Sent what is no HTTP request, or one with a head above [`HEADER_BYTES_MAX`] or [`HEADERS_MAX`].
    malformed: IntCounter,
    /// Broke off by themselves.
    broken: IntCounter,
}

impl DoorCounters {
    /// The family of all ports' counters.
    ///
    /// # Errors
    /// If the name is no name of a metric.
    pub fn family() -> prometheus::Result<IntCounterVec> {
        let help = "Connections to a port that were not served to their end.";
        IntCounterVec::new(Opts::new(names::PORT_CONNECTIONS_FAILED_TOTAL, help), &["port", "reason"])
    }

    /// Those of one port.
    #[must_use]
    pub fn of(family: &IntCounterVec, port: &str) -> Self {
        let counter = |reason| family.with_label_values(&[port, reason]);
        Self {
            shed: counter("too_many"),
            timeout: counter("timeout"),
            malformed: counter("malformed"),
            broken: counter("broken"),
        }
    }
}

/// Serves `router` on `listener` until `shutdown` resolves; then finishes the requests at hand and returns.
pub async fn serve(listener: TcpListener, router: Router, counters: DoorCounters, shutdown: impl Future<Output = ()>) {
    let mut warned: Option<Instant> = None;
    let (closing, _) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => log_end(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < CONNECTIONS_MAX => {
                    if let Err(error) = stream.set_nodelay(true) {
                        debug!(%error, "cannot set TCP_NODELAY");
                    }
                    let stream = Moving::new(stream, WRITE_STALL_TIMEOUT);
                    connections.spawn(serve_connection(stream, router.clone(), counters.clone(), closing.subscribe()));
                }
                Ok((_, peer)) => {
                    counters.shed.inc();
                    if warned.is_none_or(|at| at.elapsed() >= SHED_WARNING) {
                        warned = Some(Instant::now());
                        warn!(%peer, limit = CONNECTIONS_MAX, "closed a connection: too many at once");
                    }
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    closing.send_replace(());
    while let Some(ended) = connections.join_next().await {
        log_end(ended);
    }
}

async fn serve_connection(stream: Moving, router: Router, counters: DoorCounters, mut closing: watch::Receiver<()>) {
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_READ_TIMEOUT)
            .max_buf_size(BUFFER_BYTES_MAX)
            .max_header_size(HEADER_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = sleep(CONNECTION_LIFETIME) => {
            counters.timeout.inc();
            None
        }
        _ = closing.changed() => None,
    };
    let ended = match ended {
        Some(ended) => Ok(ended),
        None => {
            connection.as_mut().graceful_shutdown();
            timeout(CLOSE_TIMEOUT, connection).await
        }
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            let counter = match &error {
                error if error.is_timeout() || has_stalled(error) => &counters.timeout,
                error if error.is_parse() => &counters.malformed,
                _ => &counters.broken,
            };
            counter.inc();
            debug!(%error, "a connection broke off");
        }
        Err(_) => {
            counters.timeout.inc();
            debug!("closed a connection that did not finish");
        }
    }
}

/// Whether a connection ended because its client took nothing any more.
fn has_stalled(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::TimedOut)
}

/// A connection's task has no result; all it can do is panic, which must be seen.
fn log_end(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "the task of a connection failed");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::{io::AsyncWriteExt, net::TcpStream};

    use super::*;

    /// How long anything may take before a test fails.
    const WAIT: Duration = Duration::from_secs(20);
    /// More than the system keeps for a client that does not read.
    const ANSWER_BYTES: usize = 64 << 20;

    #[tokio::test]
    async fn a_client_that_takes_nothing_of_its_answer_is_let_go() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let router = Router::new().route("/", get(|| async { vec![7_u8; ANSWER_BYTES] }));
        let counters = DoorCounters::of(&DoorCounters::family().unwrap(), "test");
        let (_closing, closed) = watch::channel(());
        let stream = Moving::new(stream, Duration::from_millis(50));
        timeout(WAIT, serve_connection(stream, router, counters.clone(), closed)).await.expect("it ends by itself");
        assert_eq!((counters.timeout.get(), counters.broken.get()), (1, 0));
    }
}
