//! The act of reserving. It takes the lease (a locked file) and the claim (a bound socket) of an
//! exact number, of any free number, of several numbers, or of a block.
//!
//! A failure is a [`Refused`], without a diagnosis. The module `reserve` turns it into an error
//! with a diagnosis.

use std::time::{Duration, Instant};

use crate::lease::{self, LeaseLock, Refusal};
use crate::model::attempt_stats::AttemptStats;
use crate::model::offsets::Offsets;
use crate::model::port::Port;
use crate::namespace::Memo;
use crate::reservation::{ProtocolReservation, Reservation};
use crate::residual;
use crate::retry::{FEW_NUMBERS, Queue, ResidualOwner, RetryBudget, RetryLevel};

mod attempt;
mod automatic;
mod block;
mod exact;
mod kernel_choice;
mod provenance;
mod request;

pub(crate) use attempt::AttemptError;
use attempt::Effort;
#[cfg(any(test, fuzzing))]
pub(crate) use automatic::numbers_of;
pub(crate) use request::{NumberName, Request};

/// Why nothing could be reserved.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) error: AttemptError,
    /// The limit of the request's `wait`, if it has passed. `None` if the call failed without a
    /// wait or before that limit.
    pub(crate) waited: Option<Duration>,
}

pub(crate) fn reserve(request: &Request) -> Result<Reservation, Refused> {
    retry_until_deadline(request, &mut |effort| one(request, effort))
}

pub(crate) fn reserve_many(request: &Request, n: usize) -> Result<Vec<Reservation>, Refused> {
    retry_until_deadline(request, &mut |effort| {
        (0..n)
            .map(|index| one(&request.nth(index), effort))
            .collect()
    })
}

/// Reserves the ports at these distances from one base number, and returns them in ascending order.
pub(crate) fn reserve_offsets(
    request: &Request,
    offsets: &Offsets,
) -> Result<Vec<Reservation>, Refused> {
    retry_until_deadline(request, &mut |effort| match request.port {
        // Every process reserves several ports in ascending order. So if two processes want
        // overlapping blocks at the same time, one of them succeeds.
        Some(base) => offsets
            .ports(base)
            .into_iter()
            .flatten()
            .map(|port| exact::reserve(request, port, effort))
            .collect(),
        None => block::reserve(request, offsets, effort),
    })
}

fn one(request: &Request, effort: &mut Effort<'_>) -> Result<Reservation, AttemptError> {
    match request.port {
        Some(port) => exact::reserve(request, port, effort),
        None => automatic::reserve(request, effort),
    }
}

/// Repeats `attempt` until it succeeds, or until a repetition cannot help. A request without a
/// `wait` uses the retry budget of the call. With a `wait`, the call queues for at most that time.
fn retry_until_deadline<T>(
    request: &Request,
    attempt: &mut dyn FnMut(&mut Effort<'_>) -> Result<T, AttemptError>,
) -> Result<T, Refused> {
    let _memo = Memo::new();
    let mut budget = RetryBudget::new();
    if request.wait.is_zero() {
        let mut level = RetryLevel::WithBudget;
        loop {
            let mut effort = Effort {
                level,
                budget: &mut budget,
            };
            let error = match attempt(&mut effort) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            // If a pick tried only a few numbers, forked children's copies of sockets that were
            // just closed can refuse all of them. Such a pick is repeated. Any other error is
            // final, because the attempt itself has retried.
            let AttemptError::NoneFree(stats) = &error else {
                return Err(Refused::at_once(error));
            };
            if !budget.pause(|| owner_of_few(stats)) {
                return Err(Refused::at_once(error));
            }
            level = RetryLevel::Once;
        }
    }
    let mut queue = Queue::new(request.wait);
    let mut level = RetryLevel::WithTable;
    loop {
        let before = Instant::now();
        let mut effort = Effort {
            level,
            budget: &mut budget,
        };
        let error = match attempt(&mut effort) {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if !error.may_end() {
            return Err(Refused::at_once(error));
        }
        level = match queue.pause(level, before.elapsed()) {
            Some(level) => level,
            // The time is up, but the last try did not read the socket table. One more try does.
            None if level == RetryLevel::Once => RetryLevel::WithTable,
            None => {
                return Err(Refused {
                    error,
                    waited: Some(request.wait),
                });
            }
        };
    }
}

impl Refused {
    fn at_once(error: AttemptError) -> Self {
        Refused {
            error,
            waited: None,
        }
    }
}

/// Who still holds the refused numbers. If they have several owners, this is the one that is most
/// worth a retry.
///
/// Returns `Process`, which ends the retries, if more than [`FEW_NUMBERS`] were tried, or if the
/// pick left the last free numbers for outgoing connections.
fn owner_of_few(stats: &AttemptStats) -> ResidualOwner {
    if stats.spared || stats.tried() > FEW_NUMBERS {
        return ResidualOwner::Process;
    }
    residual::owner_of_any(stats.residual())
}

/// Takes the port's lease. Returns `None` if the lock folder cannot be used but a claim can keep
/// the port (`claims`). An invalid `PORTLEASE_DIR` is an error even then.
fn lease_for(
    port: Port,
    claims: bool,
    effort: &mut Effort<'_>,
) -> Result<Option<LeaseLock>, AttemptError> {
    match lease::acquire(port, effort.budget) {
        Ok(lock) => Ok(Some(lock)),
        Err(Refusal::Taken) => Err(AttemptError::Leased(port)),
        Err(Refusal::Planted { path, cause }) => Err(AttemptError::Planted(path, cause)),
        Err(Refusal::OutOfDescriptors(cause)) => {
            Err(AttemptError::system("open the lock file of", port, cause))
        }
        Err(Refusal::Unusable(folder)) if claims && !folder.misconfigured => Ok(None),
        Err(Refusal::Unusable(folder)) => Err(AttemptError::LockFolder(folder)),
    }
}

/// Writes the record of each part (the port of one protocol), and joins the parts into one
/// reservation.
fn complete(request: &Request, mut parts: Vec<ProtocolReservation>) -> Reservation {
    let record = provenance::record(request);
    for part in &mut parts {
        part.publish(&record);
    }
    let name = record.name.clone();
    Reservation::new(parts, request.label.clone(), name)
}
