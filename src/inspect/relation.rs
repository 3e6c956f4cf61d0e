//! How a process is related to the calling process.

use std::collections::HashMap;

use super::supervisor::supervisor;
use crate::model::holder::Holder;
use crate::model::process::{Process, Relation, Supervisor};
use crate::ownership::lineage;
use crate::sockets;

/// Sets four facts in each process: its supervisor, its relation to the calling process, whether
/// both processes are in the same unit and container, and whether it is in the session of the first
/// process of its unit.
pub(super) fn note<'a>(holders: impl Iterator<Item = &'a mut Holder>) {
    let processes = holders.flat_map(|holder| &mut holder.processes);
    let mut processes = processes.peekable();
    if processes.peek().is_none() {
        return;
    }
    let own = sockets::unit_and_container(std::process::id());
    let own_lineage: Vec<u32> = lineage(std::process::id()).collect();
    let mut known: HashMap<u32, (Option<Relation>, Option<Supervisor>, bool)> = HashMap::new();
    for process in processes {
        process.shares_unit = (&process.unit, &process.container) == (&own.0, &own.1);
        let read = || {
            let relation = relation(process.pid, &own_lineage);
            let in_session = process.shares_unit || in_session_of_unit(process);
            (relation, supervisor(process, &own_lineage), in_session)
        };
        let (relation, supervisor, in_session) = known.entry(process.pid).or_insert_with(read);
        process.relation = *relation;
        process.supervisor.clone_from(supervisor);
        process.in_session_of_unit = *in_session;
    }
}

/// What [`Process::in_session_of_unit`] says. Also `true` for a process without a unit, and if
/// neither its session nor that of the first process of the unit can be read.
fn in_session_of_unit(process: &Process) -> bool {
    let Some(unit) = &process.unit else {
        return true;
    };
    let is_in_unit = |pid: &u32| sockets::unit_and_container(*pid).0.as_ref() == Some(unit);
    // The first process of the unit is the last ancestor that is in the unit too.
    let first = lineage(process.pid).take_while(is_in_unit).last();
    let session = |pid| sockets::group(pid).map(|group| group.session);
    first.is_none_or(|first| session(first) == session(process.pid))
}

/// The relation of the process `pid` to this process. `own_lineage` is this process and its
/// ancestors. `None` if neither process is an ancestor of the other.
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
