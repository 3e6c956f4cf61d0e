//! [`ProcessId`]: identifies this process. A forked child differs from it, also in a new pid
//! namespace.

/// The pid and its namespace. A child that is forked into a new pid namespace can have the pid of
/// its parent: 1, if the parent is the first process of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessId {
    pid: u32,
    /// The inode of the pid namespace; `None` where `/proc/self` cannot be read.
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
