//! From a listener to a connection that is served: admission, and which worker carries it.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream as StdStream},
    os::fd::OwnedFd,
    sync::Arc,
};

use flow::Protocol;
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::TcpStream,
    sync::watch,
    time::{Instant, sleep},
};
use tracing::{debug, error, warn};

use super::{
    http::Front,
    limits,
    pool::{Admitted, Pool},
    socket, tcp,
    upstream::Shared,
    workers::{Seat, Workers},
};
use crate::choice::Chooser;

/// Everything that serves an accepted connection.
pub struct Serving<C: Chooser> {
    /// The fleet and what goes with it.
    pub shared: Arc<Shared<C>>,
    /// The threads.
    pub workers: Arc<Workers>,
    /// The HTTP proxies, one per worker.
    pub fronts: Vec<Front<C>>,
}

/// Accepts on worker `here` until `closed`, and then only who waits already.
pub async fn accept_all<C: Chooser>(
    serving: Arc<Serving<C>>,
    here: usize,
    pool: Arc<Pool>,
    protocol: Protocol,
    listener: Arc<TcpListener>,
    mut closed: watch::Receiver<bool>,
) -> io::Result<()> {
    // SAFETY: the listener's descriptor stays the same and open for as long as the `Arc` inside lives.
    let listener = unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) }
        .inspect_err(|error| error!(pool = pool.spec().name, %error, "a worker cannot accept"))?;
    let mut warned = None;
    loop {
        let mut readable = tokio::select! {
            biased;
            // An error means that the supervisor is gone, which closes as well.
            _ = closed.wait_for(|closed| *closed) => break,
            readable = listener.readable() => readable?,
        };
        match socket::accept(listener.get_ref()) {
            Ok(Some((socket, client))) => serving.take(here, &pool, protocol, socket, client),
            Ok(None) => readable.clear_ready(),
            Err(error) => serving.accept_failed(&pool, &error, &mut warned).await,
        }
    }
    for _ in 0..limits::ACCEPT_LAST_MAX {
        match socket::accept(listener.get_ref()) {
            Ok(Some((socket, client))) => serving.take(here, &pool, protocol, socket, client),
            Ok(None) | Err(_) => break,
        }
    }
    Ok(())
}

impl<C: Chooser> Serving<C> {
    /// Serves one accepted connection, on this worker or on one that has less to do.
    fn take(self: &Arc<Self>, here: usize, pool: &Arc<Pool>, protocol: Protocol, socket: OwnedFd, client: SocketAddr) {
        let socket = StdStream::from(socket);
        let Some(admitted) = pool.admit() else {
            socket::reset_on_close(&socket);
            return;
        };
        let (seat, elsewhere) = self.workers.seat(here);
        let serving = Arc::clone(self);
        match (protocol, elsewhere) {
            (Protocol::Http, None) => drop(tokio::spawn(serving.http(seat, admitted, socket, client))),
            (Protocol::Http, Some(worker)) => drop(worker.spawn(serving.http(seat, admitted, socket, client))),
            (_, None) => drop(tokio::spawn(serving.tcp(seat, admitted, socket, client))),
            (_, Some(worker)) => drop(worker.spawn(serving.tcp(seat, admitted, socket, client))),
        }
    }

    async fn tcp(self: Arc<Self>, seat: Seat, admitted: Admitted, socket: StdStream, client: SocketAddr) {
        match TcpStream::from_std(socket) {
            Ok(stream) => tcp::serve(&self.shared, &admitted, stream, client).await,
            Err(error) => self.no_place(client, &error),
        }
        drop((admitted, seat));
    }

    async fn http(self: Arc<Self>, seat: Seat, admitted: Admitted, socket: StdStream, client: SocketAddr) {
        match (TcpStream::from_std(socket), self.fronts.get(seat.worker())) {
            (Ok(stream), Some(front)) => front.serve(&self.shared, &admitted, stream, client).await,
            (Err(error), _) => self.no_place(client, &error),
            (_, None) => debug_assert!(false, "every worker has a front"),
        }
        drop((admitted, seat));
    }

    fn no_place(&self, client: SocketAddr, error: &io::Error) {
        self.shared.metrics.accept_errors.inc();
        debug!(%client, %error, "no place for an accepted connection");
    }

    /// Says why nobody could be accepted, and waits when waiting helps.
    async fn accept_failed(&self, pool: &Pool, error: &io::Error, warned: &mut Option<Instant>) {
        let exhausted =
            matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM));
        if exhausted {
            self.shared.metrics.accept_errors.inc();
            if warned.is_none_or(|warned| warned.elapsed() >= limits::ACCEPT_WARNING) {
                warn!(pool = pool.spec().name, %error, "cannot accept: raise the limit of open files, or lower max_connections");
                *warned = Some(Instant::now());
            }
            sleep(limits::ACCEPT_PAUSE).await;
        } else {
            // The client was gone before it was accepted.
            debug!(pool = pool.spec().name, %error, "a connection failed before it was accepted");
        }
    }
}
