//! `portlease who`: shows all sockets and reservations on one port.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use portlease::{Endpoint, Holders, Process, Reachability, State, probe, who_holds};
use serde::Serialize;

use crate::args::WhoArgs;
use crate::exit;
use crate::failure::Failure;
use crate::limits::PROBE_TIMEOUT;
use crate::output::console::Console;
use crate::output::json::{HolderRow, JSON_VERSION, LeaseRow};
use crate::text::escape;

#[derive(Debug, Serialize)]
struct Answer {
    version: u8,
    port: u16,
    complete: bool,
    unseen: Vec<String>,
    holders: Vec<HolderRow>,
    leases: Vec<LeaseRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    probe: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    probes: Vec<Probe>,
}

/// The result of one connection.
#[derive(Debug, Serialize)]
struct Probe {
    address: String,
    result: &'static str,
    #[serde(skip)]
    description: String,
}

/// Connects to the address, or to both loopback addresses if there is none.
fn probes(endpoint: Endpoint) -> Vec<Probe> {
    let loopbacks: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let addresses = match endpoint.ip {
        Some(ip) => vec![ip],
        None => loopbacks.to_vec(),
    };
    let probe = |ip: IpAddr| {
        let endpoint = Endpoint {
            ip: Some(ip),
            ..endpoint
        };
        let reachability = probe(endpoint, PROBE_TIMEOUT);
        // Of two families, this machine may lack one.
        let is_missing = matches!(
            reachability,
            Reachability::Failed(ErrorKind::AddrNotAvailable)
        );
        (!is_missing || ip.is_ipv4()).then(|| Probe {
            address: SocketAddr::new(ip, endpoint.port).to_string(),
            result: reachability_name(reachability),
            description: describe_reachability(reachability),
        })
    };
    addresses.into_iter().filter_map(probe).collect()
}

pub(crate) fn who(console: &Console, args: &WhoArgs) -> Result<u8, Failure> {
    let holders = who_holds(args.port)?;
    let probes = if args.probe {
        probes(args.port)
    } else {
        Vec::new()
    };
    if console.is_json() {
        console.print_json(&Answer {
            version: JSON_VERSION,
            port: holders.port(),
            complete: holders.is_complete(),
            unseen: holders.unseen(),
            holders: holders
                .iter()
                .map(|holder| HolderRow::new(holder, args.command_line))
                .collect(),
            leases: holders.leases().iter().map(LeaseRow::from).collect(),
            probe: probes.first().map(|probe| probe.result),
            probes,
        })?;
    } else {
        let mut text = holders.to_string();
        if args.command_line {
            text.extend(processes(&holders).into_iter().map(command_line));
        }
        for probe in &probes {
            text += &format!(
                "\n  {:<13}of {} {}{}",
                "a client",
                probe.address,
                probe.description,
                redirection(&holders, probe)
            );
        }
        console.report(text)?;
    }
    Ok(match (holders.is_empty(), holders.is_complete()) {
        (false, _) => exit::YES,
        (true, true) => exit::NO,
        (true, false) => exit::INCOMPLETE,
    })
}

/// The end of the line of a probe that was accepted although no socket listens.
fn redirection(holders: &Holders, probe: &Probe) -> &'static str {
    let has_listener = holders.iter().any(|socket| socket.state == State::Listen);
    if probe.result == "accepts" && !has_listener {
        ", although no socket listens: a packet filter redirects it"
    } else {
        ""
    }
}

/// The processes that own the sockets, without duplicates, in the order of the report.
fn processes(holders: &Holders) -> Vec<&Process> {
    let mut all: Vec<&Process> = Vec::new();
    for process in holders.iter().flat_map(|holder| &holder.processes) {
        if all.iter().all(|known| known.pid != process.pid) {
            all.push(process);
        }
    }
    all
}

fn command_line(process: &Process) -> String {
    let text = match process.command_line() {
        Ok(arguments) => {
            let quoted = arguments
                .iter()
                .map(|argument| quoted(&escape(&argument.to_string_lossy())));
            quoted.collect::<Vec<_>>().join(" ")
        }
        Err(error) => error.to_string(),
    };
    format!(
        "\n  {:<13}{text}",
        format_args!("pid {}", process.pid).to_string()
    )
}

/// Quotes an argument for a shell if the shell would change it without quotes.
fn quoted(argument: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:=,@%+".contains(c);
    if !argument.is_empty() && argument.chars().all(is_plain) {
        return argument.to_owned();
    }
    format!("'{}'", argument.replace('\'', "'\\''"))
}

fn reachability_name(reachability: Reachability) -> &'static str {
    match reachability {
        Reachability::Accepts => "accepts",
        Reachability::Refuses => "refuses",
        Reachability::NoAnswer => "no_answer",
        _ => "failed",
    }
}

fn describe_reachability(reachability: Reachability) -> String {
    match reachability {
        Reachability::Accepts => "is accepted".to_owned(),
        Reachability::Refuses => "is refused".to_owned(),
        Reachability::NoAnswer => "gets no answer".to_owned(),
        Reachability::Failed(kind) => format!("fails: {kind}"),
        _ => "gets an unknown result".to_owned(),
    }
}
