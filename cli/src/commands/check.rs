//! `portlease check`: are all of these free, or listening?

use portlease::Diagnosis;
use serde::Serialize;

use crate::args::Check;
use crate::condition::Aim;
use crate::exit;
use crate::failure::Failure;
use crate::finding::Finding;
use crate::output::annotations;
use crate::output::console::Console;
use crate::output::json::{HolderRow, VERSION};
use crate::output::junit;
use crate::output::report;
use crate::ports::Ports;
use crate::wait_loop;

/// One port in the JSON answer.
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
}

#[derive(Debug, Serialize)]
struct Answer {
    version: u8,
    ports: Vec<PortRow>,
}

pub(crate) fn check(console: &Console, args: &Check) -> Result<u8, Failure> {
    let endpoints = Ports::all(&args.ports);
    let aim = if args.listening {
        Aim::Listening
    } else {
        Aim::Free
    };
    if let Some(at_most) = args.wait {
        // Whatever came of it, the check says which port is not as it should be, and why.
        wait_loop::keep(console, &endpoints, aim, at_most, None)?;
    }
    let findings: Vec<Finding> = endpoints
        .into_iter()
        .map(|endpoint| Finding::new(endpoint, aim))
        .collect();
    if let Some(file) = &args.junit {
        junit::write(file, &findings)?;
    }
    if annotations::are_wanted() {
        // The runner reads stderr too, and stdout is for the answer alone.
        findings
            .iter()
            .filter_map(annotations::annotation)
            .for_each(|line| console.aside(line));
    }
    if console.is_json() {
        let ports = findings.iter().map(|finding| row(finding, aim)).collect();
        console.object(&Answer {
            version: VERSION,
            ports,
        })?;
    } else {
        for finding in &findings {
            console.finding(finding, aim)?;
        }
    }
    Ok(verdict(&findings))
}

fn verdict(findings: &[Finding]) -> u8 {
    let any = |answer| findings.iter().any(|finding| finding.holds() == answer);
    match (any(Some(false)), any(None)) {
        (true, _) => exit::NO,
        (false, true) => exit::UNTOLD,
        (false, false) => exit::YES,
    }
}

fn row(finding: &Finding, aim: Aim) -> PortRow {
    let holders = finding.problem.as_ref().and_then(Diagnosis::holders);
    PortRow {
        endpoint: finding.endpoint.to_string(),
        free: (aim == Aim::Free).then(|| finding.holds()),
        listening: (aim == Aim::Listening).then(|| finding.holds()),
        holders: holders
            .into_iter()
            .flatten()
            .map(|holder| HolderRow::new(holder, false))
            .collect(),
        cause: finding.problem.as_ref().map(report::cause),
        help: finding.problem.as_ref().and_then(report::help),
    }
}
