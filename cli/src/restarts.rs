//! Finds the processes that start a stopped server again.

use portlease::{Holder, Process};

#[cfg(target_os = "linux")]
use crate::caller::is_shell;
use crate::process::{INIT, needs_sigkill, terminal_of_shell};
#[cfg(target_os = "linux")]
use crate::process_stat::ProcessStat;
use crate::refusal::{Refusal, address};
use crate::starters::Starters;
use crate::text::escape;

/// If pid 1 runs one of these programs, `stop` does not watch whether pid 1 starts a server again.
/// Most of the programs run one command and end with it, or only keep a container running. systemd
/// restarts services, but the library recognizes the services of systemd, so `stop` does not end
/// them. launchd restarts services too, but `stop` does not watch for that.
const PLAIN_INITS: [&str; 11] = [
    "systemd",
    "init",
    "launchd",
    "tini",
    "dumb-init",
    "docker-init",
    "catatonit",
    "pause",
    "sleep",
    "tail",
    "cat",
];

/// Whether `stop` watches this ancestor of a stopped server, because the ancestor may start the
/// server again. `own` is this process, its parent, its grandparent and so on.
///
/// - Pid 1 counts, because in a container it can be a script that starts the server again.
///   Exception: it does not count if it is the parent of this process, or runs one of
///   [`PLAIN_INITS`].
/// - A process in `own`, such as the shell that runs this command, does not count. Every other
///   process counts.
pub(crate) fn may_restart(pid: u32, own: &[u32]) -> bool {
    match pid {
        INIT => {
            own.get(1) != Some(&INIT) && !PLAIN_INITS.contains(&crate::process::name(pid).as_str())
        }
        pid => !own.contains(&pid),
    }
}

/// Notes on the parents of stopped servers that may start their server again later. Such a parent
/// still runs, and has already read the exit status of its server, so it waited for the end. Shells
/// and terminals also read the status, but do not start a server again by themselves, so they get
/// no note. If a shell runs a script with a loop, the remedy names the loop. Linux only, because
/// other systems do not show whether the parent has read the status.
#[cfg(target_os = "linux")]
pub(crate) fn later_restarts(stopped: &[Process], starters: &Starters) -> Vec<String> {
    let terminals = ["tmux: server", "screen"];
    let note = |process: &Process| {
        let pid = process.parent.filter(|pid| starters.has_parent(*pid))?;
        let stat = ProcessStat::of(pid).filter(|parent| !parent.is_zombie)?;
        let is_plain = terminals.contains(&stat.name.as_str()) || is_shell(pid);
        let has_read_status = ProcessStat::of(process.pid).is_none();
        (has_read_status && !is_plain).then(|| {
            format!(
                "{} (pid {pid}), which started {} (pid {}), still runs: if it starts the server \
                 again, {}",
                escape(&stat.name),
                escape(&process.name),
                process.pid,
                stop_restarter(pid)
            )
        })
    };
    stopped.iter().filter_map(note).collect()
}

/// Always empty. The notes depend on whether a parent has read the exit status of its child, and
/// only Linux shows this.
#[cfg(not(target_os = "linux"))]
pub(crate) fn later_restarts(_stopped: &[Process], _starters: &Starters) -> Vec<String> {
    Vec::new()
}

/// What to do about a process that starts a server again. Inside its container, pid 1 gets only the
/// signals that it handles, and never SIGKILL. So a stop from inside may have no effect.
pub(crate) fn stop_restarter(pid: u32) -> String {
    match pid {
        INIT => "stop the container from outside of it".to_owned(),
        // An interactive shell ignores SIGTERM.
        pid if needs_sigkill(pid) => match terminal_of_shell(pid) {
            Some(terminal) => format!(
                "end its loop with Ctrl-C in the terminal {terminal}, or end pid {pid} with kill \
                 -KILL {pid}"
            ),
            None => format!("end pid {pid} with kill -KILL {pid}"),
        },
        pid => format!("stop pid {pid}"),
    }
}

/// The refusals of the servers that one of the `starters` has started.
pub(crate) fn restarts(servers: &[Holder], starters: &Starters) -> Vec<Refusal> {
    let refusal = |holder: &Holder| {
        let mut processes = holder.processes.iter();
        processes.find_map(|process| restart(holder, process, starters))
    };
    servers.iter().filter_map(refusal).collect()
}

/// The refusal for a process that one of the `starters` has started. `None` for other processes.
pub(crate) fn restart(holder: &Holder, process: &Process, starters: &Starters) -> Option<Refusal> {
    let starter = starters.starter_of(process)?;
    let name = escape(&crate::process::name(starter));
    Some(Refusal {
        process: Some(process.clone()),
        listens: address(holder),
        cause: format!("{name} (pid {starter}) has started it again"),
        remedies: Vec::new(),
        help: Some(match stop_restarter(starter) {
            stop if starter == INIT => stop,
            stop => format!("{stop}, and then run this command again"),
        }),
    })
}
