//! `portlease stop`: ends the servers that listen on ports, and checks that the ports are free.

use std::collections::HashSet;
use std::io;
use std::time::Instant;

use portlease::{Diagnosis, Endpoint, Lease, Process, ServerKind};
use serde::Serialize;

use crate::args::StopArgs;
use crate::condition::Condition;
use crate::ending::{Ending, Handles, Target, end_all};
use crate::exit;
use crate::failure::Failure;
use crate::finding::{Finding, verdict};
use crate::limits::{FREE_AFTER_STOP, RESTART_POLL, RESTART_WATCH, remaining, sleep};
use crate::output::console::Console;
use crate::output::json::JSON_VERSION;
use crate::output::remedy::{self, Asked, RemedyRow};
use crate::output::report::{self, needs_reuse_addr, with_help};
use crate::ports::PortList;
use crate::process::{check_permission, real_folder};
use crate::process_stat::ProcessStat;
use crate::refusal::Refusal;
use crate::restarts::{later_restarts, may_restart, restarts};
use crate::starters::Starters;
use crate::stop_plan::{StopPlan, possible_clients, servers};
use crate::text::{escape, os_message};

/// The condition that `stop` checks for each port at the end, also with `--dry-run`.
const FREE: Condition = Condition::Free(ServerKind::ReuseAddr);

/// The outcome of a process that `stop` without `--dry-run` would end.
const WOULD_STOP: &str = "would_stop";

#[derive(Debug, Serialize)]
struct Answer {
    version: u8,
    ports: Vec<PortRow>,
    stopped: Vec<StoppedRow>,
    not_stopped: Vec<NotStoppedRow>,
}

#[derive(Debug, Serialize)]
struct PortRow {
    endpoint: String,
    free: Option<bool>,
    /// Why only a server that sets SO_REUSEADDR can bind the port. The output of `check` has the
    /// same field.
    #[serde(skip_serializing_if = "Option::is_none")]
    needs_reuse_addr: Option<String>,
    /// Why the port is not free, or could not be checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    remedies: Vec<RemedyRow>,
}

#[derive(Debug, Serialize)]
struct StoppedRow {
    pid: u32,
    name: String,
    listened: Vec<String>,
    outcome: &'static str,
    /// `true` if a process that this user may not inspect probably has the same socket
    /// ([`Target::shares_with_hidden`]). Set only for a process that `--dry-run` would stop.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    may_stay_in_use: bool,
    #[serde(skip)]
    is_master: bool,
    /// The name of the signal that should end the process.
    #[serde(skip)]
    signal: &'static str,
}

#[derive(Debug, Serialize)]
struct NotStoppedRow {
    pid: Option<u32>,
    name: Option<String>,
    listens: Vec<String>,
    #[serde(skip)]
    is_master: bool,
    cause: String,
    help: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    remedies: Vec<RemedyRow>,
}

pub(crate) fn stop(console: &Console, args: &StopArgs) -> Result<u8, Failure> {
    let endpoints = PortList::tcp_by_default(&args.ports);
    let under = args.under.as_deref().map(real_folder).transpose()?;
    let mut handles = Handles::open(&servers(&endpoints)?)?;
    let mut stopped: Vec<StoppedRow> = Vec::new();
    let mut not_stopped: Vec<NotStoppedRow> = Vec::new();
    let own: Vec<u32> = ProcessStat::lineage().map(|stat| stat.pid).collect();
    let mut starters = Starters::default();
    let mut ended: Vec<Process> = Vec::new();
    // One round is not enough: the workers of a server may still listen after the server has ended.
    // The loop ends, because each further round uses up process handles, and all handles were
    // opened before the first round.
    loop {
        let mut plan = StopPlan::new(
            &servers(&endpoints)?,
            &mut handles,
            under.as_deref(),
            &starters,
        )?;
        let targets = std::mem::take(&mut plan.targets);
        plan.notes.iter().for_each(|note| console.note(note));
        if args.dry_run || targets.is_empty() {
            for target in &targets {
                match check_permission(target.process.pid) {
                    Ok(()) => stopped.push(stopped_row(target, WOULD_STOP)),
                    Err(cause) => not_stopped.push(failed_row(target, &cause)),
                }
            }
            // `not_stopped` already lists the processes that an earlier round failed to end.
            let is_new = |refusal: &Refusal| {
                let pid = refusal.process.as_ref().map(|process| process.pid);
                pid.is_none() || not_stopped.iter().all(|row| row.pid != pid)
            };
            let refusals: Vec<Refusal> = plan.refusals.into_iter().filter(is_new).collect();
            not_stopped.extend(refusals.iter().map(refused_row));
            break;
        }
        for target in &targets {
            starters.add(target.process.pid, |pid| may_restart(pid, &own));
        }
        for (target, ending) in end_all(targets, args.timeout) {
            match &ending {
                Ending::Terminated | Ending::Killed | Ending::Ended => {
                    stopped.push(stopped_row(&target, ending.name()));
                    ended.push(target.process);
                }
                Ending::Survived => not_stopped.push(survivor_row(
                    &target,
                    "it was killed, but has not ended".to_owned(),
                )),
                Ending::Failed(cause) => not_stopped.push(failed_row(&target, cause)),
            }
        }
    }
    let all_stopped = !stopped.is_empty() && not_stopped.is_empty() && !args.dry_run;
    if all_stopped {
        let restarted = watch_for_restarts(&endpoints, &starters)?;
        not_stopped.extend(restarted.iter().map(refused_row));
    }
    not_stopped.extend(possible_clients(&endpoints)?.iter().map(refused_row));
    let found = !(stopped.is_empty() && not_stopped.is_empty());
    let served = served_ports(&endpoints)?;
    let waits = |endpoint: &Endpoint| {
        !args.dry_run && !stopped.is_empty() && !served.contains(&endpoint.port)
    };
    let started = Instant::now();
    for endpoint in endpoints.iter().filter(|endpoint| waits(endpoint)) {
        // The check below reports each port that is still in use after the wait.
        let _ = FREE.wait(*endpoint, remaining(FREE_AFTER_STOP, started));
    }
    let mut findings = Finding::all(&endpoints, FREE, false);
    Finding::note_servers(&mut findings);
    // An ancestor of an ended server may have started the server again. The new server may have
    // begun to listen only now.
    if all_stopped && not_stopped.is_empty() && verdict(&findings) == exit::NO {
        let restarted = restarts(&servers(&endpoints)?, &starters);
        not_stopped.extend(restarted.iter().map(refused_row));
    }
    if all_stopped && not_stopped.is_empty() {
        let notes = later_restarts(&ended, &starters);
        notes.iter().for_each(|note| console.note(note));
    }
    let code = if args.dry_run {
        // A port with a server is left out here: `stop` without `--dry-run` would end the server,
        // or `not_stopped` already lists the server.
        let unserved = verdict(findings.iter().filter(|finding| !finding.shows_server()));
        let mut leases = findings.iter().map(|of| remaining_lease(of, &own));
        let is_reserved = leases.any(|lease| lease.is_some());
        match stopped.iter().any(|row| row.may_stay_in_use) {
            _ if is_reserved || !not_stopped.is_empty() => exit::NO,
            true if unserved == exit::YES => exit::INCOMPLETE,
            _ => unserved,
        }
    } else {
        verdict(&findings)
    };
    if console.is_json() {
        console.print_json(&Answer {
            version: JSON_VERSION,
            ports: findings.iter().map(port_row).collect(),
            stopped,
            not_stopped,
        })?;
        return Ok(code);
    }
    for row in &stopped {
        console.answer(stopped_text(row, args))?;
    }
    for row in &not_stopped {
        console.report(not_stopped_text(row, args.dry_run))?;
    }
    if !found {
        console.note("no server listens on these ports");
    }
    if args.dry_run {
        // With `--dry-run` the servers still run, so their ports are in use. Only the ports that
        // `stop` would not free get a report.
        let leases = findings.iter().map(|of| remaining_lease(of, &own));
        for lease in leases.flatten() {
            console.answer(format_args!("the port would stay in use: {lease}"))?;
        }
        findings.retain(|finding| !finding.shows_server());
        return report_ports(console, &findings, false, false).map(|()| code);
    }
    let has_refusal = !not_stopped.is_empty();
    report_ports(console, &findings, found, has_refusal)?;
    Ok(code)
}

/// Watches the ports for at most [`RESTART_WATCH`], while one of the `starters` runs. They are
/// ancestors of stopped servers, and may start a server again. As soon as they have started servers
/// again, returns these servers.
fn watch_for_restarts(
    endpoints: &[Endpoint],
    starters: &Starters,
) -> Result<Vec<Refusal>, Failure> {
    let started = Instant::now();
    while starters.run() {
        let again = restarts(&servers(endpoints)?, starters);
        if !again.is_empty() || started.elapsed() >= RESTART_WATCH {
            return Ok(again);
        }
        sleep(RESTART_POLL);
    }
    Ok(Vec::new())
}

/// The ports on which a server still listens. Exception: a socket without any owner, visible or
/// hidden, does not count. The kernel is about to close it.
fn served_ports(endpoints: &[Endpoint]) -> Result<HashSet<u16>, Failure> {
    let mut left = servers(endpoints)?;
    left.retain(|holder| holder.hidden || !holder.processes.is_empty());
    Ok(left.iter().map(|holder| holder.local.port()).collect())
}

/// The reservation that would keep the port in use after the end of the port's server. `None` if
/// the port has no server. These reservations do not count:
///
/// - those of the server and its ancestors, such as `portlease run`, which may end with the server
/// - those of `own`, which is this process and its ancestors
/// - those of an unknown process, or of another pid namespace
fn remaining_lease<'a>(finding: &'a Finding, own: &[u32]) -> Option<&'a Lease> {
    let problem = finding.problem.as_ref()?;
    let servers = problem
        .holders()?
        .iter()
        .filter(|holder| holder.is_server());
    let processes = servers.flat_map(|holder| &holder.processes);
    let lineages = processes.flat_map(|process| ProcessStat::lineage_of(process.pid));
    let of_servers: Vec<u32> = lineages.map(|stat| stat.pid).collect();
    if of_servers.is_empty() {
        return None;
    }
    let remains = |lease: &&Lease| {
        let mut pids = lease.pid().into_iter().chain(lease.on_behalf_of());
        let is_own = pids.any(|pid| own.contains(&pid));
        let is_of_server = lease.pid().is_none_or(|pid| of_servers.contains(&pid));
        !lease.is_foreign() && !is_own && !is_of_server
    };
    problem.leases().iter().find(remains)
}

/// Prints for each port whether it is free. If no server was found, leaves out the ports that are
/// free. With `has_refusal`, prints only the headline for a port that is not free, because the
/// reports on the servers that still run contain the help.
fn report_ports(
    console: &Console,
    findings: &[Finding],
    found: bool,
    has_refusal: bool,
) -> Result<(), Failure> {
    for finding in findings {
        match (&finding.problem, &finding.needs_reuse_addr) {
            (Some(problem), _) if has_refusal => console.report(problem.headline())?,
            (Some(_), _) => console.finding(finding, FREE)?,
            (None, Some(problem)) if found => {
                let text = needs_reuse_addr(problem, finding.endpoint, finding.asked);
                console.answer(text)?
            }
            (None, None) if found => {
                console.answer(format_args!("port {} is free", finding.endpoint))?
            }
            (None, _) => {}
        }
    }
    Ok(())
}

fn port_row(finding: &Finding) -> PortRow {
    let problem = finding.problem.as_ref();
    let help = |problem| report::help(problem, finding.asked);
    let remedies = |problem: &Diagnosis| remedy::rows(problem.remedies(), finding.asked);
    PortRow {
        endpoint: finding.endpoint.to_string(),
        free: finding.answer(),
        needs_reuse_addr: finding.needs_reuse_addr.as_ref().map(Diagnosis::cause),
        cause: problem.map(Diagnosis::cause),
        help: problem.and_then(help),
        remedies: problem.map(remedies).unwrap_or_default(),
    }
}

fn stopped_row(target: &Target, outcome: &'static str) -> StoppedRow {
    StoppedRow {
        pid: target.process.pid,
        name: target.process.name.clone(),
        listened: target.listens.clone(),
        outcome,
        may_stay_in_use: outcome == WOULD_STOP && target.shares_with_hidden,
        is_master: target.is_master,
        signal: target.signal.name(),
    }
}

/// Only root and the user of a process may signal the process. So if `cause` is a missing
/// permission, the row advises to run this command as that user.
fn failed_row(target: &Target, cause: &io::Error) -> NotStoppedRow {
    let user = target.process.user.as_ref();
    let user = user.filter(|_| cause.kind() == io::ErrorKind::PermissionDenied);
    let help = |user: &String| {
        format!(
            "run this command as {}, the user of that process",
            escape(user)
        )
    };
    NotStoppedRow {
        help: user.map(help),
        ..survivor_row(target, os_message(cause))
    }
}

fn survivor_row(target: &Target, cause: String) -> NotStoppedRow {
    NotStoppedRow {
        pid: Some(target.process.pid),
        name: Some(target.process.name.clone()),
        listens: target.listens.clone(),
        is_master: target.is_master,
        cause,
        help: None,
        remedies: Vec::new(),
    }
}

fn refused_row(refusal: &Refusal) -> NotStoppedRow {
    let process = refusal.process.as_ref();
    let help = remedy::in_one_line(&refusal.remedies, Asked::default());
    NotStoppedRow {
        pid: process.map(|process| process.pid),
        name: process.map(|process: &Process| process.name.clone()),
        listens: vec![refusal.listens.clone()],
        is_master: false,
        cause: refusal.cause.clone(),
        help: help.or_else(|| refusal.help.clone()),
        remedies: remedy::rows(&refusal.remedies, Asked::default()),
    }
}

fn stopped_text(row: &StoppedRow, args: &StopArgs) -> String {
    let (name, pid, listened) = (escape(&row.name), row.pid, row.listened.join(", "));
    let process = format!("{name} (pid {pid})");
    let which = if row.is_master {
        "whose workers"
    } else {
        "which"
    };
    match row.outcome {
        WOULD_STOP => {
            let listens = listens(row.is_master);
            let rest = match row.may_stay_in_use {
                true => {
                    "; a process that this user may not inspect probably has the same socket, and \
                     would keep the port in use"
                }
                false => "",
            };
            format!("would stop {process}, {listens} on {listened}{rest}")
        }
        "killed" => format!(
            "killed {process}, {which} listened on {listened}: it had not ended {} after {}",
            humantime::format_duration(args.timeout),
            row.signal
        ),
        "ended" => format!("{process}, {which} listened on {listened}, has ended by itself"),
        _ => format!("stopped {process}, {which} listened on {listened}"),
    }
}

fn listens(is_master: bool) -> &'static str {
    if is_master {
        "whose workers listen"
    } else {
        "which listens"
    }
}

fn not_stopped_text(row: &NotStoppedRow, dry_run: bool) -> String {
    let process = match (&row.name, row.pid) {
        (Some(name), Some(pid)) => format!("{} (pid {pid})", escape(name)),
        _ => "the server".to_owned(),
    };
    let addresses = row.listens.join(", ");
    let auxiliary = if dry_run { "would" } else { "did" };
    let headline = format!(
        "{auxiliary} not stop {process}, {} on {addresses}: {}",
        listens(row.is_master),
        row.cause
    );
    with_help(headline, row.help.clone())
}
