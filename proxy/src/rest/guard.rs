//! What every request passes first: who may change something, how many are worked on at once, and for how long.

use std::{sync::Arc, time::Duration};

use axum::{
    body::HttpBody,
    extract::{Request, State},
    http::{HeaderMap, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::{sync::Semaphore, time::timeout};

use super::failure::Failure;
use crate::control::ControlError;

/// How long a request may take, reading its body included.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// The limits that all requests of a port share.
#[derive(Clone)]
pub struct Guard {
    slots: Arc<Semaphore>,
}

impl Guard {
    /// Lets `requests_max` requests through at once.
    pub fn new(requests_max: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(requests_max)) }
    }
}

/// Passes a request on, or answers why not.
pub async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    // What is looked up comes with POST because it can be long; it changes nothing.
    let reads = matches!(*request.method(), Method::GET | Method::HEAD) || request.uri().path() == "/flows/lookup";
    let changes = !reads;
    if changes && let Some(origin) = foreign_origin(request.headers()) {
        return Failure::foreign_origin(&origin).into_response();
    }
    if request.body().size_hint().lower() > super::BODY_BYTES_MAX as u64 {
        return Failure::too_large(format!("the body is above {} bytes", super::BODY_BYTES_MAX)).into_response();
    }
    // Whoever watches an instance must hear of it also when it is at its limit.
    let vital = matches!(request.uri().path(), "/role" | "/leader" | "/healthz" | "/readyz");
    let slot = guard.slots.try_acquire();
    if slot.is_err() && !vital {
        let text = format!("{} requests are being worked on, which is the limit", super::REQUESTS_MAX);
        return Failure::from(ControlError::Overloaded(text)).into_response();
    }
    match timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Failure::late(changes).into_response(),
    }
}

/// The origin of a browser's page that is not of this instance: such a page must not be able to change a fleet.
fn foreign_origin(headers: &HeaderMap) -> Option<String> {
    let origin = headers.get(header::ORIGIN)?;
    let text = String::from_utf8_lossy(origin.as_bytes()).into_owned();
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let ours = text.split_once("://").is_some_and(|(_, authority)| Some(authority) == host);
    (!ours).then_some(text)
}
