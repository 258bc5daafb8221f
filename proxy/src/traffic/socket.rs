//! Sockets as the data path wants them: listeners, connects from the instance's own address or a client's, resets.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::Duration,
};

use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use super::{counters::Fault, limits};

/// How a listener has its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// It is one of this machine's.
    Own,
    /// It may be one of this machine's, now or later (IP_FREEBIND).
    Free,
    /// Likewise, and what packet rules hand over for it is taken (IP_TRANSPARENT).
    Transparent,
}

/// Where a connection to a backend comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The instance's own address, and some port.
    Own(IpAddr),
    /// The client's address, and its port unless that is taken here (transparent mode).
    Client(SocketAddr),
}

/// Why a socket cannot have a client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTransparent {
    /// A packet has addresses of one version.
    #[error("the client's address is of another IP version than the server's")]
    OtherVersion,
    /// It means something on one link alone.
    #[error("the client's address is link-local, and a server elsewhere cannot answer it")]
    LinkLocal,
    /// The process may not.
    #[error(
        "no permission for transparent mode (IP_TRANSPARENT): it needs CAP_NET_RAW or CAP_NET_ADMIN, which it gets by \
         `setcap cap_net_raw+ep` on the program, AmbientCapabilities=CAP_NET_RAW in its systemd unit, or as root in a \
         container with cap_add: [NET_RAW]"
    )]
    NotPermitted,
}

/// Whose fault a failed connect is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The backend or the way to it: counts as a vote against it.
    Backend(Fault),
    /// This instance has no more ports, descriptors or memory: says nothing about the backend.
    Us,
    /// The connection cannot have its client's address: says nothing about the backend either.
    Client(NotTransparent),
}

/// A listener on `address`. Accepted sockets inherit its TCP_NODELAY and, of a transparent one, that they may answer
/// from an address that is not this machine's.
pub fn listen(address: SocketAddr, hold: Hold) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    match (hold, address) {
        (Hold::Own, _) => {}
        (Hold::Free, SocketAddr::V4(_)) => socket.set_freebind_v4(true)?,
        (Hold::Free, SocketAddr::V6(_)) => socket.set_freebind_v6(true)?,
        (Hold::Transparent, _) => set_transparent(&socket, address)?,
    }
    socket.bind(&address.into())?;
    socket.listen(limits::BACKLOG)?;
    Ok(socket.into())
}

/// The next connection of `listener`, in non-blocking mode; `None` when nobody waits.
pub fn accept(listener: &TcpListener) -> io::Result<Option<(OwnedFd, SocketAddr)>> {
    match acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
        Ok((socket, address)) => match address.and_then(|address| SocketAddr::try_from(address).ok()) {
            Some(client) => Ok(Some((socket, client))),
            // The client was gone before it was accepted.
            None => Err(io::Error::from(io::ErrorKind::ConnectionAborted)),
        },
        Err(rustix::io::Errno::AGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Connects to `backend` from `source`, within `timeout`.
pub async fn connect(source: Source, backend: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let connecting = async {
        match source {
            Source::Own(own) => connect_from(own, backend).await,
            Source::Client(client) => match connect_as(client, backend).await {
                Err(error) if is_port_taken(&error) => connect_as(SocketAddr::new(client.ip(), 0), backend).await,
                connected => connected,
            },
        }
    };
    match tokio::time::timeout(timeout, connecting).await {
        Ok(connected) => connected,
        Err(_elapsed) => Err(io::Error::from(io::ErrorKind::TimedOut)),
    }
}

async fn connect_from(own: IpAddr, backend: SocketAddr) -> io::Result<TcpStream> {
    let socket = tcp_socket(backend)?;
    if own.is_ipv4() == backend.is_ipv4() && !own.is_unspecified() {
        bind_address_no_port(&socket)?;
        socket.bind(SocketAddr::new(own, 0))?;
    }
    socket.connect(backend).await
}

/// Connects from a client's address. Its own port tells its connections apart wherever they are made: two instances that
/// drew ports for one client would sooner or later make the same connection. Port 0 is for one whose own is taken here.
async fn connect_as(client: SocketAddr, backend: SocketAddr) -> io::Result<TcpStream> {
    let socket = tcp_socket(backend)?;
    bind_as(&SockRef::from(&socket), client, backend)?;
    socket.connect(backend).await
}

fn tcp_socket(backend: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if backend.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// Gives `socket`, which is to be connected to `backend`, the address of `client`; with port 0 some port.
///
/// # Errors
/// [`NotTransparent`] inside, or that the port is taken.
pub fn bind_as(socket: &Socket, client: SocketAddr, backend: SocketAddr) -> io::Result<()> {
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    if client.is_ipv4() != backend.is_ipv4() {
        return Err(NotTransparent::OtherVersion.into());
    }
    if matches!(client.ip(), IpAddr::V6(address) if address.is_unicast_link_local()) {
        return Err(NotTransparent::LinkLocal.into());
    }
    set_transparent(socket, client)?;
    if client.port() == 0 {
        bind_address_no_port(socket)?;
    } else {
        // Several connections of one client port, to several backends.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&client.into())
}

/// Lets `socket`, whose addresses are of the version of `address`, have one that is not this machine's.
fn set_transparent(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    let set = match address {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true),
        SocketAddr::V6(_) => socket.set_ip_transparent_v6(true),
    };
    set.map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM) => NotTransparent::NotPermitted.into(),
        _ => error,
    })
}

/// Whether another port may help: a connection that ended a moment ago holds this one, a listener here does, or it is one
/// that takes a permission.
fn is_port_taken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRINUSE | libc::EADDRNOTAVAIL | libc::EACCES))
}

/// Whose fault it is that a connect failed.
#[must_use]
pub fn blame(error: &io::Error) -> Blame {
    if let Some(reason) = error.get_ref().and_then(|inner| inner.downcast_ref::<NotTransparent>()) {
        return Blame::Client(*reason);
    }
    match error.raw_os_error() {
        Some(
            libc::EADDRNOTAVAIL
            | libc::EADDRINUSE
            | libc::EMFILE
            | libc::ENFILE
            | libc::ENOBUFS
            | libc::ENOMEM
            | libc::EAGAIN
            | libc::EACCES
            | libc::EPERM
            | libc::EINVAL,
        ) => Blame::Us,
        Some(libc::ECONNREFUSED) => Blame::Backend(Fault::ConnectRefused),
        Some(libc::ETIMEDOUT) => Blame::Backend(Fault::ConnectTimeout),
        _ if error.kind() == io::ErrorKind::TimedOut => Blame::Backend(Fault::ConnectTimeout),
        _ => Blame::Backend(Fault::ConnectFailed),
    }
}

/// Closes `socket` with a RST when it is dropped, so that the other side sees a broken connection and no clean end.
pub fn reset_on_close(socket: &impl AsFd) {
    // Fails only on a socket that is dead already.
    SockRef::from(socket).set_linger(Some(Duration::ZERO)).ok();
}

/// Tells the other side of `socket` that nothing more comes.
pub fn close_writing(socket: &impl AsFd) -> io::Result<()> {
    match SockRef::from(socket).shutdown(std::net::Shutdown::Write) {
        // Dead already: the reading side says how.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        done => done,
    }
}

/// Binds an address without taking a port yet: the kernel picks one at connect, per destination, so that the number of
/// connections is bounded by ports per backend, not ports in all.
fn bind_address_no_port(socket: &impl AsRawFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open, and the option's value is an int that lives across the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl From<NotTransparent> for io::Error {
    fn from(reason: NotTransparent) -> Self {
        let kind = match reason {
            NotTransparent::OtherVersion | NotTransparent::LinkLocal => io::ErrorKind::AddrNotAvailable,
            NotTransparent::NotPermitted => io::ErrorKind::PermissionDenied,
        };
        Self::new(kind, reason)
    }
}
