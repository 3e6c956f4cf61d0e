//! How a process is related to the calling process, and which supervisor would start it again.

use std::collections::HashMap;
use std::path::Path;

use crate::model::holder::Holder;
use crate::model::process::{Process, Relation, Supervisor};
use crate::ownership::is_descendant;
use crate::sockets;

/// Programs that start their children again when they end, by the names of their executables.
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

/// How many arguments of a parent process are compared with [`SUPERVISORS`]: an interpreter,
/// perhaps an option, and the script.
const ARGUMENTS: usize = 3;

/// Sets in each process its relation to the calling process, whether both are in the same unit and
/// container, and its supervisor.
pub(super) fn note(holders: &mut [Holder]) {
    let own = sockets::unit_and_container(std::process::id());
    let mut noted: HashMap<u32, Process> = HashMap::new();
    let processes = holders.iter_mut().flat_map(|holder| &mut holder.processes);
    for process in processes {
        let known = noted.entry(process.pid).or_insert_with(|| {
            let mut process = process.clone();
            process.relation = relation(process.pid);
            process.shares_unit = (&process.unit, &process.container) == (&own.0, &own.1);
            process.supervisor = process.parent.and_then(supervisor);
            process
        });
        process.relation = known.relation;
        process.shares_unit = known.shares_unit;
        process.supervisor.clone_from(&known.supervisor);
    }
}

fn relation(pid: u32) -> Option<Relation> {
    let own = std::process::id();
    if pid == own {
        Some(Relation::ThisProcess)
    } else if is_descendant(own, pid) {
        Some(Relation::Ancestor)
    } else if is_descendant(pid, own) {
        Some(Relation::Descendant)
    } else {
        None
    }
}

/// The parent process as a [`Supervisor`]; `None` if its name and its arguments are not those of a
/// known one.
fn supervisor(parent: u32) -> Option<Supervisor> {
    let is_one = |text: &str| {
        let name = Path::new(text).file_name().and_then(|name| name.to_str());
        let name = name.unwrap_or(text).trim_end_matches(".js");
        // pm2 names its process "PM2 v5.3.0: God".
        SUPERVISORS.contains(&name) || text.starts_with("PM2 v")
    };
    let name = sockets::name(parent)?;
    let arguments = sockets::arguments(parent);
    let arguments = arguments.iter().take(ARGUMENTS);
    let mut names = arguments.filter_map(|argument| argument.to_str());
    let script = names.find(|text| is_one(text)).map(|text| {
        let file = Path::new(text).file_name();
        file.map_or(text.into(), |file| file.to_string_lossy().into_owned())
    });
    let name = script.or_else(|| is_one(&name).then_some(name))?;
    Some(Supervisor { pid: parent, name })
}
