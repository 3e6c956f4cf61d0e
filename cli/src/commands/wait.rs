//! `portlease wait`: waits until servers listen on ports, or until ports are free.

use serde::Serialize;

use crate::args::WaitArgs;
use crate::condition::Condition;
use crate::exit;
use crate::failure::Failure;
use crate::finding::Finding;
use crate::output::console::Console;
use crate::output::json::JSON_VERSION;
use crate::ports::PortList;
use crate::wait_loop::{self, Outcome};

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
    let outcome = wait_loop::wait_for(console, &endpoints, condition, args.timeout, args.pid)?;
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
        // A check has no wait's knowledge of the process, such as its start and its end.
        let is_about_process = matches!(condition, Condition::HeldBy(_)) && report.is_some();
        for endpoint in endpoints {
            let finding = match &report {
                Some(report) if report.endpoint() == Some(endpoint) => Finding {
                    endpoint,
                    problem: Some(report.clone()),
                    waited: true,
                },
                _ if is_about_process => continue,
                _ => Finding::new(endpoint, condition, true),
            };
            if finding.problem.is_some() {
                console.finding(&finding, condition)?;
            }
        }
    }
    Ok(code)
}
