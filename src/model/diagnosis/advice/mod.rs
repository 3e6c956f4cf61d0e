//! Which remedies follow from the verdict and the facts of a report.

use super::known_programs;
use super::report::Report;
use super::verdict::{Cause, Verdict};
use crate::model::endpoint::{Endpoint, Protocol};
use crate::model::holder::Holder;
use crate::model::lease_info::Lease;
use crate::model::process::{Process, Relation};
use crate::model::remedy::Remedy;
use crate::model::state::State;

mod holder;
mod missing_listener;

use holder::{for_holder, for_process};
use missing_listener::for_missing_listener;

pub(super) fn remedies(report: &Report) -> Vec<Remedy> {
    let endpoint = report.facts.endpoint;
    let mut remedies = match (&report.facts.verdict, endpoint) {
        (Verdict::Free, _) => return Vec::new(),
        (Verdict::Invalid(_), _) => return vec![Remedy::NamePort],
        (Verdict::InUse(cause), Some(endpoint)) => {
            // If a claim (the bound socket of a reservation) is the only socket on the port, it
            // blocks only servers without the reuse options.
            let is_claim_alone = *cause == Cause::Holder
                && report.has_claim()
                && report.sockets_besides_claims().next().is_none();
            let cause = match is_claim_alone {
                // A server without the reuse options can bind no port that has a claim. So another
                // port with a claim would not help, and the remedy is to reserve without a claim.
                true if report.facts.is_reserved_for_asker => {
                    return vec![Remedy::ReserveForPlainServer];
                }
                true => Cause::Reserved,
                false => *cause,
            };
            let mut remedies = for_cause(report, cause, endpoint);
            // Until the user corrects the lock folder, every new reservation can fail. So no remedy
            // suggests a reservation. The cause in the report says how to correct the folder.
            if report.facts.unusable_lock_folder.is_some() {
                remedies.retain(|remedy| !matches!(remedy, Remedy::Queue { .. }));
                return remedies;
            }
            let free = report.facts.free_address;
            remedies.extend(free.map(|addr| Remedy::ListenOnFreeAddress {
                addr,
                udp: endpoint.protocol == Some(Protocol::Udp),
            }));
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

/// The remedy for a reservation. `for_cause` first checks whether the remedy is to stop a process
/// that has inherited the reservation. If the reservation is for the calling process or for its
/// ancestor, the remedy is to use the port. For any other reservation, the remedy is to queue for
/// the port.
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

/// The remedy to retry with more permission. Empty for root, because no user has more permission.
fn with_permission(report: &Report) -> Vec<Remedy> {
    if report.facts.as_root {
        Vec::new()
    } else {
        vec![Remedy::InspectWithPermission]
    }
}
