//! [`Verdict`]: the answer to a question about a port.

/// What the facts amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A server of the usual kind could bind it now.
    Free,
    InUse(Cause),
    NotListening,
    /// Neither this process nor one of its descendants holds it.
    NotHeldBy(u32),
    /// A piece of code left listeners behind.
    Leaked,
    /// Binding the port requires a privilege that this user lacks.
    Privileged,
    /// This machine does not have the address.
    NoSuchAddress,
    /// The system refuses the bind for a reason other than a holder of the port.
    CannotBind(String),
    /// Something could not be read that could change the answer.
    CannotTell(String),
    /// The operand names no port.
    Invalid(String),
}

/// What keeps a port from being free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The first of the holders.
    Holder,
    /// A live lease, and no socket but its own claim.
    Reserved,
    /// A reservation whose lease is not visible here: one of a container with another lock folder.
    Named,
    /// Only connections in TIME_WAIT of a client, or of a server without SO_REUSEADDR.
    TimeWait,
    /// The system excludes the number from use: one of Windows' excluded ranges.
    Excluded,
    /// The bind is refused, and nothing visible explains it.
    Unexplained,
}
