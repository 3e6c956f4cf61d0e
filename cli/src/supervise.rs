//! Supervises a command until it ends: waits for its listeners and its end, and on Unix passes
//! signals on to it.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

pub(crate) use system::{Supervisor, wake};
