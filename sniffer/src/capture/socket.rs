//! What libpcap does not offer of interfaces and packet sockets, and Linux does: numbers, groups that share packets, a gate,
//! and silence about packets that leave.

use std::{
    ffi::CString,
    io,
    mem::size_of_val,
    os::fd::{AsRawFd, BorrowedFd},
};

/// The number of the interface of that name; none: there is none.
pub fn interface_index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name ends in a zero.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index > 0).then_some(index)
}

/// Lets nothing through any more, and counts nothing of what comes: what the kernel already holds stays.
pub fn close_gate(socket: BorrowedFd<'_>) -> io::Result<()> {
    // Classic BPF: return 0 bytes of each packet.
    let mut nothing = libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 };
    let program = libc::sock_fprog { len: 1, filter: &raw mut nothing };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// Packets that leave do not count and do not come: a loopback interface would show each packet twice.
pub fn ignore_outgoing(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1_i32)
}

/// Sockets of one interface that share its packets by the hash of their flow.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    id: u32,
    flags: u32,
}

impl Group {
    /// A new one, of this socket. The kernel chooses a number that nobody else has.
    pub fn found(socket: BorrowedFd<'_>, ignore_outgoing: bool) -> io::Result<Self> {
        let outgoing = if ignore_outgoing { libc::PACKET_FANOUT_FLAG_IGNORE_OUTGOING } else { 0 };
        // Fragments have no ports: put together again they go where their flow goes.
        let flags = libc::PACKET_FANOUT_HASH | libc::PACKET_FANOUT_FLAG_DEFRAG | outgoing;
        set(socket, libc::SOL_PACKET, libc::PACKET_FANOUT, &((flags | libc::PACKET_FANOUT_FLAG_UNIQUEID) << 16))?;
        Ok(Self { id: get(socket, libc::SOL_PACKET, libc::PACKET_FANOUT)? & 0xffff, flags })
    }

    /// One more member.
    pub fn join(self, socket: BorrowedFd<'_>) -> io::Result<()> {
        set(socket, libc::SOL_PACKET, libc::PACKET_FANOUT, &(self.id | self.flags << 16))
    }
}

fn set<T>(socket: BorrowedFd<'_>, level: i32, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of `value`, which the kernel only reads.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of_val(value) as libc::socklen_t,
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn get(socket: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<u32> {
    let mut value = 0_u32;
    let mut length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the pointer and the length are those of `value`, of which any bits are a number.
    let outcome =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length) };
    if outcome == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}
