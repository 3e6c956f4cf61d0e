//! `portlease release`: releases ports that a keeper (started by `portlease reserve`) holds.

use portlease::{Endpoint, Lease, reservations};
use serde::Serialize;

use crate::args::ReleaseArgs;
use crate::exit;
use crate::failure::Failure;
use crate::keeper::release::request_release;
use crate::output::console::Console;
use crate::output::json::JSON_VERSION;
use crate::ports::PortList;

#[derive(Debug, Serialize)]
struct Answer {
    version: u8,
    released: Vec<String>,
    not_held: Vec<String>,
}

pub(crate) fn release(console: &Console, args: &ReleaseArgs) -> Result<u8, Failure> {
    let outcome = reservations();
    let known = outcome.as_deref().unwrap_or_default();
    let mut answer = Answer {
        version: JSON_VERSION,
        released: Vec::new(),
        not_held: Vec::new(),
    };
    for endpoint in PortList::endpoints(&args.ports) {
        let matches = |lease: &&Lease| {
            lease.port() == endpoint.port
                && endpoint
                    .protocol
                    .is_none_or(|protocol| protocol == lease.protocol())
        };
        let leases: Vec<&Lease> = known.iter().filter(matches).collect();
        let released = release_port(endpoint, &leases)?;
        if !released.is_empty() {
            let all: Vec<String> = released.iter().map(Endpoint::to_string).collect();
            // A reservation for TCP and UDP ends as a whole, so a release of one port also releases
            // the other port.
            if endpoint.protocol.is_some() && all.len() > 1 {
                if !console.is_json() {
                    let all = all.join(" and ");
                    console.note(format_args!("released {all}, which were reserved together"));
                }
                answer.released.extend(all);
            } else {
                console.detail(format_args!("released port {endpoint}"));
                answer.released.push(endpoint.to_string());
            }
            continue;
        }
        if let Err(error) = outcome {
            return Err(error.into());
        }
        if !console.is_json() {
            console.report(match leases.first() {
                Some(lease) => format!(
                    "port {endpoint} cannot be released: this user did not reserve it with \
                     `portlease reserve`, or a port server holds it: {lease}"
                ),
                None => format!("no reservation of port {endpoint} was found"),
            })?;
        }
        answer.not_held.push(endpoint.to_string());
    }
    let code = if answer.not_held.is_empty() {
        exit::YES
    } else {
        exit::NO
    };
    if console.is_json() {
        console.print_json(&answer)?;
    }
    Ok(code)
}

/// Asks the processes that reserved the port to release it. Only a keeper (a process of `reserve`)
/// answers. On Linux, [`request_release`] also asks each keeper that holds ports without a lock
/// file. Returns the released endpoints.
fn release_port(endpoint: Endpoint, leases: &[&Lease]) -> Result<Vec<Endpoint>, Failure> {
    let pids: Vec<u32> = leases.iter().filter_map(|lease| lease.pid()).collect();
    request_release(&pids, endpoint)
}
