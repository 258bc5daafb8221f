//! The head of an HTTP/1 request: everything up to the empty line, within limits.

use std::{cell::RefCell, future::poll_fn, io, pin::Pin, task::ready, time::Duration};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, ReadBuf},
    time::timeout,
};

use crate::traffic::limits::Limits;

/// What a client began with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// A whole head, and whatever came with it.
    Http1(BytesMut),
    /// The preface of HTTP/2, and whatever came with it.
    Http2(BytesMut),
}

/// Why there is no request to serve.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoHead {
    /// The client left, or said nothing for too long, between requests: nobody waits for an answer.
    Gone,
    /// The client is to be told this, and the connection closed.
    Refused {
        /// The HTTP status.
        status: u16,
        /// What is wrong, in a line.
        reason: &'static str,
    },
}

/// Reads the next head: its first byte within `patience`, the rest within the limits.
pub(super) async fn read<S: AsyncRead + Unpin + ?Sized>(
    stream: &mut S,
    patience: Duration,
    limits: &Limits,
) -> Result<Head, NoHead> {
    let mut bytes = BytesMut::new();
    match timeout(patience, read_some(stream, &mut bytes)).await {
        Ok(Ok(true)) => {}
        Ok(Ok(false) | Err(_)) | Err(_) => return Err(NoHead::Gone),
    }
    match timeout(limits.head_timeout, read_rest(stream, &mut bytes, limits)).await {
        Ok(kind) => kind.map(|kind| match kind {
            Kind::Http1 => Head::Http1(bytes),
            Kind::Http2 => Head::Http2(bytes),
        }),
        Err(_elapsed) => Err(NoHead::Refused { status: 408, reason: "the request's head took too long" }),
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Http1,
    Http2,
}

async fn read_rest<S: AsyncRead + Unpin + ?Sized>(
    stream: &mut S,
    bytes: &mut BytesMut,
    limits: &Limits,
) -> Result<Kind, NoHead> {
    let mut scan = Scan::default();
    loop {
        if let Some(kind) = scan.look(bytes, limits)? {
            return Ok(kind);
        }
        match read_some(stream, bytes).await {
            Ok(true) => {}
            // Half a head, then the end: nobody to answer.
            Ok(false) | Err(_) => return Err(NoHead::Gone),
        }
    }
}

/// How far a head was looked through.
#[derive(Default)]
struct Scan {
    at: usize,
    line_from: usize,
    fields: usize,
}

impl Scan {
    /// Looks at what has come since the last look: the head's kind once it is whole.
    fn look(&mut self, bytes: &mut BytesMut, limits: &Limits) -> Result<Option<Kind>, NoHead> {
        if self.at == 0 {
            // An empty line before a request is to be ignored (RFC 9112 section 2.2).
            while bytes.starts_with(b"\r\n") {
                bytes.advance(2);
            }
            match bytes.first() {
                None => return Ok(None),
                Some(b'\r') if bytes.len() == 1 => return Ok(None),
                Some(first) if !first.is_ascii_alphanumeric() => return Err(bad("this port speaks HTTP")),
                Some(_) => {}
            }
        }
        if bytes.starts_with(PREFACE_START) {
            return match bytes.get(..PREFACE.len()) {
                None if PREFACE.starts_with(bytes) => Ok(None),
                Some(preface) if preface == PREFACE => Ok(Some(Kind::Http2)),
                _ => Err(bad("a broken HTTP/2 preface")),
            };
        }
        while let Some(offset) = bytes.get(self.at..).and_then(|new| new.iter().position(|byte| *byte == b'\n')) {
            let line_end = self.at + offset;
            let line = bytes.get(self.line_from..line_end).unwrap_or_default();
            let Some((b'\r', line)) = line.split_last() else { return Err(bad("a line without CR LF")) };
            (self.at, self.line_from) = (line_end + 1, line_end + 1);
            if self.at > limits.head_bytes {
                break;
            }
            if line.is_empty() {
                return Ok(Some(Kind::Http1));
            }
            self.fields += 1;
            if self.fields > limits.head_fields + 1 {
                return Err(NoHead::Refused { status: 431, reason: "too many header fields" });
            }
        }
        self.at = self.at.max(bytes.len());
        if self.at > limits.head_bytes {
            return Err(NoHead::Refused { status: 431, reason: "the request's head is too large" });
        }
        Ok(None)
    }
}

fn bad(reason: &'static str) -> NoHead {
    NoHead::Refused { status: 400, reason }
}

/// Appends what has come to `bytes`; false at the end. Waiting takes no buffer.
async fn read_some<S: AsyncRead + Unpin + ?Sized>(stream: &mut S, bytes: &mut BytesMut) -> io::Result<bool> {
    poll_fn(|cx| {
        BUFFER.with_borrow_mut(|buffer| {
            let mut read = ReadBuf::new(buffer);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut read))?;
            bytes.extend_from_slice(read.filled());
            std::task::Poll::Ready(Ok(!read.filled().is_empty()))
        })
    })
    .await
}

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// One read; a head is mostly smaller.
const READ_BYTES: usize = 16 * 1024;
/// What an HTTP/2 client says first (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Enough of it: no HTTP/1 method is called so.
const PREFACE_START: &[u8] = b"PRI ";

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of `bytes` when they come `step` at a time.
    fn check(bytes: &[u8], step: usize) -> Result<Head, NoHead> {
        let mut builder = tokio_test_io(bytes, step);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(read(&mut builder, Duration::from_secs(5), &Limits::default()))
    }

    /// A reader that gives `step` bytes at a time.
    fn tokio_test_io(bytes: &[u8], step: usize) -> impl AsyncRead + Unpin {
        struct Steps(Vec<u8>, usize);
        impl AsyncRead for Steps {
            fn poll_read(
                mut self: Pin<&mut Self>,
                _cx: &mut std::task::Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> std::task::Poll<io::Result<()>> {
                let count = self.1.min(self.0.len()).min(buffer.remaining());
                buffer.put_slice(&self.0.drain(..count).collect::<Vec<u8>>());
                std::task::Poll::Ready(Ok(()))
            }
        }
        Steps(bytes.to_vec(), step)
    }

    fn refused(status: u16) -> impl Fn(Result<Head, NoHead>) -> bool {
        move |head| matches!(head, Err(NoHead::Refused { status: found, .. }) if found == status)
    }

    #[test]
    fn a_head_is_found_whatever_the_pieces() {
        let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for step in 1..=request.len() {
            assert_eq!(check(request, step), Ok(Head::Http1(BytesMut::from(&request[..]))), "step {step}");
            let with_empty_line = [b"\r\n\r\n", &request[..]].concat();
            assert_eq!(check(&with_empty_line, step), Ok(Head::Http1(BytesMut::from(&request[..]))), "step {step}");
        }
        assert_eq!(
            check(b"GET / HTTP/1.0\r\n\r\nbody", 99),
            Ok(Head::Http1(BytesMut::from("GET / HTTP/1.0\r\n\r\nbody")))
        );
    }

    #[test]
    fn the_preface_is_found_whatever_the_pieces() {
        for step in 1..=PREFACE.len() {
            assert_eq!(check(PREFACE, step), Ok(Head::Http2(BytesMut::from(PREFACE))), "step {step}");
        }
        assert!(refused(400)(check(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", 7)));
    }

    #[test]
    fn what_is_no_http_is_refused_at_once() {
        assert!(refused(400)(check(b"\x16\x03\x01\x02\x00\x01", 1)));
        assert!(refused(400)(check(b"\0\0\0\0", 4)));
        assert!(refused(400)(check(b" GET / HTTP/1.1\r\n", 4)));
        assert!(refused(400)(check(b"GET / HTTP/1.1\nHost: a\n\n", 5)));
        assert_eq!(check(b"GET / HT", 3), Err(NoHead::Gone));
        assert_eq!(check(b"", 3), Err(NoHead::Gone));
    }

    #[test]
    fn limits_are_kept() {
        let limits = Limits::default();
        let field = [b"a: ".to_vec(), vec![b'x'; limits.head_bytes], b"\r\n\r\n".to_vec()].concat();
        let large = [&b"GET / HTTP/1.1\r\n"[..], &field].concat();
        assert!(refused(431)(check(&large, 1000)));
        assert!(refused(431)(check(&large, 100_000)));
        let many = [&b"GET / HTTP/1.1\r\n"[..], &b"a: b\r\n".repeat(limits.head_fields + 1), b"\r\n"].concat();
        assert!(refused(431)(check(&many, 1000)));
        let allowed = [&b"GET / HTTP/1.1\r\n"[..], &b"a: b\r\n".repeat(limits.head_fields), b"\r\n"].concat();
        assert!(matches!(check(&allowed, 1000), Ok(Head::Http1(_))));
    }
}
