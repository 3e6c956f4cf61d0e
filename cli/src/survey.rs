//! Checks many ports at once.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use portlease::{Diagnosis, Endpoint, ErrorKind};

use crate::condition::Condition;
use crate::limits::{PORTS_PER_STEP, PORTS_PER_THREAD};

/// Whether there are more ports than one thread should check.
pub(crate) fn are_many(endpoints: &[Endpoint]) -> bool {
    endpoints.len() > PORTS_PER_THREAD
}

/// A port that does not meet the condition, or that was not checked.
#[derive(Debug)]
pub(crate) struct Unmet {
    pub(crate) index: usize,
    /// Why the port cannot be checked. `None` if the port does not meet the condition, or if
    /// [`first_unmet`] reached its time limit before it checked the port.
    pub(crate) error: Option<portlease::Error>,
}

/// Returns the first port that does not meet the condition now or cannot be checked. If `limit`
/// ends a search of many ports, returns the first port that was not checked.
///
/// Each step checks twice as many ports as the step before, up to [`PORTS_PER_STEP`]. So the search
/// is quick if an early port does not meet the condition, and also if all ports meet it.
pub(crate) fn first_unmet(
    endpoints: &[Endpoint],
    condition: Condition,
    limit: Duration,
    started: Instant,
) -> Option<Unmet> {
    let (mut index, mut length) = (0, 1);
    while index < endpoints.len() {
        if are_many(endpoints) && started.elapsed() > limit {
            return Some(Unmet { index, error: None });
        }
        let step = &endpoints[index..endpoints.len().min(index + length)];
        if let Some(unmet) = first_unmet_of(step, condition) {
            let index = index + unmet.index;
            return Some(Unmet { index, ..unmet });
        }
        index += step.len();
        length = (length * 2).min(PORTS_PER_STEP);
    }
    None
}

/// The first of these ports that does not meet the condition now, or cannot be checked. Checks all
/// these ports together, without retries.
fn first_unmet_of(endpoints: &[Endpoint], condition: Condition) -> Option<Unmet> {
    if let Condition::HeldBy(_) = condition {
        // If nothing listens, the wait below tries to connect for its report. A server that has
        // just started would see the connection. So a check for listeners, which makes no
        // connection, comes first.
        if let Some(unmet) = first_unmet_of(endpoints, Condition::Listening) {
            return Some(unmet);
        }
        let error = condition.wait_among(endpoints, 0, Duration::ZERO).err()?;
        let named = error.diagnosis().and_then(Diagnosis::endpoint);
        let index = endpoints
            .iter()
            .position(|endpoint| Some(*endpoint) == named);
        let has_answer = error.kind() == ErrorKind::TimedOut;
        return Some(Unmet {
            index: index.unwrap_or(0),
            error: (!has_answer).then_some(error),
        });
    }
    let results = condition.check(endpoints, Duration::ZERO);
    let mut results = endpoints.iter().zip(results).enumerate();
    results.find_map(
        |(index, (endpoint, result))| match answer(*endpoint, condition, result) {
            Ok(true) => None,
            Ok(false) => Some(Unmet { index, error: None }),
            Err(e) => {
                let error = Some(e);
                Some(Unmet { index, error })
            }
        },
    )
}

/// Returns for each port whether it meets the condition now, or why it cannot be checked. If
/// `limit` ends a check of many ports, the answer for a port that was not checked is `Ok(false)`.
pub(crate) fn answers(
    endpoints: &[Endpoint],
    condition: Condition,
    limit: Duration,
    started: Instant,
) -> Vec<portlease::Result<bool>> {
    let parts = in_parallel(endpoints, |part| {
        let mut answers = Vec::new();
        for step in part.chunks(PORTS_PER_STEP) {
            if are_many(endpoints) && started.elapsed() > limit {
                break;
            }
            let results = condition.check(step, Duration::ZERO);
            let of_step = step.iter().zip(results);
            answers.extend(of_step.map(|(port, result)| answer(*port, condition, result)));
        }
        answers.resize_with(part.len(), || Ok(false));
        answers
    });
    parts.into_iter().flatten().collect()
}

/// Returns `true` if the port meets the condition. `result` comes from the check of the port. Fails
/// if the port could not be checked, or if this machine lacks the address of the port.
fn answer(
    endpoint: Endpoint,
    condition: Condition,
    result: Result<(), Diagnosis>,
) -> portlease::Result<bool> {
    let problem = match result {
        Ok(()) => return Ok(true),
        Err(problem) => problem,
    };
    match condition {
        // Returns at once, because the wait below would try a connection before it reports that no
        // socket listens.
        Condition::Listening if problem.could_tell() => return Ok(false),
        Condition::Free(_) => {
            let error = portlease::Error::from(problem);
            return match error.kind() {
                ErrorKind::InUse => Ok(false),
                _ => Err(error),
            };
        }
        _ => {}
    }
    match condition.wait(endpoint, Duration::ZERO) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::TimedOut => Ok(false),
        Err(error) => Err(error),
    }
}

/// Calls `work` for parts of the ports, each in a thread if there are many ports. Returns the
/// results in the order of the ports.
pub(crate) fn in_parallel<T: Send>(
    endpoints: &[Endpoint],
    work: impl Fn(&[Endpoint]) -> T + Sync,
) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let length = endpoints.len().div_ceil(threads).max(PORTS_PER_THREAD);
    if endpoints.len() <= length {
        return vec![work(endpoints)];
    }
    in_threads(endpoints, length, work)
}

/// Calls `work` for parts of `length` items, each in a thread. If a thread cannot start, calls
/// `work` for its part in the calling thread. Returns the results in the order of the items.
pub(crate) fn in_threads<I: Sync, T: Send>(
    items: &[I],
    length: usize,
    work: impl Fn(&[I]) -> T + Sync,
) -> Vec<T> {
    let work = &work;
    std::thread::scope(|scope| {
        let start = |part| {
            let thread = std::thread::Builder::new();
            let thread = thread.spawn_scoped(scope, move || work(part));
            thread.map_err(|_| work(part))
        };
        // Starts every thread before the first one is joined.
        let threads: Vec<_> = items.chunks(length).map(start).collect();
        let join = |thread: Result<std::thread::ScopedJoinHandle<'_, T>, T>| match thread {
            Ok(thread) => {
                let result = thread.join();
                result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }
            Err(done) => done,
        };
        threads.into_iter().map(join).collect()
    })
}
