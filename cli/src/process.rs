//! [`ProcessHandle`]: waits for a process to end, and signals it.
//!
//! The handle is a pidfd, so it never refers to a later process with the same id.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::failure::Failure;

#[derive(Debug)]
pub(crate) struct ProcessHandle(OwnedFd);

impl ProcessHandle {
    /// Opens a handle of the process. Returns `None` if the process does not exist.
    pub(crate) fn open(pid: u32) -> io::Result<Option<ProcessHandle>> {
        let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => Ok(Some(ProcessHandle(handle))),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits up to `timeout` for the process to end, and returns whether it has ended. A zombie
    /// counts as ended. If a signal interrupts the wait, returns `false` early.
    pub(crate) fn ended_within(&self, timeout: Duration) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        match poll(&mut fds, Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Sends a signal. Returns `false` if the process has ended.
    pub(crate) fn send_signal(&self, signal: Signal) -> io::Result<bool> {
        match pidfd_send_signal(&self.0, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

impl ProcessHandle {
    /// Whether the process has ended. A zombie counts as ended.
    pub(crate) fn has_ended(&self) -> io::Result<bool> {
        self.ended_within(Duration::ZERO)
    }

    /// Sends the signal. Does nothing if the process has ended, or if this process may not signal
    /// it.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.0, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH | rustix::io::Errno::PERM) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

/// Lets the keeper (the process that holds the ports) inherit the descriptor as its stdin.
impl From<ProcessHandle> for OwnedFd {
    fn from(process: ProcessHandle) -> OwnedFd {
        process.0
    }
}

/// The name of the process, or `a process` if it cannot be read.
pub(crate) fn name(pid: u32) -> String {
    match std::fs::read(format!("/proc/{pid}/comm")) {
        Ok(name) => String::from_utf8_lossy(name.trim_ascii_end()).into_owned(),
        // The process has ended, or `/proc` is not mounted.
        Err(_) => "a process".to_owned(),
    }
}

pub(crate) fn watch_failure(pid: u32, cause: &io::Error) -> Failure {
    Failure::system(format_args!("wait for pid {pid} to end"), cause)
}
