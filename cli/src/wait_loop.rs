//! The wait for ports, with word of it: a line that changes on a terminal, two lines in a log.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use portlease::{Endpoint, ErrorKind};

use crate::condition::Aim;
use crate::failure::Failure;
use crate::output::console::Console;
use crate::process::{Watched, cannot_watch};

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Met,
    TimedOut,
    /// The process ended first.
    Ended,
}

/// How often the process is looked at and the line renewed.
const TICK: Duration = Duration::from_millis(50);

/// Waits until all of the ports are so at one time, at most so long, and no longer than a process lives.
pub(crate) fn keep(
    console: &Console,
    endpoints: &[Endpoint],
    aim: Aim,
    at_most: Duration,
    pid: Option<u32>,
) -> Result<Outcome, Failure> {
    let started = Instant::now();
    let process = match pid {
        Some(pid) => Some((pid, Watched::open(pid).map_err(|e| cannot_watch(pid, &e))?)),
        None => None,
    };
    // What is so already is not worth a word.
    if met(endpoints, aim)? {
        return Ok(Outcome::Met);
    }
    let limit = humantime::format_duration(at_most);
    let list = listed(endpoints);
    if !console.shows_progress() {
        console.note(format_args!(
            "waiting up to {limit} for {list} to be {}",
            aim.word()
        ));
    }
    let current = Arc::new(AtomicUsize::new(0));
    let (tell, told) = channel();
    let (ports, at) = (endpoints.to_vec(), current.clone());
    let wait = move || {
        // Nobody listens any more once the process has ended first.
        let _gone = tell.send(all(&ports, aim, started, at_most, &at));
    };
    let thread = std::thread::Builder::new()
        .name("vigil".to_owned())
        .spawn(wait);
    thread.map_err(|e| Failure::system("start a thread", &e))?;
    let outcome = loop {
        match told.recv_timeout(TICK) {
            Ok(Ok(())) => break Outcome::Met,
            Ok(Err(error)) if error.kind() == ErrorKind::TimedOut => break Outcome::TimedOut,
            Ok(Err(error)) => return Err(error.into()),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::new("cannot wait: the waiting thread has died"));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some((pid, process)) = &process {
            let ended = process
                .as_ref()
                .map_or(Ok(true), |process| process.has_ended(Duration::ZERO));
            if ended.map_err(|e| cannot_watch(*pid, &e))? {
                // Its end may be what was waited for.
                break if met(endpoints, aim)? {
                    Outcome::Met
                } else {
                    Outcome::Ended
                };
            }
        }
        let waits_for = endpoints.get(current.load(Ordering::Relaxed)).copied();
        let (for_secs, of) = (started.elapsed().as_secs(), at_most.as_secs());
        let now = waits_for.map_or(list.clone(), |endpoint| endpoint.to_string());
        let line = format!(
            "waiting for {now} to be {}: {for_secs} s of {of} s",
            aim.word()
        );
        console.progress(Some(&line));
    };
    console.progress(None);
    if !console.shows_progress() {
        let after = format!("after {:.1} s", started.elapsed().as_secs_f64());
        console.note(match (&outcome, pid) {
            (Outcome::Met, _) => format!("{list} {} {after}", aim.word()),
            (Outcome::Ended, Some(pid)) => format!("pid {pid} ended first, {after}"),
            _ => format!("gave up {after}"),
        });
    }
    Ok(outcome)
}

fn all(
    endpoints: &[Endpoint],
    aim: Aim,
    started: Instant,
    at_most: Duration,
    current: &AtomicUsize,
) -> portlease::Result<()> {
    loop {
        for (n, endpoint) in endpoints.iter().enumerate() {
            current.store(n, Ordering::Relaxed);
            aim.wait(*endpoint, left(at_most, started))?;
        }
        // One of them may have changed since: they are to be so all at once.
        match endpoints
            .iter()
            .try_for_each(|endpoint| aim.wait(*endpoint, Duration::ZERO))
        {
            Err(error) if error.kind() == ErrorKind::TimedOut && started.elapsed() < at_most => {}
            outcome => return outcome,
        }
    }
}

/// In whole milliseconds, as the report says it.
pub(crate) fn left(at_most: Duration, started: Instant) -> Duration {
    let micros = at_most.saturating_sub(started.elapsed()).as_micros();
    Duration::from_millis(u64::try_from(micros.div_ceil(1000)).unwrap_or(u64::MAX))
}

fn met(endpoints: &[Endpoint], aim: Aim) -> Result<bool, Failure> {
    match endpoints
        .iter()
        .try_for_each(|endpoint| aim.wait(*endpoint, Duration::ZERO))
    {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::TimedOut => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The first few by name.
fn listed(endpoints: &[Endpoint]) -> String {
    const NAMED: usize = 4;
    let named: Vec<String> = endpoints
        .iter()
        .take(NAMED)
        .map(ToString::to_string)
        .collect();
    match endpoints.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}
