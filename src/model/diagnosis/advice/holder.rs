//! The remedies for one socket that holds a port.

use super::known_programs;
use crate::model::endpoint::Protocol;
use crate::model::holder::{Holder, UnseenOwner};
use crate::model::process::{Process, ProcessState, Relation, Supervisor, SupervisorKind};
use crate::model::remedy::Remedy;

impl Holder {
    /// How to remove this socket: usually one remedy for each process that must end or close the
    /// socket. A frozen process has two remedies: the first remedy thaws the process. If the owner
    /// is [hidden](Holder::hidden), the remedies say how to find the owner. If no process owns the
    /// socket, the remedy is to wait until the kernel has closed the socket.
    ///
    /// A program can carry out these remedies with a signal to the process that the remedy names:
    ///
    /// - [`StopProcess`](Remedy::StopProcess), [`StopMaster`](Remedy::StopMaster) and
    ///   [`StopProcessOfScript`](Remedy::StopProcessOfScript) with SIGTERM;
    /// - [`InterruptProcess`](Remedy::InterruptProcess) with SIGINT;
    /// - [`ResumeOrKill`](Remedy::ResumeOrKill) and [`KillProcess`](Remedy::KillProcess) with
    ///   SIGKILL.
    ///
    /// Two kinds of process have no remedy:
    ///
    /// - Pid 1, and pid 4 of Windows (the kernel), if nothing shows how to free the port safely.
    /// - A worker that ends with its parent. A worker shares the socket with its parent and runs
    ///   the same program, or has a [master](Process::master). It ends with its parent if all of
    ///   these are true:
    ///   - The parent can run a handler for SIGTERM, or is the first process of another pid
    ///     namespace.
    ///   - The worker runs. For example, it is not suspended.
    ///   - The worker does not ignore SIGTERM.
    ///
    /// ```
    /// # if cfg!(target_os = "linux") {
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let holders = portlease::who_holds(&p)?;
    /// let listener = holders.iter().find(|holder| holder.is_server()).unwrap();
    /// assert_eq!(listener.remedies(), [portlease::Remedy::CloseOwnSocket]);
    /// # drop(server);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn remedies(&self) -> Vec<Remedy> {
        for_holder(self, self.local.port())
    }
}

pub(super) fn for_holder(holder: &Holder, port: u16) -> Vec<Remedy> {
    if holder.processes.is_empty() {
        return if holder.hidden {
            for_hidden(holder)
        } else {
            vec![Remedy::WaitForKernel]
        };
    }
    // A master is a parent that replaces each worker that ends. So the master must end too,
    // although it owns no socket.
    let mut owners: Vec<&Process> = Vec::new();
    for process in holder.processes.iter().filter_map(Process::master) {
        if owners.iter().all(|other| other.pid != process.pid) {
            owners.push(process);
        }
    }
    owners.extend(&holder.processes);
    let remedy = |process: &&Process| {
        let is_master_of =
            |worker: &&Process| worker.master().is_some_and(|of| of.pid == process.pid);
        let worker = holder.processes.iter().find(is_master_of);
        let name = || process.name.clone();
        let remedy = match (for_process(process, port, holder.protocol), worker) {
            (Some(Remedy::StopProcess { pid }), Some(_)) => {
                Remedy::StopMaster { pid, name: name() }
            }
            // This process is a master: it replaces each worker that ends. It has no remedy of its
            // own, because it is pid 1.
            (None, Some(worker)) => Remedy::StopWatcherFirst {
                pid: worker.pid,
                watcher: process.pid,
                name: name(),
                watcher_sigkill: false,
                sigkill: false,
            },
            (remedy, _) => remedy?,
        };
        Some(thaw(process).into_iter().chain([remedy]))
    };
    // Every process that shares the socket must end. A worker ends with its parent, so it needs no
    // remedy of its own.
    let ends_with = |process: &Process| owners.iter().any(|other| is_worker_of(process, other));
    let heads = owners.iter().filter(|process| !ends_with(process));
    heads.filter_map(remedy).flatten().collect()
}

/// Whether `process` is a worker of `parent` that ends when `parent` ends.
///
/// A child whose program differs from that of its parent is no worker: such a child has only
/// inherited the socket. A worker that does not run, or ignores SIGTERM, can outlive its parent.
fn is_worker_of(process: &Process, parent: &Process) -> bool {
    process.parent == Some(parent.pid)
        && process.state == ProcessState::Running
        && !process.ignores_sigterm
        && ends_its_workers(parent)
        && is_same_program(process, parent)
}

/// Whether the workers of `parent` end if a user sends SIGTERM to `parent`.
///
/// A parent ends its workers in its handler for SIGTERM. A suspended parent cannot run its handler.
/// Without a handler, the parent ends and its workers go on. The first process of a pid namespace
/// needs no handler: when it ends, the kernel ends every other process of the namespace.
fn ends_its_workers(parent: &Process) -> bool {
    // A frozen parent counts as running, because the remedies thaw it before they end it.
    let runs = matches!(parent.state, ProcessState::Running | ProcessState::Frozen);
    parent.is_init_elsewhere || (parent.handles_sigterm && runs)
}

/// Compares the paths of the programs, or the names if neither path can be read.
fn is_same_program(one: &Process, other: &Process) -> bool {
    one.program == other.program && (one.program.is_some() || one.name == other.name)
}

/// The step before the remedy for a frozen process. `None` if the process is not frozen.
fn thaw(process: &Process) -> Option<Remedy> {
    let command = process.thaw.clone()?;
    Some(Remedy::Thaw {
        pid: process.pid,
        command,
    })
}

/// The remedy for a process that owns a socket. `None` if the process is pid 1 and nothing shows
/// how to stop it safely.
pub(super) fn for_process(process: &Process, port: u16, protocol: Protocol) -> Option<Remedy> {
    const INIT: u32 = 1;
    let pid = process.pid;
    let is_other_unit = !process.shares_unit;
    let unit = process.unit.as_ref();
    let unit = unit.filter(|_| is_other_unit && process.in_session_of_unit);
    let unit = unit.filter(|unit| !known_programs::starts_others(unit));
    let container = process.container.as_ref().filter(|_| is_other_unit);
    // If the process is in another systemd unit, the remedy is usually to stop that unit. But if a
    // service manager runs the process, stopping the unit would end the manager's other programs
    // too. So the remedy names the manager. For a process in another container, the code ignores
    // the supervisor, because the supervisor's stop command does not reach into the container.
    let supervisor = process.supervisor.as_ref().filter(|supervisor| {
        let is_manager = matches!(supervisor.kind, SupervisorKind::Manager(_));
        container.is_none() && (unit.is_none() || is_manager)
    });
    let known = known_programs::remedy(process, port, protocol);
    let other_manager = process.user_manager.filter(|_| process.is_other_users);
    let stop_unit = |unit: &String| Remedy::StopUnit {
        unit: unit.clone(),
        user: process.user_manager.is_some(),
        uid: other_manager,
    };
    Some(match process.relation {
        Some(Relation::ThisProcess) => Remedy::CloseOwnSocket,
        // systemd owns the sockets of its socket units. This arm comes before the arm for
        // ancestors, because systemd may be an ancestor of the calling process.
        _ if process.name == "systemd" && !(process.is_init_elsewhere && container.is_some()) => {
            let user = pid != INIT && !process.is_init_elsewhere;
            Remedy::ListSocketUnits {
                user,
                uid: other_manager.filter(|_| user),
            }
        }
        Some(Relation::Ancestor) => Remedy::CloseSocketOfAncestor { pid },
        _ => match (known, supervisor, process.state, container, unit) {
            (Some(remedy), ..) => remedy,
            (_, Some(supervisor), ..) => for_supervised(process, supervisor),
            (_, _, ProcessState::Suspended, ..) if pid != INIT => Remedy::ResumeOrKill { pid },
            (_, _, ProcessState::Traced, ..) if pid != INIT => {
                Remedy::KillProcess { pid, traced: true }
            }
            (_, _, ProcessState::DumpingCore, ..) => Remedy::WaitForCoreDump { pid },
            (.., Some(id), _) => match &process.container_unit {
                Some(unit) => stop_unit(unit),
                None => Remedy::StopContainer {
                    id: id.clone(),
                    manager: process.manager,
                },
            },
            (.., Some(unit)) => stop_unit(unit),
            // Pid 1 is the first process of the system or container. If pid 1 ends, the system or
            // container ends too.
            _ if pid == INIT || known_programs::is_windows_kernel(process) => return None,
            _ => end(process),
        },
    })
}

fn end(process: &Process) -> Remedy {
    let pid = process.pid;
    if process.ignores_sigterm {
        Remedy::KillProcess { pid, traced: false }
    } else if known_programs::is_ended_by_sigint(&process.name) {
        Remedy::InterruptProcess { pid }
    } else {
        Remedy::StopProcess { pid }
    }
}

fn for_supervised(process: &Process, supervisor: &Supervisor) -> Remedy {
    let pid = process.pid;
    let name = supervisor.name.clone();
    let sigkill = process.needs_sigkill();
    match &supervisor.kind {
        SupervisorKind::Manager(command) => Remedy::StopBySupervisor {
            pid,
            supervisor: supervisor.pid,
            name,
            command: command.clone(),
            may_remain: supervisor.pid != pid && (sigkill || !supervisor.is_parent),
            sigkill,
        },
        SupervisorKind::Watcher => Remedy::StopWatcherFirst {
            pid,
            watcher: supervisor.pid,
            name,
            watcher_sigkill: supervisor.sigkill,
            sigkill,
        },
        SupervisorKind::Loop => Remedy::StopProcessOfScript {
            pid,
            shell: supervisor.pid,
            name,
            shell_sigkill: supervisor.sigkill,
            sigkill,
        },
    }
}

/// How to find the owner of a socket if no owner is visible.
pub(super) fn for_hidden(holder: &Holder) -> Vec<Remedy> {
    let receivers = holder.unseen_owner.in_flight.iter();
    let receive = receivers.map(|pid| Remedy::ReceiveOrStop { pid: *pid });
    let find = match &holder.unseen_owner {
        UnseenOwner {
            lacks_proc: true, ..
        } => vec![Remedy::MountProc],
        UnseenOwner {
            is_denied: true,
            as_root: false,
            ..
        } => vec![Remedy::InspectWithPermission],
        UnseenOwner {
            is_outside: true, ..
        }
        | UnseenOwner {
            is_denied: true, ..
        } => vec![Remedy::InspectFromHost, Remedy::FindKernelSocket],
        _ => vec![Remedy::FindKernelSocket],
    };
    receive.chain(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::test_holders::process;

    fn supervised(kind: SupervisorKind) -> Process {
        Process {
            supervisor: Some(Supervisor {
                pid: 4200,
                name: "supervisor".to_owned(),
                kind,
                is_parent: true,
                sigkill: false,
            }),
            unit: Some("supervisor.service".to_owned()),
            ..process(4242, "server")
        }
    }

    fn kind_of(process: &Process) -> &'static str {
        match for_process(process, 60315, Protocol::Tcp) {
            Some(Remedy::StopBySupervisor { .. }) => "supervisor",
            Some(Remedy::StopUnit { .. }) => "unit",
            Some(Remedy::StopContainer { .. }) => "container",
            Some(Remedy::ResumeOrKill { .. }) => "resume",
            other => panic!("{other:?}"),
        }
    }

    /// If the unit of a service manager is stopped, other programs of the manager may end too. A
    /// file watcher runs only one command, so its unit can be stopped.
    #[test]
    fn a_service_manager_is_named_instead_of_the_unit_that_it_runs_in() {
        let by_manager = supervised(SupervisorKind::Manager(None));
        assert_eq!(kind_of(&by_manager), "supervisor");
        assert_eq!(kind_of(&supervised(SupervisorKind::Watcher)), "unit");
        let in_container = Process {
            container: Some("3f1c9a0b7d5e".to_owned()),
            ..by_manager
        };
        assert_eq!(kind_of(&in_container), "container");
        let of_service = Process {
            container_unit: Some("web.service".to_owned()),
            ..in_container
        };
        assert_eq!(kind_of(&of_service), "unit");
    }

    #[test]
    fn the_unit_of_another_user_is_stopped_as_that_user() {
        let of_user = |is_other_users| Process {
            unit: Some("vite.service".to_owned()),
            user_manager: Some(1000),
            is_other_users,
            ..process(4242, "node")
        };
        for (is_other_users, expected) in [(true, Some(1000)), (false, None)] {
            let remedy = for_process(&of_user(is_other_users), 60315, Protocol::Tcp);
            let Some(Remedy::StopUnit { user, uid, .. }) = remedy else {
                panic!("{remedy:?}");
            };
            assert_eq!((user, uid), (true, expected));
        }
    }

    /// If a suspended process is killed, its supervisor may start it again.
    #[test]
    fn the_supervisor_of_a_suspended_process_is_named() {
        let mut process = supervised(SupervisorKind::Manager(None));
        process.state = ProcessState::Suspended;
        let Some(Remedy::StopBySupervisor {
            may_remain,
            sigkill,
            ..
        }) = for_process(&process, 60315, Protocol::Tcp)
        else {
            panic!("another remedy");
        };
        assert!(may_remain && sigkill);
        process.supervisor = None;
        assert_eq!(kind_of(&process), "resume");
    }
}
