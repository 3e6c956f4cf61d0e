//! Reserves an exact number, any free number, several numbers, or a block. A lease (a locked file),
//! a claim (a bound socket), or both keep each port.
//!
//! A failure is a [`Refused`]. The module `reserve` turns it into an error, with a diagnosis if an
//! exact port was taken or not permitted.

use std::time::{Duration, Instant};

use crate::lease::{self, LeaseLock, Refusal};
use crate::model::attempt_stats::AttemptStats;
use crate::model::error::Error;
use crate::model::offsets::Offsets;
use crate::model::port::Port;
use crate::model::port_set::PortSet;
use crate::namespace::Memo;
use crate::reservation::{ProtocolReservation, Reservation};
use crate::residual;
use crate::retry::{FEW_NUMBERS, Queue, RetryBudget, RetryLevel};

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

/// Reserves `n` ports: the exact ones of the request in ascending order, then ports that this crate
/// picks.
///
/// While the call waits for an exact port, it keeps the lower exact ports, which it has reserved.
/// So each call waits only for a port above all ports that it holds, and calls cannot wait for each
/// other in a circle.
///
/// If an automatic pick fails during a wait, the call releases all ports before the next try. A
/// call without a wait keeps its ports. If it released them, a child forked meanwhile could have
/// copies of the sockets, and the next try would fail.
pub(crate) fn reserve_many(request: &Request, n: usize) -> Result<Vec<Reservation>, Refused> {
    let _memo = Memo::new();
    let mut retries = Retries::new(request);
    let mut level = retries.first_level();
    let mut held = Vec::new();
    loop {
        if held.is_empty() {
            held = exact_ports(request, &mut retries)?;
        }
        let mut own: PortSet = held.iter().map(Reservation::port).collect();
        let before = Instant::now();
        let mut effort = retries.effort(level);
        let mut refused = None;
        while held.len() < n && refused.is_none() {
            match automatic::reserve(&request.nth(held.len()), &own, &mut effort) {
                Ok(reservation) => {
                    own.insert(reservation.port());
                    held.push(reservation);
                }
                Err(error) => refused = Some(error.of_one_of(n)),
            }
        }
        let Some(error) = refused else {
            return Ok(held);
        };
        if retries.queue.is_some() {
            held.clear();
        }
        level = retries.pause(error, level, before.elapsed())?;
    }
}

/// Reserves the ports at these distances from one base number, in ascending order.
pub(crate) fn reserve_offsets(
    request: &Request,
    offsets: &Offsets,
) -> Result<Vec<Reservation>, Refused> {
    let _memo = Memo::new();
    let mut retries = Retries::new(request);
    if request.exact.is_empty() {
        retries.until_success(&mut |effort| block::reserve(request, offsets, effort))
    } else {
        exact_ports(request, &mut retries)
    }
}

/// Reserves the exact ports of the request in ascending order, each with the retries of the call.
fn exact_ports(request: &Request, retries: &mut Retries) -> Result<Vec<Reservation>, Refused> {
    let mut reserve =
        |port| retries.until_success(&mut |effort| exact::reserve(request, port, effort));
    request.exact.iter().map(|port| reserve(*port)).collect()
}

/// The retries of one public call. A request without a `wait` uses the retry budget. With a `wait`,
/// the call repeats its tries for about that time at most.
struct Retries {
    budget: RetryBudget,
    wait: Duration,
    queue: Option<Queue>,
    /// `true` if the current try of a pick is the last one. Used only without a `wait`.
    is_last: bool,
}

impl Retries {
    fn new(request: &Request) -> Retries {
        Retries {
            budget: RetryBudget::new(),
            wait: request.wait,
            queue: (!request.wait.is_zero()).then(|| Queue::new(request.wait)),
            is_last: false,
        }
    }

    fn first_level(&self) -> RetryLevel {
        match self.queue {
            Some(_) => RetryLevel::WithTable,
            None => RetryLevel::WithBudget,
        }
    }

    fn effort(&mut self, level: RetryLevel) -> Effort<'_> {
        if let Some(queue) = &self.queue {
            self.budget = RetryBudget::of_poll(queue.left());
        }
        Effort {
            level,
            budget: &mut self.budget,
        }
    }

    /// Repeats `attempt` until it succeeds, or until a repetition cannot help. Once the wait or the
    /// retry budget of the call is used up, at most one more attempt follows.
    fn until_success<T>(
        &mut self,
        attempt: &mut dyn FnMut(&mut Effort<'_>) -> Result<T, AttemptError>,
    ) -> Result<T, Refused> {
        let mut level = self.first_level();
        loop {
            let before = Instant::now();
            match attempt(&mut self.effort(level)) {
                Ok(value) => return Ok(value),
                Err(error) => level = self.pause(error, level, before.elapsed())?,
            }
        }
    }

    /// Pauses after a failed attempt, and returns the level of the next attempt. `level` and `took`
    /// are the level and the duration of the failed attempt. Returns the refusal if a retry cannot
    /// help, or if this was the last attempt.
    fn pause(
        &mut self,
        error: AttemptError,
        level: RetryLevel,
        took: Duration,
    ) -> Result<RetryLevel, Refused> {
        let Some(queue) = &mut self.queue else {
            // An error other than `NoneFree` is final: the attempt has retried, or a retry cannot
            // help. A pick that tried only a few numbers is repeated. Forked children may still
            // have copies of closed sockets, and these copies can block all of the numbers.
            let AttemptError::NoneFree(stats) = &error else {
                return Err(Refused::at_once(error));
            };
            if self.is_last || !may_be_residual(stats) {
                return Err(Refused::at_once(error));
            }
            // One more try follows even if the budget allows no further pause. While `owner_of_any`
            // searches for the owner, most forked children call exec, which closes their copies of
            // the sockets.
            self.is_last = !self
                .budget
                .pause(|| residual::owner_of_any(stats.residual()));
            return Ok(RetryLevel::WithTable);
        };
        if !error.may_end() {
            return Err(Refused::at_once(error));
        }
        match queue.pause(level, took) {
            Some(level) => Ok(level),
            // The time is up, but the last try did not read the socket table. So one more try reads
            // it.
            None if level == RetryLevel::Once => Ok(RetryLevel::WithTable),
            None => Err(Refused {
                error,
                waited: Some(self.wait),
            }),
        }
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

/// Returns `true` if sockets that were released a moment ago may explain why no number was free.
/// Such sockets hardly block more than [`FEW_NUMBERS`] numbers, so the result is `false` if the
/// pick tried more. The result is also `false` if the pick left the last free numbers for outgoing
/// connections (`spared`).
fn may_be_residual(stats: &AttemptStats) -> bool {
    !stats.spared && stats.tried() <= FEW_NUMBERS && !stats.residual().is_empty()
}

/// Takes the port's lease. With `claims`, a claim (a bound socket) keeps the port even without a
/// lease. So if the lock folder cannot be used, the inner `Err` says why. An invalid
/// `PORTLEASE_DIR` is always an outer `Err`.
fn lease_for(
    port: Port,
    claims: bool,
    effort: &mut Effort<'_>,
) -> Result<Result<LeaseLock, String>, AttemptError> {
    match lease::acquire(port, effort.budget) {
        Ok(lock) => Ok(Ok(lock)),
        Err(Refusal::Taken) => Err(AttemptError::Leased(port)),
        Err(Refusal::Planted { path, cause }) => Err(AttemptError::Planted(path, cause)),
        Err(Refusal::OutOfDescriptors(cause)) => {
            Err(AttemptError::system("open the lock file of", port, cause))
        }
        Err(Refusal::Unusable(folder)) if claims && !folder.misconfigured => Ok(Err(
            Error::lock_folder(&folder.path, folder.cause).to_string(),
        )),
        Err(Refusal::Unusable(folder)) => Err(AttemptError::LockFolder(folder)),
    }
}

/// Writes the record of each part (the port of one protocol), and joins the parts into one
/// reservation.
fn complete(
    request: &Request,
    mut parts: Vec<ProtocolReservation>,
) -> Result<Reservation, AttemptError> {
    let record = provenance::record(request).map_err(|cause| AttemptError::System {
        act: "read the start time of a process in order to reserve",
        port: None,
        cause,
    })?;
    for part in &mut parts {
        part.publish(&record);
    }
    let name = record.name.clone();
    Ok(Reservation::new(
        parts,
        request.label.clone(),
        name,
        request.server,
        request.on_leak,
    ))
}
