//! [`Finding`]: the result of checking one port.

use std::time::{Duration, Instant};

use portlease::{Diagnosis, Endpoint};

use crate::condition::Condition;
use crate::exit;
use crate::limits::WAIT_REPORT_TIME;
use crate::output::remedy::Asked;

/// Whether one port meets a condition.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) endpoint: Endpoint,
    /// Why the port does not meet the condition, or could not be checked.
    pub(crate) problem: Option<Diagnosis>,
    pub(crate) asked: Asked,
}

impl Finding {
    /// `waited` says whether the check follows a wait for the condition.
    pub(crate) fn new(endpoint: Endpoint, condition: Condition, waited: bool) -> Self {
        let mut all = Self::all(&[endpoint], condition, waited);
        all.pop().expect("one port has one finding")
    }

    pub(crate) fn all(endpoints: &[Endpoint], condition: Condition, waited: bool) -> Vec<Self> {
        // After a wait the check retries only briefly, because the wait has already retried.
        let retries = if waited {
            WAIT_REPORT_TIME
        } else {
            Duration::MAX
        };
        let results = condition.check(endpoints, retries);
        // Each call of `after_wait` takes about a millisecond. Once `WAIT_REPORT_TIME` has passed,
        // the remaining ports keep the report of the check.
        let started = Instant::now();
        let finding = |(endpoint, result): (&Endpoint, Result<(), Diagnosis>)| {
            let problem = result.err().and_then(|problem| match condition {
                Condition::Listening if waited && started.elapsed() <= WAIT_REPORT_TIME => {
                    after_wait(*endpoint, problem)
                }
                _ => Some(problem),
            });
            Finding {
                endpoint: *endpoint,
                problem,
                asked: condition.asked(waited),
            }
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

/// The report on a port without a listener, after a wait for one. A check makes no connection, but
/// a wait makes one before it reports a timeout. So the report of a wait also says whether a packet
/// filter redirects the port. Returns `None` if a server began to listen after the check.
fn after_wait(endpoint: Endpoint, problem: Diagnosis) -> Option<Diagnosis> {
    if !problem.could_tell() {
        return Some(problem);
    }
    let waited = Condition::Listening.wait(endpoint, Duration::ZERO);
    waited
        .err()
        .map(|error| error.diagnosis().cloned().unwrap_or(problem))
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
