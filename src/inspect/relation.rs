//! How a process is related to the calling process, and which supervisor would start it again.

use std::collections::HashMap;
use std::path::Path;

use crate::model::holder::Holder;
use crate::model::process::{Relation, Supervisor};
use crate::ownership::lineage;
use crate::sockets;

/// The names of programs that start a child again when it ends.
const SUPERVISORS: [&str; 18] = [
    "supervisord",
    "runsv",
    "s6-supervise",
    "supervise",
    "circusd",
    "monit",
    "pm2",
    "nodemon",
    "forever",
    "watchexec",
    "cargo-watch",
    "entr",
    "reflex",
    "air",
    "foreman",
    "overmind",
    "honcho",
    "watchmedo",
];

/// Shells. A supervisor can run a server through a shell.
const SHELLS: [&str; 5] = ["sh", "bash", "dash", "zsh", "ash"];

/// How many shells in a row the search for a supervisor passes.
const SHELLS_DEEP: usize = 3;

/// Sets in each process its supervisor, its relation to the calling process, and whether both are
/// in the same unit and container.
pub(super) fn note<'a>(holders: impl Iterator<Item = &'a mut Holder>) {
    let processes = holders.flat_map(|holder| &mut holder.processes);
    let mut processes = processes.peekable();
    if processes.peek().is_none() {
        return;
    }
    let own = sockets::unit_and_container(std::process::id());
    let own_lineage: Vec<u32> = lineage(std::process::id()).collect();
    let mut known: HashMap<u32, (Option<Relation>, Option<Supervisor>)> = HashMap::new();
    for process in processes {
        process.shares_unit = (&process.unit, &process.container) == (&own.0, &own.1);
        let read = || {
            let relation = relation(process.pid, &own_lineage);
            (relation, process.parent.and_then(supervisor))
        };
        let (relation, supervisor) = known.entry(process.pid).or_insert_with(read);
        process.relation = *relation;
        process.supervisor.clone_from(supervisor);
    }
}

/// The relation of a process to this process. `own_lineage` is this process and its ancestors.
fn relation(pid: u32, own_lineage: &[u32]) -> Option<Relation> {
    let own = std::process::id();
    if pid == own {
        Some(Relation::ThisProcess)
    } else if own_lineage.contains(&pid) {
        Some(Relation::Ancestor)
    } else {
        // The search ends at the nearest common ancestor. It is this process only if the other
        // process is a descendant.
        let common = lineage(pid).find(|pid| own_lineage.contains(pid));
        (common == Some(own)).then_some(Relation::Descendant)
    }
}

/// The first ancestor that is not a shell, if it is a supervisor.
fn supervisor(parent: u32) -> Option<Supervisor> {
    let mut pid = parent;
    for _ in 0..=SHELLS_DEEP {
        let sockets::Program {
            name,
            parent,
            arguments,
        } = sockets::program(pid)?;
        let mut arguments = arguments.iter().filter_map(|argument| argument.to_str());
        let program = arguments.next().map(file_name).unwrap_or_default();
        // An interpreter runs the script that follows its options.
        let script = arguments.find(|argument| !argument.starts_with('-'));
        let script = script.map(file_name).unwrap_or_default();
        // pm2 names its process "PM2 v5.3.0: God".
        let is_pm2 = name.starts_with("PM2 v");
        let names = [name.as_str(), program, script];
        let known = names.into_iter().find(|name| SUPERVISORS.contains(name));
        if let Some(known) = known.or(is_pm2.then_some("pm2")) {
            return Some(Supervisor {
                pid,
                name: known.to_owned(),
            });
        }
        if !SHELLS.contains(&name.as_str()) {
            return None;
        }
        pid = parent?;
    }
    None
}

fn file_name(text: &str) -> &str {
    let name = Path::new(text).file_name().and_then(|name| name.to_str());
    name.unwrap_or(text).trim_end_matches(".js")
}
