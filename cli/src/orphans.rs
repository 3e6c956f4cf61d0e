//! Adopts the descendants of `run` whose own parents have ended.

use std::io;

use rustix::process::{getpid, set_child_subreaper};

/// Makes this process the parent of each descendant whose own parent ends (prctl(2),
/// PR_SET_CHILD_SUBREAPER). Otherwise pid 1 would adopt a daemon, and nothing would show which
/// command started it.
pub(crate) fn adopt() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}
