//! [`Error`]: why a call failed.

use std::fmt;
use std::io;

use super::diagnosis::Diagnosis;
use super::endpoint::ParseEndpointError;
use super::error_kind::ErrorKind;

/// The result of this crate's fallible calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed. `Display` prints one line: usually what the call tried to do, then the cause.
///
/// [`kind`](Error::kind) is for programs. [`diagnosis`](Error::diagnosis) is for people. If a port
/// is in use and its holder is visible, the diagnosis names the holder. `Debug` prints the
/// `Display` text and then the diagnosis without its headline, so that the panic of an `unwrap()`
/// in a test names the holder too.
///
/// ```
/// let p = portlease::reserve_port();
/// let error = portlease::ReserveOptions::new().port(p.port()).reserve().unwrap_err();
/// assert_eq!(error.kind(), portlease::ErrorKind::InUse);
/// println!("{error}"); // cannot reserve 41023/tcp: address already in use: reserved by …
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    diagnosis: Option<Diagnosis>,
    cause: Option<io::Error>,
}

impl Error {
    /// The kind of this failure.
    ///
    /// ```
    /// let error = portlease::ReserveOptions::new().port(0).reserve().unwrap_err();
    /// assert_eq!(error.kind(), portlease::ErrorKind::InvalidPort);
    /// ```
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The report on the port whose state caused this failure. `None` for other failures, such as
    /// an unusable lock folder or a range with no free port.
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// let error = portlease::ReserveOptions::new().port(p.port()).reserve().unwrap_err();
    /// println!("{}", error.diagnosis().unwrap().cause());
    /// ```
    pub fn diagnosis(&self) -> Option<&Diagnosis> {
        self.0.diagnosis.as_ref()
    }

    pub(super) fn new(kind: ErrorKind, message: String) -> Self {
        Error(Box::new(Inner {
            kind,
            message,
            diagnosis: None,
            cause: None,
        }))
    }

    pub(super) fn with_note(mut self, note: &str) -> Self {
        self.0.message += note;
        self
    }

    pub(super) fn diagnosed(kind: ErrorKind, message: String, diagnosis: Diagnosis) -> Self {
        Error(Box::new(Inner {
            kind,
            message,
            diagnosis: Some(diagnosis),
            cause: None,
        }))
    }

    /// Puts the error of a wait into the past tense. The call expected a program to listen, and has
    /// since ended that program. [`Diagnosis::after_end`] changes the report in the error.
    pub(crate) fn after_end(mut self, has_ended: impl Fn(u32) -> bool) -> Self {
        if let Some(before) = self.0.diagnosis.take() {
            let cause = before.cause();
            let after = before.after_end(has_ended);
            // The message ends with the cause.
            if let Some(start) = self.0.message.strip_suffix(&cause) {
                self.0.message = format!("{start}{}", after.cause());
            }
            self.0.diagnosis = Some(after);
        }
        self
    }

    pub(super) fn with_diagnosis(mut self, diagnosis: Diagnosis) -> Self {
        self.0.diagnosis = Some(diagnosis);
        self
    }

    pub(super) fn caused(kind: ErrorKind, message: String, cause: io::Error) -> Self {
        Error(Box::new(Inner {
            kind,
            message,
            diagnosis: None,
            cause: Some(cause),
        }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        match &self.0.diagnosis {
            // The message takes the place of the headline of the diagnosis.
            Some(diagnosis) => diagnosis.fmt_below_headline(f),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // The message already contains the text of `cause`, so the chain goes on with the source
        // of `cause`.
        self.0.cause.as_ref().and_then(|cause| cause.source())
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::InUse | ErrorKind::NoFreePort => io::ErrorKind::AddrInUse,
            ErrorKind::InvalidPort => io::ErrorKind::InvalidInput,
            ErrorKind::AddressNotAvailable => io::ErrorKind::AddrNotAvailable,
            ErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
            ErrorKind::TimedOut => io::ErrorKind::TimedOut,
            ErrorKind::Unsupported => io::ErrorKind::Unsupported,
            ErrorKind::Lease | ErrorKind::Io => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

impl From<ParseEndpointError> for Error {
    fn from(error: ParseEndpointError) -> Self {
        let kind = if error.is_missing_interface() {
            ErrorKind::AddressNotAvailable
        } else {
            ErrorKind::InvalidPort
        };
        Error::new(kind, error.to_string())
    }
}

/// Lets `?` return a failed check from a function that returns this crate's [`Result`].
///
/// ```
/// fn preflight() -> portlease::Result<()> {
///     portlease::check_port_free(&portlease::reserve_port())?;
///     Ok(())
/// }
/// # preflight().unwrap();
/// ```
impl From<Diagnosis> for Error {
    fn from(diagnosis: Diagnosis) -> Self {
        let kind = diagnosis.error_kind();
        Error::diagnosed(kind, diagnosis.headline(), diagnosis)
    }
}
