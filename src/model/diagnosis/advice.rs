//! Which remedies follow from the verdict and the facts of a report.

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
        (Verdict::NotListening, Some(endpoint)) => start_first(endpoint),
        (Verdict::NotHeldBy(pid), Some(endpoint)) => {
            if report.sockets().any(|holder| holder.hidden) {
                vec![Remedy::InspectWithPermission]
            } else if report
                .sockets_besides_claims()
                .any(|holder| !holder.processes.is_empty())
            {
                vec![Remedy::CheckCommand { pid: *pid }]
            } else {
                start_first(endpoint)
            }
        }
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
