//! [`Finding`]: the result of checking one port.

use std::time::Duration;

use portlease::{Diagnosis, Endpoint};

use crate::condition::Condition;
use crate::exit;
use crate::limits::WAIT_REPORT_TIME;

/// Whether one port meets a condition.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) endpoint: Endpoint,
    /// Why the port does not meet the condition, or could not be checked.
    pub(crate) problem: Option<Diagnosis>,
    /// Whether the check follows a wait for the condition.
    pub(crate) waited: bool,
}

impl Finding {
    pub(crate) fn new(endpoint: Endpoint, condition: Condition, waited: bool) -> Self {
        let mut all = Self::all(&[endpoint], condition, waited);
        all.pop().expect("one port has one finding")
    }

    pub(crate) fn all(endpoints: &[Endpoint], condition: Condition, waited: bool) -> Vec<Self> {
        // The wait has retried before.
        let retries = if waited {
            WAIT_REPORT_TIME
        } else {
            Duration::MAX
        };
        let results = condition.check(endpoints, retries);
        let finding = |(endpoint, result): (&Endpoint, Result<(), Diagnosis>)| Finding {
            endpoint: *endpoint,
            problem: result.err(),
            waited,
        };
        endpoints.iter().zip(results).map(finding).collect()
    }

    /// Whether the port meets the condition; `None` if it could not be checked.
    pub(crate) fn answer(&self) -> Option<bool> {
        match &self.problem {
            None => Some(true),
            Some(diagnosis) => diagnosis.could_tell().then_some(false),
        }
    }
}

/// The exit code for these findings.
pub(crate) fn verdict(findings: &[Finding]) -> u8 {
    let any = |answer| findings.iter().any(|finding| finding.answer() == answer);
    match (any(Some(false)), any(None)) {
        (true, _) => exit::NO,
        (false, true) => exit::INCOMPLETE,
        (false, false) => exit::YES,
    }
}
