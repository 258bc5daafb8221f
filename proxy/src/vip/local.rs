//! Which addresses are this machine's own: asks the kernel what it would do with a packet to one.
//!
//! The kernel's answer (rtnetlink, `RTM_GETROUTE`) knows of addresses on interfaces and of local routes (`ip route add local`), in
//! IPv4 and IPv6 alike. A bind would not do: it believes `ip_nonlocal_bind`.

use std::{io, net::IpAddr};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

/// Whether packets to `ip` are delivered here.
///
/// # Errors
/// If the kernel cannot be asked, as for want of descriptors.
pub(super) fn is_local(ip: IpAddr) -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    send(&socket, &question(ip), SendFlags::empty())?;
    // The kernel has answered by now.
    let mut answer = [0; ANSWER_BYTES_MAX];
    let (_, count) = recv(&socket, &mut answer, RecvFlags::TRUNC)?;
    let answer = answer.get(..count.min(ANSWER_BYTES_MAX)).unwrap_or_default();
    verdict(answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an answer of rtnetlink"))
}

/// `struct nlmsghdr`, `struct rtmsg` and the attribute `RTA_DST`.
fn question(ip: IpAddr) -> Vec<u8> {
    let (family, address) = match ip {
        IpAddr::V4(ip) => (AddressFamily::INET, ip.octets().to_vec()),
        IpAddr::V6(ip) => (AddressFamily::INET6, ip.octets().to_vec()),
    };
    let attribute_bytes = ATTRIBUTE_BYTES + address.len();
    let mut question = Vec::with_capacity(HEADER_BYTES + ROUTE_BYTES + attribute_bytes);
    question.extend(((HEADER_BYTES + ROUTE_BYTES + attribute_bytes) as u32).to_ne_bytes());
    question.extend(GET_ROUTE.to_ne_bytes());
    question.extend(REQUEST.to_ne_bytes());
    question.extend([0; 8]);
    question.extend([family.as_raw() as u8, (address.len() * 8) as u8]);
    question.extend([0; ROUTE_BYTES - 2]);
    question.extend((attribute_bytes as u16).to_ne_bytes());
    question.extend(DESTINATION.to_ne_bytes());
    question.extend(address);
    question
}

/// Whether the answer is a route that ends here; an error of the kernel's says that there is no route. `None`: neither.
fn verdict(answer: &[u8]) -> Option<bool> {
    let kind = answer.get(4..6)?.first_chunk().map(|kind| u16::from_ne_bytes(*kind))?;
    match kind {
        NEW_ROUTE => Some(*answer.get(HEADER_BYTES + ROUTE_TYPE_AT)? == LOCAL),
        ERROR => Some(false),
        _ => None,
    }
}

/// Of `linux/netlink.h` and `linux/rtnetlink.h`.
const HEADER_BYTES: usize = 16;
const ROUTE_BYTES: usize = 12;
const ROUTE_TYPE_AT: usize = 7;
const ATTRIBUTE_BYTES: usize = 4;
const ERROR: u16 = 2;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
const REQUEST: u16 = 1;
const DESTINATION: u16 = 1;
const LOCAL: u8 = 2;
/// More than the part of an answer that is looked at.
const ANSWER_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_its_loopback_addresses_and_none_of_the_documentation() {
        for here in ["127.0.0.1", "127.9.9.9"] {
            assert!(is_local(here.parse().unwrap()).unwrap(), "{here}");
        }
        for away in ["192.0.2.1", "198.51.100.7", "2001:db8::1"] {
            assert!(!is_local(away.parse().unwrap()).unwrap(), "{away}");
        }
        // Where IPv6 is, so is this one; its packets can be sent there.
        let loopback = std::net::UdpSocket::bind("[::1]:0").is_ok();
        assert_eq!(is_local("::1".parse().unwrap()).unwrap(), loopback);
    }

    #[test]
    fn answers_that_are_cut_or_strange_are_none() {
        let mut answer = question("192.0.2.1".parse().unwrap());
        assert_eq!(verdict(&answer), None, "a question is no answer");
        answer[4] = NEW_ROUTE.to_ne_bytes()[0];
        assert_eq!(verdict(&answer), Some(false));
        answer[HEADER_BYTES + ROUTE_TYPE_AT] = LOCAL;
        assert_eq!(verdict(&answer), Some(true));
        for count in 0..HEADER_BYTES + ROUTE_TYPE_AT {
            assert_eq!(verdict(&answer[..count]), None, "{count} bytes");
        }
    }
}
