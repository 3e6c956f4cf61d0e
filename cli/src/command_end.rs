//! [`End`]: how the command of `run` ended, and the exit code of `run` that follows from it.

use crate::exit;

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

pub(crate) use system::End;

impl End {
    pub(crate) fn is_success(self) -> bool {
        self == End::of_code(exit::YES)
    }

    /// Returns `true` if the command itself reported a failure. Shells use the codes from 126 on
    /// for a program that cannot be run, or that a signal ended.
    pub(crate) fn is_own_failure(self) -> bool {
        matches!(self, End::Code(1..=125)) && !self.is_failure_of_wrapper()
    }

    /// Returns `true` for the exit code 125. With this code, env(1), timeout(1), `portlease run`
    /// and other programs that start a command report a failure of their own.
    pub(crate) fn is_failure_of_wrapper(self) -> bool {
        self == End::of_code(exit::RUN_FAILED)
    }
}
