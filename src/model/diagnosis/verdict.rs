//! [`Verdict`]: the result of a check of a port.

use std::io;
use std::time::Duration;

use crate::model::process::Process;
use crate::os_error::{OsMessage, descriptor_limit, is_out_of_descriptors};

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A server of the requested kind could bind the port now, and no reservation blocks it.
    Free,
    InUse(Cause),
    NotListening,
    /// A wait saw listeners on the port, but none of them stayed open for this duration.
    Unsteady(Duration),
    /// No listener on the port belongs to the process with this id or to a process that it started.
    /// A bound UDP socket without a peer counts as a listener. `None` if the id of the process is
    /// no longer known, because the process has ended.
    NotHeldBy(Option<u32>),
    /// The process with this id, or a process that it started, listens on the port. An unrelated
    /// process also listens, on an overlapping address.
    SharedWithStranger(u32),
    /// A socket still listens after the test, the checked code or the reservation has ended.
    Leaked,
    /// At least one socket still listens after the reservation has ended. All owners of these
    /// listeners are visible, and the calling process started none of the owners.
    UnrelatedListener,
    /// At least one socket still listens after the reservation has ended. The owner is hidden, or
    /// may be a daemon. So nothing shows whether the calling process started the owner.
    RemainingListener,
    /// Binding the port requires a privilege that this user lacks.
    Privileged,
    /// A sandbox or a security policy forbids the bind. The number requires no privilege.
    Forbidden,
    /// This machine does not have the address.
    NoSuchAddress,
    /// The system refuses the bind, but not because of a holder. The text has the reason.
    CannotBind(String),
    /// The check could not be started, or it could not read something that it needs. The text has
    /// the reason.
    CannotTell {
        text: String,
        /// Whether the system denied permission.
        is_denied: bool,
    },
    /// This machine does not have the network interface of the operand. The text names it.
    NoSuchInterface(String),
    /// The operand names no port, or its network interface could not be looked up.
    Invalid(String),
}

impl Verdict {
    /// The verdict if the check failed with this error.
    pub(crate) fn cannot_tell(cause: &io::Error) -> Verdict {
        let message = OsMessage(cause);
        Verdict::CannotTell {
            text: if is_out_of_descriptors(cause) {
                format!("{message}: {}", descriptor_limit(cause))
            } else {
                message.to_string()
            },
            is_denied: cause.kind() == io::ErrorKind::PermissionDenied,
        }
    }
}

/// Why a port is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A visible socket keeps servers from binding the port.
    Holder,
    /// A live lease (the locked lock file of a reservation) reserves the port. The only visible
    /// sockets that can keep servers from binding are the claim (this crate's bound socket) of the
    /// lease and connections in TIME_WAIT.
    Reserved,
    /// A reservation has the port, but this process sees no locked lock file of the reservation.
    /// Only the port's abstract Unix socket name, or a bound socket of the command `portlease`,
    /// shows the reservation. For example, a container uses another lock folder, or a forked child
    /// still has the name after its parent released the port.
    Named,
    /// Only connections in TIME_WAIT keep servers from binding. Even a server that sets
    /// SO_REUSEADDR cannot bind. Usually a client, or a server without SO_REUSEADDR, left the
    /// connections.
    TimeWait,
    /// The check is for a server without SO_REUSEADDR, and only connections in TIME_WAIT keep that
    /// server from binding. A server that sets SO_REUSEADDR can bind.
    TimeWaitWithoutReuseAddr,
    /// The system excludes the number from use (the excluded port ranges of Windows).
    Excluded,
    /// The kernel refuses servers without the reuse options and admits servers with them. So an
    /// invisible socket has the port, probably a claim (this crate's bound socket) whose lock file
    /// is in another lock folder.
    UnseenClaim,
    /// The system refuses the bind, and no visible socket explains why.
    Unexplained,
    /// A moment ago the system refused the bind, or the port had a holder. Now nothing visible
    /// blocks the port. Another process had probably bound the port or locked its lock file.
    Gone,
}

/// The text of [`Cause::Named`]. `owner` is a process that holds the reservation; `None` if no such
/// process is visible.
pub(crate) fn named_by(owner: Option<&Process>) -> String {
    match owner {
        Some(process) if process.forked => format!(
            "reserved by {}, a forked child that still holds the reservation after its parent \
             released it",
            process.name_and_pid()
        ),
        Some(process) => format!(
            "reserved by {}: the lock file is in another lock folder (PORTLEASE_DIR), cannot be \
             read, or is missing",
            process.name_and_pid()
        ),
        None => "reserved by an unknown process: the lock file is in another lock folder \
                 (PORTLEASE_DIR), cannot be read, or is missing"
            .to_owned(),
    }
}
