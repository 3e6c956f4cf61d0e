//! [`ProcessHandle`]: waits for a process to end, or ends it. A handle distinguishes the process
//! from a later one with the same id.

use std::io;
use std::time::Duration;

use crate::failure::Failure;

#[cfg(all(unix, not(target_os = "linux")))]
mod bsd;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(windows)]
mod windows;

#[cfg(all(unix, not(target_os = "linux")))]
use bsd as system;
#[cfg(target_os = "linux")]
use linux as system;
#[cfg(windows)]
use windows as system;

pub(crate) use system::{ProcessHandle, name};

impl ProcessHandle {
    /// Whether the process has ended. A zombie counts as ended.
    pub(crate) fn has_ended(&self) -> io::Result<bool> {
        self.ended_within(Duration::ZERO)
    }
}

pub(crate) fn watch_failure(pid: u32, cause: &io::Error) -> Failure {
    Failure::system(format_args!("wait for pid {pid} to end"), cause)
}
