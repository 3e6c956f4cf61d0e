//! Supervises a command until it ends: passes signals on to it, waits for its listeners, and reaps
//! it.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

pub(crate) use system::{Supervisor, wake};
