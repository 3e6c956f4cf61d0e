//! One attempt to reserve a number: how hard it tries, and why it failed.

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
    /// The budget of the whole call.
    pub(super) budget: &'a mut RetryBudget,
}

impl Effort<'_> {
    /// The same budget, with `level` as the upper limit.
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
    /// Another reservation has the port's lease.
    Leased(Port),
    /// Another reservation of the network namespace has the port's abstract name.
    Named(Port),
    /// A socket refuses the bind.
    Occupied(Port),
    /// The bind requires a privilege, or a sandbox forbids it.
    NotPermitted(Port, io::Error),
    /// The path of the port's lock file leads to something that is no usable lock file.
    Planted(PathBuf, io::Error),
    /// None of several numbers could be reserved.
    NoneFree(Box<AttemptStats>),
    /// The lock folder cannot be used. The port has no claim that would do instead, or
    /// `PORTLEASE_DIR` is invalid.
    LockFolder(Unusable),
    /// The system failed; another number would fail too.
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

    /// A refused bind.
    pub(super) fn bind(port: Port, cause: io::Error) -> Self {
        match cause.kind() {
            io::ErrorKind::AddrInUse => AttemptError::Occupied(port),
            io::ErrorKind::PermissionDenied => AttemptError::NotPermitted(port, cause),
            _ => AttemptError::system("bind", port, cause),
        }
    }

    /// Whether the number may become free while a caller queues for it.
    pub(super) fn may_end(&self) -> bool {
        matches!(
            self,
            AttemptError::Leased(_)
                | AttemptError::Named(_)
                | AttemptError::Occupied(_)
                | AttemptError::NoneFree(_)
        )
    }

    /// Counts the refusal of one of several numbers, or returns the error that ends the search.
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
