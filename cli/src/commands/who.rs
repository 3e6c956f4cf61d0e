//! `portlease who`: shows the sockets and reservations on ports, or every listener.

use std::io::ErrorKind;
use std::time::Duration;

use portlease::{
    Blocker, Endpoint, Holder, Holders, Process, Protocol, Reachability, State, probe_listener,
    who_holds, who_holds_each,
};
use serde::Serialize;

use crate::args::WhoArgs;
use crate::exit;
use crate::failure::Failure;
use crate::limits::{CONNECTION_THREADS, PROBE_TIMEOUT, SHORTEST_PROBE};
use crate::output::console::Console;
use crate::output::ephemeral_usage::EphemeralUsageRow;
use crate::output::json::{HolderRow, JSON_VERSION, LeaseRow};
use crate::output::table::Table;
use crate::ports::{PortList, client_endpoints};
use crate::process::{real_folder, runs_as_root, unseen_network, why_not_running, works_below};
use crate::survey::in_threads;
use crate::text::{address, escape, shell_words};

/// The answer about one port.
#[derive(Debug, Serialize)]
struct OneAnswer {
    version: u8,
    #[serde(flatten)]
    answer: Answer,
}

/// The answers about several ports.
#[derive(Debug, Serialize)]
struct ManyAnswers {
    version: u8,
    ports: Vec<Answer>,
}

/// The answer to `portlease who` without a port: every listener, or those that `--pid` or `--under`
/// selects.
#[derive(Debug, Serialize)]
struct AllAnswer {
    version: u8,
    complete: bool,
    unseen: Vec<String>,
    holders: Vec<HolderRow>,
}

#[derive(Debug, Serialize)]
struct Answer {
    port: u16,
    complete: bool,
    unseen: Vec<String>,
    holders: Vec<HolderRow>,
    leases: Vec<LeaseRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ephemeral_range: Option<EphemeralUsageRow>,
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
    /// Why the connection probably did not reach the socket that listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
    #[serde(skip)]
    description: String,
}

/// Returns `true` if the endpoint may be a TCP port. A probe connects only to TCP ports.
fn takes_connections(endpoint: Endpoint) -> bool {
    endpoint.protocol.is_none_or(|of| of == Protocol::Tcp)
}

/// Connects to the addresses of all the endpoints, in up to [`CONNECTION_THREADS`] threads. Returns
/// the results for each endpoint. A UDP port has no results. Without `--probe`, no port has
/// results.
fn probes(endpoints: &[Endpoint], args: &WhoArgs) -> Vec<Vec<Probe>> {
    let addresses: Vec<(usize, Endpoint)> = endpoints
        .iter()
        .enumerate()
        .filter(|(_, endpoint)| args.probe && takes_connections(**endpoint))
        .flat_map(|(at, endpoint)| {
            client_endpoints(*endpoint)
                .into_iter()
                .map(move |of| (at, of))
        })
        .collect();
    let turns = addresses.len().div_ceil(CONNECTION_THREADS).max(1);
    let timeout = PROBE_TIMEOUT / u32::try_from(turns).unwrap_or(u32::MAX);
    let timeout = timeout.max(SHORTEST_PROBE);
    let of_part = |part: &[(usize, Endpoint)]| -> Vec<(usize, Option<Probe>)> {
        let part = part.iter();
        part.map(|(at, address)| (*at, probe_address(endpoints[*at], *address, timeout)))
            .collect()
    };
    let mut probes: Vec<Vec<Probe>> = endpoints.iter().map(|_| Vec::new()).collect();
    for (at, probe) in in_threads(&addresses, turns, of_part).into_iter().flatten() {
        probes[at].extend(probe);
    }
    probes
}

/// Connects to `address`, one of the [`client_endpoints`] of the endpoint. If the user named no
/// address, or `localhost`, one of these endpoints has the address `::1`. For that endpoint, the
/// function returns `None` if this machine lacks `::1`.
fn probe_address(endpoint: Endpoint, address: Endpoint, timeout: Duration) -> Option<Probe> {
    let is_named = endpoint.ip.is_some() && !endpoint.is_localhost();
    let (reachability, blocker) = probe_listener(address, timeout);
    let is_missing = !is_named
        && address.ip.is_some_and(|ip| ip.is_ipv6())
        && reachability == Reachability::Failed(ErrorKind::AddrNotAvailable);
    (!is_missing).then(|| Probe {
        address: Endpoint {
            protocol: None,
            ..address
        }
        .to_string(),
        result: reachability_name(reachability),
        cause: blocker.as_ref().map(ToString::to_string),
        help: blocker
            .and_then(Blocker::remedy)
            .as_ref()
            .map(ToString::to_string),
        description: describe_reachability(reachability),
    })
}

pub(crate) fn who(console: &Console, args: &WhoArgs) -> Result<u8, Failure> {
    let endpoints = PortList::endpoints(&args.ports);
    match endpoints[..] {
        [] => listeners(console, args),
        [endpoint] => {
            let holders = who_holds(endpoint)?;
            let probes = probes(&endpoints, args).pop().unwrap_or_default();
            let answer = answer(endpoint, &holders, probes, args);
            if console.is_json() {
                console.print_json(&OneAnswer {
                    version: JSON_VERSION,
                    answer,
                })?;
            } else {
                console.report(text(&answer, endpoint, &holders, args))?;
            }
            Ok(verdict(&holders))
        }
        _ => {
            let all = who_holds_each(&endpoints)?;
            let verdicts: Vec<u8> = all.iter().map(verdict).collect();
            let answers = endpoints.iter().zip(&all).zip(probes(&endpoints, args));
            let answers = answers
                .map(|((endpoint, holders), probes)| answer(*endpoint, holders, probes, args));
            if console.is_json() {
                console.print_json(&ManyAnswers {
                    version: JSON_VERSION,
                    ports: answers.collect(),
                })?;
            } else {
                for ((answer, holders), endpoint) in answers.zip(&all).zip(&endpoints) {
                    console.report(text(&answer, *endpoint, holders, args))?;
                }
            }
            // If one port is held, the exit code says so, even if another port could not be read.
            let strongest = [exit::YES, exit::INCOMPLETE, exit::NO];
            let mut strongest = strongest.into_iter().filter(|code| verdicts.contains(code));
            Ok(strongest.next().unwrap_or(exit::NO))
        }
    }
}

fn verdict(holders: &Holders) -> u8 {
    match (holders.is_empty(), holders.is_complete()) {
        (false, _) => exit::YES,
        (true, true) => exit::NO,
        (true, false) => exit::INCOMPLETE,
    }
}

fn answer(endpoint: Endpoint, holders: &Holders, probes: Vec<Probe>, args: &WhoArgs) -> Answer {
    Answer {
        port: holders.port(),
        complete: holders.is_complete(),
        unseen: holders.unseen(),
        holders: holders
            .iter()
            .map(|holder| HolderRow::new(holder, args.command_line))
            .collect(),
        leases: holders.leases().iter().map(LeaseRow::from).collect(),
        ephemeral_range: holders.ephemeral_usage().map(EphemeralUsageRow::from),
        probe: match probes.first() {
            Some(probe) => Some(probe.result),
            None if args.probe && !takes_connections(endpoint) => Some("not_probed"),
            None => None,
        },
        probes,
    }
}

fn text(answer: &Answer, endpoint: Endpoint, holders: &Holders, args: &WhoArgs) -> String {
    let mut text = holders.to_string();
    if args.command_line {
        text.extend(processes(holders).into_iter().map(command_line));
    }
    if args.probe && !takes_connections(endpoint) {
        text += &format!(
            "\n  {:<13}not probed: a probe makes a TCP connection",
            "a client"
        );
    }
    for probe in &answer.probes {
        text += &format!(
            "\n  {:<13}of {} {}{}",
            "a client",
            probe.address,
            probe.description,
            match &probe.cause {
                Some(cause) => format!(", although a socket listens: {cause}"),
                None => redirection(endpoint, holders, probe).to_owned(),
            }
        );
    }
    // Every probe with a remedy has the same remedy, `ListPacketFilter`. So one help line is
    // enough.
    if let Some(help) = answer.probes.iter().find_map(|probe| probe.help.as_ref()) {
        text += &format!("\nhelp: {help}");
    }
    text
}

/// Shows every listener. With `--pid` or `--under`, shows only those of the matching processes.
fn listeners(console: &Console, args: &WhoArgs) -> Result<u8, Failure> {
    let under = args.under.as_deref().map(real_folder).transpose()?;
    let is_wanted = |process: &Process| {
        args.pid.is_none_or(|pid| pid == process.pid)
            && under
                .as_ref()
                .is_none_or(|under| works_below(process, under) == Some(true))
    };
    let is_restricted = args.pid.is_some() || under.is_some();
    let listeners = portlease::listeners()?;
    let (mut complete, mut unseen) = (listeners.is_complete(), listeners.unseen());
    let has_hidden = listeners.iter().any(|socket| socket.hidden);
    let unseen_network = args.pid.and_then(unseen_network);
    if let Some(reason) = &unseen_network {
        complete = false;
        unseen.push(reason.clone());
    }
    let is_shown = |socket: &Holder| !is_restricted || socket.processes.iter().any(is_wanted);
    let all: Vec<Holder> = listeners.into_iter().filter(is_shown).collect();
    // If the process does not run, the command fails. The answer "no" would mean that the process
    // runs and does not listen.
    if all.is_empty()
        && let Some(pid) = args.pid
        && let Some(cause) = why_not_running(pid)
    {
        return Err(Failure::new(format!(
            "cannot show the listeners of pid {pid}: {cause}"
        )));
    }
    if console.is_json() {
        console.print_json(&AllAnswer {
            version: JSON_VERSION,
            complete,
            unseen,
            holders: all
                .iter()
                .map(|holder| HolderRow::new(holder, args.command_line))
                .collect(),
        })?;
    } else if let Some(reason) = unseen_network.as_ref().filter(|_| all.is_empty()) {
        console.note(reason);
    } else if all.is_empty() {
        console.note(match (is_restricted, has_hidden) {
            (false, _) => "no socket listens",
            (true, false) => "no matching process listens",
            (true, true) if runs_as_root() => {
                "no matching listener was found, but the owners of some listeners cannot be seen"
            }
            (true, true) if cfg!(windows) => {
                "no matching listener was found, but the owners of some listeners cannot be seen; \
                 retry with permission to inspect processes, for example as an administrator"
            }
            (true, true) => {
                "no matching listener was found, but the owners of some listeners cannot be seen; \
                 retry with permission to inspect processes, for example as root"
            }
        });
    } else {
        let mut table = Table::new(["ADDRESS", "PID", "PROGRAM", "USER", "DIRECTORY"]);
        for socket in &all {
            let process = socket.processes.iter().find(|process| is_wanted(process));
            table.row(cells(socket, process));
        }
        console.answer(table)?;
    }
    Ok(
        match (
            all.is_empty(),
            is_restricted && has_hidden || unseen_network.is_some(),
        ) {
            (false, _) => exit::YES,
            (true, false) => exit::NO,
            // A matching listener may exist: its owner can be hidden, or the listener can be in
            // another network namespace.
            (true, true) => exit::INCOMPLETE,
        },
    )
}

fn cells(socket: &Holder, process: Option<&Process>) -> [String; 5] {
    let dash = || "-".to_owned();
    let folder = process.and_then(|process| process.working_directory.as_ref());
    [
        address(socket.local),
        process.map_or_else(dash, |process| process.pid.to_string()),
        process.map_or_else(dash, |process| escape(&process.name)),
        socket.user.clone().unwrap_or_else(dash),
        folder.map_or_else(dash, |folder| escape(&folder.to_string_lossy())),
    ]
}

/// Explains an accepted probe of a port without a listener. `holders` are the sockets that were
/// read before the probe. Returns an empty text if the probe was not accepted, if `holders` contain
/// a listener, or if the sockets cannot be read again.
fn redirection(endpoint: Endpoint, holders: &Holders, probe: &Probe) -> &'static str {
    if probe.result != "accepts" || has_listener(holders) {
        return "";
    }
    // The server may have begun to listen after the sockets were read.
    match who_holds(endpoint) {
        Ok(now) if has_listener(&now) => " by a server that has just begun to listen",
        // macOS hides the listeners of other users.
        Ok(_) if cfg!(target_os = "macos") => ", although no visible socket listens",
        Ok(_) => ", although no socket listens: a packet filter redirects the connection",
        Err(_) => "",
    }
}

fn has_listener(holders: &Holders) -> bool {
    holders.iter().any(|socket| socket.state == State::Listen)
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
        Ok(arguments) => escape(&shell_words(&arguments)),
        Err(error) => error.to_string(),
    };
    format!(
        "\n  {:<13}{text}",
        format_args!("pid {}", process.pid).to_string()
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(
        not(target_os = "linux"),
        ignore = "only the socket table of Linux is certain to be readable"
    )]
    fn a_server_that_began_to_listen_before_the_probe_is_no_packet_filter() {
        let p = portlease::reserve_port();
        let endpoint = Endpoint {
            port: p.port(),
            ip: None,
            protocol: None,
        };
        let before = who_holds(endpoint).unwrap();
        let _server = p.listen().unwrap();
        let probe = probe_address(endpoint, client_endpoints(endpoint)[0], PROBE_TIMEOUT);
        assert_eq!(
            redirection(endpoint, &before, &probe.unwrap()),
            " by a server that has just begun to listen"
        );
    }
}
