//! Waits for ports, and reports progress. A terminal shows one line that changes. A log gets one
//! line at the start, and one at the end.

use std::collections::HashSet;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use portlease::{Diagnosis, Endpoint, ErrorKind, wait_until_all_listening};

use crate::condition::Condition;
use crate::failure::Failure;
use crate::limits::{LISTEN_REPORT, PROGRESS_INTERVAL, STEADY_REPORT, remaining};
use crate::output::console::{Console, progress_line};
use crate::ports::port_summary;
use crate::process::{ProcessHandle, watch_failure};
use crate::survey::{self, Unmet};

/// How a wait ended.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Met,
    /// The report on the port that did not meet the condition in time. `None` if the time limit
    /// passed while the wait checked many ports.
    TimedOut(Option<Diagnosis>),
    /// The process of `--pid` ended before the ports met the condition. Contains the report on the
    /// port that the wait was waiting for, if there is a report.
    ProcessEnded(Option<Diagnosis>),
}

/// What a wait does about a port that cannot be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unable {
    Fail,
    /// Wait only for the ports that can be checked.
    Skip,
}

/// Waits until all ports meet the condition at the same time. With `steady`, also waits until all
/// ports have been listening for that duration. The wait ends earlier when the time limit is
/// reached or the process `pid` ends.
pub(crate) fn wait_for(
    console: &Console,
    endpoints: &[Endpoint],
    condition: Condition,
    limit: Duration,
    steady: Option<Duration>,
    pid: Option<u32>,
    unable: Unable,
) -> Result<Outcome, Failure> {
    let started = Instant::now();
    let process = match pid {
        Some(pid) => Some((
            pid,
            ProcessHandle::open(pid).map_err(|e| watch_failure(pid, &e))?,
        )),
        None => None,
    };
    let endpoints = match check_first(endpoints, condition, unable, limit, started) {
        // Without `steady`, no progress is printed if the ports meet the condition at once.
        Ok(FirstCheck { all_met: true, .. }) if steady.is_none() => return Ok(Outcome::Met),
        Ok(FirstCheck { able, .. }) => able,
        Err(_) if has_ended(process.as_ref())? => return Ok(Outcome::ProcessEnded(None)),
        Err(failure) => return Err(failure),
    };
    let endpoints = endpoints.as_slice();
    let limit_text = humantime::format_duration(limit);
    let word = match steady {
        Some(steady) => {
            let steady = humantime::format_duration(steady);
            format!("{} for {steady} without a break", condition.word())
        }
        None => condition.word().to_owned(),
    };
    let mut list = port_summary(endpoints);
    if !console.shows_progress() {
        console.note(format_args!(
            "waiting up to {limit_text} for {list} to be {word}"
        ));
    }
    let current = Current::default();
    let (sender, receiver) = channel();
    let all = WaitForAll {
        endpoints: endpoints.to_vec(),
        condition,
        unable,
        started,
        limit,
        steady,
        current: current.clone(),
    };
    let wait = move || {
        // If the process of `--pid` ended first, the receiver is gone, and the send fails.
        let _sent = sender.send(all.wait());
    };
    let thread = std::thread::Builder::new()
        .name("wait".to_owned())
        .spawn(wait);
    thread.map_err(|e| Failure::system("start a thread", &e))?;
    let outcome = loop {
        match receiver.recv_timeout(PROGRESS_INTERVAL) {
            Ok(Ok(Some(met))) => {
                list = port_summary(&met);
                break Outcome::Met;
            }
            Ok(Ok(None)) => break Outcome::TimedOut(None),
            Ok(Err(error)) if error.kind() == ErrorKind::TimedOut => {
                break Outcome::TimedOut(error.diagnosis().cloned());
            }
            // If the process of `--pid` has ended, its end decides the outcome, not the error of
            // the thread.
            Ok(Err(error)) if has_ended(process.as_ref())? => {
                break after_end(
                    endpoints,
                    condition,
                    remaining(limit, started),
                    error.diagnosis().cloned(),
                )?;
            }
            Ok(Err(error)) => return Err(error.into()),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::new("cannot wait: the waiting thread panicked"));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if has_ended(process.as_ref())? {
            // With `HeldBy`, the thread also notices the end of the process, and may still find a
            // listener of a daemon that the process started. So wait for the thread's result.
            let is_about_process = matches!(condition, Condition::HeldBy(_));
            let grace = steady.map_or(LISTEN_REPORT, |_| STEADY_REPORT);
            let report = match is_about_process.then(|| receiver.recv_timeout(grace)) {
                Some(Ok(Ok(Some(_)))) => break Outcome::Met,
                Some(Ok(Err(error))) => error.diagnosis().cloned(),
                Some(Ok(Ok(None)) | Err(_)) | None => None,
            };
            break after_end(endpoints, condition, remaining(limit, started), report)?;
        }
        let target = current.get().map_or(list.clone(), |port| port.to_string());
        let target = format!("{target} to be {word}");
        console.progress(Some(&progress_line(&target, started, limit)));
    };
    console.progress(None);
    if !console.shows_progress() {
        let after = format!("after {:.1} s", started.elapsed().as_secs_f64());
        console.note(match (&outcome, pid) {
            (Outcome::Met, _) if list.is_empty() => {
                format!("stopped waiting {after}: the ports can no longer be checked")
            }
            (Outcome::Met, _) => format!("{list} {word} {after}"),
            (Outcome::ProcessEnded(_), Some(pid)) => {
                format!("stopped waiting {after}: pid {pid} ended")
            }
            _ => format!("timed out {after}"),
        });
    }
    Ok(outcome)
}

/// The pid of `--pid`, and a handle of that process. The handle is `None` if the process had ended
/// before the wait began.
type Watched = (u32, Option<ProcessHandle>);

fn has_ended(process: Option<&Watched>) -> Result<bool, Failure> {
    let Some((pid, handle)) = process else {
        return Ok(false);
    };
    let ended = handle
        .as_ref()
        .map_or(Ok(true), |handle| handle.ended_within(Duration::ZERO));
    ended.map_err(|e| watch_failure(*pid, &e))
}

/// The outcome after the process of `--pid` has ended. Its end may have freed the ports, so a wait
/// for free ports checks them once more.
fn after_end(
    endpoints: &[Endpoint],
    condition: Condition,
    left: Duration,
    report: Option<Diagnosis>,
) -> Result<Outcome, Failure> {
    let is_met = matches!(condition, Condition::Free(_)) && are_free(endpoints, condition, left)?;
    Ok(if is_met {
        Outcome::Met
    } else {
        Outcome::ProcessEnded(report)
    })
}

/// Whether all ports are free. The check retries for up to `at_most`.
fn are_free(
    endpoints: &[Endpoint],
    condition: Condition,
    at_most: Duration,
) -> Result<bool, Failure> {
    let mut are_free = true;
    for result in condition.check(endpoints, at_most) {
        match result {
            Ok(()) => {}
            Err(problem) if problem.could_tell() => are_free = false,
            Err(problem) => return Err(portlease::Error::from(problem).into()),
        }
    }
    Ok(are_free)
}

/// The port that the wait is waiting for now. The progress line shows it.
#[derive(Clone, Debug, Default)]
struct Current(Arc<Mutex<Option<Endpoint>>>);

impl Current {
    fn get(&self) -> Option<Endpoint> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, endpoint: Endpoint) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(endpoint);
    }
}

/// A wait until all ports meet the condition in one pass.
struct WaitForAll {
    endpoints: Vec<Endpoint>,
    condition: Condition,
    unable: Unable,
    started: Instant,
    limit: Duration,
    steady: Option<Duration>,
    current: Current,
}

impl WaitForAll {
    /// Returns the ports that met the condition, without those that [`Unable::Skip`] skipped. Fails
    /// with a timeout if a port does not meet the condition in time. Exception for
    /// [many](survey::are_many) ports: returns `None` if the limit passes before all are checked.
    fn wait(mut self) -> portlease::Result<Option<Vec<Endpoint>>> {
        let (condition, limit, started) = (self.condition, self.limit, self.started);
        // `wait_until_all_listening` records which listeners were open. So it can report a server
        // that closes its listener again and again.
        let wait_for_steady = |ports: &[Endpoint], steady| {
            wait_until_all_listening(ports, steady, remaining(limit, started))
        };
        if let (Condition::Listening, Some(steady)) = (condition, self.steady) {
            wait_for_steady(&self.endpoints, steady)?;
            return Ok(Some(self.endpoints));
        }
        // The next check starts at this index. Every port before it has already met the condition.
        let mut from = 0;
        loop {
            let ports = &self.endpoints;
            // A port that met the condition early may have changed since. So all ports must meet
            // the condition in one pass, which starts at index 0. With `steady`, `wait_for_steady`
            // checks all ports instead.
            let unmet = match survey::first_unmet(&ports[from..], condition, limit, started) {
                None if from == 0 || self.steady.is_some() => {
                    if let Some(steady) = self.steady {
                        wait_for_steady(ports, steady)?;
                        // `wait_for_steady` ignores the owners of listeners. The listener that
                        // stayed open may belong to a process other than the expected one.
                        if survey::first_unmet(ports, condition, limit, started).is_some() {
                            from = 0;
                            continue;
                        }
                    }
                    return Ok(Some(self.endpoints));
                }
                None => {
                    from = 0;
                    continue;
                }
                Some(unmet) => unmet,
            };
            from += unmet.index;
            let endpoint = ports[from];
            self.current.set(endpoint);
            let waited = match unmet.error {
                Some(error) => Err(error),
                None => condition.wait_among(ports, from, remaining(limit, started)),
            };
            match waited {
                Ok(()) if survey::are_many(ports) && started.elapsed() > limit => {
                    // This port meets the condition now, but no time is left to check the ports
                    // after it.
                    return Ok(None);
                }
                Ok(()) => {}
                // The port can no longer be checked. For example, a server on a privileged port has
                // ended. Only a bind could show that the port is free, and this user may not bind
                // it.
                Err(error)
                    if self.unable == Unable::Skip && error.kind() != ErrorKind::TimedOut =>
                {
                    self.endpoints.remove(from);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether all ports meet the condition in one pass, without a time limit.
fn holds_now(endpoints: &[Endpoint], condition: Condition) -> Result<bool, Failure> {
    match survey::first_unmet(endpoints, condition, Duration::MAX, Instant::now()) {
        Some(Unmet {
            error: Some(error), ..
        }) => Err(error.into()),
        unmet => Ok(unmet.is_none()),
    }
}

/// The result of the check before a wait.
struct FirstCheck {
    /// The ports that can be checked.
    able: Vec<Endpoint>,
    /// Whether each port in `able` meets the condition.
    all_met: bool,
}

/// Checks the ports before a wait. With [`Unable::Fail`], fails if a port cannot be checked.
fn check_first(
    endpoints: &[Endpoint],
    condition: Condition,
    unable: Unable,
    limit: Duration,
    started: Instant,
) -> Result<FirstCheck, Failure> {
    // Finds the ports that can be checked. A check for free ports tries every port, because a
    // missing privilege or a sandbox can forbid the bind of a single number. Any other check reads
    // the socket table. If that read fails for one number, it fails for all. So the check tries one
    // port of each address and protocol.
    let is_per_number = matches!(condition, Condition::Free(_));
    let kind = |endpoint: &Endpoint| match is_per_number {
        true => *endpoint,
        false => Endpoint {
            port: 0,
            ..*endpoint
        },
    };
    let mut seen = HashSet::new();
    let mut samples = endpoints.to_vec();
    samples.retain(|endpoint| seen.insert(kind(endpoint)));
    let mut able_kinds = HashSet::new();
    let mut all_met = true;
    for (sample, answer) in samples
        .iter()
        .zip(survey::answers(&samples, condition, limit, started))
    {
        match answer {
            Ok(is_met) => {
                able_kinds.insert(kind(sample));
                all_met &= is_met;
            }
            Err(error) if unable == Unable::Fail => return Err(error.into()),
            Err(_) => {}
        }
    }
    let mut able = endpoints.to_vec();
    able.retain(|endpoint| able_kinds.contains(&kind(endpoint)));
    if all_met && !is_per_number {
        all_met = holds_now(&able, condition)?;
    }
    Ok(FirstCheck { able, all_met })
}
