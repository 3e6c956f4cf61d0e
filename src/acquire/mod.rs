//! The act of reserving: a lease and a claim for an exact number, for any of several, for many, or
//! for a block.
//!
//! A failure is a [`Refused`]. `reserve` turns it into an error with a diagnosis.

use std::time::{Duration, Instant};

use crate::lease::{self, LeaseLock, Refusal};
use crate::model::attempt_stats::AttemptStats;
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
pub(crate) use request::Request;

/// Why nothing could be reserved.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) error: AttemptError,
    /// The time that the caller queued, if the queue timed out.
    pub(crate) waited: Option<Duration>,
}

pub(crate) fn reserve(request: &Request) -> Result<Reservation, Refused> {
    retry_until_deadline(request, &mut |effort| one(request, effort))
}

pub(crate) fn reserve_many(request: &Request, n: usize) -> Result<Vec<Reservation>, Refused> {
    retry_until_deadline(request, &mut |effort| {
        (0..n).map(|_| one(request, effort)).collect()
    })
}

pub(crate) fn reserve_block(request: &Request, n: usize) -> Result<Vec<Reservation>, Refused> {
    retry_until_deadline(request, &mut |effort| match request.port {
        // Every process reserves a block in ascending order. So of two processes that want
        // overlapping blocks, one succeeds.
        Some(first) => (0..n)
            .map(|i| exact::reserve(request, first + i as u16, effort))
            .collect(),
        None => block::reserve(request, n, effort),
    })
}

fn one(request: &Request, effort: &mut Effort<'_>) -> Result<Reservation, AttemptError> {
    match request.port {
        Some(port) => exact::reserve(request, port, effort),
        None => automatic::reserve(request, effort),
    }
}

/// Without a `wait`, it retries within the call's budget. With a `wait`, it queues for at most that
/// time.
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
            // If few numbers were tried, forked copies of sockets that were just closed can refuse
            // all of them.
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
            // The last try reads the socket table.
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

/// Who still holds the refused numbers: the owner that is most worth a retry. For more than
/// [`FEW_NUMBERS`], or if free numbers were left for connections, no retry would help.
fn owner_of_few(stats: &AttemptStats) -> ResidualOwner {
    if stats.spared || stats.tried() > FEW_NUMBERS {
        return ResidualOwner::Process;
    }
    residual::owner_of_any(stats.residual())
}

/// The port's lease. `None` if the lock folder cannot be used, and a claim keeps the port without a
/// lease.
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

/// Writes the record of each part, and makes them one reservation.
fn complete(request: &Request, mut parts: Vec<ProtocolReservation>) -> Reservation {
    let record = provenance::record(request);
    for part in &mut parts {
        part.publish(&record);
    }
    Reservation::new(parts, request.label.clone())
}
