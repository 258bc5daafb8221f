//! Why a request was not done: whose fault it is, and whether trying again helps.

/// Why a request was not done. The text says what happened and, where it can, what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// The thing named does not exist. The caller's fault.
    #[error("{0}")]
    NotFound(String),
    /// The condition of a compare-and-set does not hold, or the state forbids the change. Read, then decide again.
    #[error("{0}")]
    Conflict(String),
    /// The request makes no sense in any state. The caller's fault; the same request fails again.
    #[error("{0}")]
    Invalid(String),
    /// No leader, no quorum, or this instance is starting: nothing was done. The same request may succeed soon.
    #[error("{0}")]
    Unavailable(String),
    /// The change was proposed and its fate is not known: it may or may not take effect. Read before trying again.
    #[error("{0}")]
    UnknownOutcome(String),
    /// The request's session is not there: nothing was done now. What became of earlier tries of it is not known.
    #[error("{0}")]
    NoSession(String),
    /// The caller said that it has the answer to this request of its session: nothing was done now.
    #[error("{0}")]
    Answered(String),
    /// A named limit was reached: nothing was done. Try again later, and less.
    #[error("{0}")]
    Overloaded(String),
    /// The leader's (or this instance's) disk is full: nothing was done. Helps once there is room.
    #[error("{0}")]
    DiskFull(String),
    /// This version cannot do it.
    #[error("{0}")]
    Unsupported(String),
    /// A fault of ours that the caller cannot mend.
    #[error("{0}")]
    Internal(String),
}

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The request.
    Client,
    /// The fleet as a whole: no leader, no quorum.
    Fleet,
    /// This or another instance.
    Instance,
}

/// Whether the same request is worth sending again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It fails again.
    Never,
    /// After reading the state anew.
    AfterReading,
    /// As it is, after a moment; nothing was done.
    Later,
}

impl ControlError {
    /// The machine-readable reason: part of the API, never renamed.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "not_found",
            Self::Conflict(_) => "conflict",
            Self::Invalid(_) => "invalid",
            Self::Unavailable(_) => "unavailable",
            Self::UnknownOutcome(_) => "unknown_outcome",
            Self::NoSession(_) => "no_session",
            Self::Answered(_) => "answered",
            Self::Overloaded(_) => "overloaded",
            Self::DiskFull(_) => "disk_full",
            Self::Unsupported(_) => "unsupported",
            Self::Internal(_) => "internal",
        }
    }

    /// The error of a machine-readable reason, as another instance sent it. Unknown reasons are [`Self::Internal`].
    #[must_use]
    pub fn from_reason(reason: &str, text: String) -> Self {
        match reason {
            "not_found" => Self::NotFound(text),
            "conflict" => Self::Conflict(text),
            "invalid" => Self::Invalid(text),
            "unavailable" => Self::Unavailable(text),
            "unknown_outcome" => Self::UnknownOutcome(text),
            "no_session" => Self::NoSession(text),
            "answered" => Self::Answered(text),
            "overloaded" => Self::Overloaded(text),
            "disk_full" => Self::DiskFull(text),
            "unsupported" => Self::Unsupported(text),
            _ => Self::Internal(text),
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::NotFound(_)
            | Self::Conflict(_)
            | Self::Invalid(_)
            | Self::NoSession(_)
            | Self::Answered(_)
            | Self::Unsupported(_) => Blame::Client,
            Self::Unavailable(_) | Self::UnknownOutcome(_) => Blame::Fleet,
            Self::Overloaded(_) | Self::DiskFull(_) | Self::Internal(_) => Blame::Instance,
        }
    }

    /// Whether to send it again.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::NotFound(_) | Self::Invalid(_) | Self::Answered(_) | Self::Unsupported(_) | Self::Internal(_) => {
                Retry::Never
            }
            Self::Conflict(_) | Self::UnknownOutcome(_) | Self::NoSession(_) => Retry::AfterReading,
            Self::Unavailable(_) | Self::Overloaded(_) | Self::DiskFull(_) => Retry::Later,
        }
    }

    /// What the caller can do, in one sentence.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "check the name; /status shows what there is",
            Self::Conflict(_) => "read the current state and decide again",
            Self::Invalid(_) => "the same request fails again; /openapi.json shows what is expected",
            Self::Unavailable(_) => "nothing was done; try again in a moment, /status shows who is reachable",
            Self::UnknownOutcome(_) => "it may still take effect; read before sending it again",
            Self::NoSession(_) => "open another session; read before sending again what was sent before",
            Self::Answered(_) => "take another sequence for another request",
            Self::Overloaded(_) => "nothing was done; try again later, with fewer requests at once",
            Self::DiskFull(_) => "nothing was done; make room in the data directory, it recovers by itself",
            Self::Unsupported(_) => "this version cannot do it",
            Self::Internal(_) => "the log of the instance says more",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_survive_the_way_to_another_instance() {
        let make: [fn(String) -> ControlError; 11] = [
            ControlError::NotFound,
            ControlError::Conflict,
            ControlError::Invalid,
            ControlError::Unavailable,
            ControlError::UnknownOutcome,
            ControlError::NoSession,
            ControlError::Answered,
            ControlError::Overloaded,
            ControlError::DiskFull,
            ControlError::Unsupported,
            ControlError::Internal,
        ];
        for make in make {
            let error = make("why".into());
            assert_eq!(ControlError::from_reason(error.reason(), "why".into()), error);
        }
        assert_eq!(ControlError::from_reason("from the future", "why".into()).reason(), "internal");
    }
}
