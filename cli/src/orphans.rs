//! Adopts the descendants of `run` whose own parents have ended.

use crate::failure::Failure;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod others;

#[cfg(target_os = "linux")]
use linux as system;
#[cfg(not(target_os = "linux"))]
use others as system;

/// Makes this process a subreaper (prctl(2)), the new parent of each descendant whose own parent
/// ends. Exception: if a nearer ancestor is a subreaper too, that ancestor becomes the parent.
/// Without this call pid 1 would usually adopt a daemon, and nothing would show which command
/// started the daemon. Fails on systems other than Linux. No other thread of this process may run
/// during the call.
pub(crate) fn adopt() -> Result<(), Failure> {
    system::adopt()
}
