//! Forked children that never call exec, such as daemons and workers of servers.

use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::DEADLINE;

#[expect(unsafe_code, reason = "the standard library cannot fork without exec")]
// SAFETY: fork(2) takes nothing and returns an int, in every libc.
unsafe extern "C" {
    fn fork() -> i32;
}

/// Forks this process. `None` in the child. Only a helper process may call it.
pub(crate) fn in_two() -> Option<ForkedChild> {
    #[expect(unsafe_code, reason = "the standard library cannot fork without exec")]
    // SAFETY: the C library makes the child's allocator usable. The other threads of a helper
    // process hold no lock that the child takes.
    let pid = unsafe { fork() };
    assert!(pid >= 0, "fork failed");
    Pid::from_raw(pid).map(ForkedChild)
}

/// Forks a child that does nothing until it is killed.
pub(crate) fn idle_child() -> ForkedChild {
    in_two().unwrap_or_else(|| idle())
}

/// What an idle child does. It ends by itself if its test was killed.
pub(crate) fn idle() -> ! {
    std::thread::sleep(DEADLINE.saturating_add(Duration::from_secs(60)));
    std::process::exit(0)
}

/// A forked child of this process. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct ForkedChild(Pid);

impl ForkedChild {
    pub(crate) fn pid(&self) -> u32 {
        self.0.as_raw_nonzero().get().unsigned_abs()
    }

    /// Waits until the child ends by itself.
    pub(crate) fn wait(self) {
        let ended = waitpid(Some(self.0), WaitOptions::empty()).unwrap();
        let (_, status) = ended.unwrap();
        assert_eq!(status.exit_status(), Some(0), "{status:?}");
        std::mem::forget(self);
    }

    /// Gives up this value without killing the child, and returns the child's pid.
    pub(crate) fn detach(self) -> u32 {
        let pid = self.pid();
        std::mem::forget(self);
        pid
    }
}

impl Drop for ForkedChild {
    fn drop(&mut self) {
        // The child may be gone already.
        let _gone = kill_process(self.0, Signal::KILL);
        let _reaped = waitpid(Some(self.0), WaitOptions::empty());
    }
}

/// A process that a helper process forked. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Orphan(Pid);

impl Orphan {
    pub(crate) fn new(pid: u32) -> Orphan {
        let pid = pid.try_into().ok().and_then(Pid::from_raw);
        Orphan(pid.unwrap())
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        let _gone = kill_process(self.0, Signal::KILL);
    }
}
