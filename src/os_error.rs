//! Detects system errors that mean a lack of descriptors or memory, and formats system errors for
//! messages.

use std::fmt;
use std::io;

const ENFILE: i32 = 23;

/// Whether the error is EMFILE, ENFILE or WSAEMFILE: too many open files or sockets.
/// `io::ErrorKind` has no kind for these errors.
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    const EMFILE: i32 = 24;
    const WSAEMFILE: i32 = 10024;
    match error.raw_os_error() {
        Some(code) if cfg!(windows) => code == WSAEMFILE,
        Some(code) => matches!(code, ENFILE | EMFILE),
        None => false,
    }
}

/// Whether the error of a wait for a child (ECHILD of wait(2)) means that other code has already
/// reaped the child. Always `false` on Windows, where the handle of a child shows at any time how
/// it ended.
pub(crate) fn is_reaped(error: &io::Error) -> bool {
    const ECHILD: i32 = 10;
    cfg!(unix) && error.raw_os_error() == Some(ECHILD)
}

/// Whether the error means that descriptors or memory are used up. A later call can succeed, so no
/// caller may cache the error as an answer.
pub(crate) fn is_exhaustion(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::OutOfMemory || is_out_of_descriptors(error)
}

/// Says which limit was reached, and what to do about it. Pass only an error for which
/// [`is_out_of_descriptors`] returns `true`.
pub(crate) fn descriptor_limit(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        _ if cfg!(windows) => "this process has opened too many sockets (close some)",
        Some(ENFILE) => {
            "the system has reached its limit of open files (on Linux raise fs.file-max)"
        }
        _ => "this process has reached its limit of file descriptors (raise it with ulimit -n)",
    }
}

/// Prints a system error as a part of a sentence, such as `address already in use`. The text starts
/// in lower case and has no error number.
pub(crate) struct OsMessage<'a>(pub(crate) &'a io::Error);

impl fmt::Display for OsMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        let text = text
            .split_once(" (os error")
            .map_or(text.as_str(), |(message, _)| message);
        let mut chars = text.chars();
        match chars.next() {
            Some(first) => write!(f, "{}{}", first.to_lowercase(), chars.as_str()),
            None => Ok(()),
        }
    }
}
