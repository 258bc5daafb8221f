//! The door to an interface: a packet socket with a ring that libpcap reads.
//!
//! libpcap may wait for ever on a quiet link (its timeout starts with the first packet), so it is asked without waiting, and
//! the waiting is done here, with an end.
//!
//! Sums are exact because the gate is shut when nobody counts: what came while it was being opened is drained and forgotten,
//! and at the end the gate is shut first and the ring read to its end.

use std::{
    io,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use pcap::{Active, Capture};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    thread::{CapabilitySet, capabilities},
};

use super::{Captured, Listed, list, list::ANY, socket, words};
use crate::decode::Link;

/// What is wrong with an interface. Each is one line.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// There is none of that name.
    #[error("no interface `{name}`; there are: {}", known.join(", "))]
    Unknown {
        /// The name.
        name: String,
        /// Those there are.
        known: Vec<String>,
    },
    /// The capability is missing.
    #[error("capturing needs CAP_NET_RAW: run as root, or once: sudo setcap cap_net_raw+ep {program}")]
    Forbidden {
        /// Where this program lies.
        program: String,
    },
    /// It cannot be opened.
    #[error("{name}: {why}")]
    Open {
        /// The interface.
        name: String,
        /// What libpcap or the system says.
        why: String,
    },
    /// The filter is none.
    #[error("filter `{program}`: {why}")]
    Filter {
        /// The filter.
        program: String,
        /// What its compiler says.
        why: String,
    },
    /// Several workers cannot share it.
    #[error("{name}: it cannot be shared among workers (PACKET_FANOUT): {why}")]
    Shared {
        /// The interface.
        name: String,
        /// What the system says.
        why: io::Error,
    },
    /// It went away, or reading failed.
    #[error("{name}: {why}")]
    Broken {
        /// The interface.
        name: String,
        /// What libpcap or the system says.
        why: String,
    },
}

/// How an interface is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of each packet that are captured.
    pub snaplen: u32,
    /// Bytes of packets that the kernel holds until they are read.
    pub buffer_bytes: u32,
    /// Whether frames for other stations come as well.
    pub promiscuous: bool,
}

/// What the kernel counted since the gate was opened. `received` is the sum of `dropped`, of what was handed over, and of
/// what was not: what waits in the ring, and what libpcap withholds (on `any` the second sight of loopback's packets).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Packets that passed the filter.
    pub received: u64,
    /// Those of them that found the ring full.
    pub dropped: u64,
    /// Packets that the interface or its driver lost before; all of the interface, and not in `received`.
    pub interface_dropped: u64,
}

/// An interface that is captured from, by one worker.
pub struct Interface {
    name: String,
    capture: Capture<Active>,
    loopback: bool,
    /// What libpcap counted last: numbers that wrap.
    last: [u32; 3],
    counted: [u64; 3],
    handed: u64,
    /// Its number; 0: it is all of them.
    pub index: u32,
    /// How its frames begin; none: not known.
    pub link: Option<Link>,
    /// The same as a capture file says it (tcpdump.org/linktypes.html).
    pub link_type: u32,
}

impl Interface {
    /// Opens it, with its gate shut.
    ///
    /// # Errors
    /// If there is none, or it is down, or the privilege is missing.
    pub fn open(name: &str, settings: Settings) -> Result<Self, InterfaceError> {
        let failed = |why: String| InterfaceError::Open { name: name.to_owned(), why };
        let listed = list().map_err(failed)?;
        // By its number: an interface has more names than the one that is listed.
        let index = socket::interface_index(name);
        if index.is_none() && name != ANY {
            let known = listed.into_iter().map(|listed| listed.name).collect();
            return Err(InterfaceError::Unknown { name: name.to_owned(), known });
        }
        // All interfaces at once know no promiscuity, and libpcap would warn of it, which its binding takes for an error.
        let promiscuous = settings.promiscuous && name != ANY;
        let sized = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
        let capture = Capture::from_device(name)
            .and_then(|inactive| {
                inactive
                    .snaplen(sized(settings.snaplen))
                    .buffer_size(sized(settings.buffer_bytes))
                    .promisc(promiscuous)
                    .timeout(TIMEOUT_MS)
                    .open()
            })
            .and_then(Capture::setnonblock)
            .map_err(|error| why_not(name, words(&error)))?;
        socket::close_gate(capture.as_fd()).map_err(|error| failed(error.to_string()))?;
        let same = |listed: &&Listed| index.is_some() && socket::interface_index(&listed.name) == index;
        let loopback = listed.iter().find(same).is_some_and(|listed| listed.loopback);
        if loopback {
            socket::ignore_outgoing(capture.as_fd()).map_err(|error| failed(error.to_string()))?;
        }
        let number = capture.get_datalink().0;
        Ok(Self {
            name: name.to_owned(),
            index: index.unwrap_or_default(),
            loopback,
            last: [0; 3],
            counted: [0; 3],
            handed: 0,
            link: Link::of(number),
            link_type: if number == DLT_RAW { LINKTYPE_RAW } else { number as u32 },
            capture,
        })
    }

    /// Opens it so many times that workers can share it by flows, with all gates shut.
    ///
    /// # Errors
    /// As [`Interface::open`]; or if the system does not let it be shared.
    pub fn open_shared(name: &str, settings: Settings, workers: usize) -> Result<Vec<Self>, InterfaceError> {
        let doors = (0..workers).map(|_| Self::open(name, settings)).collect::<Result<Vec<_>, _>>()?;
        if let [first, others @ ..] = doors.as_slice()
            && !others.is_empty()
        {
            let group = socket::Group::found(first.capture.as_fd(), first.loopback);
            group
                .and_then(|group| others.iter().try_for_each(|other| group.join(other.capture.as_fd())))
                .map_err(|why| InterfaceError::Shared { name: name.to_owned(), why })?;
        }
        Ok(doors)
    }

    /// Whether this is a filter (pcap-filter(7)) for such frames.
    ///
    /// # Errors
    /// In the words of the filter's compiler.
    pub fn check(&self, program: &str) -> Result<(), InterfaceError> {
        self.capture.compile(program, true).map(drop).map_err(|error| no_filter(program, &error))
    }

    /// Lets in what passes this filter (pcap-filter(7)); an empty one lets all pass. Counting begins.
    ///
    /// # Errors
    /// In the words of the filter's compiler.
    pub fn open_gate(&mut self, program: &str) -> Result<(), InterfaceError> {
        // What came between the opening and the shutting of the gate is nobody's.
        self.drain(|_| {})?;
        self.stats()?;
        (self.counted, self.handed) = ([0; 3], 0);
        self.capture.filter(program, true).map_err(|error| no_filter(program, &error))
    }

    /// Lets in nothing more. What came before is still handed over: see [`Interface::drain`].
    ///
    /// # Errors
    /// If the system does not obey.
    pub fn close_gate(&self) -> Result<(), InterfaceError> {
        socket::close_gate(self.capture.as_fd()).map_err(|error| self.broken(error.to_string()))
    }

    /// Hands over packets that wait, at most so many, and says how many there were. Does not wait for any.
    ///
    /// # Errors
    /// If the interface went away. What was handed over stays so.
    pub fn dispatch(
        &mut self,
        packets_max: usize,
        mut take: impl FnMut(Captured<'_>),
    ) -> Result<usize, InterfaceError> {
        let handed = &mut self.handed;
        let outcome = self.capture.dispatch(Some(packets_max), |packet| {
            *handed += 1;
            take(packet.into());
        });
        outcome.map_err(|error| self.broken(words(&error)))
    }

    /// Waits until packets may be there, or that time has passed; says whether any may be.
    ///
    /// # Errors
    /// If the system does not obey.
    pub fn wait(&self, at_most: Duration) -> Result<bool, InterfaceError> {
        let mut sockets = [PollFd::new(&self.capture, PollFlags::IN)];
        let at_most = Timespec {
            tv_sec: at_most.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: at_most.subsec_nanos().into(),
        };
        match poll(&mut sockets, Some(&at_most)) {
            Ok(ready) => Ok(ready > 0),
            // A signal came: whoever waits looks for what it meant, and packets may be there.
            Err(rustix::io::Errno::INTR) => Ok(true),
            Err(error) => Err(self.broken(error.to_string())),
        }
    }

    /// Hands over all that is left behind a shut gate. An interface that went away has left some, too.
    ///
    /// # Errors
    /// If the interface went away.
    pub fn drain(&mut self, mut take: impl FnMut(Captured<'_>)) -> Result<(), InterfaceError> {
        let deadline = Instant::now() + DRAIN_MAX;
        let mut first_error = None;
        loop {
            match self.dispatch(DRAIN_PACKETS, &mut take) {
                Ok(0) => {}
                Ok(_) => continue,
                Err(error) => first_error = first_error.or(Some(error)),
            }
            let Received { received, dropped, .. } = self.stats()?;
            // A block of the ring that is not full comes when its timer does.
            let complete = received == dropped + self.handed;
            if complete || !self.wait(DRAIN_QUIET)? || Instant::now() > deadline {
                return first_error.map_or(Ok(()), Err);
            }
        }
    }

    /// What the kernel counted. To be asked before four thousand million more packets came.
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn stats(&mut self) -> Result<Received, InterfaceError> {
        let stat = self.capture.stats().map_err(|error| self.broken(words(&error)))?;
        let now = [stat.received, stat.dropped, stat.if_dropped];
        for ((counted, last), now) in self.counted.iter_mut().zip(&mut self.last).zip(now) {
            let more = now.wrapping_sub(*last);
            // The counter of an interface that went away falls to nothing.
            *counted += if more <= u32::MAX / 2 { more.into() } else { 0 };
            *last = now;
        }
        let [received, dropped, interface_dropped] = self.counted;
        Ok(Received { received, dropped, interface_dropped })
    }

    fn broken(&self, why: String) -> InterfaceError {
        InterfaceError::Broken { name: self.name.clone(), why }
    }
}

fn no_filter(program: &str, error: &pcap::Error) -> InterfaceError {
    let program = program.split_whitespace().collect::<Vec<_>>().join(" ");
    InterfaceError::Filter { program, why: words(error) }
}

/// Why an interface cannot be opened, by what can be known: libpcap's words differ from version to version.
fn why_not(name: &str, why: String) -> InterfaceError {
    let allowed = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_RAW));
    if !allowed {
        let program = std::env::current_exe().map_or_else(|_| "sniffer".into(), |path| path.display().to_string());
        return InterfaceError::Forbidden { program };
    }
    InterfaceError::Open { name: name.to_owned(), why }
}

/// How long the kernel keeps packets to hand over more at once, in milliseconds.
const TIMEOUT_MS: i32 = 10;

/// Packets that are drained at once.
const DRAIN_PACKETS: usize = 4096;

/// Behind a shut gate, the last packets come within [`TIMEOUT_MS`]; after so long, with others on the processors, none will.
const DRAIN_QUIET: Duration = Duration::from_millis(100);

/// Draining ends after so long, whatever comes.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// IP without anything before it, as this system numbers it, and as files do.
const DLT_RAW: i32 = 12;
const LINKTYPE_RAW: u32 = 101;
