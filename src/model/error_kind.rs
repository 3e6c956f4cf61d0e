//! [`ErrorKind`]: the kinds of [`Error`](crate::Error).

/// The kinds of [`Error`](crate::Error).
///
/// ```
/// use portlease::ErrorKind;
///
/// let error = portlease::who_holds("no port").unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidPort);
/// // The error converts into a std::io::Error, for code that returns one.
/// assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::InvalidInput);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The port is taken, by a socket or by another reservation.
    /// [`check_port_held_by`](crate::check_port_held_by) also returns this kind if the expected
    /// process does not listen on the port, or if an unrelated process listens on it too.
    InUse,
    /// Too few of the allowed numbers could be reserved.
    NoFreePort,
    /// The argument does not name a port, or the request can never be met. Also if the variable
    /// `PORTLEASE_RANGE`, `PORTLEASE_PROJECT` or `PORTLEASE_ON_LEAK` has an invalid value.
    InvalidPort,
    /// This machine does not have the address or the network interface.
    AddressNotAvailable,
    /// The operating system denies the operation. The user lacks a privilege, or a sandbox or a
    /// security policy forbids the operation.
    PermissionDenied,
    /// The call timed out.
    TimedOut,
    /// This operating system, or this release of the crate, does not support the call.
    Unsupported,
    /// The lock folder, or the lock file of one port, is unusable.
    Lease,
    /// Any other failure.
    Io,
}
