//! One ask: a client connects to one instance from its own source address and asks who answers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::http;

/// How a pool is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// A line over TCP.
    Tcp,
    /// A GET over HTTP/1.1.
    Http,
}

/// What an instance said.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// A name, and from where the backend was reached, if it says so.
    Name(String, Option<IpAddr>),
    /// No: the connection was refused, closed or reset before an answer, or HTTP said 502, 503 or 504.
    Refused,
    /// Nothing before the deadline.
    Silent,
    /// Something else.
    Garbled,
}

/// Asks once. An error is the judge's own: it could not even try.
pub async fn ask(source: Ipv4Addr, entrance: SocketAddr, door: Door, deadline: Duration) -> io::Result<Reply> {
    let exchange = async {
        match door {
            Door::Tcp => ask_tcp(source, entrance).await,
            Door::Http => ask_http(source, entrance).await,
        }
    };
    match tokio::time::timeout(deadline, exchange).await {
        Err(_) => Ok(Reply::Silent),
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(error)) => match error.kind() {
            io::ErrorKind::InvalidData => Ok(Reply::Garbled),
            io::ErrorKind::TimedOut => Ok(Reply::Silent),
            kind if FAR_END.contains(&kind) => Ok(Reply::Refused),
            _ => Err(error),
        },
    }
}

async fn ask_tcp(source: Ipv4Addr, entrance: SocketAddr) -> io::Result<Reply> {
    let mut stream = http::connect_from(source, entrance).await?;
    stream.write_all(b"from who\n").await?;
    let mut line = Vec::with_capacity(64);
    while !line.ends_with(b"\n") {
        if line.len() > ANSWER_BYTES_MAX {
            return Ok(Reply::Garbled);
        }
        if stream.read_buf(&mut line).await? == 0 {
            return Ok(if line.is_empty() { Reply::Refused } else { Reply::Garbled });
        }
    }
    Ok(match String::from_utf8_lossy(&line).trim_end().split_once(' ') {
        Some((from, name)) => Reply::Name(name.to_owned(), from.parse().ok()),
        None => Reply::Garbled,
    })
}

async fn ask_http(source: Ipv4Addr, entrance: SocketAddr) -> io::Result<Reply> {
    let mut stream = http::connect_from(source, entrance).await?;
    let response = http::exchange(&mut stream, entrance, "/who").await?;
    Ok(match response.status {
        200 => match (response.header("x-backend"), String::from_utf8(response.body.clone())) {
            (Some(header), Ok(body)) if header == body => {
                let from = response.header("x-from").and_then(|from| from.parse().ok());
                Reply::Name(body, from)
            }
            _ => Reply::Garbled,
        },
        502..=504 => Reply::Refused,
        _ => Reply::Garbled,
    })
}

/// Errors that the far end causes.
const FAR_END: [io::ErrorKind; 7] = [
    io::ErrorKind::ConnectionRefused,
    io::ErrorKind::ConnectionReset,
    io::ErrorKind::ConnectionAborted,
    io::ErrorKind::BrokenPipe,
    io::ErrorKind::UnexpectedEof,
    // A router that has no path to a VIP says so.
    io::ErrorKind::NetworkUnreachable,
    io::ErrorKind::HostUnreachable,
];

const ANSWER_BYTES_MAX: usize = 256;
