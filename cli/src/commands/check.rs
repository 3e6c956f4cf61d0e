//! `portlease check`: checks that all ports are free, or that all have a listener.

use portlease::{Diagnosis, Holders};
use serde::Serialize;

use crate::args::CheckArgs;
use crate::condition::Condition;
use crate::exit;
use crate::failure::Failure;
use crate::finding::Finding;
use crate::output::annotations;
use crate::output::console::Console;
use crate::output::ephemeral_usage::EphemeralUsageRow;
use crate::output::json::{HolderRow, JSON_VERSION};
use crate::output::junit;
use crate::output::remedy::{self, RemedyRow};
use crate::output::report;
use crate::ports::PortList;
use crate::wait_loop;

/// One port in the JSON answer of `check`.
#[derive(Debug, Serialize)]
struct PortRow {
    endpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    free: Option<Option<bool>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listening: Option<Option<bool>>,
    holders: Vec<HolderRow>,
    cause: Option<String>,
    help: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    remedies: Vec<RemedyRow>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unseen: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ephemeral_range: Option<EphemeralUsageRow>,
}

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
        wait_loop::wait_for(console, &endpoints, condition, limit, None)?;
    }
    let findings: Vec<Finding> = endpoints
        .into_iter()
        .map(|endpoint| Finding::new(endpoint, condition, args.wait.is_some()))
        .collect();
    if let Some(file) = &args.junit {
        junit::write_report(file, &findings)?;
    }
    if annotations::in_github_actions() {
        // The runner of GitHub Actions reads stderr too, so stdout carries only the answer.
        findings
            .iter()
            .filter_map(annotations::error_line)
            .for_each(|line| console.machine_line(line));
    }
    if console.is_json() {
        let ports = findings
            .iter()
            .map(|finding| row(finding, condition))
            .collect();
        console.print_json(&Answer {
            version: JSON_VERSION,
            ports,
        })?;
    } else {
        for finding in &findings {
            console.finding(finding, condition)?;
        }
    }
    Ok(verdict(&findings))
}

fn verdict(findings: &[Finding]) -> u8 {
    let any = |answer| findings.iter().any(|finding| finding.answer() == answer);
    match (any(Some(false)), any(None)) {
        (true, _) => exit::NO,
        (false, true) => exit::INCOMPLETE,
        (false, false) => exit::YES,
    }
}

fn row(finding: &Finding, condition: Condition) -> PortRow {
    let holders = finding.problem.as_ref().and_then(Diagnosis::holders);
    PortRow {
        endpoint: finding.endpoint.to_string(),
        free: matches!(condition, Condition::Free(_)).then(|| finding.answer()),
        listening: (condition == Condition::Listening).then(|| finding.answer()),
        holders: holders
            .into_iter()
            .flatten()
            .map(|holder| HolderRow::new(holder, false))
            .collect(),
        cause: finding.problem.as_ref().map(Diagnosis::cause),
        help: finding
            .problem
            .as_ref()
            .and_then(|problem| report::help(problem, finding.waited)),
        remedies: finding
            .problem
            .iter()
            .flat_map(|problem| remedy::rows(problem.remedies(), finding.waited))
            .collect(),
        unseen: holders.map(Holders::unseen).unwrap_or_default(),
        ephemeral_range: holders
            .and_then(Holders::ephemeral_usage)
            .map(EphemeralUsageRow::from),
    }
}
