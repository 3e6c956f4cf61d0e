//! How a process is related to the calling process, and which supervisor would start it again.

use std::collections::HashMap;
use std::path::Path;

use crate::model::holder::Holder;
use crate::model::process::{Relation, Supervisor, SupervisorKind};
use crate::ownership::lineage;
use crate::sockets;

/// The names of service managers, which start a process again when it ends.
const MANAGERS: [&str; 9] = [
    "supervisord",
    "runsv",
    "s6-supervise",
    "supervise",
    "dinit",
    "perpd",
    "circusd",
    "monit",
    "pm2",
];

/// The names of programs that run a command again when it ends or when a file changes.
const WATCHERS: [&str; 12] = [
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
    "bacon",
];

/// Shells. A supervisor can run a server through a shell.
const SHELLS: [&str; 5] = ["sh", "bash", "dash", "zsh", "ash"];

/// Programs that run one command and end with it. A supervisor can run a server through them.
const WRAPPERS: [&str; 10] = [
    "sudo", "su", "runuser", "doas", "timeout", "npm", "npx", "yarn", "pnpm", "cargo",
];

/// How many shells and wrappers in a row the search for a supervisor passes.
const WRAPPERS_DEEP: usize = 5;

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
            let parent = process.parent;
            let supervisor =
                parent.and_then(|parent| supervisor(process.pid, parent, &own_lineage));
            (relation, supervisor)
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

/// The first ancestor that is neither a shell nor a wrapper, if it is a supervisor. Otherwise the
/// first shell before it that runs a script with a loop. A shell that is an ancestor of this
/// process does not count, because stopping it would end this process too.
fn supervisor(child: u32, parent: u32, own_lineage: &[u32]) -> Option<Supervisor> {
    let mut looping = None;
    let mut pid = parent;
    for _ in 0..=WRAPPERS_DEEP {
        let Some(sockets::Program {
            name,
            parent,
            arguments,
        }) = sockets::program(pid)
        else {
            return looping;
        };
        let mut words = arguments.iter().filter_map(|argument| argument.to_str());
        let program = words.next().map(file_name).unwrap_or_default();
        // An interpreter runs the script that follows its options.
        let script = words.find(|argument| !argument.starts_with('-'));
        let script_name = script.map(file_name).unwrap_or_default();
        // pm2 names its process "PM2 v5.3.0: God", and npm names its own "npm run dev".
        let title = match name.split_once(' ') {
            Some(("PM2", _)) => "pm2",
            Some((first, _)) => first,
            None => name.as_str(),
        };
        let names = [title, program, script_name];
        let one_of = |list: &[&str]| names.into_iter().find(|name| list.contains(name));
        let found = |name: &str, kind| Supervisor {
            pid,
            name: name.to_owned(),
            kind,
        };
        if let Some(name) = one_of(&MANAGERS) {
            let command = stop_command(name, pid, child);
            return Some(found(name, SupervisorKind::Manager(command)));
        }
        if let Some(name) = one_of(&WATCHERS) {
            return Some(found(name, SupervisorKind::Watcher));
        }
        if SHELLS.contains(&name.as_str()) {
            let has_loop = || match script {
                Some(text) if arguments.get(1).is_some_and(|option| option == "-c") => {
                    has_loop(text)
                }
                Some(file) => sockets::file_of(pid, file).is_some_and(|text| has_loop(&text)),
                None => false,
            };
            if looping.is_none() && !own_lineage.contains(&pid) && has_loop() {
                looping = Some(found(&name, SupervisorKind::Loop));
            }
        } else if one_of(&WRAPPERS).is_none() {
            return looping;
        }
        match parent {
            Some(parent) => pid = parent,
            None => return looping,
        }
    }
    looping
}

/// The command line that stops the service whose process is `child`. The service folder of some
/// managers is their working directory.
fn stop_command(manager: &str, pid: u32, child: u32) -> Option<String> {
    let with_folder = |command: &str| {
        let folder = sockets::working_directory(pid)?;
        Some(format!("`{command} {}`", folder.to_str()?))
    };
    let with_name = |command: &str, list: &str| {
        Some(format!(
            "`{command} NAME`, with the NAME that `{list}` shows for pid {child}"
        ))
    };
    match manager {
        "runsv" => with_folder("sv down"),
        "s6-supervise" => with_folder("s6-svc -d"),
        "supervise" => with_folder("svc -d"),
        "supervisord" => with_name("supervisorctl stop", "supervisorctl status"),
        "dinit" => with_name("dinitctl stop", "dinitctl list"),
        "perpd" => with_name("perpctl d", "perpls"),
        "pm2" => with_name("pm2 stop", "pm2 list"),
        _ => None,
    }
}

/// Whether a command of this shell script begins a loop.
fn has_loop(script: &str) -> bool {
    let lines = script.lines().map(str::trim);
    let lines = lines.filter(|line| !line.starts_with('#'));
    let mut commands = lines.flat_map(|line| line.split([';', '&', '|', '(', '{']));
    commands.any(|command| {
        let mut words = command.split_whitespace();
        let first = words.find(|word| !["do", "then", "else", "exec"].contains(word));
        first.is_some_and(|word| ["while", "until", "for"].contains(&word))
    })
}

fn file_name(text: &str) -> &str {
    let name = Path::new(text).file_name().and_then(|name| name.to_str());
    name.unwrap_or(text).trim_end_matches(".js")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_of_a_script_is_found_where_a_command_begins() {
        for script in [
            "while true; do server; done",
            "#!/bin/sh\nset -e\n  until server; do sleep 1; done\n",
            "cd /srv && for n in 1 2 3; do server; done",
            "if true; then while :; do server; done; fi",
        ] {
            assert!(has_loop(script), "{script}");
        }
        for script in [
            "server --while",
            "# while it runs\nexec server for tests",
            "echo until; server",
        ] {
            assert!(!has_loop(script), "{script}");
        }
    }
}
