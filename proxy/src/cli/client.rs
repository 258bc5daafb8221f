//! Asks the fleet: a small HTTP/1.1 client that tries one instance after another.
//!
//! What it may do again is decided by what is known: a request that no instance took, or that was answered "nothing was
//! done", is tried elsewhere; a change whose answer was lost is not.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    str::FromStr,
    thread::sleep,
    time::{Duration, Instant},
};

use serde::de::DeserializeOwned;

use super::Failure;
use crate::rest::json::ErrorJson;

/// How long a connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an answer may take: a little longer than an instance allows itself.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// How long to go on asking a fleet that says it has no leader just now.
const PATIENCE: Duration = Duration::from_secs(5);
/// From one round of all instances to the next.
pub(super) const ROUND_PAUSE: Duration = Duration::from_millis(200);
/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Longest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// An instance's REST port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(String);

/// The instances to ask, in this order.
#[derive(Debug)]
pub struct Client {
    endpoints: Vec<Endpoint>,
}

/// An answer that is not an error.
#[derive(Debug)]
pub struct Answer {
    /// Who gave it.
    pub endpoint: Endpoint,
    /// Its JSON, as it came.
    pub body: String,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let good = plain.rsplit_once(':').is_some_and(|(host, port)| {
            let host_is_whole = !host.contains(':') || host.starts_with('[') && host.ends_with(']');
            let host_is_plain = host.bytes().all(|byte| byte.is_ascii_graphic() && !b"/@?#\\".contains(&byte));
            !host.is_empty() && host_is_whole && host_is_plain && port.parse::<u16>().is_ok_and(|port| port != 0)
        });
        match good {
            true => Ok(Self(plain.to_owned())),
            false => Err("HOST:PORT of an instance's REST port is expected, such as 127.0.0.1:8001".into()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Answer {
    /// The answer as the thing that this path gives.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        let wrong =
            |error| Failure::reason(format!("{} answered what this version cannot read: {error}", self.endpoint));
        serde_json::from_str(&self.body).map_err(wrong)
    }
}

impl Client {
    /// Asks `endpoints`, of which there is at least one.
    pub fn new(endpoints: Vec<Endpoint>) -> Self {
        debug_assert!(!endpoints.is_empty(), "there is somebody to ask");
        Self { endpoints }
    }

    /// Who is asked.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Reads.
    pub fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.ask("GET", path, &[])
    }

    /// Changes something.
    pub fn post(&self, path: &str, body: &[u8]) -> Result<Answer, Failure> {
        self.ask("POST", path, body)
    }

    /// Sets something.
    pub fn put(&self, path: &str, body: &[u8]) -> Result<Answer, Failure> {
        self.ask("PUT", path, body)
    }

    /// Removes something.
    pub fn delete(&self, path: &str) -> Result<Answer, Failure> {
        self.ask("DELETE", path, &[])
    }

    /// Copies what a path gives to `out`, from the first instance that has it. It ends with the connection: whoever reads it
    /// has to see for himself that it is whole.
    pub fn download(&self, path: &str, out: &mut dyn Write) -> Result<Endpoint, Failure> {
        let mut unreached = Vec::new();
        for endpoint in &self.endpoints {
            match begin_download(endpoint, path) {
                Ok((200, mut rest)) => {
                    let broke_off = |error| Failure::reason(format!("{endpoint} broke off: {error}"));
                    io::copy(&mut rest, out).map_err(broke_off)?;
                    return Ok(endpoint.clone());
                }
                Ok((status, rest)) => {
                    let mut body = Vec::new();
                    // What it said of itself is worth showing also when it broke off.
                    drop(rest.take(ANSWER_BYTES_MAX).read_to_end(&mut body));
                    let text = String::from_utf8_lossy(&body);
                    unreached.push(match serde_json::from_str::<ErrorJson>(&text) {
                        Ok(error) => format!("{endpoint}: {}", error.error),
                        Err(_) => format!("{endpoint}: status {status}"),
                    });
                }
                Err(error) => unreached.push(format!("{endpoint}: {error}")),
            }
        }
        Err(nobody(&unreached))
    }

    fn ask(&self, method: &str, path: &str, body: &[u8]) -> Result<Answer, Failure> {
        let until = Instant::now() + PATIENCE;
        loop {
            let mut unreached = Vec::new();
            let mut refused = None;
            for endpoint in &self.endpoints {
                match exchange(endpoint, method, path, body) {
                    Ok((status, body)) if status < 300 => return Ok(Answer { endpoint: endpoint.clone(), body }),
                    Ok((status, body)) => match refusal(endpoint, status, &body) {
                        (failure, true) => refused = Some(failure),
                        (failure, false) => return Err(failure),
                    },
                    Err(Lost::NotSent(error)) => unreached.push(format!("{endpoint}: {error}")),
                    Err(Lost::Sent(error)) if method == "GET" => unreached.push(format!("{endpoint}: {error}")),
                    Err(Lost::Sent(error)) => return Err(unknown_outcome(endpoint, &error)),
                }
            }
            match refused {
                Some(_) if Instant::now() < until => sleep(ROUND_PAUSE),
                Some(failure) => return Err(failure),
                None => return Err(nobody(&unreached)),
            }
        }
    }
}

/// Why there is no answer.
enum Lost {
    /// No instance took the request.
    NotSent(io::Error),
    /// It was sent, in part at least.
    Sent(io::Error),
}

/// One request and its answer: status and body.
fn exchange(endpoint: &Endpoint, method: &str, path: &str, body: &[u8]) -> Result<(u16, String), Lost> {
    let mut stream = connect(endpoint).map_err(Lost::NotSent)?;
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: {endpoint}\r\nConnection: close\r\nContent-Length: {length}\r\n");
    let accept = "Accept: application/json\r\n\r\n";
    let request = [head.as_bytes(), accept.as_bytes(), body].concat();
    let sent = stream.write_all(&request);
    // An instance may refuse and close before it has read all: what it said counts.
    match (read_answer(&mut stream), sent) {
        (Ok(answer), _) => Ok(answer),
        (Err(_), Err(error)) | (Err(error), Ok(())) => Err(Lost::Sent(error)),
    }
}

/// Asks in HTTP/1.0, whose answers end with the connection and come as they are: the status, and what follows the head.
pub(super) fn begin_download(endpoint: &Endpoint, path: &str) -> io::Result<(u16, impl Read + use<>)> {
    let mut stream = connect(endpoint)?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {endpoint}\r\n\r\n").as_bytes())?;
    let broken = |text: &'static str| io::Error::new(io::ErrorKind::InvalidData, text);
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        let count = stream.read(&mut chunk)?;
        if count == 0 || bytes.len() > HEAD_BYTES_MAX {
            return Err(broken("no answer in HTTP"));
        }
        bytes.extend_from_slice(chunk.get(..count).unwrap_or_default());
    };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| broken("no answer in HTTP"))?;
    let status = head.strip_prefix("HTTP/1.").and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let status = status.ok_or_else(|| broken("no answer in HTTP"))?;
    let rest = bytes.split_off(end + 4);
    Ok((status, io::Cursor::new(rest).chain(stream)))
}

fn connect(endpoint: &Endpoint) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in endpoint.0.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
                stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Reads up to the end of the connection, and takes only an answer that is whole.
fn read_answer(stream: &mut TcpStream) -> io::Result<(u16, String)> {
    let until = Instant::now() + ANSWER_TIMEOUT;
    let mut bytes = Vec::new();
    let mut chunk = [0; 16 << 10];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) => match parse_answer(&bytes) {
                Ok(answer) => return Ok(answer),
                Err(_) => return Err(error),
            },
        }
        if bytes.len() as u64 > ANSWER_BYTES_MAX || Instant::now() > until {
            return Err(io::Error::other("the answer is too long, or takes too long"));
        }
    }
    parse_answer(&bytes)
}

fn parse_answer(bytes: &[u8]) -> io::Result<(u16, String)> {
    let broken = |text: &'static str| io::Error::new(io::ErrorKind::InvalidData, text);
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").ok_or(broken("no answer in HTTP"))?;
    let (head, body) = bytes.split_at(end);
    let head = std::str::from_utf8(head).map_err(|_| broken("no answer in HTTP"))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok());
    let status = status.ok_or(broken("no answer in HTTP"))?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let body = body.get(4..).unwrap_or_default();
    if length != Some(body.len()) {
        return Err(broken("the answer broke off"));
    }
    let text = String::from_utf8(body.to_vec()).map_err(|_| broken("the answer is no text"))?;
    Ok((status, text))
}

/// What an instance's refusal means, and whether it is worth asking another, or again.
pub(super) fn refusal(endpoint: &Endpoint, status: u16, body: &str) -> (Failure, bool) {
    match serde_json::from_str::<ErrorJson>(body) {
        Ok(error) => {
            let nothing_done = matches!(error.reason.as_str(), "unavailable" | "overloaded" | "disk_full");
            (Failure::Refused(error), nothing_done)
        }
        Err(_) => (Failure::reason(format!("{endpoint} is no instance of ours: it answered status {status}")), false),
    }
}

fn unknown_outcome(endpoint: &Endpoint, error: &io::Error) -> Failure {
    Failure::Refused(ErrorJson {
        error: format!("{endpoint} took the request, then the answer was lost ({error}): it may still take effect"),
        reason: "unknown_outcome".into(),
        hint: "read before sending it again".into(),
        retry: "after_reading".into(),
        paths: Vec::new(),
    })
}

pub(super) fn nobody(unreached: &[String]) -> Failure {
    Failure::Unreached(format!("no instance answers\n  {}", unreached.join("\n  ")))
}

/// A path of `parts`, each encoded so that it stays one part (RFC 3986 section 2.1).
pub fn path(parts: &[&str]) -> String {
    parts.iter().map(|part| format!("/{}", encode(part))).collect()
}

/// A query of names and values; those without a value are left out.
pub fn query(values: &[(&str, Option<String>)]) -> String {
    let given = values.iter().filter_map(|(name, value)| Some(format!("{name}={}", encode(value.as_deref()?))));
    let joined = given.collect::<Vec<_>>().join("&");
    if joined.is_empty() { joined } else { format!("?{joined}") }
}

fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    // A part that is "." or ".." would be taken for a step in the path.
    if encoded.bytes().all(|byte| byte == b'.') { encoded.replace('.', "%2E") } else { encoded }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_path_stay_parts() {
        assert_eq!(path(&["kv", "a/b c?d"]), "/kv/a%2Fb%20c%3Fd");
        assert_eq!(path(&["kv", ".."]), "/kv/%2E%2E");
        assert_eq!(query(&[("a", None), ("b", Some("x&y".into())), ("c", Some("1".into()))]), "?b=x%26y&c=1");
        assert_eq!(query(&[("a", None)]), "");
    }

    #[test]
    fn endpoints_are_host_and_port() {
        for good in ["127.0.0.1:8001", "http://host:1/", "[::1]:8001"] {
            assert!(good.parse::<Endpoint>().is_ok(), "{good}");
        }
        for bad in ["", "8001", ":8001", "host", "host:0", "host:99999", "::1:8001", "host:8001/status", "a b:1"] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_whole_answers_count() {
        let parse = |text: &str| parse_answer(text.as_bytes()).ok();
        assert_eq!(parse("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"), Some((200, "{}".into())));
        for broken in [
            "",
            "HTTP/1.1 200 OK",
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\n\r\n{}",
            "HTTP/1.1 OK\r\ncontent-length: 2\r\n\r\n{}",
            "SSH-2.0\r\n\r\n",
        ] {
            assert_eq!(parse(broken), None, "{broken:?}");
        }
    }
}
