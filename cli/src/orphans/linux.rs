//! Linux: this process becomes a subreaper.

use rustix::process::{getpid, set_child_subreaper};

use crate::failure::Failure;
use crate::process_stat::ProcessStat;

pub(crate) fn adopt() -> Result<(), Failure> {
    // Without /proc no listener has a visible process. So no listener would count as left by the
    // command.
    if ProcessStat::of(std::process::id()).is_none() {
        return Err(Failure::new(
            "cannot scan for listeners that the command leaves behind: /proc does not show \
             this process; mount proc on /proc, or omit --leaks",
        ));
    }
    // prctl(2), PR_SET_CHILD_SUBREAPER
    set_child_subreaper(Some(getpid())).map_err(|e| {
        Failure::system(
            "adopt the processes that the command leaves behind",
            &e.into(),
        )
    })
}
