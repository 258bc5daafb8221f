//! The REST API and the dashboard: JSON over HTTP/1.1 on an instance's `rest` port.
//!
//! A request passes in this order: the connection's limits ([`serve`]), the guard (who may change, how many at once,
//! how long), an extractor, a handler that asks [`Control`], and comes back as JSON, errors included.

mod extract;
mod failure;
pub mod flow_json;
mod flow_watch;
mod flows;
mod guard;
mod handlers;
pub mod json;
mod moving;
pub mod operate;
pub mod paths;
pub mod pool_json;
mod serve;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware::from_fn_with_state,
    routing::{delete, get, post, put},
};

use crate::control::Control;

pub use flow_watch::{KEEP_ALIVE, WATCH_LIFETIME};
pub use serve::{
    CLOSE_TIMEOUT, CONNECTION_LIFETIME, CONNECTIONS_MAX, DoorCounters, HEADER_BYTES_MAX, HEADER_READ_TIMEOUT,
    HEADERS_MAX, WRITE_STALL_TIMEOUT, serve,
};

/// Largest body of a request, in bytes: a set of pools, or a value.
pub const BODY_BYTES_MAX: usize = 4 << 20;
/// Most requests that are worked on at once; /role, /healthz and /readyz do not count.
pub const REQUESTS_MAX: usize = 256;

/// The API of the instance behind `control`.
pub fn router<C: Control>(control: C) -> Router {
    use flows as f;
    use handlers as h;
    use operate as o;
    let watches = flow_watch::Watches::new(control.clone());
    Router::new()
        .route("/", get(h::dashboard))
        .route("/status", get(h::status::<C>))
        .route("/leader", get(h::leader::<C>))
        .route("/role", get(h::role::<C>))
        .route("/healthz", get(h::healthz))
        .route("/readyz", get(h::readyz::<C>))
        .route("/pools", get(h::pools::<C>).post(h::apply::<C>))
        .route("/pools/{pool}", get(h::pool::<C>))
        .route("/pools/{pool}/servers", post(h::server_add::<C>))
        .route("/pools/{pool}/servers/{server}", delete(h::server_remove::<C>))
        .route("/pools/{pool}/servers/{server}/drain", post(h::server_drain::<C>))
        .route("/pools/{pool}/servers/{server}/enable", post(h::server_enable::<C>))
        .route("/pins/{pool}", get(h::pins::<C>))
        .route("/pins/{pool}/{client}", get(h::pin::<C>).delete(h::pin_delete::<C>))
        .route("/kv", get(h::kv_list::<C>))
        .route("/kv/{*key}", get(h::kv::<C>).put(h::kv_put::<C>).post(h::kv_put::<C>).delete(h::kv_delete::<C>))
        .route("/get/{*key}", get(h::kv::<C>))
        .route("/submit/{key}/{value}", post(h::submit::<C>))
        .route("/flows", get(f::list::<C>))
        .route("/flows/stats", get(f::stats::<C>))
        .route("/flows/watch", get(flow_watch::watch::<C>).with_state(watches))
        .route("/flows/lookup", post(f::lookup::<C>))
        .route("/flows/community/{*community_id}", get(f::community::<C>))
        .route("/flows/{size}/{id}", get(f::get::<C>))
        .route("/flows/{size}/{id}/labels", put(f::labels::<C>))
        .route("/flows/{size}/{id}/verdict", put(f::verdict::<C>))
        .route("/sessions", post(h::session_open::<C>))
        .route("/sessions/{session}", delete(h::session_close::<C>))
        .route("/size", get(h::size::<C>))
        .route("/committed", get(h::committed::<C>))
        .route("/log", get(h::log::<C>))
        .route("/log/{index}", get(h::log_entry::<C>))
        .route("/members", get(h::members::<C>).post(h::member_add::<C>))
        .route("/peer/list", get(h::members::<C>))
        .route("/members/{label}", delete(h::member_remove::<C>))
        .route("/members/{label}/promote", post(h::member_promote::<C>))
        .route("/members/{label}/transfer", post(h::transfer::<C>))
        .route("/events", get(o::events::<C>))
        .route("/tuning", get(o::tuning::<C>).post(o::tune::<C>).delete(o::untune::<C>))
        .route("/snapshot", get(o::snapshot::<C>))
        .route("/shutdownGrpc", post(o::shutdown_grpc::<C>))
        .route("/startGrpc", post(o::start_grpc::<C>))
        .route("/shutdownNode/{id}", post(o::shutdown_node::<C>))
        .route("/openapi.json", get(h::openapi))
        .fallback(h::unmatched)
        .method_not_allowed_fallback(h::unmatched)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn_with_state(guard::Guard::new(REQUESTS_MAX), guard::guard))
        .with_state(control)
}
