//! How a process is related to the calling process.

use std::collections::{HashMap, HashSet};

use super::supervisor::supervisor;
use crate::lease;
use crate::model::holder::Holder;
use crate::model::process::{Process, Relation};
use crate::ownership::lineage;
use crate::sockets;

/// Sets the master of each process that has a master: a parent that starts a new worker when a
/// worker ends. In each process and each master, the function also sets the supervisor, the
/// relation to the calling process, `shares_unit`, `in_session_of_unit` and `is_other_users`.
pub(super) fn note<'a>(holders: impl Iterator<Item = &'a mut Holder>) {
    let processes: Vec<&mut Process> = holders.flat_map(|holder| &mut holder.processes).collect();
    if processes.is_empty() {
        return;
    }
    let own = sockets::unit_and_container(std::process::id());
    let own_lineage: Vec<u32> = lineage(std::process::id()).collect();
    let owners: HashSet<u32> = processes.iter().map(|process| process.pid).collect();
    let set = |process: &mut Process| {
        process.shares_unit = (&process.unit, &process.container) == (&own.0, &own.1);
        process.in_session_of_unit = process.shares_unit || in_session_of_unit(process);
        process.is_other_users = process.user_manager.is_some_and(|uid| uid != lease::user());
        process.relation = relation(process.pid, &own_lineage);
        process.supervisor = supervisor(process, &own_lineage);
    };
    let mut known: HashMap<u32, Process> = HashMap::new();
    for process in processes {
        let known = known.entry(process.pid).or_insert_with(|| {
            let mut known = process.clone();
            set(&mut known);
            let parent = process.parent;
            let parent = parent.filter(|pid| !owners.contains(pid) && !own_lineage.contains(pid));
            known.master = parent.and_then(|parent| master(process.pid, parent));
            known.master.iter_mut().for_each(|master| set(master));
            known
        });
        process.clone_from(known);
    }
}

/// The parent of the process, if that parent is a master as [`Process::master`] describes. A parent
/// without a handler for SIGTERM is no master: it may be a script that has forked once.
fn master(pid: u32, parent: u32) -> Option<Box<Process>> {
    let arguments = |pid| sockets::program(pid).map(|program| program.arguments);
    let of_worker = arguments(pid).filter(|arguments| !arguments.is_empty())?;
    if arguments(parent)? != of_worker {
        return None;
    }
    let master = sockets::describe(parent)?;
    master.handles_sigterm.then(|| Box::new(master))
}

/// Whether the process is in the session of the first process of its unit. Also `true`:
///
/// - for a process without a unit
/// - if the process has left the unit after [`Process::unit`] was read, or has ended
/// - if neither the session of the process nor the session of the unit's first process can be read
fn in_session_of_unit(process: &Process) -> bool {
    let Some(unit) = &process.unit else {
        return true;
    };
    let is_in_unit = |pid: &u32| sockets::unit_and_container(*pid).0.as_ref() == Some(unit);
    // The first process of the unit is the farthest ancestor in the unit, or the process itself.
    let first = lineage(process.pid).take_while(is_in_unit).last();
    let session = |pid| sockets::group(pid).map(|group| group.session);
    first.is_none_or(|first| session(first) == session(process.pid))
}

/// The relation of the process `pid` to this process. `own_lineage` is this process and its
/// ancestors. `None` if neither of the two processes is an ancestor of the other.
fn relation(pid: u32, own_lineage: &[u32]) -> Option<Relation> {
    let own = std::process::id();
    if pid == own {
        Some(Relation::ThisProcess)
    } else if own_lineage.contains(&pid) {
        Some(Relation::Ancestor)
    } else {
        // `common` is the nearest process in both lineages. `common` is this process only if `pid`
        // is a descendant of this process.
        let common = lineage(pid).find(|pid| own_lineage.contains(pid));
        (common == Some(own)).then_some(Relation::Descendant)
    }
}
