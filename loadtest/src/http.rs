//! A very small HTTP/1.1 client: one request, one answer, one connection.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// An answer to a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The head, as it came.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Asks for a path; everything has to be over within `deadline`.
pub async fn get(address: SocketAddr, path: &str, deadline: Duration) -> io::Result<Response> {
    let request = async {
        let mut stream = TcpStream::connect(address).await?;
        exchange(&mut stream, address, path).await
    };
    tokio::time::timeout(deadline, request).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Lost {
    /// There was no connection: the request was not sent.
    Unsent(io::Error),
    /// It was sent, or may have been.
    Sent(io::Error),
}

/// Sends a request with a body; everything has to be over within `deadline`.
pub async fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &[u8],
    deadline: Duration,
) -> Result<Response, Lost> {
    let until = tokio::time::Instant::now() + deadline;
    let connected = tokio::time::timeout_at(until, TcpStream::connect(address)).await;
    let late = |_| Err(io::ErrorKind::TimedOut.into());
    let mut stream = connected.unwrap_or_else(late).map_err(Lost::Unsent)?;
    let head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n", body.len());
    let exchange = async {
        stream.write_all(&[head.as_bytes(), body].concat()).await?;
        response(&mut stream).await
    };
    tokio::time::timeout_at(until, exchange)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(Lost::Sent)
}

/// Sends a GET on an open connection and reads the answer.
pub async fn exchange(stream: &mut TcpStream, host: SocketAddr, path: &str) -> io::Result<Response> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\naccept: */*\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    response(stream).await
}

/// Reads an answer.
async fn response(stream: &mut TcpStream) -> io::Result<Response> {
    let mut bytes = Vec::with_capacity(1024);
    let head_end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if bytes.len() > RESPONSE_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let head = String::from_utf8_lossy(bytes.get(..head_end).unwrap_or_default()).into_owned();
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    let Some(status) = status else { return Err(io::ErrorKind::InvalidData.into()) };
    let mut response = Response { status, head, body: bytes.split_off(head_end) };
    let length = response.header("content-length").and_then(|value| value.parse::<usize>().ok());
    let chunked = response.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
    loop {
        if length.is_some_and(|length| response.body.len() >= length) {
            return Ok(response);
        }
        if chunked && let Some(body) = dechunk(&response.body) {
            response.body = body;
            return Ok(response);
        }
        if response.body.len() > RESPONSE_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if stream.read_buf(&mut response.body).await? == 0 {
            return match (length, chunked) {
                (None, false) => Ok(response),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
    }
}

/// The body behind its chunks; `None` while it is not whole.
fn dechunk(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|window| window == b"\r\n")?;
        let digits = std::str::from_utf8(bytes.get(..end)?).ok()?;
        let length = usize::from_str_radix(digits.split(';').next()?.trim(), 16).ok()?;
        bytes = bytes.get(end + 2..)?;
        if length == 0 {
            return Some(body);
        }
        body.extend(bytes.get(..length)?);
        bytes = bytes.get(length.checked_add(2)?..)?;
    }
}

/// Connects from a source address of the client's own.
pub async fn connect_from(source: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    bind_later(&socket)?;
    socket.bind((source, 0).into())?;
    socket.set_nodelay(true)?;
    socket.connect(to).await
}

/// Lets the kernel choose the source port at connect, when it knows both ends: far more connections fit, and faster.
fn bind_later(socket: &TcpSocket) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open while `socket` is borrowed, and the pointer and length describe `on`.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            std::ptr::from_ref(&on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

const RESPONSE_BYTES_MAX: usize = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined_once_they_are_whole() {
        assert_eq!(dechunk(b"2\r\nab\r\n3;x\r\ncde\r\n0\r\n\r\n"), Some(b"abcde".to_vec()));
        assert_eq!(dechunk(b"2\r\nab\r\n3\r\ncd"), None);
        assert_eq!(dechunk(b"ffffffffffffffff\r\n"), None);
        assert_eq!(dechunk(b"zz\r\n"), None);
    }
}
