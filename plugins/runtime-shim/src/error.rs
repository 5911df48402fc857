//! The one error of the shim: a gRPC code and a sentence.

use std::fmt;

use ttrpc::Code;

/// Why something was not done.
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    /// The code that clients match on.
    pub code: Code,
    /// What failed, on what, and why.
    pub message: String,
}

pub type Result<T> = std::result::Result<T, Error>;

// === impl Error ===

impl Error {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    pub fn unknown(message: impl Into<String>) -> Self {
        Self::new(Code::UNKNOWN, message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NOT_FOUND, message)
    }

    pub fn failed_precondition(message: impl Into<String>) -> Self {
        Self::new(Code::FAILED_PRECONDITION, message)
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::INVALID_ARGUMENT, message)
    }

    /// A failed system call or file, and what it was for.
    pub fn io(doing: impl fmt::Display, error: impl fmt::Display) -> Self {
        Self::unknown(format!("{doing}: {error}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Error> for ttrpc::Error {
    fn from(error: Error) -> Self {
        ttrpc::error::get_rpc_status(error.code, error.message)
    }
}
