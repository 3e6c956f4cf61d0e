//! [`Failure`]: why a command could not do its work.

use std::fmt;
use std::io;

use crate::advice::for_shells;
use crate::exit;

/// An error line for stderr, and the exit code that goes with it.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    /// `cannot act operand: cause`.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Failure {
            code: exit::FAILED,
            text: text.into(),
        }
    }

    /// `act` comes with its operand.
    pub(crate) fn system(act: impl fmt::Display, cause: &io::Error) -> Self {
        Failure::new(format!("cannot {act}: {}", lower(cause)))
    }

    pub(crate) fn with_code(self, code: u8) -> Self {
        Failure { code, ..self }
    }

    pub(crate) fn code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Its line, and below it what is known about the port.
impl From<portlease::Error> for Failure {
    fn from(error: portlease::Error) -> Self {
        Failure::new(for_shells(&format!("{error:?}")))
    }
}

/// The system's sentence as a fragment of ours, without its number.
pub(crate) fn lower(cause: &io::Error) -> String {
    let text = cause.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(chars).collect()
    })
}
