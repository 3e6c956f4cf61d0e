//! What the tests need of Windows.

use std::path::Path;
use std::process::ExitStatus;

pub(crate) fn is_root() -> bool {
    false
}

/// What the standard library ends a process with.
pub(crate) fn was_killed(status: ExitStatus) -> bool {
    status.code() == Some(1)
}

/// Folders of the user's own have no other users.
pub(super) fn set_mode(_path: &Path, _mode: u32) {}

pub(super) fn others_reach(_path: &Path) -> bool {
    true
}

pub(super) fn scope() -> String {
    "machine".to_owned()
}
