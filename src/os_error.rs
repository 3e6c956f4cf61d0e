//! What the operating system's errors mean, and how their text reads in ours.

use std::fmt;
use std::io;

/// Whether the error is EMFILE, ENFILE or WSAEMFILE, which `io::ErrorKind` does not name.
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    match error.raw_os_error() {
        Some(code) if cfg!(windows) => code == 10024,
        Some(code) => matches!(code, 23 | 24),
        None => false,
    }
}

/// The text of a system error as a fragment of our own: `address already in use`, without the
/// error number.
pub(crate) struct OsMessage<'a>(pub(crate) &'a io::Error);

impl fmt::Display for OsMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        let text = text
            .split_once(" (os error")
            .map_or(text.as_str(), |(sentence, _)| sentence);
        let mut chars = text.chars();
        match chars.next() {
            Some(first) => write!(f, "{}{}", first.to_lowercase(), chars.as_str()),
            None => Ok(()),
        }
    }
}
