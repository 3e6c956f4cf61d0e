//! `portlease check`: are all of these free, or listening?

use portlease::{Diagnosis, Endpoint, check_port_free, check_port_listening};
use serde::Serialize;

use crate::advice::for_shells;
use crate::annotation;
use crate::args::Check;
use crate::console::Console;
use crate::exit;
use crate::failure::Failure;
use crate::json::{HolderRow, VERSION};
use crate::junit;
use crate::ports::Ports;
use crate::vigil::{self, Aim};

/// What was found out about one port.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) endpoint: Endpoint,
    /// Why it is not as it should be.
    pub(crate) problem: Option<Diagnosis>,
}

impl Finding {
    pub(crate) fn new(endpoint: Endpoint, aim: Aim) -> Self {
        let checked = match aim {
            Aim::Free => check_port_free(endpoint),
            Aim::Listening => check_port_listening(endpoint),
        };
        Finding {
            endpoint,
            problem: checked.err(),
        }
    }

    /// `None` is "could not tell".
    pub(crate) fn holds(&self) -> Option<bool> {
        match &self.problem {
            None => Some(true),
            Some(diagnosis) => diagnosis.could_tell().then_some(false),
        }
    }

    /// Its report; nothing where there is no problem.
    pub(crate) fn report(&self) -> String {
        self.problem
            .as_ref()
            .map_or_else(String::new, |diagnosis| for_shells(&diagnosis.to_string()))
    }

    /// The first line of its report.
    pub(crate) fn headline(&self) -> String {
        self.report().lines().next().unwrap_or_default().to_owned()
    }

    pub(crate) fn help(&self) -> Option<String> {
        self.problem.as_ref()?.help().map(|help| for_shells(&help))
    }

    /// The headline and the help line.
    pub(crate) fn brief(&self) -> String {
        self.help().map_or_else(
            || self.headline(),
            |help| format!("{}\nhelp: {help}", self.headline()),
        )
    }
}

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
        vigil::keep(console, &endpoints, aim, at_most, None)?;
    }
    let findings: Vec<Finding> = endpoints
        .into_iter()
        .map(|endpoint| Finding::new(endpoint, aim))
        .collect();
    if let Some(file) = &args.junit {
        junit::write(file, &findings)?;
    }
    if annotation::are_wanted() {
        // The runner reads stderr too, and stdout is for the answer alone.
        findings
            .iter()
            .filter_map(annotation::annotation)
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
            tell(console, finding, aim)?;
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

pub(crate) fn tell(console: &Console, finding: &Finding, aim: Aim) -> Result<(), Failure> {
    if finding.problem.is_none() {
        let is = if aim == Aim::Free {
            "is free"
        } else {
            "is listening"
        };
        console.detail(format_args!("port {} {is}", finding.endpoint));
        return Ok(());
    }
    console.report(if console.is_verbose() {
        finding.report()
    } else {
        finding.brief()
    })
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
        cause: finding
            .problem
            .as_ref()
            .map(|diagnosis| for_shells(&diagnosis.cause())),
        help: finding.help(),
    }
}
