//! [`Incompleteness`]: why an answer may be incomplete.

use std::fmt;

use super::endpoint::Protocol;

/// Why an answer may be incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(
    dead_code,
    reason = "each system constructs only the variants that apply to it"
)]
pub(crate) enum Incompleteness {
    /// The sockets of this protocol could not be read.
    Sockets(Protocol),
    /// The sockets of this protocol could not be read, because file descriptors are used up.
    Descriptors(Protocol),
    /// The system does not show TCP sockets that are bound without listening.
    Bound(UnseenBound),
    /// The system does not show TCP sockets that no process owns.
    Ownerless,
    /// The socket table of this protocol kept changing while it was read.
    Changed(Protocol),
    /// No process could be read, because proc(5) is not mounted on `/proc`, or `/proc` cannot be
    /// opened.
    Proc,
    /// No process could be read, because `/proc` shows the processes of another pid namespace.
    ForeignProc,
    /// This user may not inspect some processes.
    Processes,
    /// This process is in a pid namespace that does not show every process, such as that of a
    /// container.
    PidNamespace,
    /// The port is reserved for this protocol, but this process did not find the lock of the
    /// reservation. The lock file is in another lock folder, cannot be read, or is no longer
    /// locked.
    Lease(Protocol),
    /// This machine runs too many processes to search all of them for a report on a failed check.
    /// So the report names only one owner of each socket, and relatives of that owner.
    NotSearched,
    /// Descriptors were sent to the process with this pid, and the process has not received them
    /// yet. A socket without a visible owner may be open through one of these descriptors.
    InFlight(u32),
}

/// Why TCP sockets that are bound without listening are not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(
    dead_code,
    reason = "each system constructs only the variants that apply to it"
)]
pub(crate) enum UnseenBound {
    /// This kernel is older than Linux 6.8.
    OldKernel,
    /// The kernel or a sandbox does not provide sock_diag(7).
    NoSockDiag,
    /// This system never shows TCP sockets that are bound without listening.
    System,
}

/// Sorts the reasons, and drops repeated ones.
pub(super) fn sorted(mut reasons: Vec<Incompleteness>) -> Vec<Incompleteness> {
    reasons.sort_unstable();
    reasons.dedup();
    reasons
}

impl Incompleteness {
    /// The protocol whose answers are incomplete for this reason. `None` if the reason is about all
    /// protocols.
    pub(crate) fn protocol(self) -> Option<Protocol> {
        match self {
            Incompleteness::Sockets(protocol)
            | Incompleteness::Descriptors(protocol)
            | Incompleteness::Changed(protocol)
            | Incompleteness::Lease(protocol) => Some(protocol),
            Incompleteness::Bound(_) | Incompleteness::Ownerless => Some(Protocol::Tcp),
            Incompleteness::Proc
            | Incompleteness::ForeignProc
            | Incompleteness::Processes
            | Incompleteness::PidNamespace
            | Incompleteness::NotSearched
            | Incompleteness::InFlight(_) => None,
        }
    }

    /// Whether the reason is [`Bound`](Incompleteness::Bound).
    pub(crate) fn is_of_bound(self) -> bool {
        matches!(self, Incompleteness::Bound(_))
    }

    /// Whether the reason is that no process at all could be read.
    pub(crate) fn is_of_proc(self) -> bool {
        matches!(self, Incompleteness::Proc | Incompleteness::ForeignProc)
    }

    /// Returns `true` if this can be the reason why a socket has no visible owner.
    pub(crate) fn is_of_processes(self) -> bool {
        matches!(
            self,
            Incompleteness::Proc
                | Incompleteness::ForeignProc
                | Incompleteness::Processes
                | Incompleteness::PidNamespace
                | Incompleteness::InFlight(_)
        )
    }
}

impl Incompleteness {
    /// The process of [`InFlight`](Incompleteness::InFlight).
    pub(crate) fn in_flight(&self) -> Option<u32> {
        match self {
            Incompleteness::InFlight(pid) => Some(*pid),
            _ => None,
        }
    }
}

impl fmt::Display for Incompleteness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Incompleteness::Sockets(protocol) => {
                write!(f, "the {protocol} sockets could not be read")
            }
            Incompleteness::Descriptors(protocol) => write!(
                f,
                "the {protocol} sockets could not be read: all file descriptors are in use (on \
                 Unix raise their number with ulimit -n)"
            ),
            Incompleteness::Bound(reason) => write!(
                f,
                "TCP sockets that are bound without listening could not be read: {}",
                match reason {
                    UnseenBound::OldKernel => "Linux before 6.8 hides them",
                    UnseenBound::NoSockDiag =>
                        "Linux 6.8 or later shows them only through sock_diag(7), which is missing",
                    UnseenBound::System => "this system does not show them",
                }
            ),
            Incompleteness::Ownerless => f.write_str(
                "this system does not show TCP sockets that no process owns, such as those in \
                 TIME_WAIT",
            ),
            Incompleteness::Changed(protocol) => {
                write!(
                    f,
                    "the {protocol} sockets kept changing while they were read"
                )
            }
            Incompleteness::Proc => {
                f.write_str("processes could not be read: /proc is missing or cannot be opened")
            }
            Incompleteness::ForeignProc => f.write_str(
                "processes could not be read: /proc shows the processes of another pid namespace",
            ),
            Incompleteness::PidNamespace => {
                f.write_str("processes outside of this pid namespace could not be read")
            }
            Incompleteness::Processes => {
                f.write_str("some processes could not be read: this user may not inspect them")
            }
            Incompleteness::Lease(protocol) => write!(
                f,
                "a reservation has the {protocol} port: the lock file is in another lock folder \
                 (PORTLEASE_DIR), cannot be read, or is no longer locked"
            ),
            Incompleteness::NotSearched => f.write_str(
                "other processes may share the socket: this machine runs many processes, so the \
                 report names one owner and its relatives; who_holds and `portlease who` name all \
                 owners",
            ),
            Incompleteness::InFlight(pid) => write!(
                f,
                "pid {pid} has not yet received descriptors that were sent to it, and the socket \
                 may be one of them"
            ),
        }
    }
}
