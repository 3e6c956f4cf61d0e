//! Checks many ports at once.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use portlease::{Endpoint, ErrorKind, Protocol};

use crate::condition::Condition;
use crate::limits::PORTS_PER_THREAD;

/// Whether a check of all of these ports may take longer than a moment.
pub(crate) fn are_many(endpoints: &[Endpoint]) -> bool {
    endpoints.len() > PORTS_PER_THREAD
}

/// The index of the first port that does not meet the condition now. If the ports are many, the
/// limit ends the search too, and the port that was not reached counts as one that does not.
pub(crate) fn first_unmet(
    endpoints: &[Endpoint],
    condition: Condition,
    limit: Duration,
    started: Instant,
) -> portlease::Result<Option<usize>> {
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
    let parts = in_parallel(endpoints, |part| -> portlease::Result<Option<usize>> {
        for (n, endpoint) in part.iter().enumerate() {
            if is_unmet(endpoint)? {
                return Ok(Some(n));
            }
        }
        Ok(None)
    });
    let mut before = 0;
    for (length, unmet) in parts {
        if let Some(n) = unmet? {
            return Ok(Some(before + n));
        }
        before += length;
    }
    Ok(None)
}

/// Whether the port meets the condition now. Fails if the port cannot be checked, or if this
/// machine does not have its address.
pub(crate) fn is_met(endpoint: Endpoint, condition: Condition) -> portlease::Result<bool> {
    match condition.check(endpoint) {
        Ok(()) => return Ok(true),
        // A wait that times out makes a report, for which it may connect.
        Err(problem) if condition == Condition::Listening && problem.could_tell() => {
            return Ok(false);
        }
        Err(_) => {}
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
