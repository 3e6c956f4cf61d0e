//! macOS and the BSDs: the handle of a process is a kqueue with the filter EVFILT_PROC.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};

use crate::ffi::kqueue::exit_of;
use crate::process_stat::ProcessStat;

#[derive(Debug)]
pub(crate) struct ProcessHandle {
    pid: Pid,
    queue: OwnedFd,
}

impl ProcessHandle {
    /// Opens a handle of the process. Returns `None` if the process does not exist, and on macOS
    /// and NetBSD also if it is a zombie.
    pub(crate) fn open(pid: u32) -> io::Result<Option<ProcessHandle>> {
        let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        match exit_of(pid) {
            Ok(queue) => Ok(Some(ProcessHandle { pid, queue })),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The stdin that `reserve` gives to the keeper, the process that holds the ports: `/dev/null`.
    /// A child does not inherit a kqueue, so the keeper opens its own.
    pub(crate) fn for_keeper(&self) -> io::Result<Stdio> {
        Ok(Stdio::null())
    }

    /// Opens a handle of the process `pid`. The keeper (the process that holds the ports) calls
    /// this function.
    pub(crate) fn of_reserve(pid: u32) -> io::Result<Option<ProcessHandle>> {
        ProcessHandle::open(pid)
    }

    /// Waits up to `timeout` for the process to end. Returns `true` if the process has ended or is
    /// a zombie. Returns `false` early if a signal interrupts the wait.
    pub(crate) fn ended_within(&self, timeout: Duration) -> io::Result<bool> {
        // poll(2) leaves the event in the queue, so that a later call finds it again.
        let mut fds = [PollFd::new(&self.queue, PollFlags::IN)];
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

    /// Sends SIGINT. Returns `false` if the process has ended.
    pub(crate) fn interrupt(&self) -> io::Result<bool> {
        self.signal(Signal::INT)
    }

    /// Sends SIGCONT, because a suspended process does not handle SIGTERM. Returns `false` if the
    /// process has ended.
    pub(crate) fn resume(&self) -> io::Result<bool> {
        self.signal(Signal::CONT)
    }

    /// Sends SIGKILL. Returns `false` if the process has ended.
    pub(crate) fn kill(&self) -> io::Result<bool> {
        self.signal(Signal::KILL)
    }

    /// Checks the process first, because these systems cannot send a signal through a handle. If
    /// another process gets the pid between the check and kill(2), that process gets the signal.
    fn signal(&self, signal: Signal) -> io::Result<bool> {
        if self.has_ended()? {
            return Ok(false);
        }
        match kill_process(self.pid, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

impl ProcessHandle {
    /// A descriptor that becomes readable when the process ends.
    pub(crate) fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.queue.as_fd())
    }

    /// Always `None`, because the descriptor of [`poll_fd`](Self::poll_fd) shows the end of the
    /// process.
    pub(crate) fn poll_again(&self) -> Option<Instant> {
        None
    }
}

/// The name of the process, or `a process` if the name cannot be read.
pub(crate) fn name(pid: u32) -> String {
    ProcessStat::of(pid).map_or("a process".to_owned(), |process| process.name)
}

/// Always `false`: it is unknown on these systems which signals a process ignores.
pub(crate) fn needs_sigkill(_pid: u32) -> bool {
    false
}

/// Always `None`: only Linux shows the terminal of a shell.
pub(crate) fn terminal_of_shell(_pid: u32) -> Option<String> {
    None
}

/// Always `Some(false)`: these systems have no namespaces.
pub(crate) fn is_in_other_namespace(_pid: u32, _kind: &str) -> Option<bool> {
    Some(false)
}
