//! The one error of the contracts: a gRPC code and a sentence.

use std::fmt;

/// The result of a contract's operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

pub use tonic::Code;

/// What went wrong, with the meaning clients act upon (`code`) and the sentence people read (`message`).
///
/// The codes are gRPC's, used as containerd's `errdefs` uses them: `AlreadyExists` from a commit or a prepare is normal control
/// flow, `Unavailable` invites a retry, `FailedPrecondition` does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The gRPC status code.
    pub code: Code,
    /// What failed, on what, why, and what to do.
    pub message: String,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $code:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(message: impl Into<String>) -> Self {
            Self::new(Code::$code, message)
        }
    )*};
}

// === impl Error ===

impl Error {
    /// An error of any code.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    constructors! {
        /// The object is not there.
        not_found => NotFound;
        /// The object is there already.
        already_exists => AlreadyExists;
        /// The state of things forbids it; a retry will not help.
        failed_precondition => FailedPrecondition;
        /// Not now; a retry may help.
        unavailable => Unavailable;
        /// The request can never succeed.
        invalid_argument => InvalidArgument;
        /// Nobody here does this.
        unimplemented => Unimplemented;
        /// An offset or a length past the end.
        out_of_range => OutOfRange;
        /// A limit was reached.
        resource_exhausted => ResourceExhausted;
        /// Permission was refused.
        permission_denied => PermissionDenied;
        /// The caller gave up.
        cancelled => Cancelled;
        /// It took too long.
        deadline_exceeded => DeadlineExceeded;
        /// Stored data is damaged.
        data_loss => DataLoss;
        /// Another change came between.
        aborted => Aborted;
        /// A fault of ours, or of the machine.
        internal => Internal;
        /// An error that came without a code.
        unknown => Unknown;
    }

    /// The same error with what was being done in front: `doing: message`.
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }

    /// An operating system error, with the code that fits its kind.
    pub fn io(doing: impl fmt::Display, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let code = match error.kind() {
            ErrorKind::NotFound => Code::NotFound,
            ErrorKind::AlreadyExists => Code::AlreadyExists,
            ErrorKind::PermissionDenied => Code::PermissionDenied,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Code::ResourceExhausted,
            ErrorKind::TimedOut => Code::DeadlineExceeded,
            ErrorKind::Unsupported => Code::Unimplemented,
            _ => Code::Unknown,
        };
        Self::new(code, format!("{doing}: {error}"))
    }

    /// Whether the code is `NotFound`.
    pub fn is_not_found(&self) -> bool {
        self.code == Code::NotFound
    }

    /// Whether the code is `AlreadyExists`.
    pub fn is_already_exists(&self) -> bool {
        self.code == Code::AlreadyExists
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Self::new(status.code(), status.message())
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        Self::new(error.code, error.message)
    }
}

impl From<super::InvalidId> for Error {
    fn from(error: super::InvalidId) -> Self {
        Self::invalid_argument(error.to_string())
    }
}
