//! [`ProcessId`] identifies this process. A forked child has a different one, even in a new pid
//! namespace.

#[cfg(target_os = "linux")]
use crate::proc_fs;

/// The pid and its pid namespace. The pid alone is not enough: the first process of a container has
/// pid 1, and so has a child that it forks into a new pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessId {
    pid: u32,
    /// The inode of the pid namespace. `None` on systems other than Linux, and where `/proc` cannot
    /// be read.
    namespace: Option<u64>,
}

impl ProcessId {
    pub(crate) fn current() -> ProcessId {
        ProcessId {
            pid: std::process::id(),
            #[cfg(target_os = "linux")]
            namespace: proc_fs::namespace("/proc/self/ns/pid"),
            #[cfg(not(target_os = "linux"))]
            namespace: None,
        }
    }
}
