//! One attempt to reserve a number: how hard it tries, and the error if it fails.

use std::io;
use std::path::PathBuf;

use crate::lease::Unusable;
use crate::model::attempt_stats::AttemptStats;
use crate::model::port::Port;
use crate::retry::{RetryBudget, RetryLevel};

/// How hard one attempt tries, and the retry budget that it uses.
#[derive(Debug)]
pub(super) struct Effort<'a> {
    pub(super) level: RetryLevel,
    /// All attempts of one public call share this budget. Exception: in a call with a `wait`, each
    /// attempt has a new budget.
    pub(super) budget: &'a mut RetryBudget,
}

impl Effort<'_> {
    /// The same effort, but with a retry level of at most `level`.
    pub(super) fn at_most(&mut self, level: RetryLevel) -> Effort<'_> {
        Effort {
            level: self.level.min(level),
            budget: self.budget,
        }
    }

    pub(super) fn retries(&self) -> bool {
        self.level == RetryLevel::WithBudget
    }
}

/// Why a number could not be reserved.
#[derive(Debug)]
pub(crate) enum AttemptError {
    /// Another reservation has the port's lease (its locked file).
    Leased(Port),
    /// A socket of this network namespace has the port's abstract Unix socket name. Usually that
    /// socket belongs to another reservation.
    Named(Port),
    /// The system refused the bind. Another socket has the port, or Windows excludes the number.
    Occupied(Port),
    /// The bind requires a privilege, or a sandbox forbids it.
    NotPermitted(Port, io::Error),
    /// The port's lock file cannot be opened. Its path leads to a link or a folder, or this user
    /// may not open the file. Another user may have planted the link, the folder or the file.
    Planted(PathBuf, io::Error),
    /// None of several numbers could be reserved.
    NoneFree(Box<AttemptStats>),
    /// `PORTLEASE_DIR` is invalid, so every reservation fails. Or the lock folder cannot be used,
    /// and no claim (a bound socket) can keep the port instead.
    LockFolder(Unusable),
    /// A system call failed. An attempt for another number would probably fail too.
    System {
        act: &'static str,
        port: Option<Port>,
        cause: io::Error,
    },
}

impl AttemptError {
    pub(super) fn system(act: &'static str, port: Port, cause: io::Error) -> Self {
        AttemptError::System {
            act,
            port: Some(port),
            cause,
        }
    }

    /// The error for an ephemeral range that could not be read.
    pub(super) fn range(cause: io::Error) -> Self {
        AttemptError::System {
            act: "read the range of ephemeral ports in order to reserve",
            port: None,
            cause,
        }
    }

    /// The error for a bind that failed with `cause`.
    pub(super) fn bind(port: Port, cause: io::Error) -> Self {
        match cause.kind() {
            io::ErrorKind::AddrInUse => AttemptError::Occupied(port),
            io::ErrorKind::PermissionDenied => AttemptError::NotPermitted(port, cause),
            _ => AttemptError::system("bind", port, cause),
        }
    }

    /// Turns the error of one port into the error of the call that reserves `n` ports.
    pub(super) fn of_one_of(mut self, n: usize) -> Self {
        if let AttemptError::NoneFree(stats) = &mut self {
            stats.requested = n;
        }
        self
    }

    /// Whether the obstacle may go away while the caller waits.
    pub(super) fn may_end(&self) -> bool {
        matches!(
            self,
            AttemptError::Leased(_) | AttemptError::Named(_) | AttemptError::Occupied(_)
        ) || matches!(self, AttemptError::NoneFree(stats) if stats.tried() > 0 || stats.spared)
    }

    /// Counts in `stats` why one of several numbers was refused. Returns the error instead if an
    /// attempt for another number would fail too.
    pub(super) fn count(self, stats: &mut AttemptStats) -> Result<(), AttemptError> {
        match self {
            AttemptError::Leased(_) => stats.reserved += 1,
            AttemptError::Named(port) => {
                stats.reserved += 1;
                stats.note_residual(port);
            }
            AttemptError::Occupied(port) => {
                stats.in_use += 1;
                stats.note_residual(port);
            }
            AttemptError::NotPermitted(..) => stats.not_permitted += 1,
            AttemptError::Planted(path, _) => stats.note_planted(path),
            ends => return Err(ends),
        }
        Ok(())
    }
}
