//! [`ErrorKind`]: the kinds of [`Error`](crate::Error).

/// The kinds of [`Error`](crate::Error).
///
/// ```
/// use portlease::ErrorKind;
///
/// let error = portlease::who_holds("no port").unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidPort);
/// // It converts, for code that returns std::io::Error.
/// assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::InvalidInput);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The port is taken, by a socket or by another reservation.
    InUse,
    /// None of the allowed numbers could be reserved.
    NoFreePort,
    /// The operand names no port, or none that could ever be reserved.
    InvalidPort,
    /// This machine does not have the address.
    AddressNotAvailable,
    /// The system refuses the port to this user: binding it requires a privilege.
    PermissionDenied,
    /// The call timed out.
    TimedOut,
    /// This system, or this release, cannot do it.
    Unsupported,
    /// The lock folder, or the lock file of one port, cannot be used.
    Lease,
    /// Any other failure of the operating system.
    Io,
}
