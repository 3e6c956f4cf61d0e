//! Linux: the handle of a process is a pidfd.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Stdio;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

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

    /// The stdin with which `reserve` starts the keeper (the process that holds the ports).
    pub(crate) fn for_keeper(&self) -> io::Result<Stdio> {
        Ok(self.0.try_clone()?.into())
    }

    /// The handle of the process `pid` in the keeper, which got it as its stdin.
    pub(crate) fn of_reserve(_pid: u32) -> io::Result<Option<ProcessHandle>> {
        let handle = io::stdin().as_fd().try_clone_to_owned()?;
        Ok(Some(ProcessHandle(handle)))
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

    /// Sends SIGTERM. Returns `false` if the process has ended.
    pub(crate) fn terminate(&self) -> io::Result<bool> {
        self.signal(Signal::TERM)
    }

    /// Sends SIGCONT, because a suspended process does not handle SIGTERM.
    pub(crate) fn resume(&self) -> io::Result<bool> {
        self.signal(Signal::CONT)
    }

    /// Sends SIGKILL. Returns `false` if the process has ended.
    pub(crate) fn kill(&self) -> io::Result<bool> {
        self.signal(Signal::KILL)
    }

    fn signal(&self, signal: Signal) -> io::Result<bool> {
        match pidfd_send_signal(&self.0, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

/// The descriptor becomes readable when the process ends.
impl AsFd for ProcessHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
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
