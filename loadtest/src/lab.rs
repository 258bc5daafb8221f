//! A network of one's own: a namespace with nothing but a loopback interface in it.
//!
//! Thousands of short connections per second leave traces for minutes in tables that everything on a machine shares: source
//! ports, connections in TIME_WAIT, a firewall's connection tracking, which drops packets once it is full. In a namespace of
//! its own a run can neither be disturbed that way nor disturb others.

use std::io;
use std::os::fd::AsRawFd;

/// Moves the calling thread, and every thread and process it starts from now on, into a new network namespace. As an ordinary
/// user this takes a user namespace as well, which the system only gives to a process that has a single thread. False when
/// the system does not allow it: then everything stays where it was.
pub fn enter() -> io::Result<bool> {
    if unshare(libc::CLONE_NEWNET).is_err() {
        // SAFETY: both only read the ids of this process.
        let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
        if unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET).is_err() {
            return Ok(false);
        }
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
        std::fs::write("/proc/self/gid_map", format!("{group} {group} 1"))?;
    }
    raise_loopback()?;
    Ok(true)
}

fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: takes no pointers; what it changes concerns the names this thread sees, not its memory.
    if unsafe { libc::unshare(flags) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A new namespace has its loopback interface down.
fn raise_loopback() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: an all-zero `ifreq` is valid: bytes of a name and a union of plain numbers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the descriptor is open, and the request is an `ifreq` that outlives the call.
    let outcome = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
