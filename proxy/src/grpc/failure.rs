//! An error as gRPC says it: a code, a text, and the machine-readable reason in the trailing metadata.

use tonic::{Code, Status, metadata::MetadataValue};

use crate::control::ControlError;

/// The status that says `error`.
#[must_use]
pub fn status_of(error: &ControlError) -> Status {
    let code = match error {
        ControlError::NotFound(_) => Code::NotFound,
        ControlError::Conflict(_) => Code::Aborted,
        ControlError::Invalid(_) => Code::InvalidArgument,
        ControlError::NoSession(_) | ControlError::Answered(_) => Code::FailedPrecondition,
        ControlError::Unavailable(_) => Code::Unavailable,
        ControlError::UnknownOutcome(_) => Code::DeadlineExceeded,
        ControlError::Overloaded(_) | ControlError::DiskFull(_) => Code::ResourceExhausted,
        ControlError::Unsupported(_) => Code::Unimplemented,
        ControlError::Internal(_) => Code::Internal,
    };
    let mut status = Status::new(code, format!("{error} ({})", error.hint()));
    status.metadata_mut().insert(api::REASON, MetadataValue::from_static(error.reason()));
    status
}

/// The error that a caller of another instance was told.
#[must_use]
pub fn error_of(status: &Status) -> ControlError {
    let text = status.message().to_owned();
    if let Some(reason) = status.metadata().get(api::REASON).and_then(|reason| reason.to_str().ok()) {
        return ControlError::from_reason(reason, text);
    }
    match status.code() {
        Code::Unavailable => ControlError::Unavailable(text),
        // The call may have arrived: nothing else may be said of a change.
        Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => ControlError::UnknownOutcome(text),
        Code::ResourceExhausted => ControlError::Overloaded(text),
        Code::Unimplemented => ControlError::Unsupported(text),
        _ => ControlError::Internal(text),
    }
}

impl From<ControlError> for Status {
    fn from(error: ControlError) -> Self {
        status_of(&error)
    }
}
