//! Unix: a command ends with a code of one byte, or by a signal.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use crate::exit;
use crate::signals::die_by;

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Code(u8),
    /// A signal ended the command. `run` ends itself by the same signal.
    Signal(i32),
}

impl From<ExitStatus> for End {
    fn from(status: ExitStatus) -> Self {
        match status.signal() {
            Some(signal) => End::Signal(signal),
            None => {
                let code = status.code().and_then(|code| u8::try_from(code).ok());
                End::Code(code.unwrap_or(exit::RUN_FAILED))
            }
        }
    }
}

impl End {
    pub(crate) fn of_code(code: u8) -> End {
        End::Code(code)
    }

    /// Returns the exit code of `run`. Exception: after [`End::Signal`], ends this process by the
    /// same signal. If this process survives the signal, returns 128 + the number of the signal.
    pub(crate) fn exit(self) -> u8 {
        match self {
            End::Code(code) => code,
            End::Signal(signal) => die_by(signal),
        }
    }
}
