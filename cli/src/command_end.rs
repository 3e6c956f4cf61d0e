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

    /// Returns `true` if the command returned a code other than 0.
    pub(crate) fn is_failure_code(self) -> bool {
        !self.is_success() && matches!(self, End::Code(_))
    }
}
