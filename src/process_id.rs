//! [`ProcessId`] identifies this process. A forked child has a different `ProcessId`. The exception
//! is a child in a new pid namespace without `/proc`: it can have the `ProcessId` of its parent.

#[cfg(target_os = "linux")]
mod ffi;

use std::num::NonZeroU64;

#[cfg(target_os = "linux")]
use crate::proc_fs;

/// The pid and its pid namespace. The pid alone is not enough: the first process of a container has
/// pid 1, and so has a child that it forks into a new pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessId {
    pid: u32,
    namespace: Option<NonZeroU64>,
}

impl ProcessId {
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn current() -> ProcessId {
        ProcessId {
            pid: std::process::id(),
            namespace: None,
        }
    }

    /// Caches the inode of the pid namespace, because a process stays in its namespace. A forked
    /// child may have the same pid in another namespace, so the cache is in memory that the kernel
    /// clears in the child. Without such memory each call reads the inode.
    #[cfg(target_os = "linux")]
    pub(crate) fn current() -> ProcessId {
        use std::sync::atomic::Ordering;

        let pid = std::process::id();
        let kept = ffi::cleared_by_fork();
        let inode = match kept {
            Some(kept) if kept.pid.load(Ordering::Acquire) == pid => {
                kept.namespace.load(Ordering::Relaxed)
            }
            // `thread-self` is faster than `self` here. The process has usually just read the
            // network namespace of this thread, so the kernel has the thread's folder `ns` ready.
            _ => proc_fs::namespace("/proc/thread-self/ns/pid").unwrap_or(0),
        };
        if let Some(kept) = kept {
            kept.namespace.store(inode, Ordering::Relaxed);
            kept.pid.store(pid, Ordering::Release);
        }
        ProcessId {
            pid,
            namespace: NonZeroU64::new(inode),
        }
    }

    pub(crate) fn pid(self) -> u32 {
        self.pid
    }

    /// The inode of the pid namespace. `None` on systems other than Linux, and where `/proc` does
    /// not show it.
    pub(crate) fn namespace(self) -> Option<NonZeroU64> {
        self.namespace
    }
}
