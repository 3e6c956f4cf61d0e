//! Which remedies follow from the verdict and the facts of a report.

use super::Facts;
use super::report::Report;
use super::verdict::{Cause, Verdict};
use crate::model::endpoint::{Endpoint, Protocol};
use crate::model::holder::Holder;
use crate::model::lease_info::Lease;
use crate::model::remedy::Remedy;

pub(super) fn remedies(report: &Report) -> Vec<Remedy> {
    let endpoint = report.facts.endpoint;
    let mut remedies = match (&report.facts.verdict, endpoint) {
        (Verdict::Free, _) => return Vec::new(),
        (Verdict::Invalid(_), _) => return vec![Remedy::NamePort],
        (Verdict::InUse(cause), Some(endpoint)) => {
            let mut remedies = for_cause(report, *cause, endpoint);
            remedies.push(Remedy::ReserveAnotherPort { endpoint });
            remedies
        }
        (
            Verdict::NotListening | Verdict::NotHeldBy(_) | Verdict::SharedWithStranger(_),
            Some(endpoint),
        ) => for_missing_listener(report, endpoint),
        (Verdict::Leaked, _) => vec![Remedy::StopServersBeforeTestEnds],
        (Verdict::Privileged, Some(endpoint)) => vec![
            Remedy::ReserveAnotherPort { endpoint },
            Remedy::RunAsRoot,
            Remedy::LowerUnprivilegedPortStart {
                port: endpoint.port,
            },
        ],
        (Verdict::NoSuchAddress, _) => vec![Remedy::UseLocalAddress],
        (Verdict::Forbidden | Verdict::CannotBind(_), Some(endpoint)) => {
            vec![Remedy::ReserveAnotherPort { endpoint }]
        }
        (Verdict::CannotTell(_), Some(endpoint))
            if endpoint.protocol == Some(Protocol::UdpLite) =>
        {
            vec![Remedy::AskWhoHolds { endpoint }]
        }
        (Verdict::CannotTell(_), _) => vec![Remedy::InspectWithPermission],
        (_, None) => Vec::new(),
    };
    remedies.dedup();
    remedies
}

/// The expected process, or any, does not listen on the endpoint.
fn for_missing_listener(report: &Report, endpoint: Endpoint) -> Vec<Remedy> {
    let Facts {
        stranger,
        elsewhere,
        instead,
        ..
    } = &report.facts;
    let pid = |holder: &Holder| holder.processes.first().map(|process| process.pid);
    if let Some(stranger) = stranger {
        return vec![
            for_holder(stranger, endpoint.port),
            Remedy::ReserveAnotherPort { endpoint },
        ];
    }
    if let Some(pid) = instead.first().and_then(pid) {
        return vec![Remedy::CheckCommand { pid }];
    }
    match (elsewhere.first(), endpoint.ip) {
        (Some(other), Some(ip)) => vec![
            Remedy::UseListenersAddress { addr: other.local },
            Remedy::ListenOn { ip },
        ],
        _ if report.sockets().any(|holder| holder.hidden) => vec![Remedy::InspectWithPermission],
        _ => match (&report.facts.verdict, report.facts.expected) {
            (Verdict::NotListening, Some(running)) => {
                let check = running.map(|pid| Remedy::CheckCommand { pid });
                let reserve = report.has_claim().then_some(Remedy::ReserveForPlainServer);
                check.into_iter().chain(reserve).collect()
            }
            _ => start_first(endpoint),
        },
    }
}

fn start_first(endpoint: Endpoint) -> Vec<Remedy> {
    vec![Remedy::StartServer, Remedy::WaitUntilListening { endpoint }]
}

fn for_cause(report: &Report, cause: Cause, endpoint: Endpoint) -> Vec<Remedy> {
    match cause {
        // The sockets are sorted, the most important first.
        Cause::Holder => report
            .sockets_besides_claims()
            .next()
            .map(|holder| for_holder(holder, endpoint.port))
            .into_iter()
            .collect(),
        Cause::Reserved | Cause::Named => {
            // A queue could wait forever for a forked child: without exec, the child keeps the port
            // until it exits.
            let heir = report.leases().first().and_then(Lease::heir);
            vec![
                heir.map_or(Remedy::Queue { endpoint }, |process| Remedy::StopProcess {
                    pid: process.pid,
                }),
            ]
        }
        Cause::TimeWait => vec![Remedy::WaitForTimeWait],
        Cause::Excluded => vec![Remedy::ShowExcludedRanges],
        Cause::Unexplained => vec![Remedy::InspectWithPermission],
    }
}

fn for_holder(holder: &Holder, port: u16) -> Remedy {
    if holder.client {
        return Remedy::ReserveInSysctl { port };
    }
    match holder.processes.first() {
        Some(process) => Remedy::StopProcess { pid: process.pid },
        None if holder.hidden => Remedy::InspectWithPermission,
        None => Remedy::WaitForKernel,
    }
}
