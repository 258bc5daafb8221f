//! Opens connections to peers. The one place that knows how; encryption will be set up here.

use std::error::Error;
use std::io;

use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use super::gate::PeerAddress;
use super::options::{
    CONNECTION_WINDOW_BYTES, HEADER_LIST_BYTES_MAX, HTTP2_FRAME_BYTES_MAX, Options, STREAM_WINDOW_BYTES,
};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// The peer's system says that nobody listens there.
    #[error("nobody listens there")]
    NobodyListens,
    /// It took too long.
    #[error("no connection in time")]
    TimedOut,
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// A new connection to the peer at `address`; its name is resolved anew each time.
pub(super) async fn connect(options: &Options, address: &PeerAddress) -> Result<Channel, ConnectError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| ConnectError::Failed(with_causes(&error)))?
        .local_address(options.local_address)
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(HTTP2_FRAME_BYTES_MAX)
        .http2_max_header_list_size(HEADER_LIST_BYTES_MAX)
        .http2_keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout)
        .keep_alive_while_idle(true);
    match timeout(options.connect_timeout, endpoint.connect()).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) if nobody_listens(&error) => Err(ConnectError::NobodyListens),
        Ok(Err(error)) => Err(ConnectError::Failed(with_causes(&error))),
        Err(_) => Err(ConnectError::TimedOut),
    }
}

fn nobody_listens(error: &tonic::transport::Error) -> bool {
    causes(error).any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    })
}

fn with_causes(error: &tonic::transport::Error) -> String {
    causes(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}
