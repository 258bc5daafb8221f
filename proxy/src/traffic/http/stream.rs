//! A client's connection as pingora wants it, with a write buffer only while an answer is being written.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    os::fd::AsRawFd,
    pin::Pin,
    sync::{Arc, atomic::AtomicBool},
    task::{Context, Poll, ready},
};

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora::{
    http::ResponseHeader,
    protocols::{
        GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
        UniqueIDType, raw_connect::ProxyDigest,
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};

use crate::traffic::{limits, pool::Pool, tunnel::Activity};

/// The client's side of an HTTP connection.
#[derive(Debug)]
pub(super) struct ClientStream {
    socket: TcpStream,
    /// Read already, to be read again.
    unread: BytesMut,
    /// Written, not yet sent.
    unsent: Vec<u8>,
    sent_of_it: usize,
    digest: Arc<SocketDigest>,
    /// Pingora carries this to the gateway: whose connection it is.
    owner: Arc<ProxyDigest>,
    wire: Arc<Wire>,
}

/// What the front and the gateway both know of a connection.
#[derive(Debug)]
pub(super) struct Wire {
    /// When the client's side last moved a byte.
    pub(super) activity: Activity,
    /// Its current request asks for another protocol: from then on bytes may go one way only, for as long as they like.
    pub(super) upgrading: AtomicBool,
}

/// Whose connection a request came on.
pub(super) struct Client {
    pub(super) pool: Arc<Pool>,
    pub(super) address: SocketAddr,
    pub(super) wire: Arc<Wire>,
}

impl ClientStream {
    /// Wraps `socket`, which came from `client`; the gateway finds the client in every request's digest.
    pub(super) fn new(socket: TcpStream, client: Client) -> pingora::Result<Self> {
        let digest = SocketDigest::from_raw_fd(socket.as_raw_fd());
        // The cell is new, so this sets it.
        digest.peer_addr.set(Some(pingora::protocols::l4::socket::SocketAddr::Inet(client.address))).ok();
        let wire = Arc::clone(&client.wire);
        // The way pingora has to attach data to a connection comes with the answer of a CONNECT proxy; there is none.
        let owner = ProxyDigest::new(Box::new(ResponseHeader::build(200, Some(0))?), Some(Box::new(client)));
        Ok(Self {
            socket,
            unread: BytesMut::new(),
            unsent: Vec::new(),
            sent_of_it: 0,
            digest: Arc::new(digest),
            owner: Arc::new(owner),
            wire,
        })
    }

    /// Puts bytes back, to be read next.
    pub(super) fn unread(&mut self, bytes: BytesMut) {
        debug_assert!(self.unread.is_empty(), "bytes may be put back once");
        self.unread = bytes;
    }

    /// Sends what was written, and then as much of `more` as is taken now.
    fn poll_send(&mut self, cx: &mut Context<'_>, more: &[u8]) -> Poll<io::Result<usize>> {
        while self.sent_of_it < self.unsent.len() {
            let rest = self.unsent.get(self.sent_of_it..).unwrap_or_default();
            let both = [IoSlice::new(rest), IoSlice::new(more)];
            let rest = rest.len();
            let taken = ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, &both))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.wire.activity.stamp();
            self.sent_of_it += taken.min(rest);
            if let Some(of_more) = taken.checked_sub(rest).filter(|of_more| *of_more > 0) {
                self.forget_sent();
                return Poll::Ready(Ok(of_more));
            }
        }
        self.forget_sent();
        if more.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let taken = ready!(Pin::new(&mut self.socket).poll_write(cx, more))?;
        self.wire.activity.stamp();
        Poll::Ready(Ok(taken))
    }

    /// Everything was sent: the buffer goes.
    fn forget_sent(&mut self) {
        (self.unsent, self.sent_of_it) = (Vec::new(), 0);
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.socket).poll_read(cx, buffer))?;
            if buffer.filled().len() > before {
                self.wire.activity.stamp();
            }
            return Poll::Ready(Ok(()));
        }
        let count = self.unread.len().min(buffer.remaining());
        buffer.put_slice(self.unread.get(..count).unwrap_or_default());
        self.unread.advance(count);
        if self.unread.is_empty() {
            self.unread = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.unsent.len() + bytes.len() <= limits::ANSWER_BUFFER_BYTES {
            self.unsent.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        self.poll_send(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx, &[]).map_ok(drop)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx, &[]))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl UniqueID for ClientStream {
    fn id(&self) -> UniqueIDType {
        self.socket.as_raw_fd()
    }
}

#[async_trait]
impl Shutdown for ClientStream {
    async fn shutdown(&mut self) {
        // A client that is gone needs no end.
        AsyncWriteExt::shutdown(self).await.ok();
    }
}

#[async_trait]
impl Peek for ClientStream {
    async fn try_peek(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let Some(bytes) = self.unread.get(..buffer.len()) else { return Ok(false) };
        buffer.copy_from_slice(bytes);
        Ok(true)
    }
}

impl GetSocketDigest for ClientStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.digest))
    }
}

impl GetProxyDigest for ClientStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(Arc::clone(&self.owner))
    }
}

impl GetTimingDigest for ClientStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl Ssl for ClientStream {}
