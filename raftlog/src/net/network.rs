//! What connections run over: TCP between processes, or memory within one.
//!
//! Everything above is the same for both: hellos, frames, snapshots, TLS and every limit. So replicas that share a
//! process, in tests or in a fleet of one process, are connected as those that do not, without a socket.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// A connection, of whatever kind.
pub(super) type Wire = Box<dyn Io>;

/// What a connection can do.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug> Io for T {}

/// Where peers' addresses lead.
#[derive(Clone, Debug, Default)]
pub enum Network {
    /// Through sockets.
    #[default]
    Tcp,
    /// Through this process' memory.
    Memory(MemoryNetwork),
}

/// A listener on a [`Network`].
#[derive(Debug)]
pub enum Listener {
    /// A socket.
    Tcp(TcpListener),
    /// An address that exists in this process only.
    Memory(MemoryListener),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Listener {
        Listener::Tcp(listener)
    }
}

impl From<MemoryListener> for Listener {
    fn from(listener: MemoryListener) -> Listener {
        Listener::Memory(listener)
    }
}

impl Listener {
    /// The next connection and where it comes from.
    pub(super) fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<(Wire, SocketAddr)>> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, from) = ready!(listener.poll_accept(context))?;
                Poll::Ready(stream.set_nodelay(true).map(|()| (Box::new(stream) as Wire, from)))
            }
            Listener::Memory(listener) => listener.poll_accept(context),
        }
    }
}

impl Network {
    /// A connection from `local` to `host`:`port`, within `patience`.
    pub(super) async fn dial(
        &self,
        local: Option<IpAddr>,
        host: &str,
        port: u16,
        patience: Duration,
    ) -> io::Result<Wire> {
        match self {
            Network::Tcp => Ok(Box::new(dial_tcp(local, host, port, patience).await?)),
            Network::Memory(network) => Ok(Box::new(network.dial(local, host, port)?)),
        }
    }
}

/// Tries the addresses of a name in turn, each for its share of the time.
async fn dial_tcp(local: Option<IpAddr>, host: &str, port: u16, patience: Duration) -> io::Result<TcpStream> {
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let fits = |address: &SocketAddr| local.is_none_or(|local| local.is_ipv4() == address.is_ipv4());
    let addresses: Vec<SocketAddr> = lookup_host((host, port)).await?.filter(fits).take(ADDRESSES_MAX).collect();
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address that can be used");
    let share = patience / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
    for address in addresses {
        match timeout(share, dial_address(local, address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

async fn dial_address(local: Option<IpAddr>, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(local) = local {
        socket.bind(SocketAddr::new(local, 0))?;
    }
    socket.set_nodelay(true)?;
    socket.connect(address).await
}

/// Who listens where: whoever dials knocks with the far end of a pipe, and where it comes from.
type Doors = HashMap<String, mpsc::Sender<(DuplexStream, SocketAddr)>>;

/// Addresses that exist in this process only. Clones are the same network.
#[derive(Clone, Debug, Default)]
pub struct MemoryNetwork {
    doors: Arc<Mutex<Doors>>,
}

impl MemoryNetwork {
    /// Listens at `host`:`port`, which may be any text and number, until the listener is dropped.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`] if somebody listens there.
    pub fn listen(&self, host: &str, port: u16) -> io::Result<MemoryListener> {
        let name = door(host, port);
        let (knocks, arrivals) = mpsc::channel(BACKLOG_MAX);
        let mut doors = self.doors();
        if doors.contains_key(&name) {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("somebody listens at {name}")));
        }
        doors.insert(name.clone(), knocks);
        Ok(MemoryListener { arrivals, name, network: self.clone() })
    }

    fn dial(&self, local: Option<IpAddr>, host: &str, port: u16) -> io::Result<DuplexStream> {
        let Some(knocks) = self.doors().get(&door(host, port)).cloned() else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let from = SocketAddr::new(local.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), 0);
        match knocks.try_send((theirs, from)) {
            Ok(()) => Ok(ours),
            Err(mpsc::error::TrySendError::Full(_)) => Err(io::ErrorKind::TimedOut.into()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }

    fn doors(&self) -> MutexGuard<'_, Doors> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An address of a [`MemoryNetwork`] at which somebody listens.
#[derive(Debug)]
pub struct MemoryListener {
    arrivals: mpsc::Receiver<(DuplexStream, SocketAddr)>,
    name: String,
    network: MemoryNetwork,
}

impl MemoryListener {
    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<(Wire, SocketAddr)>> {
        let arrival = ready!(self.arrivals.poll_recv(context));
        // The network holds the other end until this one is dropped.
        let arrival = arrival.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        Poll::Ready(arrival.map(|(stream, from)| (Box::new(stream) as Wire, from)))
    }
}

impl Drop for MemoryListener {
    fn drop(&mut self) {
        self.network.doors().remove(&self.name);
    }
}

fn door(host: &str, port: u16) -> String {
    format!("{host}:{port}")
}

/// The most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;
/// The most connections that wait for a listener within the process.
const BACKLOG_MAX: usize = 64;
/// What a connection within the process may have under way in each direction.
const PIPE_BYTES: usize = 256 << 10;
