//! The load: clients in a closed loop, each asking again as soon as it was answered.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use super::cpu;
use super::figures::histogram;
use crate::error::{Error, Result};
use crate::farm::GIVE_BYTES_MAX;
use crate::http::connect_from;

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// HTTP requests on a connection that is kept.
    HttpKept,
    /// An HTTP request on a new connection each.
    HttpNew,
    /// A line over a TCP connection that is kept.
    TcpKept,
    /// A line over a new TCP connection each: connect, ask, be answered, close.
    TcpNew,
    /// As many bytes as will come.
    Bulk,
}

/// From where clients come.
#[derive(Clone, Copy, Debug)]
pub enum Origin {
    /// Each from an address of its own, again and again.
    Same,
    /// From an address that was never used before, with each new connection.
    Fresh {
        /// The number of each client's first visit; a run has to begin where the one before it ended.
        first: u32,
    },
    /// From the addresses of earlier visits, from the first one on, over and over.
    Again {
        /// How many of them there were.
        visits: u32,
    },
}

/// A load for a while.
#[derive(Clone, Debug)]
pub struct Load {
    /// What clients do.
    pub act: Act,
    /// From where they come.
    pub origin: Origin,
    /// Whom they ask: client n the n-th, starting over at the end.
    pub entrances: Vec<SocketAddr>,
    /// How many clients there are, each with one question in flight.
    pub clients: u16,
    /// Not measured: until every client is known, every connection open and every cache warm.
    pub warm_up: Duration,
    /// Measured.
    pub measured: Duration,
    /// The process groups whose CPU time is measured with it.
    pub groups: Vec<i32>,
}

/// What was measured.
#[derive(Debug)]
pub struct Sample {
    /// Questions answered.
    pub asks: u64,
    /// Bytes that came, of [`Act::Bulk`].
    pub bytes: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// CPU time of the process groups.
    pub cpu: Duration,
    /// From before a question (with [`Act::TcpNew`] and [`Act::HttpNew`]: before the connect) to its answer, in nanoseconds.
    pub latency: Histogram<u64>,
    /// The fewest and the most visits that a client made, warm-up included.
    pub visits: (u32, u32),
}

impl Load {
    /// Applies the load, on a thread of its own that runs where the caller runs. Any question that is not answered, or not as
    /// it should be, makes the measurement void.
    pub async fn run(self) -> Result<Sample> {
        let (tell, told) = tokio::sync::oneshot::channel();
        let work = move || {
            // Nobody listens any more when the run was interrupted.
            tell.send(self.run_here()).ok();
        };
        std::thread::Builder::new().name("load".to_owned()).spawn(work).map_err(Error::io("starting the load"))?;
        told.await.map_err(|_| Error::Fleet("the load's thread broke".to_owned()))?
    }

    fn run_here(self) -> Result<Sample> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(Error::io("starting the load"))?;
        LocalSet::new().block_on(&runtime, self.apply())
    }

    async fn apply(self) -> Result<Sample> {
        let tally = Rc::new(Tally::new()?);
        let mut clients = tokio::task::JoinSet::new();
        for number in 0..self.clients {
            let Some(entrance) = self.entrances.get(usize::from(number) % self.entrances.len().max(1)) else {
                return Err(Error::Usage("a load needs somebody to ask".to_owned()));
            };
            let client = Client { number, origin: self.origin, entrance: *entrance, tally: tally.clone() };
            clients.spawn_local(client.run(self.act));
        }
        let measure = async {
            tokio::time::sleep(self.warm_up).await;
            let (before, start) = (self.cpu()?, Instant::now());
            tally.records.set(true);
            tokio::time::sleep(self.measured).await;
            tally.records.set(false);
            let (elapsed, cpu) = (start.elapsed(), cpu::since(before, self.cpu()?));
            tally.stops.set(true);
            Ok((elapsed, cpu))
        };
        let (elapsed, cpu) = measure.await?;
        let all_home = async { while clients.join_next().await.is_some() {} };
        if tokio::time::timeout(HOME_DEADLINE, all_home).await.is_err() {
            return Err(Error::Fleet(format!("a client was not answered within {} s", HOME_DEADLINE.as_secs())));
        }
        if let Some(failure) = tally.failure.borrow_mut().take() {
            return Err(Error::Io("a client was not answered as it should be".to_owned(), failure));
        }
        if tally.asks.get() == 0 && tally.bytes.get() == 0 {
            return Err(Error::Fleet("no client was answered in the time measured".to_owned()));
        }
        Ok(Sample {
            asks: tally.asks.get(),
            bytes: tally.bytes.get(),
            elapsed,
            cpu,
            latency: tally.latency.borrow().clone(),
            visits: tally.visits.get(),
        })
    }

    fn cpu(&self) -> Result<Duration> {
        self.groups.iter().map(|group| cpu::of_group(*group)).sum()
    }
}

/// What all clients of a load write into; they share a thread.
struct Tally {
    records: Cell<bool>,
    stops: Cell<bool>,
    asks: Cell<u64>,
    bytes: Cell<u64>,
    visits: Cell<(u32, u32)>,
    latency: RefCell<Histogram<u64>>,
    failure: RefCell<Option<io::Error>>,
}

impl Tally {
    fn new() -> Result<Tally> {
        Ok(Tally {
            records: Cell::default(),
            stops: Cell::default(),
            asks: Cell::default(),
            bytes: Cell::default(),
            visits: Cell::new((u32::MAX, 0)),
            latency: RefCell::new(histogram()?),
            failure: RefCell::default(),
        })
    }

    fn answered(&self, start: Instant) {
        if self.records.get() {
            self.asks.set(self.asks.get() + 1);
            let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.latency.borrow_mut().saturating_record(nanos);
        }
    }
}

struct Client {
    number: u16,
    origin: Origin,
    entrance: SocketAddr,
    tally: Rc<Tally>,
}

impl Client {
    async fn run(self, act: Act) {
        let done = match act {
            Act::HttpKept => self.keep(&self.request(), http_answer_length).await,
            Act::TcpKept => self.keep(QUESTION, line_length).await,
            Act::HttpNew => self.come_anew(&self.request(), http_answer_length).await,
            Act::TcpNew => self.come_anew(QUESTION, line_length).await,
            Act::Bulk => self.take_all().await,
        };
        if let Err(error) = done {
            self.tally.failure.borrow_mut().get_or_insert(error);
        }
    }

    fn request(&self) -> Vec<u8> {
        format!("GET /who HTTP/1.1\r\nhost: {}\r\nuser-agent: loadtest\r\naccept: */*\r\n\r\n", self.entrance)
            .into_bytes()
    }

    async fn keep(&self, question: &[u8], length: Length) -> io::Result<()> {
        let mut stream = connect_from(self.address(0), self.entrance).await?;
        let mut answer = Vec::with_capacity(ANSWER_BYTES_MAX);
        while !self.tally.stops.get() {
            let start = Instant::now();
            ask(&mut stream, question, length, &mut answer).await?;
            self.tally.answered(start);
        }
        Ok(())
    }

    async fn come_anew(&self, question: &[u8], length: Length) -> io::Result<()> {
        let mut answer = Vec::with_capacity(ANSWER_BYTES_MAX);
        for visit in 0.. {
            if self.tally.stops.get() {
                let (fewest, most) = self.tally.visits.get();
                self.tally.visits.set((fewest.min(visit), most.max(visit)));
                break;
            }
            let start = Instant::now();
            let mut stream = connect_from(self.address(visit), self.entrance).await?;
            ask(&mut stream, question, length, &mut answer).await?;
            self.tally.answered(start);
        }
        Ok(())
    }

    async fn take_all(&self) -> io::Result<()> {
        let mut stream = connect_from(self.address(0), self.entrance).await?;
        stream.write_all(format!("give {GIVE_BYTES_MAX}\n").as_bytes()).await?;
        let mut buffer = vec![0; BULK_BUFFER_BYTES];
        while !self.tally.stops.get() {
            let count = stream.read(&mut buffer).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if self.tally.records.get() {
                self.tally.bytes.set(self.tally.bytes.get() + count as u64);
            }
        }
        Ok(())
    }

    fn address(&self, visit: u32) -> Ipv4Addr {
        address(self.origin, self.number, visit)
    }
}

/// The source address of a client's visit, in 127.64.0.0/10.
fn address(origin: Origin, client: u16, visit: u32) -> Ipv4Addr {
    let visit_to_index = |visit: u32| {
        let client = u32::from(client) % FRESH_CLIENTS_MAX;
        FRESH_FROM + visit % FRESH_VISITS_MAX * FRESH_CLIENTS_MAX + client
    };
    let index = match origin {
        Origin::Same => u32::from(client) + 1,
        Origin::Fresh { first } => visit_to_index(first.wrapping_add(visit)),
        Origin::Again { visits } => visit_to_index(visit % visits.max(1)),
    };
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 64, 0, 0)) + index)
}

/// How long a whole answer is that starts with these bytes; none while that cannot be told.
type Length = fn(&[u8]) -> io::Result<Option<usize>>;

async fn ask(stream: &mut TcpStream, question: &[u8], length: Length, answer: &mut Vec<u8>) -> io::Result<()> {
    stream.write_all(question).await?;
    answer.clear();
    loop {
        if stream.read_buf(answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match length(answer)? {
            Some(length) if answer.len() == length => return Ok(()),
            Some(length) if answer.len() > length => return Err(wrong("more than one answer", answer)),
            _ if answer.len() > ANSWER_BYTES_MAX => return Err(wrong("an endless answer", answer)),
            _ => {}
        }
    }
}

fn line_length(bytes: &[u8]) -> io::Result<Option<usize>> {
    Ok(bytes.iter().position(|byte| *byte == b'\n').map(|end| end + 1))
}

fn http_answer_length(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(bytes.get(..end).unwrap_or_default()).map_err(|_| wrong("no HTTP", bytes))?;
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(wrong("another status", bytes));
    }
    let length = head.split("\r\n").skip(1).find_map(|line| {
        let (name, value) = line.split_once(':')?;
        if name.eq_ignore_ascii_case("content-length") { value.trim().parse::<usize>().ok() } else { None }
    });
    length.map(|length| Some(end + 4 + length)).ok_or_else(|| wrong("no content-length", bytes))
}

fn wrong(what: &str, bytes: &[u8]) -> io::Error {
    let said = String::from_utf8_lossy(bytes.get(..bytes.len().min(SAID_BYTES_MAX)).unwrap_or_default());
    io::Error::new(io::ErrorKind::InvalidData, format!("{what}: {said:?}"))
}

const QUESTION: &[u8] = b"who\n";
const ANSWER_BYTES_MAX: usize = 4096;
const SAID_BYTES_MAX: usize = 120;
const BULK_BUFFER_BYTES: usize = 256 * 1024;
/// Longer than anything that a proxy waits for before it gives up.
const HOME_DEADLINE: Duration = Duration::from_secs(10);
/// Addresses below are those of clients that come again.
const FRESH_FROM: u32 = 1 << 16;
/// More clients than these would share addresses.
const FRESH_CLIENTS_MAX: u32 = 64;
/// More visits than these would come from addresses that were used before. All within 127.64.0.0/10.
const FRESH_VISITS_MAX: u32 = ((1 << 22) - FRESH_FROM) / FRESH_CLIENTS_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_head_says_so() {
        let answer = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 2\r\n\r\ns1";
        assert_eq!(http_answer_length(answer).unwrap(), Some(answer.len()));
        assert_eq!(http_answer_length(&answer[..20]).unwrap(), None);
        assert_eq!(http_answer_length(&answer[..answer.len() - 1]).unwrap(), Some(answer.len()));
        for bad in ["HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "hello\r\n\r\n"] {
            assert_eq!(http_answer_length(bad.as_bytes()).unwrap_err().kind(), io::ErrorKind::InvalidData, "{bad}");
        }
        assert_eq!((line_length(b"s1").unwrap(), line_length(b"s1\n").unwrap()), (None, Some(3)));
    }

    #[test]
    fn fresh_clients_never_share_an_address_and_stay_in_their_network() {
        let mut seen = std::collections::HashSet::new();
        for client in 0..64 {
            for visit in [0, 1, 2, 999, FRESH_VISITS_MAX - 1] {
                assert!(seen.insert(address(Origin::Fresh { first: 0 }, client, visit)));
            }
            assert!(seen.insert(address(Origin::Same, client, 7)));
        }
        assert_eq!(address(Origin::Fresh { first: 5 }, 3, 2), address(Origin::Fresh { first: 0 }, 3, 7));
        assert_eq!(address(Origin::Again { visits: 4 }, 3, 6), address(Origin::Fresh { first: 0 }, 3, 2));
        assert!(seen.iter().all(|address| address.octets()[0] == 127 && address.octets()[1] >> 6 == 1));
    }
}
