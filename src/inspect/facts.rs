//! Gathers the [`Facts`] of a report.

use std::time::SystemTime;

use once_cell::unsync::Lazy;

use super::availability::lacks_address;
use super::ephemeral_usage;
use super::expected::Expected;
use super::inheritance;
use super::sight;
use super::who;
use crate::lease;
use crate::model::diagnosis::Facts;
use crate::model::diagnosis::number::Number;
use crate::model::diagnosis::verdict::{Cause, Verdict};
use crate::model::endpoint::Protocol;
use crate::model::error::Error;
use crate::model::holder::Holder;
use crate::model::holders::Holders;
use crate::model::incompleteness::Incompleteness;
use crate::model::port::Port;
use crate::model::process::Process;
use crate::model::state::State;
use crate::namespace::Memo;
use crate::os_error::is_out_of_descriptors;
use crate::ownership::Asker;
use crate::ports::services::Services;
use crate::ports::{self, EphemeralRange};
use crate::residual;
use crate::sockets::ScanDepth;

pub(super) fn facts(port: Port, verdict: Verdict, depth: ScanDepth) -> Facts {
    let mut each = facts_of_each(vec![(port, verdict)], depth);
    each.pop().expect("one port has one set of facts")
}

pub(super) fn facts_of_each(ports: Vec<(Port, Verdict)>, depth: ScanDepth) -> Vec<Facts> {
    // A check in which every port passes has nothing to report, and reads none of the files below.
    if ports.is_empty() {
        return Vec::new();
    }
    let _memo = Memo::new();
    let endpoints: Vec<_> = ports.iter().map(|(port, _)| port.endpoint()).collect();
    let holders = who::holders_of_each(&endpoints, depth).unwrap_or_else(|error| {
        let without_sockets = |(port, _): &(Port, Verdict)| {
            let unseen = vec![match is_out_of_descriptors(&error) {
                true => Incompleteness::Descriptors(port.protocol),
                false => Incompleteness::Sockets(port.protocol),
            }];
            let leases = inheritance::of_leases(lease::of_number(port.number, &[port.protocol]));
            let protocol = Some(port.protocol);
            Holders::new(port.number, protocol, Vec::new(), leases, unseen)
        };
        ports.iter().map(without_sockets).collect()
    });
    let (range, services) = (EphemeralRange::read().ok(), Services::read());
    let (unprivileged_from, as_root) = (ports::unprivileged_from(), sight::is_root());
    let usage = Lazy::new(|| ephemeral_usage::if_crowded(&[Protocol::Tcp]));
    let silent = ports.iter().filter(|(_, verdict)| lacks_listener(verdict));
    let silent: Vec<Port> = silent.map(|(port, _)| *port).collect();
    let mut unreachable = who::unreachable(&silent).into_iter();
    let facts = |((port, verdict), holders): ((Port, Verdict), Holders)| {
        let verdict = match verdict {
            Verdict::InUse(Cause::Holder) => Verdict::InUse(cause_of(port, &holders)),
            verdict => verdict,
        };
        let elsewhere = if lacks_listener(&verdict) {
            unreachable.next().unwrap_or_default()
        } else {
            Vec::new()
        };
        let lacks_address = lacks_listener(&verdict) && lacks_address(port);
        let reserved_by = match verdict {
            Verdict::InUse(Cause::Named) => unrecorded_reserver(port, &holders),
            _ => Vec::new(),
        };
        let unusable_lock_folder = match verdict {
            Verdict::InUse(Cause::Named | Cause::UnseenClaim) => lease::unusable()
                .map(|folder| Error::lock_folder(&folder.path, folder.cause).to_string()),
            _ => None,
        };
        let is_tcp = port.protocol == Protocol::Tcp;
        let usage = is_tcp.then(|| usage.clone()).flatten();
        let is_in_use = matches!(verdict, Verdict::InUse(_));
        let lease = holders.leases().first();
        let is_reserved_for_asker = is_in_use && Asker::Process.owned(port, lease).is_some();
        Facts {
            endpoint: Some(port.endpoint()),
            verdict,
            lacks_address,
            redirected: None,
            as_root,
            expected: None,
            daemons: Vec::new(),
            is_over: false,
            process_of_thread: None,
            halted: None,
            in_other_network: None,
            stranger: None,
            probably_meant: None,
            elsewhere,
            instead: Vec::new(),
            of_same_reserver: Vec::new(),
            last_listener: None,
            other_protocol: None,
            reserved_by,
            unusable_lock_folder,
            holders: Some(holders.with_ephemeral_usage(usage)),
            number: Some(Number {
                port: port.number,
                service: services.name(port.number, port.protocol),
                withheld: range
                    .as_ref()
                    .map_or_else(Vec::new, EphemeralRange::withheld),
                ephemeral: range.as_ref().map(EphemeralRange::range),
                unprivileged_from,
            }),
            trials: Vec::new(),
            own_claim: None,
            is_reserved_for_asker,
            free_address: None,
            at: SystemTime::now(),
        }
    };
    ports.into_iter().zip(holders).map(facts).collect()
}

/// The cause to report after a check found a holder:
///
/// - [`Cause::Gone`] if the holder has closed its socket since the check.
/// - [`Cause::Named`] if the socket is probably the claim (the bound socket) of a reservation
///   without a record in this process's lock folder.
/// - Otherwise [`Cause::Holder`].
fn cause_of(port: Port, holders: &Holders) -> Cause {
    if holders.is_empty() && holders.is_complete() {
        return Cause::Gone;
    }
    let keeps_port = |holder: &&Holder| matches!(holder.state, State::Listen | State::Bound);
    let sockets: Vec<&Holder> = holders.iter().filter(keeps_port).collect();
    let may_be_unrecorded = holders.leases().is_empty()
        && port.protocol == Protocol::Tcp
        && !sockets.is_empty()
        && sockets.iter().all(|holder| holder.state == State::Bound);
    if !may_be_unrecorded {
        return Cause::Holder;
    }
    if sockets.iter().all(|holder| is_of_command(holder)) {
        return Cause::Named;
    }
    if !residual::is_named(port) {
        return Cause::Holder;
    }
    let owners = inheritance::of_name(port);
    let is_of_owner = |holder: &&Holder| {
        let mut pids = holder.processes.iter().map(|process| process.pid);
        holder.hidden == owners.is_empty()
            && pids.all(|pid| owners.iter().any(|owner| owner.pid == pid))
    };
    match sockets.iter().all(is_of_owner) {
        true => Cause::Named,
        false => Cause::Holder,
    }
}

/// Whether all owners of the bound socket run the command `portlease`. This command keeps a bound
/// TCP socket that does not listen only to reserve a port.
fn is_of_command(holder: &Holder) -> bool {
    let is_command = |process: &Process| process.name == "portlease";
    !holder.processes.is_empty() && holder.processes.iter().all(is_command)
}

/// The processes that hold a reservation of the port, if this process finds no record of the
/// reservation. Usually these processes have the port's abstract Unix socket name. But automatic
/// TCP ports of the ephemeral range have no such name. So if no process has the name, the function
/// returns the processes of the command `portlease` that own a socket on the port.
fn unrecorded_reserver(port: Port, holders: &Holders) -> Vec<Process> {
    let named = inheritance::of_name(port);
    if !named.is_empty() {
        return named;
    }
    let of_command = holders.iter().filter(|holder| is_of_command(holder));
    of_command
        .flat_map(|holder| holder.processes.clone())
        .collect()
}

/// Handles each port without a listener on any address. If a server has the same number of the
/// other protocol (TCP or UDP), the function adds that server to the facts. The caller may have
/// asked for the wrong protocol.
///
/// If `expected` is set, only a server of the expected process counts. `asked` has all ports of the
/// call. If `asked` has the TCP port and the UDP port of a number, the function adds no server for
/// that number, because each port has its own result.
pub(super) fn note_other_protocol(each: &mut [Facts], asked: &[Port], expected: Option<&Expected>) {
    let other_of = |facts: &Facts| -> Option<Port> {
        let has_server = facts.holders.iter().flatten().any(Holder::answers);
        if !lacks_listener(&facts.verdict) || has_server || !facts.elsewhere.is_empty() {
            return None;
        }
        let endpoint = facts.endpoint?;
        let protocol = match endpoint.protocol? {
            Protocol::Tcp => Protocol::Udp,
            Protocol::Udp => Protocol::Tcp,
            Protocol::UdpLite => return None,
        };
        let is_asked = |port: &Port| port.number == endpoint.port && port.protocol == protocol;
        (!asked.iter().any(is_asked)).then(|| Port {
            protocol,
            ..Port::of(endpoint)
        })
    };
    let mut others: Vec<(&mut Facts, Port)> = Vec::new();
    for facts in each {
        if let Some(other) = other_of(facts) {
            others.push((facts, other));
        }
    }
    let ports: Vec<Port> = others.iter().map(|(_, port)| *port).collect();
    // If the table of the other protocol cannot be read, the report omits this hint.
    let found = who::reachable(&ports).unwrap_or_default();
    for ((facts, _), servers) in others.into_iter().zip(found) {
        let mut servers = servers.into_iter();
        facts.other_protocol = servers.find(|socket| {
            socket.is_server() && expected.is_none_or(|expected| expected.has(socket))
        });
    }
}

/// Returns `true` if the verdict says that the expected listener is missing. Another process may
/// listen.
pub(super) fn lacks_listener(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::NotListening | Verdict::NotHeldBy(_))
}
