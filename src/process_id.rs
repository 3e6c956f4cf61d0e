//! [`ProcessId`] identifies this process. A forked child has a different one, even in a new pid
//! namespace.

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
            namespace: namespace(),
        }
    }
}

#[cfg(target_os = "linux")]
fn namespace() -> Option<u64> {
    Some(rustix::fs::stat("/proc/self/ns/pid").ok()?.st_ino)
}

#[cfg(not(target_os = "linux"))]
fn namespace() -> Option<u64> {
    None
}
