//! [`Incompleteness`]: why an answer may lack something.

use std::fmt;

use super::endpoint::Protocol;

/// Why an answer may lack something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(dead_code, reason = "every system has its own blind spots")]
pub(crate) enum Incompleteness {
    /// The sockets of this protocol could not be read.
    Sockets(Protocol),
    /// TCP sockets that neither listen nor connect are not shown.
    Bound,
    /// TCP sockets that no process has are not shown.
    Ownerless,
    /// The table kept changing while it was read.
    Changed(Protocol),
    /// There is no `/proc`.
    Proc,
    /// Some processes may not be looked into.
    Processes,
    /// A reservation of this protocol has no record here: its lock folder is another one, or could not be used.
    Lease(Protocol),
    /// A process has been sent descriptors that it has not received yet; the socket may be one of them.
    InFlight(u32),
}

impl Incompleteness {
    /// Whether it keeps processes from view; else it is sockets.
    pub(crate) fn is_of_processes(self) -> bool {
        matches!(
            self,
            Incompleteness::Proc | Incompleteness::Processes | Incompleteness::InFlight(_)
        )
    }
}

impl fmt::Display for Incompleteness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Incompleteness::Sockets(protocol) => write!(f, "the {protocol} sockets could not be read"),
            Incompleteness::Bound => f.write_str(
                "TCP sockets that are bound without listening could not be read (Linux shows them since 6.8)",
            ),
            Incompleteness::Ownerless => {
                f.write_str("TCP sockets that no process has, such as those in TIME_WAIT, are not shown here")
            }
            Incompleteness::Changed(protocol) => {
                write!(f, "the {protocol} sockets kept changing while they were read")
            }
            Incompleteness::Proc => f.write_str("processes could not be read: there is no /proc"),
            Incompleteness::Processes => f.write_str("some processes could not be read: you may not look into them"),
            Incompleteness::Lease(protocol) => {
                write!(f, "the {protocol} port is reserved by a process whose record cannot be seen here")
            }
            Incompleteness::InFlight(pid) => {
                write!(
                    f,
                    "pid {pid} has been sent descriptors that it has not received, and the socket may be one of them"
                )
            }
        }
    }
}
