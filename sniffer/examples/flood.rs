//! Packets at a steady rate, from many flows, out of one interface: what a capture is measured with.
//!
//! ```text
//! ip netns add a; ip netns add b; ip link add wire netns a type veth peer name wire netns b
//! for n in a b; do ip -n $n link set wire up; done
//! ip netns exec b sniffer capture wire udp --quiet --seconds 15 &
//! ip netns exec a cargo run --release -p sniffer --example flood -- wire 300000 10 100000
//! ```

use std::{
    error::Error,
    ffi::CString,
    io, mem, ptr, thread,
    time::{Duration, Instant},
};

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [interface, rate, seconds, flows] = words.as_slice() else {
        return Err("flood INTERFACE PACKETS_PER_SECOND SECONDS FLOWS".into());
    };
    let (rate, seconds, flows): (u64, u64, u32) = (rate.parse()?, seconds.parse()?, flows.parse()?);
    let socket = open(interface)?;
    let mut frames: Vec<_> = (0..BATCH).map(|_| frame()).collect();
    let mut vectors: Vec<_> = frames
        .iter_mut()
        .map(|frame| libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = vectors
        .iter_mut()
        .map(|vector| {
            // SAFETY: zeroes are a message without an address and without parts.
            let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
            (message.msg_hdr.msg_iov, message.msg_hdr.msg_iovlen) = (vector, 1);
            message
        })
        .collect();
    let (total, begun, mut sent, mut late) = (rate * seconds, Instant::now(), 0, 0);
    while sent < total {
        for (place, frame) in frames.iter_mut().enumerate() {
            address(frame, ((sent + place as u64) % u64::from(flows)) as u32);
        }
        let count = (total - sent).min(BATCH as u64) as u32;
        // SAFETY: each message points to a vector, each vector to a frame, and none of them moves while this runs.
        let outcome = unsafe { libc::sendmmsg(socket, messages.as_mut_ptr(), count, 0) };
        if outcome < 0 {
            return Err(io::Error::last_os_error().into());
        }
        sent += outcome as u64;
        let due = begun + Duration::from_secs_f64(sent as f64 / rate as f64);
        let early = due.saturating_duration_since(Instant::now());
        late += u64::from(early.is_zero());
        if early > Duration::from_millis(1) {
            thread::sleep(early); // A steady rate is what this is for.
        }
    }
    let took = begun.elapsed().as_secs_f64();
    println!(
        "{sent} packets of {} bytes in {took:.2} s: {:.0} packets/s, {flows} flows",
        FRAME_BYTES,
        sent as f64 / took
    );
    println!("{late} of {} batches were late", total.div_ceil(BATCH as u64));
    Ok(())
}

/// A packet socket that sends out of that interface.
fn open(interface: &str) -> Result<i32, Box<dyn Error>> {
    let name = CString::new(interface)?;
    // SAFETY: the name ends in a zero; the address is a whole one of its length; the value of the option is a whole number.
    unsafe {
        let index = libc::if_nametoindex(name.as_ptr());
        let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0);
        let mut address: libc::sockaddr_ll = mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = index as i32;
        let length = size_of_val(&address) as u32;
        // The sender's own queue would only add to what is measured.
        let bypass = 1_i32;
        let bypassed = libc::setsockopt(
            socket,
            libc::SOL_PACKET,
            libc::PACKET_QDISC_BYPASS,
            ptr::from_ref(&bypass).cast(),
            size_of_val(&bypass) as u32,
        );
        if index == 0 || socket < 0 || bypassed < 0 || libc::bind(socket, ptr::from_ref(&address).cast(), length) < 0 {
            return Err(format!("{interface}: {}", io::Error::last_os_error()).into());
        }
        Ok(socket)
    }
}

/// A UDP datagram to everybody on the wire, without a checksum.
fn frame() -> [u8; FRAME_BYTES] {
    let mut frame = [0; FRAME_BYTES];
    frame[..6].fill(0xff);
    frame[6..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 8, 0]);
    let length = (FRAME_BYTES - 14) as u16;
    frame[14..16].copy_from_slice(&[0x45, 0]);
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    frame[22..24].copy_from_slice(&[64, 17]);
    frame[30..34].copy_from_slice(&[192, 0, 2, 2]);
    frame[36..40].copy_from_slice(&[0x1f, 0x90, 0, 0]);
    frame[38..40].copy_from_slice(&(length - 20).to_be_bytes());
    frame
}

/// Makes it a packet of that flow: the source says which.
fn address(frame: &mut [u8; FRAME_BYTES], flow: u32) {
    frame[26..30].copy_from_slice(&(0x0a00_0000 | flow >> 8).to_be_bytes());
    frame[34..36].copy_from_slice(&(1024 + (flow & 0xff) as u16).to_be_bytes());
    let mut sum: u32 = 0;
    for (place, pair) in frame[14..34].chunks_exact(2).enumerate() {
        sum += if place == 5 { 0 } else { u32::from(u16::from_be_bytes([pair[0], pair[1]])) };
    }
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    frame[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

/// Packets that are sent at once.
const BATCH: usize = 64;

/// Bytes of a frame: small ones are what is hard.
const FRAME_BYTES: usize = 96;
