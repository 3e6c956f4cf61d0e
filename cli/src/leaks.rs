//! [`LeakCheck`]: finds the listeners that a command left behind, and can end their processes.

use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;

use portlease::{Endpoint, Holder, Process, Relation, Remedy, State, listeners, who_holds};
use serde::Serialize;

use crate::args::LeakAction;
use crate::command_end::End;
use crate::ending::{Ending, Handles, StopSignal, Target, end_all, with_masters};
use crate::exit;
use crate::failure::Failure;
use crate::interruption::is_interrupted;
use crate::limits::{
    LEAK_GRACE, LEAK_POLL, LEAK_STOP_ROUNDS, RESTART_POLL, RESTART_WATCH, TERMINATE_GRACE, sleep,
};
use crate::orphans;
use crate::output::console::Console;
use crate::output::json::{HolderRow, JSON_VERSION};
use crate::output::remedy::{self, Asked};
use crate::output::report;
use crate::process::{ProcessHandle, watch_failure};
use crate::text::{address, escape, os_message};

/// The listeners that existed before the command started, and what to do about the listeners that
/// the command leaves behind.
#[derive(Debug)]
pub(crate) struct LeakCheck {
    action: LeakAction,
    /// The inodes of the listeners that existed before the command started.
    before: HashSet<u64>,
    /// The inodes of the listeners that [`finish`](Self::finish) has reported.
    pub(crate) reported: HashSet<u64>,
}

#[derive(Debug, Serialize)]
struct Answer {
    version: u8,
    leaks: Vec<HolderRow>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    endings: Vec<EndingRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left: Option<Vec<HolderRow>>,
}

/// Whether and how `run` ended a process that the command left, as an object of the JSON output.
#[derive(Debug, Serialize)]
struct EndingRow {
    pid: u32,
    name: String,
    outcome: &'static str,
}

impl LeakCheck {
    /// Records the listeners that exist, and makes this process adopt the command's daemons. The
    /// caller must start the command after this call.
    pub(crate) fn prepare(action: LeakAction) -> Result<LeakCheck, Failure> {
        orphans::adopt()?;
        let before = listeners()?.iter().map(|holder| holder.inode).collect();
        Ok(LeakCheck {
            action,
            before,
            reported: HashSet::new(),
        })
    }

    /// Handles the listeners that the command has left, and returns the outcome of `run`. `end` is
    /// how the command ended. `udp` are the UDP ports that `run` reserved.
    pub(crate) fn finish(
        &mut self,
        console: &Console,
        end: End,
        udp: &[Endpoint],
    ) -> Result<End, Failure> {
        match self.handle_leaks(console, udp) {
            Ok(true) if end.is_success() => Ok(End::of_code(exit::NO)),
            Ok(_) => Ok(end),
            Err(failure) if end.is_success() => Err(failure),
            // Both the command and the leak check have failed. How the command ended matters more,
            // so `run` only prints the failure of the leak check.
            Err(failure) => {
                console.error(&failure);
                Ok(end)
            }
        }
    }

    /// Reports the listeners that the command has left, and ends their processes for
    /// `--leaks=stop`. Returns whether `run` must fail because of these listeners.
    fn handle_leaks(&mut self, console: &Console, udp: &[Endpoint]) -> Result<bool, Failure> {
        let leaks = self.leaks(udp)?;
        if leaks.is_empty() {
            return Ok(false);
        }
        self.reported.extend(leaks.iter().map(|of| of.inode));
        if !console.is_json() {
            let lines = lines("the command has left a listener", &leaks);
            lines.into_iter().for_each(|line| match self.action {
                LeakAction::Fail => console.error(&Failure::new(line)),
                LeakAction::Report | LeakAction::Stop => console.note(line),
            });
        }
        let mut endings = Vec::new();
        let left = match self.action {
            LeakAction::Report | LeakAction::Fail => None,
            LeakAction::Stop => Some(self.stop(udp, &mut endings)?),
        };
        self.reported
            .extend(left.iter().flatten().map(|of| of.inode));
        if console.is_json() {
            let rows = |holders: &[Holder]| -> Vec<HolderRow> {
                holders.iter().map(|of| HolderRow::new(of, false)).collect()
            };
            console.json_on_stderr(&Answer {
                version: JSON_VERSION,
                leaks: rows(&leaks),
                endings: endings.iter().map(ending_row).collect(),
                left: left.as_deref().map(rows),
            })?;
        } else {
            endings
                .iter()
                .for_each(|(target, ending)| console.note(ending_text(target, ending)));
            let left = left.as_deref().unwrap_or_default();
            for (holder, line) in left.iter().zip(lines("cannot stop a listener", left)) {
                let help = remedy::in_one_line(&holder.remedies(), Asked::default());
                console.error(&Failure::new(report::with_help(line, help)));
            }
        }
        Ok(match left {
            Some(left) => !left.is_empty(),
            None => self.action == LeakAction::Fail,
        })
    }

    /// Whether `run` fails if a listener is left.
    pub(crate) fn fails(&self) -> bool {
        self.action != LeakAction::Report
    }

    /// Scans until the command has no listener left, for up to [`LEAK_GRACE`]. Returns the
    /// listeners of the last scan. A server that has just got a signal may need this time to end.
    fn leaks(&self, udp: &[Endpoint]) -> Result<Vec<Holder>, Failure> {
        let started = Instant::now();
        loop {
            let found = self.scan(udp)?;
            if found.is_empty() || started.elapsed() >= LEAK_GRACE || is_interrupted() {
                return Ok(found);
            }
            sleep(LEAK_POLL);
        }
    }

    /// Finds the server sockets of this process's descendants:
    /// - TCP listeners that did not exist before the command
    /// - UDP sockets without a peer, on the ports in `udp`
    ///
    /// Daemons that the command started are descendants too, because this process adopts them.
    fn scan(&self, udp: &[Endpoint]) -> Result<Vec<Holder>, Failure> {
        let mut found: Vec<Holder> = listeners()?.into_iter().collect();
        for endpoint in udp {
            // `Holder::is_server` is `false` for a socket that may be a client's. But this process
            // has reserved the number for a server, so the socket is probably the server's.
            let is_server = |holder: &Holder| holder.state == State::Bound;
            found.extend(who_holds(*endpoint)?.into_iter().filter(is_server));
        }
        found.retain(|holder| !self.before.contains(&holder.inode));
        for holder in &mut found {
            holder.processes.retain(is_descendant);
        }
        found.retain(|holder| !holder.processes.is_empty());
        Ok(found)
    }

    /// Ends the processes that listen, and returns the listeners that are left. Scans again after
    /// each round, because the workers of a server can outlive the server.
    fn stop(
        &self,
        udp: &[Endpoint],
        endings: &mut Vec<(Target, Ending)>,
    ) -> Result<Vec<Holder>, Failure> {
        let mut parents: Vec<ProcessHandle> = Vec::new();
        for _ in 0..LEAK_STOP_ROUNDS {
            let mut handles = Handles::open(&self.scan(udp)?)?;
            let targets = targets(&self.scan(udp)?, &mut handles)?;
            if targets.is_empty() {
                break;
            }
            for parent in targets.iter().filter_map(|target| target.process.parent) {
                let handle = ProcessHandle::open(parent).map_err(|e| watch_failure(parent, &e))?;
                parents.extend(handle.filter(|_| parent != std::process::id()));
            }
            endings.extend(end_all(targets, TERMINATE_GRACE));
        }
        self.left(udp, &parents)
    }

    /// Returns the listeners that are left. If a parent of an ended server still runs, the parent
    /// may start the server again. So the function scans for up to [`RESTART_WATCH`], until a
    /// listener appears or every parent has ended.
    fn left(&self, udp: &[Endpoint], parents: &[ProcessHandle]) -> Result<Vec<Holder>, Failure> {
        let started = Instant::now();
        let runs = |parent: &ProcessHandle| parent.has_ended().is_ok_and(|ended| !ended);
        loop {
            let found = self.leaks(udp)?;
            let is_over = started.elapsed() >= RESTART_WATCH || is_interrupted();
            if !found.is_empty() || is_over || !parents.iter().any(runs) {
                return Ok(found);
            }
            sleep(RESTART_POLL);
        }
    }
}

fn is_descendant(process: &Process) -> bool {
    process.relation == Some(Relation::Descendant)
}

/// The processes to end: descendants of this process that own one of the sockets, or that are the
/// [master](Process::master) of an owner. The sockets of a container are left out.
///
/// Workers are left out too. A process is a worker if its parent owns the same socket, or if its
/// parent is the master of an owner. If a worker does not end with its parent, the next scan finds
/// the worker.
fn targets(found: &[Holder], handles: &mut Handles) -> Result<Vec<Target>, Failure> {
    let mut targets = Vec::new();
    for holder in found {
        let remedies = holder.remedies();
        // If one of these remedies applies, the socket belongs to a container or publishes a
        // container's port. The function skips the socket: if only its owner ended, the container
        // could run on without the port.
        let is_of_container = |remedy: &Remedy| {
            matches!(
                remedy,
                Remedy::StopPublishingContainer { .. } | Remedy::StopContainer { .. }
            )
        };
        if remedies.iter().any(is_of_container) {
            continue;
        }
        let is_worker = |process: &Process| {
            let mut others = with_masters(&holder.processes);
            others.any(|other| process.parent == Some(other.pid))
        };
        let owners = with_masters(&holder.processes).filter(|of| is_descendant(of));
        for process in owners.filter(|of| !is_worker(of)) {
            if let Some(handle) = handles.take(process.pid)? {
                targets.push(Target {
                    signal: StopSignal::of(process.pid, &remedies),
                    is_master: holder.processes.iter().all(|of| of.pid != process.pid),
                    shares_with_hidden: holder.may_have_hidden_owners(),
                    process: process.clone(),
                    handle,
                    listens: vec![address(holder.local)],
                });
            }
        }
    }
    Ok(targets)
}

fn ending_row((target, ending): &(Target, Ending)) -> EndingRow {
    EndingRow {
        pid: target.process.pid,
        name: target.process.name.clone(),
        outcome: ending.name(),
    }
}

fn ending_text(target: &Target, ending: &Ending) -> String {
    let process = format!(
        "{} (pid {})",
        escape(&target.process.name),
        target.process.pid
    );
    match ending {
        Ending::Terminated => format!("stopped {process}"),
        Ending::Killed => format!("killed {process}: {} did not end it", target.signal.name()),
        Ending::Ended => format!("{process} has ended by itself"),
        Ending::Survived => format!("{process} has not ended after SIGKILL"),
        Ending::Failed(cause) => format!("cannot stop {process}: {}", os_message(cause)),
    }
}

/// One line for each listener: details of its oldest process, and the pids of its other processes.
fn lines(what: &str, holders: &[Holder]) -> Vec<String> {
    let path = |path: &Path| escape(&path.display().to_string());
    let process = |process: &Process| {
        let mut text = format!("{} (pid {})", escape(&process.name), process.pid);
        if let Some(program) = &process.program {
            text += &format!(", program {}", path(program));
        }
        if let Some(folder) = &process.working_directory {
            text += &format!(", working directory {}", path(folder));
        }
        text
    };
    let line = |holder: &Holder| {
        let mut owners = holder.processes.iter();
        let first = owners.next().map(process).unwrap_or_default();
        let others: Vec<String> = owners.map(|process| process.pid.to_string()).collect();
        let others = match others.len() {
            0 => String::new(),
            _ => format!("; also pid {}", others.join(", ")),
        };
        format!(
            "{what} on {}/{}: {first}{others}",
            address(holder.local),
            holder.protocol
        )
    };
    holders.iter().map(line).collect()
}
