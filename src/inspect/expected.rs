//! [`Expected`]: the process that a wait or an assertion expects to listen.

use std::collections::HashMap;
use std::num::NonZeroU64;

use super::orphan::{is_adopter, is_orphan};
use crate::model::holder::Holder;
use crate::model::process::{Process, ProcessState, Relation};
use crate::ownership::is_descendant;
use crate::retry::TICKS_OF_PIPELINE;
use crate::sockets::{self, Group};

/// The process that a wait or an assertion expects to listen. A process that the expected process
/// started may listen instead.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    /// `None` if the process has ended and its handle no longer reports a pid.
    pid: Option<u32>,
    /// The start distinguishes the process from a later one with the same pid. `None` if the start
    /// is unknown.
    started: Option<NonZeroU64>,
    group: Option<Group>,
    /// The earliest time at which a daemon of the process can have started.
    earliest_daemon: Option<NonZeroU64>,
    /// `true` if the process has ended and may have left a daemon. This is so in two cases:
    ///
    /// - The process succeeded.
    /// - The exit status of the process is unknown, but its start is known.
    ///
    /// An orphan that started at `earliest_daemon` or later may then be that daemon.
    ended_well: bool,
}

impl Expected {
    pub(crate) fn new(pid: u32) -> Expected {
        let started = sockets::started(pid).ok().flatten();
        Expected {
            pid: Some(pid),
            started,
            group: sockets::group(pid),
            earliest_daemon: started,
            ended_well: false,
        }
    }

    /// A process that has ended and whose handle no longer reports a pid.
    #[cfg(feature = "tokio")]
    pub(crate) fn ended() -> Expected {
        Expected {
            pid: None,
            started: None,
            group: None,
            earliest_daemon: None,
            ended_well: false,
        }
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Notes that the process has ended. `succeeded` is `None` if its exit status is not known: the
    /// process is no child of the calling process, or other code has reaped it.
    ///
    /// If neither the exit status nor the start of the process is known, any orphan could be a
    /// daemon of the process. Then an orphan counts as a daemon only if it is in the process group
    /// or session of the process.
    ///
    /// If only the start is unknown, the exit status is known. Only the parent of a process gets
    /// its exit status, so the process is a child of the calling process. The child and its daemon
    /// cannot be older than the calling process. So the start of the calling process replaces the
    /// unknown start.
    pub(crate) fn note_end(&mut self, succeeded: Option<bool>) {
        if self.started.is_none() && succeeded.is_some() {
            self.earliest_daemon = sockets::started(std::process::id()).ok().flatten();
        }
        self.ended_well = succeeded.unwrap_or(self.started.is_some());
    }

    /// Whether the socket belongs to the expected process, a descendant of it, or a daemon that it
    /// left.
    pub(crate) fn has(&self, socket: &Holder) -> bool {
        socket
            .processes
            .iter()
            .any(|process| self.includes(process))
    }

    /// Like [`has`](Self::has), for many sockets: each process is examined only once.
    pub(crate) fn judge(&self) -> impl FnMut(&Holder) -> bool + '_ {
        let mut known = HashMap::new();
        move |socket| {
            socket.processes.iter().any(|process| {
                let key = (process.pid, process.ticks);
                *known.entry(key).or_insert_with(|| self.includes(process))
            })
        }
    }

    /// Whether the process is the expected one, a descendant of it, or a daemon that it left.
    fn includes(&self, process: &Process) -> bool {
        let is_this_start = |started| self.started.is_none() || started == self.started;
        let is_or_is_below = |pid| {
            if process.pid == pid {
                is_this_start(process.ticks)
            } else {
                sockets::started(pid).is_ok_and(is_this_start) && is_descendant(process.pid, pid)
            }
        };
        self.pid.is_some_and(is_or_is_below)
            || self.left_behind(process)
            || self.is_adopted(process)
    }

    /// Whether the calling process is `portlease run --leaks`, and has adopted the process or an
    /// ancestor of it. `run` expects only its command to listen, and starts nothing else that
    /// listens.
    fn is_adopted(&self, process: &Process) -> bool {
        let own = std::process::id();
        process.pid != own
            && process.ticks >= self.earliest_daemon
            && is_adopter(own)
            && sockets::adopts_orphans()
            && is_descendant(process.pid, own)
    }

    /// Whether the caller may have named the expected process but meant `process`. This is so in
    /// three cases:
    ///
    /// - `process` is an ancestor of the expected process, such as the primary process of a Node.js
    ///   cluster.
    /// - On Linux, `process` and the expected process have the same parent and process group, and
    ///   started at almost the same time. A shell probably started them as one pipeline, and `$!`
    ///   names only the last part of the pipeline.
    /// - The expected process ended before the call, and `process` is an [orphan](is_orphan) with a
    ///   higher pid. It may be a daemon that the expected process left: the kernel gives pids in
    ///   ascending order until they wrap around.
    ///
    /// With `listens`, the expected process has a listener of its own, so only the first case
    /// counts. Always `false` for the calling process and its ancestors.
    pub(crate) fn may_mean(&self, process: &Process, listens: bool) -> bool {
        let (Some(pid), None | Some(Relation::Descendant)) = (self.pid, process.relation) else {
            return false;
        };
        let is_ancestor = is_descendant(pid, process.pid);
        let starts = process.ticks.zip(self.started);
        let is_part_of_pipeline = cfg!(target_os = "linux")
            && process.relation.is_none()
            && process.parent.is_some()
            && process.parent == sockets::parent(pid)
            && self.group.map(|of| of.group) == sockets::group(process.pid).map(|of| of.group)
            && starts
                .is_some_and(|(one, other)| one.get().abs_diff(other.get()) <= TICKS_OF_PIPELINE);
        let may_be_daemon =
            self.started.is_none() && process.pid > pid && is_orphan(process.pid, process.parent);
        is_ancestor || !listens && (is_part_of_pipeline || may_be_daemon)
    }

    /// The running processes that may be a daemon of the expected process. Call this only if the
    /// expected process has ended with success.
    ///
    /// The list is sorted by pid, from the pid of the expected process upwards: the kernel gives
    /// pids in ascending order, and a daemon starts soon after its starter.
    pub(crate) fn running_daemons(&self) -> Vec<Process> {
        let (Some(starter), Some(_)) = (self.pid, self.started) else {
            return Vec::new();
        };
        let is_later =
            |pid: &u32| sockets::started(*pid).is_ok_and(|started| started >= self.started);
        let found = sockets::pids().into_iter().filter(is_later);
        let found = found.filter_map(sockets::describe);
        let mut found: Vec<Process> = found
            .filter(|process| process.state != ProcessState::Zombie && self.left_behind(process))
            .collect();
        found.sort_by_key(|process| process.pid.wrapping_sub(starter));
        found
    }

    /// Whether the process is a daemon that the expected process left behind. The parent of a
    /// daemon has ended, so the daemon is no descendant any more. A process that started before
    /// `earliest_daemon` does not count. Any other process counts in one of three cases:
    ///
    /// - The number of its process group or session is the pid of the expected process.
    /// - It is an [orphan](is_orphan) in the group or session of the expected process.
    /// - It is an orphan in any group or session, and `ended_well` is `true`. The daemon may have
    ///   called setsid(2).
    fn left_behind(&self, process: &Process) -> bool {
        // On Linux the start is in units of 10 ms. A daemon can have the same start as its parent,
        // so an equal start is accepted.
        if process.ticks < self.earliest_daemon {
            return false;
        }
        let group = sockets::group(process.pid);
        // The kernel does not reuse a pid while a process group or a session still has that number.
        // So the expected process itself made each group or session that has its pid.
        let is_led = group
            .zip(self.pid)
            .is_some_and(|(of, pid)| of.group == pid || of.session == pid);
        let is_shared = group.zip(self.group).is_some_and(|(of, expected)| {
            of.group == expected.group || of.session == expected.session
        });
        is_led || is_orphan(process.pid, process.parent) && (is_shared || self.ended_well)
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn an_orphan_that_is_older_than_this_process_is_no_daemon_of_its_child() {
        let own = sockets::started(std::process::id()).unwrap().unwrap();
        let orphan = |started: u64| Process {
            ticks: NonZeroU64::new(started),
            ..Process::unknown(u32::MAX, "daemon".to_owned())
        };
        let mut reaped = Expected::new(u32::MAX);
        reaped.note_end(Some(true));
        assert!(!reaped.left_behind(&orphan(own.get() - 1)));
        assert!(reaped.left_behind(&orphan(own.get() + 1)));
        // Now neither the exit status nor the start of `reaped` is known. So `left_behind` accepts
        // only orphans in the process group or session of `reaped`, and this orphan is in neither.
        reaped.note_end(None);
        assert!(!reaped.left_behind(&orphan(own.get() + 1)));
    }
}
