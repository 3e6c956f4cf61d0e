//! Adopts and reaps the descendants of `run` whose own parents have ended.

use std::io;

use rustix::process::{Pid, WaitOptions, getpid, set_child_subreaper, waitpid};
use signal_hook::consts::SIGCHLD;
use signal_hook::iterator::Signals;

/// Makes this process the parent of each descendant whose own parent ends (prctl(2),
/// PR_SET_CHILD_SUBREAPER). Otherwise pid 1 would adopt a daemon, and nothing would show which
/// command started it.
pub(crate) fn adopt() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// Starts a thread that reaps adopted processes when they end. The thread never reaps the child
/// `except`, because other code waits for it.
pub(crate) fn reap_adopted(except: u32) -> io::Result<()> {
    let mut signals = Signals::new([SIGCHLD])?;
    let reap = move || {
        reap_ended(except);
        for _ in signals.forever() {
            reap_ended(except);
        }
    };
    std::thread::Builder::new()
        .name("orphans".to_owned())
        .spawn(reap)?;
    Ok(())
}

/// Reaps the children that have ended. The kernel lists adopted processes as children of the main
/// thread (proc_pid_task_children, CONFIG_PROC_CHILDREN). If it has no list, ended processes stay
/// zombies until this process ends.
fn reap_ended(except: u32) {
    let own = std::process::id();
    let children = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children"));
    let children = children.unwrap_or_default();
    let pids = children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok());
    for pid in pids.filter(|pid: &i32| u32::try_from(*pid) != Ok(except)) {
        if let Some(pid) = Pid::from_raw(pid) {
            // This fails if other code, which started the child, has reaped it in the meantime.
            let _reaped = waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}
