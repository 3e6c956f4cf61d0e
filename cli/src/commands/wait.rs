//! `portlease wait`: waits until servers listen on ports, or until ports are free.

use std::time::Instant;

use portlease::{Diagnosis, Endpoint};
use serde::Serialize;

use crate::args::WaitArgs;
use crate::condition::Condition;
use crate::exit;
use crate::failure::Failure;
use crate::finding::Finding;
use crate::limits::{WAIT_REPORT_TIME, WAIT_REPORTS};
use crate::output::console::Console;
use crate::output::json::JSON_VERSION;
use crate::ports::PortList;
use crate::survey::{are_many, first_unmet};
use crate::wait_loop::{self, Outcome, Unable};

#[derive(Debug, Serialize)]
struct Answer {
    version: u8,
    ports: Vec<String>,
    outcome: &'static str,
}

pub(crate) fn wait(console: &Console, args: &WaitArgs) -> Result<u8, Failure> {
    let endpoints = PortList::tcp_by_default(&args.ports);
    let condition = match (args.listening, args.pid) {
        (true, Some(pid)) => Condition::HeldBy(pid),
        (listening, _) => Condition::of(listening, args.no_reuse_addr),
    };
    let outcome = wait_loop::wait_for(
        console,
        &endpoints,
        condition,
        args.timeout,
        args.pid,
        Unable::Fail,
    )?;
    let (word, code) = match &outcome {
        Outcome::Met => ("met", exit::YES),
        Outcome::TimedOut(_) => ("timed_out", exit::NO),
        Outcome::ProcessEnded(_) => ("ended", exit::PROCESS_ENDED),
    };
    if console.is_json() {
        let ports = endpoints.iter().map(ToString::to_string).collect();
        console.print_json(&Answer {
            version: JSON_VERSION,
            ports,
            outcome: word,
        })?;
    } else if !matches!(outcome, Outcome::Met) {
        let report = match outcome {
            Outcome::TimedOut(report) | Outcome::ProcessEnded(report) => report,
            Outcome::Met => None,
        };
        report_unmet(console, &endpoints, condition, report)?;
    }
    Ok(code)
}

/// Reports the ports that do not meet the condition, first the one that the wait was waiting for.
/// The time of the wait is up, so the search for others is short.
fn report_unmet(
    console: &Console,
    endpoints: &[Endpoint],
    condition: Condition,
    report: Option<Diagnosis>,
) -> Result<(), Failure> {
    let waited_for = report.as_ref().and_then(Diagnosis::endpoint);
    let mut reported = 0;
    if let (Some(problem), Some(endpoint)) = (report, waited_for) {
        let finding = Finding {
            endpoint,
            problem: Some(problem),
            waited: true,
        };
        console.finding(&finding, condition)?;
        // A check has no wait's knowledge of the process, such as its start and its end.
        if matches!(condition, Condition::HeldBy(_)) {
            return Ok(());
        }
        reported += 1;
    }
    let (mut rest, started) = (endpoints, Instant::now());
    while let Some(n) = first_unmet(rest, condition, WAIT_REPORT_TIME, started)? {
        let is_over = are_many(rest) && started.elapsed() > WAIT_REPORT_TIME;
        if reported == WAIT_REPORTS || is_over {
            return console.answer(format_args!(
                "and up to {} more: `portlease check` reports every port",
                rest.len() - n
            ));
        }
        let endpoint = rest[n];
        rest = &rest[n + 1..];
        let finding = Finding::new(endpoint, condition, true);
        if finding.problem.is_some() && Some(endpoint) != waited_for {
            reported += 1;
            console.finding(&finding, condition)?;
        }
    }
    Ok(())
}
