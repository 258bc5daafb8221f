//! What can go wrong in a run apart from the verdict itself.

use std::io;

/// Why a run could not be carried out; a bad verdict is not an error but a result.
#[derive(Debug)]
pub enum Error {
    /// The operating system refused something; the text says what was tried.
    Io(String, io::Error),
    /// The fleet under test did not do what its contract says (did not get ready, refused a command, died).
    Fleet(String),
    /// The command line or the place is wrong: a missing binary, an unknown scenario.
    Usage(String),
    /// The fleet under test has no such operation; the scenario does not apply to it.
    NotApplicable(String),
}

impl Error {
    /// An error of the operating system, with what was tried.
    pub fn io(tried: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let tried = tried.into();
        move |error| Error::Io(tried, error)
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Io(tried, error) => write!(out, "{tried}: {error}"),
            Error::Fleet(what) | Error::Usage(what) => out.write_str(what),
            Error::NotApplicable(why) => write!(out, "does not apply: {why}"),
        }
    }
}

impl std::error::Error for Error {}

/// The result of everything here that can fail.
pub type Result<T> = std::result::Result<T, Error>;
