//! Cutting single sources off from a backend, without privileges.
//!
//! A classic BPF filter on the listening socket drops the packets of a source before the kernel answers them: its connects
//! time out, as behind a dead link, while everyone else is served. Resetting instead lets the kernel accept and then closes
//! with a reset, as a broken middlebox does; a check that only connects does not see that one.

use std::net::{IpAddr, Ipv4Addr};

use socket2::{SockFilter, SockRef};

use crate::error::{Error, Result};

/// What a source that is cut off meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Its packets are dropped, so that its connects time out.
    Drop,
    /// Its connections are accepted and reset at once.
    Reset,
}

/// Who is cut off from one backend.
#[derive(Clone, Debug, Default)]
pub struct Cuts {
    /// Every packet of everyone is dropped.
    pub everyone: bool,
    sources: Vec<(IpAddr, Cut)>,
}

impl Cuts {
    /// Cuts a source off, or changes how.
    pub fn set(&mut self, source: IpAddr, cut: Cut) {
        self.sources.retain(|(other, _)| *other != source);
        self.sources.push((source, cut));
    }

    /// Whether connections from there are to be reset.
    pub fn covers(&self, source: IpAddr) -> bool {
        self.everyone || self.sources.iter().any(|(other, _)| *other == source)
    }

    /// Makes the kernel drop what is to be dropped at this listener.
    pub fn apply(&self, listener: SockRef<'_>) -> Result<()> {
        let dropped: Vec<Ipv4Addr> = self
            .sources
            .iter()
            .filter_map(|(source, cut)| match (source, cut) {
                (IpAddr::V4(source), Cut::Drop) => Some(*source),
                _ => None,
            })
            .collect();
        if self.everyone || !dropped.is_empty() {
            let program = if self.everyone { vec![verdict(PACKET_DROPPED)] } else { drop_program(&dropped) };
            listener.attach_filter(&program).map_err(Error::io("filtering at a backend"))
        } else {
            match listener.detach_filter() {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(Error::Io("ending the filter at a backend".to_owned(), error))
                }
                _ => Ok(()),
            }
        }
    }
}

/// Loads the source address, compares it with each one to drop, and lets everything else pass.
fn drop_program(dropped: &[Ipv4Addr]) -> Vec<SockFilter> {
    let mut program = vec![SockFilter::new(LOAD_WORD, 0, 0, SOURCE_ADDRESS)];
    for source in dropped {
        program.push(SockFilter::new(JUMP_IF_EQUAL, 0, 1, u32::from(*source)));
        program.push(verdict(PACKET_DROPPED));
    }
    program.push(verdict(PACKET_PASSED));
    program
}

fn verdict(length: u32) -> SockFilter {
    SockFilter::new(RETURN, 0, 0, length)
}

/// `BPF_LD | BPF_W | BPF_ABS`, `BPF_JMP | BPF_JEQ | BPF_K` and `BPF_RET | BPF_K`.
const LOAD_WORD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
/// `SKF_NET_OFF` and twelve bytes into the IPv4 header.
const SOURCE_ADDRESS: u32 = 0xfff0_0000 + 12;
const PACKET_DROPPED: u32 = 0;
const PACKET_PASSED: u32 = u32::MAX;
