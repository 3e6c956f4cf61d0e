//! [`Finding`]: the result of checking one port.

use std::time::{Duration, Instant};

use portlease::{Diagnosis, Endpoint, Holder, ServerKind, State, who_holds};

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
    /// The report on a free port that only a server with SO_REUSEADDR can bind, because connections
    /// are left. `None` until [`Finding::note_servers`] has checked the port, and always `None` for
    /// a reserved port.
    pub(crate) needs_reuse_addr: Option<Diagnosis>,
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
                needs_reuse_addr: None,
            }
        };
        endpoints.iter().zip(results).map(finding).collect()
    }

    /// Finds the free ports that only a server with SO_REUSEADDR can bind, because connections of a
    /// stopped server are left. Tries once to bind each free port without SO_REUSEADDR.
    pub(crate) fn note_servers(findings: &mut [Finding]) {
        // On Windows, a server can bind without SO_REUSEADDR while connections of an earlier server
        // are left.
        if cfg!(windows) {
            return;
        }
        let mut free: Vec<&mut Finding> = findings
            .iter_mut()
            .filter(|finding| finding.problem.is_none())
            .collect();
        let endpoints: Vec<Endpoint> = free.iter().map(|finding| finding.endpoint).collect();
        let results = Condition::Free(ServerKind::Plain).check(&endpoints, Duration::ZERO);
        for (finding, result) in free.iter_mut().zip(results) {
            finding.needs_reuse_addr = result.err().filter(has_only_connections);
        }
    }

    /// Whether the report on the port lists a server.
    pub(crate) fn shows_server(&self) -> bool {
        let holders = self.problem.as_ref().and_then(Diagnosis::holders);
        holders.is_some_and(|holders| holders.iter().any(Holder::is_server))
    }

    /// Whether the port meets the condition; `None` if it could not be checked.
    pub(crate) fn answer(&self) -> Option<bool> {
        match &self.problem {
            None => Some(true),
            Some(diagnosis) => diagnosis.could_tell().then_some(false),
        }
    }
}

/// Returns `true` if only connections, and no reservation, keep a server from binding the port.
fn has_only_connections(problem: &Diagnosis) -> bool {
    let mut holders = problem.holders().into_iter().flatten().peekable();
    let is_connection = |holder: &Holder| holder.remote.is_some();
    problem.leases().is_empty() && holders.peek().is_some() && holders.all(is_connection)
}

/// Replaces `problem`, the report of a check, by the report of a wait. Only a wait connects to the
/// port, and can report that a packet filter redirects the port. Keeps `problem` if the port could
/// not be checked. Returns `None` if a server began to listen after the check.
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
pub(crate) fn verdict<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> u8 {
    let answers: Vec<Option<bool>> = findings.into_iter().map(Finding::answer).collect();
    match (answers.contains(&Some(false)), answers.contains(&None)) {
        (true, _) => exit::NO,
        (false, true) => exit::INCOMPLETE,
        (false, false) => exit::YES,
    }
}

/// Whether a server has the port. `false` also if the sockets of the port cannot be read.
pub(crate) fn has_server(endpoint: Endpoint) -> bool {
    who_holds(endpoint).is_ok_and(|holders| holders.iter().any(Holder::is_server))
}

/// Whether the process `owner` has a claim on the port: a bound TCP socket that keeps the port and
/// never listens. While the claim exists, the kernel refuses the bind of a server that sets neither
/// SO_REUSEADDR nor SO_REUSEPORT. `false` if the system does not show the socket.
///
/// A port server (a program that chooses ports for others, as for portpicker) may run as another
/// user or in another pid namespace. The owner of its claim is then hidden. So a claim with a
/// hidden owner counts too, unless `owner` is this process.
pub(crate) fn has_claim(endpoint: Endpoint, owner: Option<u32>) -> bool {
    let is_own = owner == Some(std::process::id());
    let is_claim = |socket: &Holder| {
        let mut owners = socket.processes.iter();
        let is_of_owner = owners.any(|process| Some(process.pid) == owner);
        socket.state == State::Bound && (is_of_owner || (socket.hidden && !is_own))
    };
    who_holds(endpoint).is_ok_and(|holders| holders.iter().any(is_claim))
}
