//! Checks many ports at once.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use portlease::{Diagnosis, Endpoint, ErrorKind, Protocol};

use crate::condition::Condition;
use crate::limits::PORTS_PER_THREAD;

/// Whether there are more ports than one thread should check.
pub(crate) fn are_many(endpoints: &[Endpoint]) -> bool {
    endpoints.len() > PORTS_PER_THREAD
}

/// A port that does not meet the condition.
#[derive(Debug)]
pub(crate) struct Unmet {
    pub(crate) index: usize,
    /// Why the port cannot be checked. `None` if the check answered.
    pub(crate) error: Option<portlease::Error>,
}

/// The first port that does not meet the condition now. For many ports the search ends at the
/// limit, and returns the first port that it has not checked.
///
/// # Errors
///
/// If the listeners cannot be read. An error of one port is in [`Unmet`].
pub(crate) fn first_unmet(
    endpoints: &[Endpoint],
    condition: Condition,
    limit: Duration,
    started: Instant,
) -> portlease::Result<Option<Unmet>> {
    let listening = match condition {
        // One read of the table is cheaper than one question for each port.
        Condition::Listening | Condition::HeldBy(_) if are_many(endpoints) => {
            Some(listening_ports()?)
        }
        _ => None,
    };
    let is_unmet = |endpoint: &Endpoint| -> portlease::Result<bool> {
        if are_many(endpoints) && started.elapsed() > limit {
            return Ok(true);
        }
        if let Some(ports) = &listening
            && endpoint.protocol == Some(Protocol::Tcp)
        {
            let has_listener = ports.contains(&endpoint.port);
            if !has_listener || (endpoint.ip.is_none() && condition == Condition::Listening) {
                return Ok(!has_listener);
            }
        }
        Ok(!is_met(*endpoint, condition)?)
    };
    let parts = in_parallel(endpoints, |part| {
        let mut answers = part.iter().map(is_unmet).enumerate();
        answers.find_map(|(index, answer)| {
            let error = match answer {
                Ok(false) => return None,
                Ok(true) => None,
                Err(error) => Some(error),
            };
            Some(Unmet { index, error })
        })
    });
    let mut before = 0;
    for (length, unmet) in parts {
        if let Some(Unmet { index, error }) = unmet {
            let index = before + index;
            return Ok(Some(Unmet { index, error }));
        }
        before += length;
    }
    Ok(None)
}

/// Whether each port meets the condition now, or why it cannot be checked. For many ports the
/// checks end at the limit, and the answer for a port that was not checked is `Ok(false)`.
pub(crate) fn answers(
    endpoints: &[Endpoint],
    condition: Condition,
    limit: Duration,
    started: Instant,
) -> Vec<portlease::Result<bool>> {
    let is_long = are_many(endpoints);
    let busy = match condition {
        // A check of a busy port searches for its owner, which is slow. If the listeners cannot be
        // read, each port is checked.
        Condition::Free(_) if is_long => listening_ports().unwrap_or_default(),
        _ => HashSet::new(),
    };
    let is_busy = |endpoint: &Endpoint| {
        endpoint.ip.is_none()
            && endpoint.protocol == Some(Protocol::Tcp)
            && busy.contains(&endpoint.port)
    };
    let parts = in_parallel(endpoints, |part| {
        let unanswered = part.iter().copied().filter(|endpoint| !is_busy(endpoint));
        let in_time = unanswered.take_while(|_| !is_long || started.elapsed() <= limit);
        let mut results = condition.check_all(in_time).into_iter();
        let answer = |endpoint: &Endpoint| {
            let result = if is_busy(endpoint) {
                None
            } else {
                results.next()
            };
            result.map_or(Ok(false), |result| answer(*endpoint, condition, result))
        };
        part.iter().map(answer).collect::<Vec<_>>()
    });
    parts.into_iter().flat_map(|(_, part)| part).collect()
}

/// Whether the port meets the condition now. Fails if the port cannot be checked, or if this
/// machine does not have its address.
fn is_met(endpoint: Endpoint, condition: Condition) -> portlease::Result<bool> {
    answer(endpoint, condition, condition.check(endpoint))
}

/// What [`is_met`] returns if the check of the port has this result.
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
        // The wait below would also try a connection before it reports that no socket listens.
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

/// The numbers of all TCP ports with a listener.
fn listening_ports() -> portlease::Result<HashSet<u16>> {
    let listeners = portlease::listeners()?;
    Ok(listeners.iter().map(|socket| socket.local.port()).collect())
}

/// Calls `work` for parts of the ports, each in a thread if there are many ports. Returns the
/// length of each part with its result, in the order of the ports.
pub(crate) fn in_parallel<T: Send>(
    endpoints: &[Endpoint],
    work: impl Fn(&[Endpoint]) -> T + Sync,
) -> Vec<(usize, T)> {
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let length = endpoints.len().div_ceil(threads).max(PORTS_PER_THREAD);
    if endpoints.len() <= length {
        return vec![(endpoints.len(), work(endpoints))];
    }
    std::thread::scope(|scope| {
        let parts: Vec<_> = endpoints
            .chunks(length)
            .map(|part| (part.len(), scope.spawn(|| work(part))))
            .collect();
        let join = |(length, thread): (usize, std::thread::ScopedJoinHandle<'_, T>)| {
            let result = thread.join();
            (
                length,
                result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            )
        };
        parts.into_iter().map(join).collect()
    })
}
