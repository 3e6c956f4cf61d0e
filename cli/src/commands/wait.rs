//! `portlease wait`: waits until servers listen on ports, or until ports are free.

use portlease::{Diagnosis, Endpoint};
use serde::Serialize;

use crate::args::WaitArgs;
use crate::condition::Condition;
use crate::exit;
use crate::failure::Failure;
use crate::finding::Finding;
use crate::output::console::Console;
use crate::output::json::JSON_VERSION;
use crate::output::port_row::PortRow;
use crate::ports::PortList;
use crate::wait_loop::{self, Outcome};

#[derive(Debug, Serialize)]
struct Answer {
    version: u8,
    ports: Vec<String>,
    outcome: &'static str,
    /// The ports that did not meet the condition.
    problems: Vec<PortRow>,
}

pub(crate) fn wait(console: &Console, args: &WaitArgs) -> Result<u8, Failure> {
    let endpoints = PortList::tcp_by_default(&args.ports);
    let condition = match (args.listening, args.pid) {
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
            "--for {} is longer than the wait: raise --timeout, which is {}",
            humantime::format_duration(steady),
            humantime::format_duration(timeout)
        )));
    }
    let outcome = wait_loop::wait_for(console, &endpoints, condition, timeout, steady, pid)?;
    let (word, code) = match &outcome {
        Outcome::Met => ("met", exit::YES),
        Outcome::TimedOut(_) => ("timed_out", exit::NO),
        Outcome::ProcessEnded(_) => ("ended", exit::PROCESS_ENDED),
    };
    let findings = match outcome {
        Outcome::Met => Vec::new(),
        Outcome::TimedOut(report) | Outcome::ProcessEnded(report) => {
            unmet(endpoints.clone(), condition, report)
        }
    };
    if console.is_json() {
        let row = |finding| PortRow::new(finding, condition);
        console.print_json(&Answer {
            version: JSON_VERSION,
            ports: endpoints.iter().map(ToString::to_string).collect(),
            outcome: word,
            problems: findings.iter().map(row).collect(),
        })?;
    } else {
        for finding in &findings {
            console.finding(finding, condition)?;
        }
    }
    Ok(code)
}

/// The ports that do not meet the condition. `report` is that of the wait, on one port.
fn unmet(
    endpoints: Vec<Endpoint>,
    condition: Condition,
    report: Option<Diagnosis>,
) -> Vec<Finding> {
    // A check has no wait's knowledge of the process, such as its start and its end.
    let is_about_process = matches!(condition, Condition::HeldBy(_)) && report.is_some();
    let finding = |endpoint| match &report {
        Some(report) if report.endpoint() == Some(endpoint) => Some(Finding {
            endpoint,
            problem: Some(report.clone()),
            waited: true,
        }),
        _ if is_about_process => None,
        _ => Some(Finding::new(endpoint, condition, true)),
    };
    let findings = endpoints.into_iter().filter_map(finding);
    findings
        .filter(|finding| finding.problem.is_some())
        .collect()
}
