//! Linux: this process becomes a subreaper (PR_SET_CHILD_SUBREAPER of prctl(2)). The kernel then
//! makes orphaned descendants children of this process.

use rustix::process::{getpid, set_child_subreaper};

use crate::failure::Failure;
use crate::ffi::unix::set_variable;
use crate::process_stat::ProcessStat;

pub(crate) fn adopt() -> Result<(), Failure> {
    // Without /proc, scans would see no process, and would never find a leaked listener. So this
    // call fails instead.
    if ProcessStat::of(std::process::id()).is_none() {
        return Err(Failure::new(
            "cannot scan for listeners that the command leaves behind: /proc does not show \
             this process; mount proc on /proc, or omit --leaks",
        ));
    }
    set_child_subreaper(Some(getpid())).map_err(|e| {
        Failure::system(
            "adopt the processes that the command leaves behind",
            &e.into(),
        )
    })?;
    // With this variable, the library counts the adopted processes as started by the command. The
    // command and its descendants inherit the variable, so the library in them does the same.
    set_variable("PORTLEASE_ADOPTER", &std::process::id().to_string());
    Ok(())
}
