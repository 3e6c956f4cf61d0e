//! [`ProcessHandle`]: a process whose end matters, by its pidfd, so that no later process is taken for it.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// A process that was there when it was looked for.
#[derive(Debug)]
pub(crate) struct ProcessHandle(OwnedFd);

impl ProcessHandle {
    /// `None` if there is no such process.
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

    /// Waits so long at most. A process that ended and was not waited for has ended.
    pub(crate) fn ended_within(&self, within: Duration) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let within = Timespec {
            tv_sec: i64::try_from(within.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: within.subsec_nanos().into(),
        };
        match poll(&mut fds, Some(&within)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

/// For somebody else to watch it.
impl From<ProcessHandle> for OwnedFd {
    fn from(watched: ProcessHandle) -> OwnedFd {
        watched.0
    }
}

/// How errors call a process.
pub(crate) fn watch_failure(pid: u32, cause: &io::Error) -> crate::failure::Failure {
    crate::failure::Failure::system(format_args!("watch pid {pid}"), cause)
}
