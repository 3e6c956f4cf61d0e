//! Which remedies follow from the verdict and the facts of a report.

use super::Facts;
use super::known_programs;
use super::report::Report;
use super::verdict::{Cause, Verdict};
use crate::link_local;
use crate::localhost::one_address;
use crate::model::endpoint::{Endpoint, Protocol};
use crate::model::holder::{Holder, UnseenOwner};
use crate::model::lease_info::Lease;
use crate::model::process::{Halt, Process, ProcessState, Relation, Supervisor, SupervisorKind};
use crate::model::remedy::Remedy;
use crate::model::state::State;

impl Holder {
    /// How to remove this socket: usually one remedy for each process that must end or close the
    /// socket. A frozen process has two: the first one thaws it. If the owner is
    /// [hidden](Holder::hidden), the remedies say how to find it. If no process owns the socket,
    /// the remedy is to wait until the kernel has closed it.
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

pub(super) fn remedies(report: &Report) -> Vec<Remedy> {
    let endpoint = report.facts.endpoint;
    let mut remedies = match (&report.facts.verdict, endpoint) {
        (Verdict::Free, _) => return Vec::new(),
        (Verdict::Invalid(_), _) => return vec![Remedy::NamePort],
        (Verdict::InUse(cause), Some(endpoint)) => {
            // A claim (the bound socket of a reservation) alone blocks only servers without the
            // reuse options.
            let is_claim_alone = *cause == Cause::Holder
                && report.has_claim()
                && report.sockets_besides_claims().next().is_none();
            let cause = match is_claim_alone {
                // For such a server, another port with a claim would not help. So the remedy is to
                // reserve the port without a claim.
                true if report.facts.is_reserved_for_asker => {
                    return vec![Remedy::ReserveForPlainServer];
                }
                true => Cause::Reserved,
                false => *cause,
            };
            let mut remedies = for_cause(report, cause, endpoint);
            // A reservation can fail until the lock folder is corrected, and the cause says how.
            if report.facts.unusable_lock_folder.is_some() {
                remedies.retain(|remedy| !matches!(remedy, Remedy::Queue { .. }));
                return remedies;
            }
            let free = report.facts.free_address;
            remedies.extend(free.map(|addr| Remedy::ListenOnFreeAddress { addr }));
            remedies.push(Remedy::ReserveAnotherPort { endpoint });
            remedies
        }
        (
            Verdict::NotListening | Verdict::NotHeldBy(_) | Verdict::SharedWithStranger(_),
            Some(endpoint),
        ) => for_missing_listener(report, endpoint),
        (Verdict::Unsteady(_), _) => vec![Remedy::ReadServerOutput],
        (Verdict::Leaked, _) => vec![Remedy::StopServersBeforeTestEnds],
        (Verdict::UnrelatedListener | Verdict::RemainingListener, Some(endpoint)) => {
            let listeners = report.sockets_besides_claims().filter(|of| of.is_server());
            let stop = listeners.flat_map(|listener| for_holder(listener, endpoint.port));
            stop.chain([Remedy::ReserveAnotherPort { endpoint }])
                .collect()
        }
        (Verdict::Privileged, Some(endpoint)) => {
            let lower = cfg!(target_os = "linux").then_some(Remedy::LowerUnprivilegedPortStart {
                port: endpoint.port,
            });
            let mut remedies = vec![Remedy::ReserveAnotherPort { endpoint }];
            // In some containers even root lacks the privilege, so root gets no advice to run as
            // root.
            remedies.extend((!report.facts.as_root).then_some(Remedy::RunAsRoot));
            remedies.extend(lower);
            remedies
        }
        (Verdict::NoSuchAddress | Verdict::NoSuchInterface(_), _) => vec![Remedy::UseLocalAddress],
        (Verdict::Forbidden | Verdict::CannotBind(_), Some(endpoint)) => {
            vec![Remedy::ReserveAnotherPort { endpoint }]
        }
        (Verdict::CannotTell { .. }, Some(endpoint))
            if endpoint.protocol == Some(Protocol::UdpLite) =>
        {
            vec![Remedy::AskWhoHolds { endpoint }]
        }
        (
            Verdict::CannotTell {
                is_denied: true, ..
            },
            _,
        ) => with_permission(report),
        (Verdict::CannotTell { .. }, _) => Vec::new(),
        (_, None) => Vec::new(),
    };
    remedies.dedup();
    remedies
}

/// The remedies if nothing listens on the endpoint, if the expected process does not listen on it,
/// or if an unrelated process (a stranger) listens on it too.
fn for_missing_listener(report: &Report, endpoint: Endpoint) -> Vec<Remedy> {
    let Facts {
        stranger,
        elsewhere,
        instead,
        is_over,
        ..
    } = &report.facts;
    if let (Some(Some(instead_of)), Some(pid)) =
        (report.facts.expected, report.facts.process_of_thread)
    {
        return vec![Remedy::ExpectProcess { pid, instead_of }];
    }
    let is_over = *is_over;
    let check = |pid| match is_over {
        true => Remedy::CheckSpawnedCommand,
        false => Remedy::CheckCommand { pid },
    };
    // The program had no chance to start its server, so the remedies below cannot help.
    if is_over && stranger.is_none() {
        match &report.facts.halted {
            Some((_, Halt::SuspendedInBackground)) => return vec![Remedy::StartWithoutTerminal],
            None if report.facts.in_other_network.is_none() => {}
            _ => return Vec::new(),
        }
    }
    if let (None, Some(pid)) = (&report.facts.halted, report.facts.in_other_network) {
        return vec![Remedy::InspectInNetworkNamespace { pid }];
    }
    if report.facts.redirected.is_some() {
        return vec![Remedy::ListPacketFilter];
    }
    if report.facts.lacks_address {
        let other = elsewhere.first().filter(|other| !other.is_past);
        let other = other.map(|other| Remedy::UseListenersAddress { addr: other.local });
        return other.into_iter().chain([Remedy::UseLocalAddress]).collect();
    }
    let pid = |holder: &Holder| holder.processes.first().map(|process| process.pid);
    if let Some(stranger) = stranger {
        // The expected process listens at this address, and the stranger does not.
        let own = elsewhere.first();
        let own = own.filter(|own| own.interface.is_none() && !own.is_past);
        let own = own.map(|own| Remedy::UseListenersAddress { addr: own.local });
        let expect = |(pid, instead_of)| Remedy::ExpectProcess { pid, instead_of };
        let meant = report.facts.probably_meant.filter(|_| !is_over).map(expect);
        // Once the expected process has ended, its relation to the listener cannot be read. The
        // listener may be a stranger's.
        let has_ended = report.facts.expected == Some(None);
        let is_stranger = meant.is_none() || has_ended;
        let mut remedies: Vec<Remedy> = own.into_iter().chain(meant).collect();
        if is_stranger {
            let for_stranger = for_holder(stranger, endpoint.port);
            let is_of_container = |remedy: &Remedy| {
                matches!(
                    remedy,
                    Remedy::StopPublishingContainer { .. } | Remedy::StopContainer { .. }
                )
            };
            if let (Some(Some(pid)), false, true) = (
                report.facts.expected,
                is_over,
                for_stranger.iter().any(is_of_container),
            ) {
                remedies.push(Remedy::ExpectAnyListener { instead_of: pid });
            }
            remedies.extend(for_stranger);
        }
        remedies.push(Remedy::ReserveAnotherPort { endpoint });
        return remedies;
    }
    // A process that does not run starts no server, so the remedies below cannot help.
    if let Some((pid, halt)) = &report.facts.halted {
        let pid = *pid;
        let resume = |traced, in_background| Remedy::Resume {
            pid,
            traced,
            in_background,
        };
        return match halt {
            Halt::Suspended => vec![resume(false, false)],
            Halt::SuspendedInBackground => vec![resume(false, true), Remedy::StartWithoutTerminal],
            Halt::Traced => vec![resume(true, false)],
            Halt::Frozen(command) => vec![Remedy::Thaw {
                pid,
                command: command.clone(),
            }],
        };
    }
    let reserve = (report.has_claim() && !has_bound_over_claim(report))
        .then_some(Remedy::ReserveForPlainServer);
    if let Some(pid) = instead.first().and_then(pid) {
        return [check(pid)].into_iter().chain(reserve).collect();
    }
    if let (Some(other), []) = (&report.facts.other_protocol, elsewhere.as_slice()) {
        let mut remedies = Vec::new();
        if !other.is_past {
            remedies.push(Remedy::NameOtherProtocol {
                endpoint: Endpoint {
                    protocol: Some(other.protocol),
                    ..endpoint
                },
            });
        }
        match report.facts.expected.flatten() {
            _ if is_over => remedies.push(Remedy::CheckSpawnedCommand),
            Some(pid) => remedies.push(Remedy::CheckCommand { pid }),
            None => remedies.extend(start_first(endpoint)),
        }
        return remedies;
    }
    match (
        elsewhere.first(),
        endpoint.ip.map(link_local::without_scope),
    ) {
        (
            Some(Holder {
                interface: Some(interface),
                ..
            }),
            _,
        ) => vec![Remedy::ListenOnEveryInterface {
            interface: interface.clone(),
        }],
        (Some(other), Some((ip, scope_id))) => {
            let connect = Remedy::UseListenersAddress { addr: other.local };
            let listen = Remedy::ListenOn {
                ip: one_address(ip),
                scope_id,
            };
            match other.is_past {
                true => vec![listen],
                false => vec![connect, listen],
            }
        }
        _ if report.sockets().any(|holder| holder.hidden) => {
            let mut hidden = report.sockets().filter(|holder| holder.hidden);
            hidden.next().map(for_hidden).unwrap_or_default()
        }
        _ => match (&report.facts.verdict, report.facts.expected) {
            // A caller that expects itself knows which server it starts, and sees its errors.
            (_, Some(Some(pid))) if pid == std::process::id() => start_first(endpoint),
            (Verdict::NotHeldBy(_), Some(None)) => start_first(endpoint),
            (_, Some(running)) => {
                let daemon = report.facts.daemon.iter();
                let daemon = daemon.map(|_| Remedy::StartInForeground);
                daemon.chain(running.map(check)).chain(reserve).collect()
            }
            _ => start_first(endpoint),
        },
    }
}

/// Whether the expected process, or a descendant of the calling process, has bound a TCP socket on
/// the port. The claim (this crate's bound socket) then did not refuse the server.
fn has_bound_over_claim(report: &Report) -> bool {
    let expected = report.facts.expected.flatten();
    let is_expected = |process: &Process| {
        Some(process.pid) == expected || process.relation == Some(Relation::Descendant)
    };
    report.sockets_besides_claims().any(|socket| {
        socket.state == State::Bound
            && socket.protocol == Protocol::Tcp
            && socket.processes.iter().any(is_expected)
    })
}

fn start_first(endpoint: Endpoint) -> Vec<Remedy> {
    vec![Remedy::StartServer, Remedy::WaitUntilListening { endpoint }]
}

fn for_cause(report: &Report, cause: Cause, endpoint: Endpoint) -> Vec<Remedy> {
    match cause {
        Cause::Holder => for_holders(report, endpoint.port),
        Cause::UnseenClaim => vec![Remedy::Queue {
            endpoint,
            pid: None,
        }],
        Cause::Reserved | Cause::Named => {
            // An heir holds the port although the process that reserved the port has ended or
            // released the port. The heir is usually a forked child that never calls exec, and
            // keeps the port until it exits. A call that waits for the port could wait forever, so
            // the remedy is to stop the heir and not to wait.
            let forked = report.facts.reserved_by.first();
            let forked = forked.filter(|process| process.forked);
            let heir = report.leases().first().and_then(Lease::heir).or(forked);
            let protocol = endpoint.protocol.unwrap_or(Protocol::Tcp);
            let remedy = heir.and_then(|heir| for_process(heir, endpoint.port, protocol));
            vec![remedy.unwrap_or_else(|| for_reservation(report, endpoint))]
        }
        Cause::TimeWait | Cause::TimeWaitWithoutReuseAddr => vec![Remedy::WaitForTimeWait],
        Cause::Excluded => vec![Remedy::ShowExcludedRanges],
        Cause::Unexplained => with_permission(report),
        Cause::Gone => Vec::new(),
    }
}

/// The remedy for a reservation, if stopping an heir (a process that has inherited it) is no
/// remedy. If the reservation is for the caller or for an ancestor, the remedy is to use the port.
/// Otherwise the remedy is to queue for the port.
fn for_reservation(report: &Report, endpoint: Endpoint) -> Remedy {
    // No visible lock file records the reservation, but an ancestor of the calling process has it.
    let is_ancestor = |process: &&Process| process.relation == Some(Relation::Ancestor);
    if let Some(process) = report.facts.reserved_by.iter().find(is_ancestor) {
        return Remedy::UseOwnReservation {
            endpoint,
            pid: Some(process.pid),
            on_behalf_of: None,
        };
    }
    let lease = report.leases().first();
    if !report.facts.is_reserved_for_asker {
        let pid = lease.filter(|lease| !lease.is_foreign());
        let pid = pid.and_then(Lease::pid);
        return Remedy::Queue { endpoint, pid };
    }
    Remedy::UseOwnReservation {
        endpoint,
        pid: lease
            .and_then(Lease::pid)
            .filter(|pid| *pid != std::process::id()),
        on_behalf_of: lease.and_then(Lease::on_behalf_of),
    }
}

/// The remedies for the sockets that keep the port in use.
fn for_holders(report: &Report, port: u16) -> Vec<Remedy> {
    let is_server = |holder: &&Holder| matches!(holder.state, State::Listen | State::Bound);
    let sockets: Vec<&Holder> = report.sockets_besides_claims().collect();
    let mut servers: Vec<&Holder> = sockets.iter().copied().filter(is_server).collect();
    servers.sort_by_key(|holder| holder.hidden);
    // The connections of a server usually end with the server, so they need no remedy. If there is
    // no server, the remedies are for the first socket only.
    let blocking = if servers.is_empty() {
        sockets.into_iter().take(1).collect()
    } else {
        servers
    };
    let mut remedies: Vec<Remedy> = Vec::new();
    for remedy in blocking.iter().flat_map(|holder| for_holder(holder, port)) {
        if !remedies.contains(&remedy) && remedies.len() < MAX_REMEDIES {
            remedies.push(remedy);
        }
    }
    let number = report.facts.number.as_ref();
    if cfg!(target_os = "linux")
        && blocking.iter().any(|holder| holder.client)
        && let Some(number) = number.filter(|number| number.is_assigned_by_the_kernel())
    {
        remedies.push(Remedy::ReserveInSysctl {
            port,
            ports: number.withheld_with_this(),
        });
    }
    remedies
}

/// The maximum number of remedies for the holders of one port. The limit is high, because every
/// holder must end before the port is free.
const MAX_REMEDIES: usize = 64;

fn for_holder(holder: &Holder, port: u16) -> Vec<Remedy> {
    if holder.processes.is_empty() {
        return if holder.hidden {
            for_hidden(holder)
        } else {
            vec![Remedy::WaitForKernel]
        };
    }
    // The masters own no socket, but each of them replaces a worker that ends.
    let mut owners: Vec<&Process> = Vec::new();
    for process in holder.processes.iter().filter_map(Process::master) {
        if owners.iter().all(|other| other.pid != process.pid) {
            owners.push(process);
        }
    }
    owners.extend(&holder.processes);
    // A server usually ends its workers, so they need no remedy. Every other process that shares
    // the socket must be stopped too.
    let is_worker = |process: &Process| {
        // A parent ends its workers in its handler for SIGTERM. Without a handler, the parent ends
        // and the workers go on. A stopped parent cannot run its handler. Exception: if the parent
        // is the first process of another pid namespace, the kernel ends the workers.
        let ends_workers = |other: &Process| {
            // A frozen parent counts as running, because the remedies thaw it before they end it.
            let runs = matches!(other.state, ProcessState::Running | ProcessState::Frozen);
            let handles = other.handles_sigterm && runs;
            handles || other.is_init_elsewhere
        };
        // A child that runs another program has inherited the socket, and is no worker.
        let is_parent = |other: &Process| {
            process.parent == Some(other.pid)
                && ends_workers(other)
                && is_same_program(process, other)
        };
        // A worker that does not run, or ignores SIGTERM, can outlive its parent.
        let can_end = process.state == ProcessState::Running && !process.ignores_sigterm;
        can_end && owners.iter().any(|other| is_parent(other))
    };
    let remedy = |process: &&Process| {
        let is_master_of =
            |worker: &&Process| worker.master().is_some_and(|of| of.pid == process.pid);
        let worker = holder.processes.iter().find(is_master_of);
        let name = || process.name.clone();
        let remedy = match (for_process(process, port, holder.protocol), worker) {
            (Some(Remedy::StopProcess { pid }), Some(_)) => {
                Remedy::StopMaster { pid, name: name() }
            }
            // The master is pid 1.
            (None, Some(worker)) => Remedy::StopWatcherFirst {
                pid: worker.pid,
                watcher: process.pid,
                name: name(),
                sigkill: false,
            },
            (remedy, _) => remedy?,
        };
        Some(thaw(process).into_iter().chain([remedy]))
    };
    let heads = owners.iter().filter(|process| !is_worker(process));
    heads.filter_map(remedy).flatten().collect()
}

/// If neither program can be read, the names decide.
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
fn for_process(process: &Process, port: u16, protocol: Protocol) -> Option<Remedy> {
    const INIT: u32 = 1;
    let pid = process.pid;
    let is_other_unit = !process.shares_unit;
    let unit = process.unit.as_ref();
    let unit = unit.filter(|_| is_other_unit && process.in_session_of_unit);
    let unit = unit.filter(|unit| !known_programs::starts_others(unit));
    let container = process.container.as_ref().filter(|_| is_other_unit);
    // If the process is in another systemd unit, the remedy is usually to stop that unit. But if a
    // service manager runs the process, stopping the unit would end the manager's other programs
    // too. So the remedy names the manager. For a process in another container no supervisor
    // counts, because the supervisor's stop command does not reach into the container.
    let supervisor = process.supervisor.as_ref().filter(|supervisor| {
        let is_manager = matches!(supervisor.kind, SupervisorKind::Manager(_));
        container.is_none() && (unit.is_none() || is_manager)
    });
    let known = known_programs::remedy(process, port, protocol);
    Some(match process.relation {
        Some(Relation::ThisProcess) => Remedy::CloseOwnSocket,
        // systemd owns the sockets of its socket units. This arm comes before the arm for
        // ancestors, because systemd may be an ancestor of the calling process.
        _ if process.name == "systemd" && !(process.is_init_elsewhere && container.is_some()) => {
            Remedy::ListSocketUnits {
                user: pid != INIT && !process.is_init_elsewhere,
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
            (.., Some(id), _) => Remedy::StopContainer {
                id: id.clone(),
                manager: process.manager,
            },
            (.., Some(unit)) => Remedy::StopUnit {
                unit: unit.clone(),
                user: process.user_unit,
            },
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
    let is_stopped = matches!(
        process.state,
        ProcessState::Suspended | ProcessState::Traced
    );
    let sigkill = process.ignores_sigterm || is_stopped;
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
            sigkill,
        },
        SupervisorKind::Loop => Remedy::StopProcessOfScript {
            pid,
            shell: supervisor.pid,
            name,
            sigkill,
        },
    }
}

/// How to find the owner of a socket if no owner is visible.
fn for_hidden(holder: &Holder) -> Vec<Remedy> {
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

/// The remedy to retry with more permission. Empty for root, because no user has more permission.
fn with_permission(report: &Report) -> Vec<Remedy> {
    if report.facts.as_root {
        Vec::new()
    } else {
        vec![Remedy::InspectWithPermission]
    }
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
