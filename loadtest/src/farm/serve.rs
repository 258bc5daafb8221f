//! What a backend says on one connection: a line protocol, or HTTP/1.1 when the first bytes look like it.

use std::io;
use std::net::IpAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::websocket;

/// Serves one connection to its end. `source` is whom the kernel says it comes from.
///
/// Lines: `who` is answered with the name, `from` with the source address, `from who` with both, `echo TEXT` with `TEXT`, `give N` with N bytes;
/// anything else comes back as it is, and from then on every byte does.
pub async fn connection(stream: &mut TcpStream, source: IpAddr, name: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = Input { stream, bytes: Vec::new() };
    if !input.more().await? {
        return Ok(());
    }
    // An HTTP method and its space are at most eight bytes; shorter starts are settled by the next bytes.
    while METHODS.iter().any(|method| method.len() > input.bytes.len() && method.starts_with(&input.bytes)) {
        if !input.more().await? {
            break;
        }
    }
    if METHODS.iter().any(|method| input.bytes.starts_with(method)) {
        http(&mut input, source, name).await
    } else {
        lines(&mut input, source, name).await
    }
}

async fn lines(input: &mut Input<'_>, source: IpAddr, name: &str) -> io::Result<()> {
    loop {
        while let Some(end) = input.bytes.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = input.bytes.drain(..=end).collect();
            let words = line.strip_suffix(b"\n").unwrap_or(&line);
            let words = words.strip_suffix(b"\r").unwrap_or(words);
            if let Some(count) = gift(words) {
                give(input.stream, count).await?;
                continue;
            }
            let answer = match words {
                b"who" => format!("{name}\n").into_bytes(),
                b"from" => format!("{source}\n").into_bytes(),
                b"from who" => format!("{source} {name}\n").into_bytes(),
                _ => match words.strip_prefix(b"echo ") {
                    Some(text) => [text, b"\n"].concat(),
                    None => {
                        input.bytes.splice(0..0, line);
                        return echo(input).await;
                    }
                },
            };
            input.stream.write_all(&answer).await?;
        }
        if !could_be_a_command(&input.bytes) {
            return echo(input).await;
        }
        if !input.more().await? {
            return input.stream.write_all(&input.bytes).await;
        }
    }
}

/// How many bytes a `give N` asks for.
fn gift(words: &[u8]) -> Option<u64> {
    std::str::from_utf8(words.strip_prefix(b"give ")?).ok()?.parse().ok().filter(|count| *count <= GIVE_BYTES_MAX)
}

async fn give(stream: &mut TcpStream, count: u64) -> io::Result<()> {
    let bytes = vec![b'.'; GIVE_BUFFER_BYTES];
    let mut left = count;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        stream.write_all(bytes.get(..now).unwrap_or_default()).await?;
        left -= now as u64;
    }
    Ok(())
}

fn could_be_a_command(start: &[u8]) -> bool {
    let within = start.len() <= LINE_BYTES_MAX;
    within && COMMANDS.iter().any(|command| command.starts_with(start) || start.starts_with(command))
}

async fn echo(input: &mut Input<'_>) -> io::Result<()> {
    input.stream.write_all(&input.bytes).await?;
    let mut buffer = vec![0; ECHO_BUFFER_BYTES];
    loop {
        let count = input.stream.read(&mut buffer).await?;
        if count == 0 {
            return input.stream.shutdown().await;
        }
        input.stream.write_all(buffer.get(..count).unwrap_or_default()).await?;
    }
}

async fn http(input: &mut Input<'_>, source: IpAddr, name: &str) -> io::Result<()> {
    loop {
        let head_end = loop {
            if let Some(end) = input.bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if input.bytes.len() > HEAD_BYTES_MAX {
                return respond(input, 431, (name, source), b"", Connection::Close).await;
            }
            if !input.more().await? {
                return Ok(());
            }
        };
        let head: Vec<u8> = input.bytes.drain(..head_end).collect();
        let Some(request) = Request::parse(&head) else {
            return respond(input, 400, (name, source), b"", Connection::Close).await;
        };
        if request.path == "/ws" {
            return match request.websocket_key {
                Some(key) => {
                    input.stream.write_all(websocket::accept_head(&key, name).as_bytes()).await?;
                    websocket::echo(input.stream, std::mem::take(&mut input.bytes)).await
                }
                None => respond(input, 426, (name, source), b"", Connection::Close).await,
            };
        }
        let Some(body) = input.body(&request).await? else {
            return respond(input, 413, (name, source), b"", Connection::Close).await;
        };
        let answer: Vec<u8> = match request.path.as_str() {
            "/echo" => body,
            "/from" => source.to_string().into_bytes(),
            "/headers" => head,
            "/healthz" => b"ok".to_vec(),
            _ => name.as_bytes().to_vec(),
        };
        let answer = if request.method == "HEAD" { Vec::new() } else { answer };
        respond(input, 200, (name, source), &answer, request.connection).await?;
        if request.connection == Connection::Close {
            return input.stream.shutdown().await;
        }
    }
}

async fn respond(
    input: &mut Input<'_>,
    status: u16,
    (name, source): (&str, IpAddr),
    body: &[u8],
    connection: Connection,
) -> io::Result<()> {
    let close = if connection == Connection::Close { "connection: close\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {status} {}\r\nx-backend: {name}\r\nx-from: {source}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n{close}\r\n",
        if status == 200 { "OK" } else { "No" },
        body.len()
    );
    input.stream.write_all(&[head.as_bytes(), body].concat()).await
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Connection {
    Keep,
    Close,
}

/// How the length of a request's body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyLength {
    Known(usize),
    Chunked,
}

#[derive(Debug)]
struct Request {
    method: String,
    path: String,
    body: BodyLength,
    connection: Connection,
    websocket_key: Option<String>,
}

impl Request {
    fn parse(head: &[u8]) -> Option<Request> {
        let head = std::str::from_utf8(head).ok()?;
        let mut lines = head.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        let path = target.split('?').next()?.to_owned();
        let mut request = Request {
            method: method.to_owned(),
            path,
            body: BodyLength::Known(0),
            connection: if version == "HTTP/1.0" { Connection::Close } else { Connection::Keep },
            websocket_key: None,
        };
        for line in lines.filter(|line| !line.is_empty()) {
            let (key, value) = line.split_once(':')?;
            let value = value.trim();
            match key.to_ascii_lowercase().as_str() {
                "content-length" => request.body = BodyLength::Known(value.parse().ok()?),
                "transfer-encoding" if value.eq_ignore_ascii_case("chunked") => request.body = BodyLength::Chunked,
                "connection" if value.eq_ignore_ascii_case("close") => request.connection = Connection::Close,
                "sec-websocket-key" => request.websocket_key = Some(value.to_owned()),
                _ => {}
            }
        }
        Some(request)
    }
}

/// A connection and what was read of it but not used yet.
struct Input<'a> {
    stream: &'a mut TcpStream,
    bytes: Vec<u8>,
}

impl Input<'_> {
    /// Reads on; false at the end.
    async fn more(&mut self) -> io::Result<bool> {
        self.bytes.reserve(READ_BYTES);
        Ok(self.stream.read_buf(&mut self.bytes).await? > 0)
    }

    /// Takes exactly `count` bytes.
    async fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.bytes.len() < count {
            if !self.more().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.bytes.drain(..count).collect())
    }

    /// Takes a line without its end.
    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.bytes.windows(2).position(|window| window == b"\r\n") {
                let line: Vec<u8> = self.bytes.drain(..end + 2).take(end).collect();
                return String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData.into());
            }
            if self.bytes.len() > LINE_BYTES_MAX || !self.more().await? {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
    }

    /// Takes the body of a request; `None` when it is larger than a backend takes.
    async fn body(&mut self, request: &Request) -> io::Result<Option<Vec<u8>>> {
        match request.body {
            BodyLength::Known(length) if length > BODY_BYTES_MAX => Ok(None),
            BodyLength::Known(length) => self.take(length).await.map(Some),
            BodyLength::Chunked => {
                let mut body = Vec::new();
                loop {
                    let line = self.line().await?;
                    let digits = line.split(';').next().unwrap_or_default().trim();
                    let length = usize::from_str_radix(digits, 16).map_err(|_| io::ErrorKind::InvalidData)?;
                    if length.saturating_add(body.len()) > BODY_BYTES_MAX {
                        return Ok(None);
                    }
                    body.extend(self.take(length).await?);
                    if length == 0 {
                        while !self.line().await?.is_empty() {}
                        return Ok(Some(body));
                    }
                    self.line().await?;
                }
            }
        }
    }
}

const METHODS: [&[u8]; 7] = [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH "];
const COMMANDS: [&[u8]; 6] = [b"who\n", b"who\r\n", b"from\n", b"from\r\n", b"echo ", b"give "];
/// The most that one `give` is answered with; more is no command.
pub const GIVE_BYTES_MAX: u64 = 1 << 50;
const GIVE_BUFFER_BYTES: usize = 256 * 1024;
const READ_BYTES: usize = 2048;
const ECHO_BUFFER_BYTES: usize = 32 * 1024;
const LINE_BYTES_MAX: usize = 64 * 1024;
const HEAD_BYTES_MAX: usize = 64 * 1024;
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
