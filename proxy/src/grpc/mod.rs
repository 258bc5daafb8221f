//! The public gRPC API: services of `rocinante.v1` over a [`Control`], to be served beside the peers' own service.

mod convert;
mod failure;
pub mod flows;
mod kv;
mod members;
mod pins;
mod pools;
mod push_counters;
mod status;

use std::{future::Future, time::Duration};

use api::v1::{
    flows_server::FlowsServer, kv_server::KvServer, members_server::MembersServer, pins_server::PinsServer,
    pools_server::PoolsServer, status_server::StatusServer,
};
use tokio::net::TcpListener;
use tonic::{
    service::Routes,
    transport::{Server, server::TcpIncoming},
};

use crate::control::Control;

pub use failure::{error_of, status_of};
pub use push_counters::PushCounters;

/// Largest message taken, in bytes: a set of pools, or a value.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Most calls of one connection that are worked on at once.
pub const CALLS_PER_CONNECTION_MAX: usize = 128;
/// Most HTTP/2 streams of one connection at once.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 256;
/// Largest header block, in bytes.
pub const HEADER_BYTES_MAX: u32 = 16 << 10;
/// How long a call may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a silent connection is asked whether it is still there.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long it may take to say so.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The API's services; more may be added to them before they are served on one port.
pub fn routes<C: Control>(control: C, pushes: PushCounters) -> Routes {
    Routes::new(KvServer::new(kv::KvService(control.clone())).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .add_service(
            PoolsServer::new(pools::PoolsService(control.clone())).max_decoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(PinsServer::new(pins::PinsService(control.clone())).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .add_service(
            FlowsServer::new(flows::FlowsService::new(control.clone(), pushes))
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(StatusServer::new(status::StatusService(control.clone())))
        .add_service(MembersServer::new(members::MembersService(control)))
}

/// Serves `routes` alone on `listener` until `shutdown` resolves; then finishes the calls at hand and returns.
pub async fn serve(
    listener: TcpListener,
    routes: Routes,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    Server::builder()
        .timeout(CALL_TIMEOUT)
        .concurrency_limit_per_connection(CALLS_PER_CONNECTION_MAX)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_routes(routes)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), shutdown)
        .await
}
