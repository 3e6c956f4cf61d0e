//! The remedies if the expected listener is missing, or if another process listens beside it.

use super::holder::{for_hidden, for_holder};
use crate::link_local;
use crate::localhost::one_address;
use crate::model::diagnosis::report::Report;
use crate::model::diagnosis::verdict::Verdict;
use crate::model::endpoint::{Endpoint, Protocol};
use crate::model::holder::Holder;
use crate::model::process::{Halt, Process, Relation};
use crate::model::remedy::Remedy;
use crate::model::state::State;

/// The remedies if nothing listens on the endpoint, if the expected process does not listen on it,
/// or if an unrelated process (a stranger) listens on it too.
pub(super) fn for_missing_listener(report: &Report, endpoint: Endpoint) -> Vec<Remedy> {
    let facts = &report.facts;
    if let (Some(Some(instead_of)), Some(pid)) = (facts.expected, facts.process_of_thread) {
        return vec![Remedy::ExpectProcess { pid, instead_of }];
    }
    // The call has ended the expected process, so the process can be neither resumed nor inspected.
    // If the cause was a terminal as the stdin of the process, the caller can remove that cause
    // before the next start.
    if facts.is_over && facts.stranger.is_none() {
        match &facts.halted {
            Some((_, Halt::SuspendedInBackground)) => return vec![Remedy::StartWithoutTerminal],
            None if facts.in_other_network.is_none() => {}
            _ => return Vec::new(),
        }
    }
    if let (None, Some(pid)) = (&facts.halted, facts.in_other_network) {
        return vec![Remedy::InspectInNetworkNamespace { pid }];
    }
    if facts.redirected.is_some() {
        return vec![Remedy::ListPacketFilter];
    }
    if facts.lacks_address {
        let other = facts.elsewhere.first().filter(|other| !other.is_past);
        let other = other.map(|other| Remedy::UseListenersAddress { addr: other.local });
        return other.into_iter().chain([Remedy::UseLocalAddress]).collect();
    }
    if let Some(stranger) = &facts.stranger {
        return beside_stranger(report, stranger, endpoint);
    }
    // A halted process cannot start its server, so the process must be resumed first.
    if let Some((pid, halt)) = &facts.halted {
        return for_halted(*pid, halt);
    }
    let reserve = (report.has_claim() && !has_bound_over_claim(report))
        .then_some(Remedy::ReserveForPlainServer);
    let pid = |holder: &Holder| holder.processes.first().map(|process| process.pid);
    if let Some(pid) = facts.instead.first().and_then(pid) {
        return [check_command(report, pid)]
            .into_iter()
            .chain(reserve)
            .collect();
    }
    if let (Some(other), []) = (&facts.other_protocol, facts.elsewhere.as_slice()) {
        return for_other_protocol(report, other, endpoint);
    }
    if let Some(other) = facts.elsewhere.first()
        && let Some(remedies) = for_listener_elsewhere(other, endpoint)
    {
        return remedies;
    }
    if let Some(hidden) = report.sockets().find(|holder| holder.hidden) {
        return for_hidden(hidden);
    }
    match (&facts.verdict, facts.expected) {
        // A caller that names its own process needs no advice to check a command: it knows which
        // server it starts, and sees the errors of that server.
        (_, Some(Some(pid))) if pid == std::process::id() => start_first(endpoint),
        (Verdict::NotHeldBy(_), Some(None)) => start_first(endpoint),
        (_, Some(running)) => {
            let daemon = facts.daemons.first().map(|_| Remedy::StartInForeground);
            let check = running.map(|pid| check_command(report, pid));
            daemon.into_iter().chain(check).chain(reserve).collect()
        }
        _ => start_first(endpoint),
    }
}

/// The remedies if an unrelated process listens on the endpoint. `stranger` is its listener.
fn beside_stranger(report: &Report, stranger: &Holder, endpoint: Endpoint) -> Vec<Remedy> {
    let facts = &report.facts;
    let is_running = !facts.is_over;
    // The expected process listens on the same number, but not on the address of the unrelated
    // process.
    let own = facts.elsewhere.first();
    let own = own.filter(|own| own.interface.is_none() && !own.is_past);
    let own = own.map(|own| Remedy::UseListenersAddress { addr: own.local });
    let expect = |(pid, instead_of)| Remedy::ExpectProcess { pid, instead_of };
    let meant = facts.probably_meant.filter(|_| is_running).map(expect);
    // Once the expected process has ended, its relation to the listener cannot be read. So the
    // listener may belong to an unrelated process.
    let has_ended = facts.expected == Some(None);
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
        if let Some(instead_of) = facts.expected.flatten()
            && is_running
            && for_stranger.iter().any(is_of_container)
        {
            remedies.push(Remedy::ExpectAnyListener { instead_of });
        }
        remedies.extend(for_stranger);
    }
    remedies.push(Remedy::ReserveAnotherPort { endpoint });
    remedies
}

/// The remedies if the expected process does not run because of `halt`.
fn for_halted(pid: u32, halt: &Halt) -> Vec<Remedy> {
    let resume = |traced, in_background| Remedy::Resume {
        pid,
        traced,
        in_background,
    };
    match halt {
        Halt::Suspended => vec![resume(false, false)],
        Halt::SuspendedInBackground => vec![resume(false, true), Remedy::StartWithoutTerminal],
        Halt::Traced => vec![resume(true, false)],
        Halt::Frozen(command) => vec![Remedy::Thaw {
            pid,
            command: command.clone(),
        }],
    }
}

/// The remedies if a server has the number, but only with another protocol.
fn for_other_protocol(report: &Report, other: &Holder, endpoint: Endpoint) -> Vec<Remedy> {
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
        _ if report.facts.is_over => remedies.push(Remedy::CheckSpawnedCommand),
        Some(pid) => remedies.push(Remedy::CheckCommand { pid }),
        None => remedies.extend(start_first(endpoint)),
    }
    remedies
}

/// The remedies if a server listens on the number, but not for the clients of the endpoint. `None`
/// if the endpoint names no address and the server accepts connections from every interface.
fn for_listener_elsewhere(other: &Holder, endpoint: Endpoint) -> Option<Vec<Remedy>> {
    if let Some(interface) = &other.interface {
        return Some(vec![Remedy::ListenOnEveryInterface {
            interface: interface.clone(),
        }]);
    }
    let (ip, scope_id) = endpoint.ip.map(link_local::without_scope)?;
    let connect = Remedy::UseListenersAddress { addr: other.local };
    let listen = Remedy::ListenOn {
        ip: one_address(ip),
        scope_id,
    };
    Some(match other.is_past {
        true => vec![listen],
        false => vec![connect, listen],
    })
}

fn check_command(report: &Report, pid: u32) -> Remedy {
    match report.facts.is_over {
        true => Remedy::CheckSpawnedCommand,
        false => Remedy::CheckCommand { pid },
    }
}

fn start_first(endpoint: Endpoint) -> Vec<Remedy> {
    vec![Remedy::StartServer, Remedy::WaitUntilListening { endpoint }]
}

/// Whether the expected process, or a descendant of the calling process, has bound a TCP socket on
/// the port. If so, the claim (this crate's bound socket) did not keep the server off the port.
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
