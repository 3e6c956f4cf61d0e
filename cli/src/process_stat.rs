//! [`ProcessStat`]: facts of a process, such as its name, its parent and the time of its start.

#[cfg(target_os = "freebsd")]
mod freebsd;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(target_os = "netbsd")]
mod netbsd;
#[cfg(windows)]
mod windows;

use portlease::{
    Diagnosis, Endpoint, Holder, Holders, State, check_each_port_held_by, who_holds_each,
};

use crate::limits::NESTED_CALLERS;

#[cfg(target_os = "freebsd")]
use freebsd as system;
#[cfg(target_os = "linux")]
use linux as system;
#[cfg(target_os = "macos")]
use macos as system;
#[cfg(target_os = "netbsd")]
use netbsd as system;
#[cfg(windows)]
use windows as system;

pub(crate) use system::ProcessStat;

/// Returns `true` if `/proc` shows the processes of this pid namespace. Always `true` on systems
/// other than Linux, because this program needs no `/proc` there.
pub(crate) fn shows_processes() -> bool {
    #[cfg(target_os = "linux")]
    return linux::shows_processes();
    #[cfg(not(target_os = "linux"))]
    return true;
}

impl ProcessStat {
    /// This process, and then its ancestors, at most [`NESTED_CALLERS`] processes in all.
    pub(crate) fn lineage() -> impl Iterator<Item = ProcessStat> {
        ProcessStat::lineage_of(std::process::id())
    }

    /// The process `pid`, and then its ancestors, at most [`NESTED_CALLERS`] processes in all.
    pub(crate) fn lineage_of(pid: u32) -> impl Iterator<Item = ProcessStat> {
        let parent = |stat: &ProcessStat| ProcessStat::of(stat.parent);
        std::iter::successors(ProcessStat::of(pid), parent).take(NESTED_CALLERS)
    }
}

/// A command that expects a certain process to listen prints this note if `/proc` does not show the
/// owners of listeners. The command then accepts a listener of any process.
pub(crate) const OWNER_UNSEEN: &str = "cannot check which process has the listener: /proc is \
                                       missing or belongs to another pid namespace; mount proc on \
                                       /proc";

/// The note that the command accepts a listener without a visible owner as the listener of `pid`.
/// If `/proc` does not show the processes, the note is [`OWNER_UNSEEN`]. Otherwise the note names
/// one of these TCP ports: the first one on which no listener has a visible owner. Returns `None`
/// if there is no such port, or if the sockets cannot be read.
pub(crate) fn unseen_owner_note(endpoints: &[Endpoint], pid: u32) -> Option<String> {
    if !shows_processes() {
        return Some(OWNER_UNSEEN.to_owned());
    }
    let ports = who_holds_each(endpoints).ok()?;
    let is_unseen = |holders: &Holders| {
        let is_listener = |holder: &&Holder| holder.state == State::Listen;
        let mut listeners = holders.iter().filter(is_listener).peekable();
        listeners.peek().is_some() && listeners.all(|listener| listener.hidden)
    };
    let mut all = endpoints.iter().zip(&ports);
    let (endpoint, _) = all.find(|(_, holders)| is_unseen(holders))?;
    Some(format!(
        "cannot check whether pid {pid} listens on port {endpoint}: this user cannot see which \
         process has the listener, so any listener is accepted"
    ))
}

/// The note that a process other than `pid` also listens on a port, on an overlapping address. The
/// note is about the first port for which this is true. `None` if there is no such port.
pub(crate) fn shared_note(endpoints: &[Endpoint], pid: u32) -> Option<String> {
    let problems = check_each_port_held_by(endpoints, pid).into_iter();
    let mut problems = problems.filter_map(Result::err);
    let shared = problems.find(Diagnosis::is_shared_with_stranger)?;
    let headline = shared.headline();
    Some(format!(
        "{headline}, so some connections may not reach pid {pid}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_among_all() {
        let own = ProcessStat::of(std::process::id()).unwrap();
        assert_eq!(own.pid, std::process::id());
        assert!(ProcessStat::all().unwrap().contains(&own));
        #[cfg(unix)]
        assert_eq!(own.parent, std::os::unix::process::parent_id());
    }
}
