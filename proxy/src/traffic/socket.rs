//! Sockets as the data path wants them: listeners, connects from the instance's own address, resets.

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

/// Whose fault a failed connect is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The backend or the way to it: counts as a vote against it.
    Backend(Fault),
    /// This instance has no more ports, descriptors or memory: says nothing about the backend.
    Us,
}

/// A listener on `address`. Accepted sockets inherit its TCP_NODELAY.
pub fn listen(address: SocketAddr, freebind: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    if freebind {
        match address {
            SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
            SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
        }
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

/// Connects to `backend` from `own`, within `timeout`.
pub async fn connect(own: IpAddr, backend: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let socket = if backend.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if own.is_ipv4() == backend.is_ipv4() && !own.is_unspecified() {
        bind_address_no_port(&socket)?;
        socket.bind(SocketAddr::new(own, 0))?;
    }
    socket.set_nodelay(true)?;
    match tokio::time::timeout(timeout, socket.connect(backend)).await {
        Ok(connected) => connected,
        Err(_elapsed) => Err(io::Error::from(io::ErrorKind::TimedOut)),
    }
}

/// Whose fault it is that a connect failed.
#[must_use]
pub fn blame(error: &io::Error) -> Blame {
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
fn bind_address_no_port(socket: &TcpSocket) -> io::Result<()> {
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
