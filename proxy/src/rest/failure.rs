//! An error as HTTP says it: a status, and JSON that names the reason and what to do.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::json::ErrorJson;
use crate::control::{ControlError, Retry};

/// An error on its way to a caller.
#[derive(Clone, Debug)]
pub struct Failure {
    status: StatusCode,
    body: Box<ErrorJson>,
    /// The methods that the path knows, for 405.
    allow: Option<String>,
}

impl Failure {
    /// A request that no path of this API takes.
    #[must_use]
    pub fn no_such_path(path: &str, near: &[String], paths: Vec<String>) -> Self {
        let error = format!("there is no path {path}");
        let hint = match near {
            [] => "see paths and /openapi.json".to_owned(),
            near => format!("there are {}; see /openapi.json", near.join(", ")),
        };
        let mut failure = Self::new(StatusCode::NOT_FOUND, "no_such_path", error, &hint);
        failure.body.paths = paths;
        failure
    }

    /// A method that the path does not take.
    #[must_use]
    pub fn wrong_method(error: String, hint: String, allow: String) -> Self {
        let mut failure = Self::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", error, &hint);
        failure.allow = Some(allow);
        failure
    }

    /// A body above the limit.
    #[must_use]
    pub fn too_large(error: String) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", error, "send less")
    }

    /// A change that a page of another origin asks for.
    #[must_use]
    pub fn foreign_origin(origin: &str) -> Self {
        let error = format!("a page of {origin} may not change anything here");
        Self::new(StatusCode::FORBIDDEN, "foreign_origin", error, "use the command line, or a page of this instance")
    }

    /// A request that was not answered in time.
    #[must_use]
    pub fn late(changes: bool) -> Self {
        match changes {
            true => ControlError::UnknownOutcome("no answer in time; the change may still take effect".into()).into(),
            false => ControlError::Unavailable("no answer in time".into()).into(),
        }
    }

    fn new(status: StatusCode, reason: &str, error: String, hint: &str) -> Self {
        let retry = retry_text(Retry::Never).into();
        let body = ErrorJson { error, reason: reason.into(), hint: hint.into(), retry, paths: Vec::new() };
        Self { status, body: Box::new(body), allow: None }
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        let body = ErrorJson {
            error: error.to_string(),
            reason: error.reason().into(),
            hint: error.hint().into(),
            retry: retry_text(error.retry()).into(),
            paths: Vec::new(),
        };
        Self { status: status_of(&error), body: Box::new(body), allow: None }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let retry = self.body.retry == retry_text(Retry::Later);
        let mut response = (self.status, Json(self.body)).into_response();
        if let Some(Ok(allow)) = self.allow.map(HeaderValue::try_from) {
            response.headers_mut().insert(header::ALLOW, allow);
        }
        if retry {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

fn status_of(error: &ControlError) -> StatusCode {
    match error {
        ControlError::NotFound(_) => StatusCode::NOT_FOUND,
        ControlError::Conflict(_) => StatusCode::CONFLICT,
        ControlError::Invalid(_) => StatusCode::BAD_REQUEST,
        ControlError::NoSession(_) | ControlError::Answered(_) => StatusCode::GONE,
        ControlError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        ControlError::UnknownOutcome(_) => StatusCode::GATEWAY_TIMEOUT,
        ControlError::Overloaded(_) => StatusCode::TOO_MANY_REQUESTS,
        ControlError::DiskFull(_) => StatusCode::INSUFFICIENT_STORAGE,
        ControlError::Unsupported(_) => StatusCode::NOT_IMPLEMENTED,
        ControlError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn retry_text(retry: Retry) -> &'static str {
    match retry {
        Retry::Never => "never",
        Retry::AfterReading => "after_reading",
        Retry::Later => "later",
    }
}
