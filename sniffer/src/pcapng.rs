//! pcapng files (draft-ietf-opsawg-pcapng) whose interfaces differ, which libpcap refuses. Untrusted bytes: any are survived,
//! and no more than one block is held.

use std::{
    io::{self, Read},
    ops::Range,
};

use crate::{capture::Captured, decode::Link};

/// What is wrong with such a file.
#[derive(Debug, thiserror::Error)]
pub enum PcapngError {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It ends in the middle of a block.
    #[error("the file is cut off in a block")]
    Cut,
    /// A block contradicts itself or what was before it.
    #[error("a block of type {kind:#x} makes no sense")]
    Block {
        /// Its type.
        kind: u32,
    },
}

/// Reads blocks one after the other.
pub struct Blocks<R> {
    input: R,
    order: Order,
    interfaces: Vec<Interface>,
    /// The body of the block that was read last.
    body: Vec<u8>,
    /// Link type and length of snapshots of the file's first interface.
    first: Option<(u16, u32)>,
    /// Whether another one has others, which libpcap refuses.
    differ: bool,
    /// The packet that was read last: its link, its time, its bytes on the wire, and where in the body its frame is.
    packet: (Option<Link>, u64, u32, Range<usize>),
}

/// The order of bytes in a section.
#[derive(Clone, Copy)]
enum Order {
    Little,
    Big,
}

#[derive(Clone, Copy)]
struct Interface {
    link: u16,
    /// 0: no limit.
    snap_bytes: u32,
    resolution: Resolution,
    offset_seconds: i64,
}

/// A time is a number of such parts of a second.
#[derive(Clone, Copy)]
enum Resolution {
    PowerOfTen(u8),
    PowerOfTwo(u8),
}

impl<R: Read> Blocks<R> {
    /// From the first byte of a file on.
    pub fn new(input: R) -> Self {
        let packet = (None, 0, 0, 0..0);
        let (interfaces, body) = (Vec::new(), Vec::new());
        Self { input, order: Order::Little, interfaces, body, first: None, differ: false, packet }
    }

    /// Whether two interfaces, of those that were read so far, have different link types or lengths of snapshots.
    #[must_use]
    pub fn differ(&self) -> bool {
        self.differ
    }

    /// Goes on to the next packet; `false`: that was all.
    ///
    /// # Errors
    /// Where the file is no pcapng, or is cut off or damaged: what follows cannot be found any more.
    pub fn advance(&mut self) -> Result<bool, PcapngError> {
        loop {
            let Some(kind) = self.next_block()? else { return Ok(false) };
            let wrong = PcapngError::Block { kind };
            match kind {
                SECTION => self.interfaces.clear(),
                INTERFACE => self.interface().ok_or(wrong)?,
                ENHANCED | SIMPLE | OBSOLETE => {
                    self.packet = self.read_packet(kind).ok_or(wrong)?;
                    return Ok(true);
                }
                // Names, statistics, what others define.
                _ => {}
            }
        }
    }

    /// The packet to which [`Blocks::advance`] went, and how its frame begins, if that is known.
    #[must_use]
    pub fn packet(&self) -> (Option<Link>, Captured<'_>) {
        let (link, at_us, wire_bytes, range) = self.packet.clone();
        (link, Captured { at_us, wire_bytes, bytes: self.body.get(range).unwrap_or_default() })
    }

    /// The type of the next block; its body is there then.
    fn next_block(&mut self) -> Result<Option<u32>, PcapngError> {
        let mut head = [0; 8];
        match fill(&mut self.input, &mut head)? {
            0 => return Ok(None),
            8 => {}
            _ => return Err(PcapngError::Cut),
        }
        let [a, b, c, d, length @ ..] = head;
        let mut magic = [0; 4];
        let begins = [a, b, c, d] == SECTION.to_be_bytes();
        if begins {
            // It reads the same in both orders, and says which one is right from here on.
            if fill(&mut self.input, &mut magic)? < 4 {
                return Err(PcapngError::Cut);
            }
            self.order = match u32::from_be_bytes(magic) {
                MAGIC => Order::Big,
                other if other.swap_bytes() == MAGIC => Order::Little,
                _ => return Err(PcapngError::Block { kind: SECTION }),
            };
        }
        let kind = self.order.u32([a, b, c, d]);
        let length = self.order.u32(length);
        let least = if begins { 16 } else { 12 };
        if !(least..=BLOCK_BYTES_MAX).contains(&length) {
            return Err(PcapngError::Block { kind });
        }
        self.body.clear();
        if begins {
            self.body.extend(magic);
        }
        // With padding, and the length once more.
        let behind = u64::from(length.next_multiple_of(4) - 8) - self.body.len() as u64;
        if self.input.by_ref().take(behind).read_to_end(&mut self.body)? as u64 != behind {
            return Err(PcapngError::Cut);
        }
        let again = self.body.split_off(self.body.len() - 4);
        if again.first_chunk().is_none_or(|again| self.order.u32(*again) != length) {
            return Err(PcapngError::Block { kind });
        }
        Ok(Some(kind))
    }

    fn interface(&mut self) -> Option<()> {
        let order = self.order;
        let mut rest = self.body.as_slice();
        let (link, _) = (order.u16(*take(&mut rest)?), take::<2>(&mut rest)?);
        let snap_bytes = order.u32(*take(&mut rest)?);
        let mut interface = Interface { link, snap_bytes, resolution: Resolution::PowerOfTen(6), offset_seconds: 0 };
        while let (Some(code), Some(length)) = (take::<2>(&mut rest), take::<2>(&mut rest)) {
            let (code, length) = (order.u16(*code), usize::from(order.u16(*length)));
            let value = rest.get(..length)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            match (code, value) {
                (END_OF_OPTIONS, _) => break,
                (RESOLUTION, [power]) if power & 0x80 != 0 => {
                    interface.resolution = Resolution::PowerOfTwo(power & 0x7f);
                }
                (RESOLUTION, [power]) => interface.resolution = Resolution::PowerOfTen(*power),
                (OFFSET, value) => interface.offset_seconds = order.u64(*value.first_chunk()?).cast_signed(),
                _ => {}
            }
        }
        self.differ |= *self.first.get_or_insert((link, snap_bytes)) != (link, snap_bytes);
        if self.interfaces.len() >= INTERFACES_MAX {
            return None;
        }
        self.interfaces.push(interface);
        Some(())
    }

    fn read_packet(&self, kind: u32) -> Option<(Option<Link>, u64, u32, Range<usize>)> {
        let order = self.order;
        let mut rest = self.body.as_slice();
        let mut number = || take(&mut rest).map(|four| order.u32(*four));
        let (interface, ticks, captured, wire_bytes) = match kind {
            SIMPLE => {
                let (wire_bytes, interface) = (number()?, self.interfaces.first()?);
                let most = if interface.snap_bytes == 0 { u32::MAX } else { interface.snap_bytes };
                (interface, None, wire_bytes.min(most).min(rest.len() as u32), wire_bytes)
            }
            _ => {
                let interface = match (kind, number()?) {
                    (ENHANCED, interface) => interface,
                    // Here it is half as long, and before the number of packets that were lost.
                    (_, both) => u32::from(match order {
                        Order::Little => both as u16,
                        Order::Big => (both >> 16) as u16,
                    }),
                };
                let ticks = u64::from(number()?) << 32 | u64::from(number()?);
                (self.interfaces.get(interface as usize)?, Some(ticks), number()?, number()?)
            }
        };
        let begin = self.body.len() - rest.len();
        let end = begin.checked_add(captured as usize).filter(|end| *end <= self.body.len())?;
        let at_us = ticks.map_or(0, |ticks| interface.micros(ticks));
        Some((Link::of(i32::from(interface.link)), at_us, wire_bytes, begin..end))
    }
}

impl Interface {
    fn micros(&self, ticks: u64) -> u64 {
        let ticks = u128::from(ticks) * 1_000_000;
        let micros = match self.resolution {
            Resolution::PowerOfTen(power) => 10_u128.checked_pow(power.into()).map_or(0, |unit| ticks / unit),
            Resolution::PowerOfTwo(power) => ticks >> power,
        };
        let offset = i128::from(self.offset_seconds) * 1_000_000;
        u64::try_from(micros.saturating_add_signed(offset)).unwrap_or(u64::MAX)
    }
}

impl Order {
    fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        }
    }

    fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }

    fn u64(self, bytes: [u8; 8]) -> u64 {
        match self {
            Self::Little => u64::from_le_bytes(bytes),
            Self::Big => u64::from_be_bytes(bytes),
        }
    }
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(taken)
}

/// As many bytes as there are, up to all of them.
fn fill(input: &mut impl Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match input.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

// Types of blocks, and of the options of an interface.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const OBSOLETE: u32 = 2;
const SIMPLE: u32 = 3;
const ENHANCED: u32 = 6;
const END_OF_OPTIONS: u16 = 0;
const RESOLUTION: u16 = 9;
const OFFSET: u16 = 14;

/// The number whose bytes say in which order they are.
const MAGIC: u32 = 0x1a2b_3c4d;

/// Longest block; libpcap's limit is the same.
const BLOCK_BYTES_MAX: u32 = 16 << 20;

/// Most interfaces of a section.
const INTERFACES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn block(order: Order, kind: u32, body: &[u8]) -> Vec<u8> {
        let padded = body.len().next_multiple_of(4);
        let (kind, length) = (put(order, kind), put(order, 12 + padded as u32));
        [&kind[..], &length, body, &vec![0; padded - body.len()], &length].concat()
    }

    fn put(order: Order, number: u32) -> [u8; 4] {
        match order {
            Order::Little => number.to_le_bytes(),
            Order::Big => number.to_be_bytes(),
        }
    }

    fn halves(order: Order, first: u16, second: u16) -> [u8; 4] {
        let both = match order {
            Order::Little => u32::from(second) << 16 | u32::from(first),
            Order::Big => u32::from(first) << 16 | u32::from(second),
        };
        put(order, both)
    }

    fn interface(order: Order, link: u16, snap_bytes: u32, options: &[u8]) -> Vec<u8> {
        block(order, INTERFACE, &[&halves(order, link, 0)[..], &put(order, snap_bytes), options].concat())
    }

    /// Ethernet in microseconds, raw IP in nanoseconds with an offset, and an unknown link in 2^-10 seconds.
    fn file(order: Order) -> Vec<u8> {
        let option = |code, value: &[u8]| {
            let padding = vec![0; value.len().next_multiple_of(4) - value.len()];
            [&halves(order, code, value.len() as u16)[..], value, &padding].concat()
        };
        let seconds: [u8; 8] = match order {
            Order::Little => 1000_i64.to_le_bytes(),
            Order::Big => 1000_i64.to_be_bytes(),
        };
        let nanos = [option(RESOLUTION, &[9]), option(OFFSET, &seconds), option(END_OF_OPTIONS, &[])].concat();
        let enhanced = |interface, ticks: u64, wire: u32, bytes: &[u8]| {
            let numbers = [interface, (ticks >> 32) as u32, ticks as u32, bytes.len() as u32, wire];
            let numbers = numbers.map(|number| put(order, number)).concat();
            block(order, ENHANCED, &[&numbers[..], bytes].concat())
        };
        let obsolete =
            [&halves(order, 1, 7)[..], &[0, 5_000, 3, 9].map(|number| put(order, number)).concat(), b"abc"].concat();
        [
            block(order, SECTION, &[&put(order, MAGIC)[..], &halves(order, 1, 0), &[0xff; 8]].concat()),
            interface(order, 1, 4, &[]),
            interface(order, 101, 9000, &nanos),
            interface(order, 147, 0, &option(RESOLUTION, &[0x8a])),
            enhanced(0, 1_700_000_000_000_001, 60, b"frame"),
            block(order, 0xbad, b"whatever it is"),
            enhanced(1, 7_000_001_500, 3, b"raw"),
            enhanced(2, 1536, 1, b"?"),
            block(order, SIMPLE, &[&put(order, 6)[..], b"simple"].concat()),
            block(order, OBSOLETE, &obsolete),
        ]
        .concat()
    }

    type Owned = (Option<Link>, u64, u32, Vec<u8>);

    fn packets(bytes: &[u8]) -> (Vec<Owned>, bool, Option<PcapngError>) {
        let mut blocks = Blocks::new(bytes);
        let mut packets = Vec::new();
        loop {
            match blocks.advance() {
                Ok(true) => {
                    let (link, packet) = blocks.packet();
                    packets.push((link, packet.at_us, packet.wire_bytes, packet.bytes.to_vec()));
                }
                Ok(false) => return (packets, blocks.differ(), None),
                Err(error) => return (packets, blocks.differ(), Some(error)),
            }
        }
    }

    #[test]
    fn each_packet_has_the_link_and_the_clock_of_its_interface_in_both_orders_of_bytes() {
        let expected: Vec<Owned> = vec![
            (Some(Link::Ethernet), 1_700_000_000_000_001, 60, b"frame".to_vec()),
            (Some(Link::Raw), 1_007_000_001, 3, b"raw".to_vec()),
            (None, 1_500_000, 1, b"?".to_vec()),
            (Some(Link::Ethernet), 0, 6, b"simp".to_vec()),
            (Some(Link::Raw), 1_000_000_005, 9, b"abc".to_vec()),
        ];
        for sections in [vec![Order::Little], vec![Order::Big], vec![Order::Big, Order::Little]] {
            let bytes: Vec<u8> = sections.iter().flat_map(|order| file(*order)).collect();
            let (found, differ, error) = packets(&bytes);
            assert!(error.is_none() && differ, "{error:?}");
            let repeated: Vec<Owned> = sections.iter().flat_map(|_| expected.clone()).collect();
            assert_eq!(found, repeated);
        }
    }

    #[test]
    fn a_file_that_is_cut_off_or_changed_is_read_as_far_as_it_goes() {
        let whole = file(Order::Big);
        let all = packets(&whole).0;
        for end in 0..whole.len() {
            let (found, _, error) = packets(&whole[..end]);
            assert_eq!(found, all[..found.len()]);
            assert!(error.is_some() || end % 4 == 0);
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[end] ^= 1 << bit;
                packets(&bytes);
            }
        }
        let mut huge = whole.clone();
        huge[4] = 0x7f;
        assert!(matches!(packets(&huge).2, Some(PcapngError::Block { kind: SECTION })));
    }

    #[test]
    fn times_that_no_clock_has_are_survived() {
        for power in [0, 38, 39, 0x7f, 0x80, 0xff] {
            for offset_seconds in [0, i64::MIN, i64::MAX] {
                let resolution = if power & 0x80 == 0 {
                    Resolution::PowerOfTen(power)
                } else {
                    Resolution::PowerOfTwo(power & 0x7f)
                };
                let interface = Interface { link: 1, snap_bytes: 0, resolution, offset_seconds };
                assert!(interface.micros(u64::MAX) >= interface.micros(0));
            }
        }
    }
}
