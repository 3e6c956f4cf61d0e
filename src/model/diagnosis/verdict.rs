//! [`Verdict`]: the result of a check of a port.

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A server of the usual kind could bind the port now.
    Free,
    InUse(Cause),
    NotListening,
    /// Neither the process with this id nor one that it started listens. The id is `None` if the
    /// process has ended and its id is not known any more.
    NotHeldBy(Option<u32>),
    /// The process with this id listens, and another process beside it on the same address.
    SharedWithStranger(u32),
    /// Code that has ended left listeners behind.
    Leaked,
    /// Binding the port requires a privilege that this user lacks.
    Privileged,
    /// A sandbox or a security policy forbids the bind. The number requires no privilege.
    Forbidden,
    /// This machine does not have the address.
    NoSuchAddress,
    /// The system refuses the bind for a reason other than a holder of the port.
    CannotBind(String),
    /// Something could not be read that could change the result.
    CannotTell(String),
    /// The operand names no port.
    Invalid(String),
}

/// Why a port is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A socket: the first of the holders.
    Holder,
    /// A live lease. No socket is on the port except the claim of that lease.
    Reserved,
    /// A reservation whose lease is not visible here, as in a container with another lock folder.
    Named,
    /// Only connections in TIME_WAIT, left by a client or by a server without SO_REUSEADDR.
    TimeWait,
    /// The system excludes the number from use (the excluded port ranges of Windows).
    Excluded,
    /// The bind is refused, and nothing visible explains it.
    Unexplained,
}
