//! Ends a child, on Unix with its process group, and reads the output of ended children.

#[cfg(unix)]
mod ffi;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(crate) use unix::{Pipe, exit, is_full, others_run, prepare, read_rest, signal};
#[cfg(windows)]
pub(crate) use windows::{Pipe, exit, is_full, others_run, prepare, read_rest, signal};

/// How to end the processes of a group. On Windows both variants end only the child, at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGTERM, which a server can handle.
    Terminate,
    /// SIGKILL, which no process can handle.
    Kill,
}
