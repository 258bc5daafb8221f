//! Opens connections to peers. The one place that knows how.

use std::error::Error;
use std::future::{Ready, ready};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::codegen::{Service, http::Uri};
use tonic::transport::{Channel, Endpoint};

use super::gate::PeerAddress;
use super::network::Wire;
use super::options::{
    CONNECTION_WINDOW_BYTES, HEADER_LIST_BYTES_MAX, HTTP2_FRAME_BYTES_MAX, Options, STREAM_WINDOW_BYTES,
};
use super::tls::{Tls, handshake_trouble};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// The peer's system says that nobody listens there.
    #[error("nobody listens there")]
    NobodyListens,
    /// It took too long.
    #[error("no connection in time")]
    TimedOut,
    /// One of the two does not take the other for a peer.
    #[error("{0}")]
    Untrusted(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// A connection, and what was heard on it about trust.
pub(super) struct Connection {
    pub(super) channel: Channel,
    pub(super) heard: Heard,
}

/// Why the other side broke a connection off, as far as that is a matter of TLS. With TLS 1.3 a server's no to our
/// certificate comes when the connection is already in use.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard(Arc<Mutex<Option<String>>>);

impl Heard {
    pub(super) fn trouble(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, trouble: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(trouble);
    }
}

/// A new connection to the peer at `address`; its name is resolved anew each time.
pub(super) async fn connect(options: &Options, address: &PeerAddress) -> Result<Connection, ConnectError> {
    let connecting = async {
        let wire = options
            .network
            .dial(options.local_address, &address.host, address.port, options.connect_timeout)
            .await
            .map_err(no_wire)?;
        let wire = match &options.tls {
            Some(tls) => secure(tls, wire, Some(&address.label)).await?,
            None => wire,
        };
        let heard = Heard::default();
        let tapped = Tapped { wire, is_plain: options.tls.is_none(), begun: false, heard: heard.clone() };
        let endpoint = endpoint(options, address)?;
        let channel = endpoint.connect_with_connector(Once(Some(tapped))).await;
        let channel = channel.map_err(|error| ConnectError::Failed(with_causes(&error)))?;
        Ok(Connection { channel, heard })
    };
    timeout(options.connect_timeout, connecting).await.unwrap_or(Err(ConnectError::TimedOut))
}

fn endpoint(options: &Options, address: &PeerAddress) -> Result<Endpoint, ConnectError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    let endpoint = endpoint.map_err(|error| ConnectError::Failed(with_causes(&error)))?;
    Ok(endpoint
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(HTTP2_FRAME_BYTES_MAX)
        .http2_max_header_list_size(HEADER_LIST_BYTES_MAX)
        .http2_keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout)
        .keep_alive_while_idle(true))
}

fn no_wire(error: io::Error) -> ConnectError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ConnectError::NobodyListens,
        io::ErrorKind::TimedOut => ConnectError::TimedOut,
        _ => ConnectError::Failed(error.to_string()),
    }
}

/// Makes `wire` a secure one, to the instance `label` or, without one, to any of the fleet.
async fn secure(tls: &Tls, wire: Wire, label: Option<&str>) -> Result<Wire, ConnectError> {
    // Never sent and never checked: an instance is known by its label.
    let nobody = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into());
    let stream = TlsConnector::from(tls.client()).connect(nobody, wire).await.map_err(|error| {
        if let Some(trouble) = handshake_trouble(&error) {
            return ConnectError::Untrusted(trouble);
        }
        ConnectError::Failed(format!("it broke off the TLS handshake: {error}"))
    })?;
    let named = tls.label_of(stream.get_ref().1.peer_certificates());
    let named = named.map_err(|problem| ConnectError::Untrusted(format!("its certificate is not good: {problem}")))?;
    match label {
        Some(label) if *label != named => {
            let text = format!("its certificate is that of instance {named}, and {label} should be there");
            Err(ConnectError::Untrusted(text))
        }
        _ => Ok(Box::new(stream)),
    }
}

/// Opens connections to other services that instances serve to each other on the same port, for
/// [`Endpoint::connect_with_connector_lazy`]: with TLS where the fleet has it, to whichever instance is there.
#[derive(Clone, Debug)]
pub struct Connector {
    options: Options,
}

impl Connector {
    pub(super) fn new(options: Options) -> Connector {
        Connector { options }
    }

    /// Without TLS, from `local` or else from the system's choice.
    pub fn plain(local: Option<IpAddr>) -> Connector {
        Connector { options: Options { local_address: local, ..Options::default() } }
    }

    async fn open(options: Options, uri: Uri) -> io::Result<TokioIo<Tapped>> {
        let port = uri.port_u16().ok_or_else(|| io::Error::other("the address has no port"))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let Options { local_address, connect_timeout, .. } = options;
        // An address of the other family cannot be the source, and a wildcard is none.
        let is_v4 = host.parse::<IpAddr>().ok().map(|ip| ip.is_ipv4());
        let fits = |local: &IpAddr| !local.is_unspecified() && is_v4.is_none_or(|is_v4| is_v4 == local.is_ipv4());
        let local = local_address.filter(fits);
        let wire = options.network.dial(local, host, port, connect_timeout).await?;
        let wire = match &options.tls {
            Some(tls) => secure(tls, wire, None).await.map_err(io::Error::other)?,
            None => wire,
        };
        Ok(TokioIo::new(Tapped { wire, is_plain: options.tls.is_none(), begun: false, heard: Heard::default() }))
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Tapped>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Tapped>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(Connector::open(self.options.clone(), uri))
    }
}

/// Gives its one connection away: a lost one is not replaced behind the dialler's back.
struct Once(Option<Tapped>);

impl Service<Uri> for Once {
    type Response = TokioIo<Tapped>;
    type Error = io::Error;
    type Future = Ready<io::Result<TokioIo<Tapped>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(self.0.take().map(TokioIo::new).ok_or_else(|| io::ErrorKind::NotConnected.into()))
    }
}

/// A connection whose end is explained.
#[derive(Debug)]
pub struct Tapped {
    wire: Wire,
    is_plain: bool,
    /// Whether anything was read.
    begun: bool,
    heard: Heard,
}

impl Tapped {
    fn look_at(&mut self, first: Option<&u8>) {
        let Some(first) = first else { return };
        self.begun = true;
        if self.is_plain && TLS_RECORDS.contains(first) {
            self.heard.note(
                "it speaks TLS and this instance speaks plaintext: all instances need the same [fleet.tls]".into(),
            );
        }
    }
}

impl AsyncRead for Tapped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.wire).poll_read(context, buffer);
        match &result {
            Poll::Ready(Ok(())) if !self.begun => self.look_at(buffer.filled().get(before)),
            Poll::Ready(Err(error)) => {
                if let Some(trouble) = handshake_trouble(error) {
                    self.heard.note(trouble);
                }
            }
            _ => {}
        }
        result
    }
}

impl AsyncWrite for Tapped {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(context)
    }
}

fn with_causes(error: &tonic::transport::Error) -> String {
    let mut texts = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        texts.push(cause.to_string());
        next = cause.source();
    }
    texts.join(": ")
}

/// The first byte of what TLS says: alert and handshake records. HTTP/2 servers begin with a short frame's length, 0.
pub(super) const TLS_RECORDS: [u8; 2] = [21, 22];
