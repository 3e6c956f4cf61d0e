//! What the tests need of a Unix system.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub(crate) fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(9)
}

/// Nothing to do: the socket table shows the owner.
pub(crate) fn show_owner<T>(_socket: &T) {}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Whether every user can reach this path, and read and execute what is there.
pub(super) fn others_reach(path: &Path) -> bool {
    path.ancestors()
        .filter(|step| !step.as_os_str().is_empty())
        .all(|step| {
            let least = if step == path { 0o005 } else { 0o001 };
            std::fs::metadata(step).is_ok_and(|about| about.permissions().mode() & least == least)
        })
}

/// The name of the lock folder of this network namespace.
pub(super) fn scope() -> String {
    match std::fs::metadata("/proc/self/ns/net") {
        Ok(namespace) => format!("net-{}", namespace.ino()),
        Err(_) => "machine".to_owned(),
    }
}
