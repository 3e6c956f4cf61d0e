//! [`Failure`]: why a command could not do its work.

use std::fmt;
use std::io;

use crate::exit;
use crate::text::os_message;

/// An error line for stderr, and the exit code that goes with it.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    cause: Cause,
}

#[derive(Debug)]
pub(crate) enum Cause {
    Text(String),
    Library(portlease::Error),
}

impl Failure {
    /// `cannot act operand: cause`.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Failure {
            code: exit::FAILED,
            cause: Cause::Text(text.into()),
        }
    }

    /// `act` comes with its operand.
    pub(crate) fn system(act: impl fmt::Display, cause: &io::Error) -> Self {
        Failure::new(format!("cannot {act}: {}", os_message(cause)))
    }

    pub(crate) fn with_code(self, code: u8) -> Self {
        Failure { code, ..self }
    }

    pub(crate) fn cause(&self) -> &Cause {
        &self.cause
    }

    pub(crate) fn code(&self) -> u8 {
        self.code
    }
}

impl From<portlease::Error> for Failure {
    fn from(error: portlease::Error) -> Self {
        Failure {
            code: exit::FAILED,
            cause: Cause::Library(error),
        }
    }
}
