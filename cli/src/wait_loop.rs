//! Waits for ports, and reports progress. A terminal shows one line that changes. A log gets one
//! line at the start, and one at the end.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use portlease::{Diagnosis, Endpoint, ErrorKind, Protocol, wait_until_all_listening};

use crate::condition::Condition;
use crate::failure::Failure;
use crate::limits::{LISTEN_REPORT, PROGRESS_INTERVAL, remaining};
use crate::output::console::{Console, progress_line};
use crate::process::{ProcessHandle, watch_failure};
use crate::survey;

/// How a wait ended.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Met,
    /// Contains the report on the port that the wait was waiting for.
    TimedOut(Option<Diagnosis>),
    /// The process of `--pid` ended before the ports met the condition.
    ProcessEnded(Option<Diagnosis>),
}

/// What a wait does about a port that cannot be checked. Such a port never meets the condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unable {
    Fail,
    /// Wait for the other ports alone.
    Skip,
}

/// Waits until all ports meet the condition at the same time, and with `steady` until they have
/// been listening for that long. The wait ends earlier when the time limit is reached or the
/// process `pid` ends.
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
    let endpoints = match able(endpoints, condition, unable) {
        Ok(able) => able,
        Err(_) if has_ended(process.as_ref())? => return Ok(Outcome::ProcessEnded(None)),
        Err(failure) => return Err(failure),
    };
    let endpoints = endpoints.as_slice();
    // If the condition is met at once, no progress is printed.
    match holds_now(endpoints, condition) {
        Ok(true) if steady.is_none() => return Ok(Outcome::Met),
        Ok(_) => {}
        Err(_) if has_ended(process.as_ref())? => return Ok(Outcome::ProcessEnded(None)),
        Err(failure) => return Err(failure),
    }
    let limit_text = humantime::format_duration(limit);
    let list = port_summary(endpoints);
    if !console.shows_progress() {
        console.note(format_args!(
            "waiting up to {limit_text} for {list} to be {}",
            condition.word()
        ));
    }
    let current = Arc::new(AtomicUsize::new(0));
    let (sender, receiver) = channel();
    let (ports, index) = (endpoints.to_vec(), current.clone());
    let wait = move || {
        // If the process of `--pid` ended first, the receiver is gone, and the send fails.
        let _sent = sender.send(wait_for_all(
            &ports, condition, started, limit, steady, &index,
        ));
    };
    let thread = std::thread::Builder::new()
        .name("wait".to_owned())
        .spawn(wait);
    thread.map_err(|e| Failure::system("start a thread", &e))?;
    let outcome = loop {
        match receiver.recv_timeout(PROGRESS_INTERVAL) {
            Ok(Ok(true)) => break Outcome::Met,
            Ok(Ok(false)) => break Outcome::TimedOut(None),
            Ok(Err(error)) if error.kind() == ErrorKind::TimedOut => {
                break Outcome::TimedOut(error.diagnosis().cloned());
            }
            // If the process of `--pid` ends, the wait in the thread can fail before this loop
            // checks the process.
            Ok(Err(error)) if has_ended(process.as_ref())? => {
                break after_end(endpoints, condition, error.diagnosis().cloned())?;
            }
            Ok(Err(error)) => return Err(error.into()),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::new("cannot wait: the waiting thread panicked"));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if has_ended(process.as_ref())? {
            // The waiting thread also notices that the process has ended. It may still find a
            // listener of a daemon that the process started.
            let is_about_process = matches!(condition, Condition::HeldBy(_));
            let report = match is_about_process.then(|| receiver.recv_timeout(LISTEN_REPORT)) {
                Some(Ok(Ok(true))) => break Outcome::Met,
                Some(Ok(Err(error))) => error.diagnosis().cloned(),
                Some(Ok(Ok(false)) | Err(_)) | None => None,
            };
            break after_end(endpoints, condition, report)?;
        }
        let waiting_for = endpoints.get(current.load(Ordering::Relaxed)).copied();
        let target = waiting_for.map_or(list.clone(), |endpoint| endpoint.to_string());
        let target = format!("{target} to be {}", condition.word());
        console.progress(Some(&progress_line(&target, started, limit)));
    };
    console.progress(None);
    if !console.shows_progress() {
        let after = format!("after {:.1} s", started.elapsed().as_secs_f64());
        console.note(match (&outcome, pid) {
            (Outcome::Met, _) => format!("{list} {} {after}", condition.word()),
            (Outcome::ProcessEnded(_), Some(pid)) => {
                format!("stopped waiting: pid {pid} ended {after}")
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
    report: Option<Diagnosis>,
) -> Result<Outcome, Failure> {
    let is_met = matches!(condition, Condition::Free(_)) && holds_now(endpoints, condition)?;
    Ok(if is_met {
        Outcome::Met
    } else {
        Outcome::ProcessEnded(report)
    })
}

/// Waits until all ports meet the condition in one pass. Returns `false` if `limit` ended a pass
/// over many ports. Returns a timeout error if `limit` passed during the wait for one port.
fn wait_for_all(
    endpoints: &[Endpoint],
    condition: Condition,
    started: Instant,
    limit: Duration,
    steady: Option<Duration>,
    current: &AtomicUsize,
) -> portlease::Result<bool> {
    // The index at which the last pass ended. The ports before this index met the condition in that
    // pass.
    let mut from = 0;
    loop {
        // A port that met the condition early may have changed since. So all ports must meet the
        // condition in one pass, which starts at index 0.
        let unmet = match survey::first_unmet(&endpoints[from..], condition, limit, started)? {
            None if from == 0 => {
                if let Some(steady) = steady {
                    wait_until_all_listening(endpoints, steady, remaining(limit, started))?;
                }
                return Ok(true);
            }
            None => {
                from = 0;
                continue;
            }
            Some(n) => from + n,
        };
        current.store(unmet, Ordering::Relaxed);
        condition.wait(endpoints[unmet], remaining(limit, started))?;
        if survey::are_many(endpoints) && started.elapsed() > limit {
            // This port meets the condition now, but no time is left to check the ports after it.
            return Ok(false);
        }
        from = unmet;
    }
}

/// Whether all ports meet the condition in one pass, without a time limit.
fn holds_now(endpoints: &[Endpoint], condition: Condition) -> Result<bool, Failure> {
    let unmet = survey::first_unmet(endpoints, condition, Duration::MAX, Instant::now())?;
    Ok(unmet.is_none())
}

/// The ports that can be checked. With [`Unable::Fail`], returns the error of the first port that
/// cannot be checked.
fn able(
    endpoints: &[Endpoint],
    condition: Condition,
    unable: Unable,
) -> Result<Vec<Endpoint>, Failure> {
    // Whether a port can be checked depends only on its address and its protocol. So the first port
    // of each kind is checked for all ports of that kind.
    let mut kinds: Vec<(Option<IpAddr>, Option<Protocol>, bool)> = Vec::new();
    let mut able = Vec::with_capacity(endpoints.len());
    for endpoint in endpoints {
        let kind = (endpoint.ip, endpoint.protocol);
        let known = kinds
            .iter()
            .find(|(ip, protocol, _)| (*ip, *protocol) == kind);
        let is_able = match known {
            Some((.., is_able)) => *is_able,
            None => {
                let is_able = match survey::is_met(*endpoint, condition) {
                    Err(error) if unable == Unable::Fail => return Err(error.into()),
                    answer => answer.is_ok(),
                };
                kinds.push((endpoint.ip, endpoint.protocol, is_able));
                is_able
            }
        };
        if is_able {
            able.push(*endpoint);
        }
    }
    Ok(able)
}

/// A short list of the ports, such as `80/tcp, 81/tcp, 82/tcp, 83/tcp and 6 more`.
fn port_summary(endpoints: &[Endpoint]) -> String {
    const MAX_LISTED: usize = 4;
    let listed: Vec<String> = endpoints
        .iter()
        .take(MAX_LISTED)
        .map(ToString::to_string)
        .collect();
    match endpoints.len().saturating_sub(MAX_LISTED) {
        0 => listed.join(", "),
        more => format!("{} and {more} more", listed.join(", ")),
    }
}
