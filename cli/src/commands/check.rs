//! `portlease check`: checks that all ports are free, or that all have a listener.

use portlease::ServerKind;
use serde::Serialize;

use crate::args::CheckArgs;
use crate::condition::Condition;
use crate::exit;
use crate::failure::Failure;
use crate::finding::{Finding, verdict};
use crate::limits::HELP_PER_PORT;
use crate::output::annotations;
use crate::output::console::Console;
use crate::output::json::JSON_VERSION;
use crate::output::junit;
use crate::output::port_row::PortRow;
use crate::output::report;
use crate::ports::PortList;
use crate::survey::in_parallel;
use crate::wait_loop::{self, Unable};

#[derive(Debug, Serialize)]
struct Answer {
    version: u8,
    ports: Vec<PortRow>,
}

pub(crate) fn check(console: &Console, args: &CheckArgs) -> Result<u8, Failure> {
    let endpoints = PortList::tcp_by_default(&args.ports);
    let condition = Condition::of(args.listening, args.no_reuse_addr);
    if let Some(limit) = args.wait {
        // The check below reports which ports failed, so the outcome of the wait is not needed.
        wait_loop::wait_for(
            console,
            &endpoints,
            condition,
            limit,
            None,
            None,
            Unable::Skip,
        )?;
    }
    let parts = in_parallel(&endpoints, |part| {
        let mut findings = Finding::all(part, condition, args.wait.is_some());
        if condition == Condition::Free(ServerKind::ReuseAddr) {
            Finding::note_servers(&mut findings);
        }
        findings
    });
    let findings: Vec<Finding> = parts.into_iter().flatten().collect();
    if annotations::in_github_actions() {
        // The annotations go to stderr, which the runner of GitHub Actions reads too. So stdout
        // carries only the answer.
        findings
            .iter()
            .filter_map(annotations::error_line)
            .for_each(|line| console.machine_line(line));
    }
    if console.is_json() {
        let ports = findings
            .iter()
            .map(|finding| PortRow::new(finding, condition))
            .collect();
        console.print_json(&Answer {
            version: JSON_VERSION,
            ports,
        })?;
    } else {
        console.findings(&findings, condition)?;
        if verdict(&findings) == exit::YES {
            print_pass(console, &findings, condition)?;
        }
    }
    // `check` prints the answer before it writes the report file. So a failure to write the file
    // does not suppress the answer.
    if let Some(file) = &args.junit {
        junit::write_report(file, &findings)?;
    }
    Ok(verdict(&findings))
}

/// Prints the answer for ports that all pass. Some of the ports may be free only for servers that
/// set SO_REUSEADDR. If there are at most [`HELP_PER_PORT`] such ports, each of them gets a report
/// before the answer. If such a port is the only checked port, its report replaces the answer.
fn print_pass(
    console: &Console,
    findings: &[Finding],
    condition: Condition,
) -> Result<(), Failure> {
    let limited = |finding: &&Finding| finding.needs_reuse_addr.is_some();
    let count = findings.iter().filter(limited).count();
    if count <= HELP_PER_PORT {
        for finding in findings {
            if let Some(problem) = &finding.needs_reuse_addr {
                let endpoint = finding.endpoint;
                console.report(report::needs_reuse_addr(problem, endpoint, finding.asked))?;
            }
        }
    }
    match (findings, count) {
        ([_], 1) => Ok(()),
        (_, 0) => console.answer(all_pass(findings, condition)),
        _ => console.answer(format_args!(
            "{}, {count} of them only for servers that set SO_REUSEADDR",
            all_pass(findings, condition)
        )),
    }
}

fn all_pass(findings: &[Finding], condition: Condition) -> String {
    match findings {
        [only] => format!("port {} is {}", only.endpoint, condition.word()),
        _ => format!("{} ports are {}", findings.len(), condition.word()),
    }
}
