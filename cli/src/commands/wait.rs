//! `portlease wait`: waits until servers listen on ports, or until ports are free.

use std::iter;
use std::time::Instant;

use portlease::{Diagnosis, Endpoint};
use serde::Serialize;

use crate::args::WaitArgs;
use crate::condition::Condition;
use crate::exit;
use crate::failure::Failure;
use crate::finding::Finding;
use crate::http_probe::HttpProbe;
use crate::http_wait::{HttpOutcome, Obstacle, Unanswered, wait_for_answers};
use crate::limits::{PORTS_PER_STEP, WAIT_REPORT_TIME, WAIT_REPORTS};
use crate::output::console::Console;
use crate::output::json::JSON_VERSION;
use crate::output::port_row::PortRow;
use crate::ports::PortList;
use crate::process_stat::{shared_note, unseen_owner_note};
use crate::survey::are_many;
use crate::wait_loop::{self, Outcome, Unable};

#[derive(Debug, Serialize)]
struct Answer {
    version: u8,
    ports: Vec<String>,
    outcome: &'static str,
    /// At most [`WAIT_REPORTS`] ports that did not meet the condition.
    problems: Vec<PortRow>,
    /// What a user should know although the ports met the condition. stderr has the same text.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    /// Absent without `--http`. With `--http` it is always empty, because `wait` prints this object
    /// if it ends before the first request. After a request, `wait` prints [`HttpAnswer`].
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<[UnansweredRow; 0]>,
}

pub(crate) fn wait(console: &Console, args: &WaitArgs) -> Result<u8, Failure> {
    let endpoints = PortList::tcp_by_default(&args.ports);
    let is_server = args.listening || args.http.is_some();
    let condition = match (is_server, args.pid) {
        (true, Some(pid)) => Condition::HeldBy(pid),
        (listening, _) => Condition::of(listening, args.no_reuse_addr),
    };
    let WaitArgs {
        timeout,
        steady,
        pid,
        ..
    } = *args;
    if let Some(steady) = steady.filter(|steady| *steady > timeout) {
        return Err(Failure::new(format!(
            "--for {} is longer than the timeout: raise --timeout, which is {}",
            humantime::format_duration(steady),
            humantime::format_duration(timeout)
        )));
    }
    let started = Instant::now();
    // With `--http`, but neither `--pid` nor `--for`, no listener is required: behind a packet
    // filter, a server can answer although no socket listens.
    let outcome = if args.http.is_some() && pid.is_none() && steady.is_none() {
        Outcome::Met
    } else {
        wait_loop::wait_for(
            console,
            &endpoints,
            condition,
            timeout,
            steady,
            pid,
            Unable::Fail,
        )?
    };
    let mut note = None;
    if let (Outcome::Met, Condition::HeldBy(pid)) = (&outcome, condition) {
        let unseen = unseen_owner_note(&endpoints, pid);
        // With `--http`, the wait sends no request to a port that `pid` shares with an unrelated
        // process. The wait reports such a port as a problem, so no note is needed here.
        let shared = || args.http.is_none().then(|| shared_note(&endpoints, pid));
        note = unseen.or_else(|| shared().flatten());
        if let Some(note) = &note {
            console.note(note);
        }
    }
    if let (Outcome::Met, Some(probe)) = (&outcome, &args.http) {
        return wait_for_http(console, args, &endpoints, probe, started, note);
    }
    let (word, code) = match &outcome {
        Outcome::Met => ("met", exit::YES),
        Outcome::TimedOut(_) => ("timed_out", exit::NO),
        Outcome::ProcessEnded(_) => ("ended", exit::PROCESS_ENDED),
    };
    let (findings, left) = match outcome {
        Outcome::Met => (Vec::new(), 0),
        Outcome::TimedOut(report) => unmet(&endpoints, condition, report, false),
        Outcome::ProcessEnded(report) => unmet(&endpoints, condition, report, true),
    };
    if console.is_json() {
        let row = |finding| PortRow::new(finding, condition);
        console.print_json(&Answer {
            version: JSON_VERSION,
            ports: endpoints.iter().map(ToString::to_string).collect(),
            outcome: word,
            problems: findings.iter().map(row).collect(),
            note,
            http: args.http.as_ref().map(|_| []),
        })?;
    } else {
        for finding in &findings {
            console.finding(finding, condition)?;
        }
        if left > 0 {
            console.answer(format_args!(
                "and up to {left} more: to see every port, run `portlease check`, with --listening \
                 if you waited for servers"
            ))?;
        }
    }
    Ok(code)
}

/// Returns at most [`WAIT_REPORTS`] ports that do not meet the condition. The port of `report`
/// comes first. Also returns a count of the ports that may fail the condition but are not returned:
/// ports that were not checked, and ports beyond the limit [`WAIT_REPORTS`].
///
/// The user has already waited. So the search ends early if [many](are_many) ports are left to
/// check after [`WAIT_REPORT_TIME`]. Until it has found a port that does not meet the condition,
/// the search goes on.
///
/// With [`Condition::HeldBy`] and a `report`, other functions find the other ports:
/// [`unmet_of_process`] while the process runs, and [`unmet_after_end`] after it has ended.
fn unmet(
    endpoints: &[Endpoint],
    condition: Condition,
    report: Option<Diagnosis>,
    has_ended: bool,
) -> (Vec<Finding>, usize) {
    let waited_for = report.as_ref().and_then(Diagnosis::endpoint);
    let mut findings = Vec::new();
    if let (Some(problem), Some(endpoint)) = (report, waited_for) {
        let first = Finding {
            endpoint,
            problem: Some(problem),
            asked: condition.asked(true),
            needs_reuse_addr: None,
        };
        match condition {
            Condition::HeldBy(_) if has_ended => return unmet_after_end(endpoints, first),
            Condition::HeldBy(_) => return unmet_of_process(endpoints, condition, first),
            _ => findings.push(first),
        }
    }
    let mut others = endpoints.to_vec();
    others.retain(|endpoint| Some(*endpoint) != waited_for);
    let (mut rest, started) = (others.as_slice(), Instant::now());
    let is_over = |rest| are_many(rest) && started.elapsed() > WAIT_REPORT_TIME;
    while findings.len() < WAIT_REPORTS
        && !rest.is_empty()
        && (findings.is_empty() || !is_over(rest))
    {
        let (step, after) = rest.split_at(rest.len().min(PORTS_PER_STEP));
        let checked = Finding::all(step, condition, true).into_iter();
        findings.extend(checked.filter(|finding| finding.problem.is_some()));
        rest = after;
    }
    let left = rest.len() + findings.len().saturating_sub(WAIT_REPORTS);
    findings.truncate(WAIT_REPORTS);
    (findings, left)
}

/// What [`unmet`] returns for [`Condition::HeldBy`] after the process has ended: the ports without
/// a listener. A port with a listener is only counted, because the listener may be a daemon of the
/// process. A new check could not read the start time of the process, and so would report the
/// daemon as an unrelated process.
fn unmet_after_end(endpoints: &[Endpoint], first: Finding) -> (Vec<Finding>, usize) {
    let mut others = endpoints.to_vec();
    others.retain(|endpoint| *endpoint != first.endpoint);
    let (mut findings, _) = unmet(&others, Condition::Listening, None, true);
    findings.insert(0, first);
    findings.truncate(WAIT_REPORTS);
    let left = endpoints.len() - findings.len();
    (findings, left)
}

/// What [`unmet`] returns for [`Condition::HeldBy`] while the process runs. Ports with the listener
/// of an unrelated process come first.
///
/// One check covers all `endpoints`. If a check left out an endpoint, it could report a listener on
/// that endpoint as a server on a wrong port. If there are many ports, the function returns only
/// `first` and makes no check, because the check would take too long.
fn unmet_of_process(
    endpoints: &[Endpoint],
    condition: Condition,
    first: Finding,
) -> (Vec<Finding>, usize) {
    if are_many(endpoints) {
        return (vec![first], endpoints.len() - 1);
    }
    let all = Finding::all(endpoints, condition, true).into_iter();
    let waited_for = first.endpoint;
    let others = all.filter(|other| other.endpoint != waited_for && is_unmet(other));
    let mut findings: Vec<Finding> = iter::once(first).chain(others).collect();
    findings.sort_by_key(|finding| !finding.shows_server());
    let left = findings.len().saturating_sub(WAIT_REPORTS);
    findings.truncate(WAIT_REPORTS);
    (findings, left)
}

/// Whether a wait for [`Condition::HeldBy`] rejects the port. `finding` comes from a check, which
/// is stricter than the wait. The wait accepts a port that the process shares with an unrelated
/// process. The wait also accepts a listener whose owner is hidden.
fn is_unmet(finding: &Finding) -> bool {
    finding.problem.as_ref().is_some_and(|problem| {
        let mut sockets = problem.holders().into_iter().flatten();
        let is_hidden = sockets.any(|socket| socket.is_server() && socket.hidden);
        !problem.is_shared_with_stranger() && !is_hidden
    })
}

/// The JSON object that `wait --http` prints. If the wait ends before the first request, `wait`
/// prints [`Answer`] instead.
#[derive(Debug, Serialize)]
struct HttpAnswer {
    version: u8,
    ports: Vec<String>,
    outcome: &'static str,
    /// Empty, because each port met the condition before the first request.
    problems: [PortRow; 0],
    /// As in [`Answer`].
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    http: Vec<UnansweredRow>,
}

/// A port that did not answer as expected.
#[derive(Debug, Serialize)]
struct UnansweredRow {
    endpoint: String,
    problem: String,
    /// Why no server answered as expected, if the sockets show it. Only the first [`WAIT_REPORTS`]
    /// rows can have a cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
}

fn wait_for_http(
    console: &Console,
    args: &WaitArgs,
    endpoints: &[Endpoint],
    probe: &HttpProbe,
    started: Instant,
    note: Option<String>,
) -> Result<u8, Failure> {
    let requests = endpoints
        .iter()
        .map(|endpoint| Unanswered::new(*endpoint, probe));
    let requests = requests.collect::<Result<Vec<_>, _>>()?;
    let outcome = wait_for_answers(console, probe, requests, started, args.timeout, args.pid)?;
    let (word, code, unanswered) = match outcome {
        HttpOutcome::Answered => ("met", exit::YES, Vec::new()),
        HttpOutcome::TimedOut(left) => ("timed_out", exit::NO, left),
        HttpOutcome::ProcessEnded(left) => ("ended", exit::PROCESS_ENDED, left),
    };
    // If the wait timed out, the search expects `pid` to listen. If the wait ended because `pid`
    // ended, the search expects no particular process. The process may have left a daemon, and a
    // search that expects `pid` would report that daemon as an unrelated process.
    let expected = args.pid.filter(|_| code == exit::NO);
    let reported = &unanswered[..unanswered.len().min(WAIT_REPORTS)];
    let obstacles = Obstacle::find_each(reported, expected);
    if console.is_json() {
        let found = obstacles.iter().map(Option::as_ref);
        let found = found.chain(iter::repeat(None));
        let row = |(request, obstacle): (&Unanswered, Option<&Obstacle>)| UnansweredRow {
            endpoint: request.endpoint.to_string(),
            problem: request.problem.clone(),
            cause: obstacle.and_then(Obstacle::cause),
            help: obstacle.and_then(Obstacle::help),
        };
        console.print_json(&HttpAnswer {
            version: JSON_VERSION,
            ports: endpoints.iter().map(ToString::to_string).collect(),
            outcome: word,
            problems: [],
            note,
            http: unanswered.iter().zip(found).map(row).collect(),
        })?;
        return Ok(code);
    }
    for (request, obstacle) in reported.iter().zip(&obstacles) {
        console.report(request.headline())?;
        match obstacle {
            Some(Obstacle::NoListener(finding)) => {
                console.finding(finding, Condition::Listening)?;
            }
            Some(obstacle) => console.report(obstacle.text())?,
            None => {}
        }
    }
    let left = unanswered.len() - reported.len();
    if left > 0 {
        console.answer(format_args!(
            "and {left} more: to see every port, add --json"
        ))?;
    }
    if let (exit::PROCESS_ENDED, Some(pid)) = (code, args.pid) {
        console.note(format_args!("stopped waiting: pid {pid} ended"));
    }
    Ok(code)
}
