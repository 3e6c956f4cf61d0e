//! [`Failure`]: why a command failed.

use std::fmt;
use std::io;

use crate::exit;
use crate::output::remedy::Asked;
use crate::text::os_message;

/// The error for stderr, and the exit code if the command ends with this failure.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    cause: Cause,
    asked: Asked,
}

/// `Library` contains the error itself, because `output::report` prints the diagnosis of the error.
#[derive(Debug)]
pub(crate) enum Cause {
    Text(String),
    Library(portlease::Error),
}

impl Failure {
    /// `text` states what failed and why, as in `cannot ACT OPERAND: CAUSE`.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Failure {
            code: exit::FAILED,
            cause: Cause::Text(text.into()),
            asked: Asked::default(),
        }
    }

    /// `act` includes its operand, as in `write report.xml`.
    pub(crate) fn system(act: impl fmt::Display, cause: &io::Error) -> Self {
        Failure::new(format!("cannot {act}: {}", os_message(cause)))
    }

    pub(crate) fn with_code(self, code: u8) -> Self {
        Failure { code, ..self }
    }

    /// Marks this as a failure of `run` or `reserve` to reserve ports. `waited` is `true` if
    /// the user passed `--wait`.
    pub(crate) fn of_reserving(self, waited: bool) -> Self {
        let asked = Asked {
            waited,
            reserves: true,
            ..self.asked
        };
        Failure { asked, ..self }
    }

    /// Marks this as a failure of `run` to release a port. For `lacks_leaks` see [`Asked`].
    pub(crate) fn of_release(self, lacks_leaks: bool) -> Self {
        let asked = Asked {
            lacks_leaks,
            ..self.asked
        };
        Failure { asked, ..self }
    }

    pub(crate) fn asked(&self) -> Asked {
        self.asked
    }

    pub(crate) fn cause(&self) -> &Cause {
        &self.cause
    }

    pub(crate) fn code(&self) -> u8 {
        self.code
    }
}

/// Prints the error without the facts and remedies of a diagnosis.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Text(text) => f.write_str(text),
            Cause::Library(error) => error.fmt(f),
        }
    }
}

impl From<portlease::Error> for Failure {
    fn from(error: portlease::Error) -> Self {
        Failure {
            code: exit::FAILED,
            cause: Cause::Library(error),
            asked: Asked::default(),
        }
    }
}
