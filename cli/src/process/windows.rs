//! Windows: an open handle identifies the process. While the handle is open, Windows gives the pid
//! to no other process.

use std::io;
use std::os::windows::io::OwnedHandle;
use std::time::Duration;

use crate::ffi::windows as ffi;
use crate::process_stat::ProcessStat;

/// The exit code of a process that `terminate` or `kill` ended.
const ENDED_BY_PORTLEASE: u32 = 1;

#[derive(Debug)]
pub(crate) struct ProcessHandle {
    pid: u32,
    process: OwnedHandle,
}

impl ProcessHandle {
    /// Opens a handle of the process. Returns `None` if the process does not exist.
    pub(crate) fn open(pid: u32) -> io::Result<Option<ProcessHandle>> {
        match ffi::open_process(pid) {
            // A process that has ended can still be opened while another handle to it is open.
            Ok(process) => Ok(Some(ProcessHandle { pid, process })),
            Err(e) if ffi::is_no_such_process(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// A keeper (the process that holds the ports) gets the pid of a process from `reserve`, and
    /// opens a handle of that process here. `reserve` has an open handle too, so Windows has given
    /// the pid to no other process.
    pub(crate) fn of_reserve(pid: u32) -> io::Result<Option<ProcessHandle>> {
        ProcessHandle::open(pid)
    }

    /// Waits up to `timeout` for the process to end, and returns whether it has ended.
    pub(crate) fn ended_within(&self, timeout: Duration) -> io::Result<bool> {
        ffi::is_signaled_within(&self.process, timeout)
    }

    /// Ends the process at once (`TerminateProcess`), because Windows has no SIGTERM. Returns
    /// `false` if the process had already ended.
    pub(crate) fn terminate(&self) -> io::Result<bool> {
        self.kill()
    }

    /// Ends the process as [`terminate`](Self::terminate) does, because Windows has no signals.
    pub(crate) fn interrupt(&self) -> io::Result<bool> {
        self.kill()
    }

    /// Does nothing, because no process on Windows has to be resumed before it can be ended.
    /// Returns `false` if the process has ended.
    pub(crate) fn resume(&self) -> io::Result<bool> {
        Ok(!self.has_ended()?)
    }

    /// Ends the process at once (`TerminateProcess`). Returns `false` if the process had already
    /// ended.
    pub(crate) fn kill(&self) -> io::Result<bool> {
        if self.has_ended()? {
            return Ok(false);
        }
        match ffi::terminate(self.pid, ENDED_BY_PORTLEASE) {
            Ok(()) => Ok(true),
            // The process has ended since the check above, so Windows denies access to it.
            Err(_) if self.has_ended()? => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// The name of the process, or `a process` if the name cannot be read.
pub(crate) fn name(pid: u32) -> String {
    ProcessStat::of(pid).map_or("a process".to_owned(), |process| process.name)
}

/// Always `false`: Windows has no SIGTERM.
pub(crate) fn needs_sigkill(_pid: u32) -> bool {
    false
}

/// Always `None`: `stop` looks for the terminal of a shell only on Linux.
pub(crate) fn terminal_of_shell(_pid: u32) -> Option<String> {
    None
}

/// Always `Some(false)`: Windows has no namespaces.
pub(crate) fn is_in_other_namespace(_pid: u32, _kind: &str) -> Option<bool> {
    Some(false)
}
