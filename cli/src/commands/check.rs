//! `portlease check`: checks that all ports are free, or that all have a listener.

use serde::Serialize;

use crate::args::CheckArgs;
use crate::condition::Condition;
use crate::exit;
use crate::failure::Failure;
use crate::finding::{Finding, verdict};
use crate::output::annotations;
use crate::output::console::Console;
use crate::output::json::JSON_VERSION;
use crate::output::junit;
use crate::output::port_row::PortRow;
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
        Finding::all(part, condition, args.wait.is_some())
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
            console.answer(all_pass(&findings, condition))?;
        }
    }
    // Prints the answer before it writes the report file. A failure to write the file then does not
    // suppress the answer.
    if let Some(file) = &args.junit {
        junit::write_report(file, &findings)?;
    }
    Ok(verdict(&findings))
}

fn all_pass(findings: &[Finding], condition: Condition) -> String {
    match findings {
        [only] => format!("port {} is {}", only.endpoint, condition.word()),
        _ => format!("{} ports are {}", findings.len(), condition.word()),
    }
}
