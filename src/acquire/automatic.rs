//! Any number: the preferred ones, then any allowed one.

use super::{AttemptError, Effort, Request, exact, kernel_choice};
use crate::model::attempt_stats::AttemptStats;
use crate::model::endpoint::Protocol;
use crate::ports::{self, EphemeralRange};
use crate::reservation::Reservation;
use crate::retry::{NUMBERS_LOOKED_UP, NUMBERS_TRIED, RetryLevel};

pub(super) fn reserve(
    request: &Request,
    effort: &mut Effort<'_>,
) -> Result<Reservation, AttemptError> {
    let mut stats = AttemptStats::default();
    for port in request.prefer.iter().copied() {
        // One budget for all: many preferred numbers do not add up.
        let level = if effort.budget.is_spent() {
            RetryLevel::Once
        } else {
            RetryLevel::WithBudget
        };
        match exact::reserve(request, port, &mut effort.at_most(level)) {
            Ok(reservation) => return Ok(reservation),
            Err(error) => error.count(&mut stats)?,
        }
    }
    let kernel_chooses = request.allowed.is_none()
        && request.protocols == [Protocol::Tcp]
        && request.claims(Protocol::Tcp)?;
    if kernel_chooses {
        if let Some(reservation) = kernel_choice::reserve(request, &mut stats, effort)? {
            return Ok(reservation);
        }
        // The ephemeral range is used up, or its last numbers are left for connections. A claim
        // keeps every other number as well.
        let others = EphemeralRange::refreshed().non_ephemeral();
        let others = others.filter(|port| request.admits(*port));
        let mut once = effort.at_most(RetryLevel::Once);
        if let Some(reservation) = first_of(request, others, &mut once, &mut stats)? {
            return Ok(reservation);
        }
    } else {
        // Which numbers need no claim is decided by the range as it is now.
        EphemeralRange::refreshed();
        let mut once = effort.at_most(RetryLevel::Once);
        if let Some(reservation) = first_of(request, numbers(request), &mut once, &mut stats)? {
            return Ok(reservation);
        }
    }
    // A number that only TIME_WAIT occupies is better than none, unless the last free numbers were
    // left on purpose.
    if effort.level > RetryLevel::Once && !stats.spared {
        let numbers = numbers(request).take(NUMBERS_LOOKED_UP);
        let mut with_table = effort.at_most(RetryLevel::WithTable);
        let mut again = AttemptStats::default();
        if let Some(reservation) = first_of(request, numbers, &mut with_table, &mut again)? {
            return Ok(reservation);
        }
    }
    stats.blocked = request.blocked_in_range();
    Err(AttemptError::NoneFree(Box::new(stats)))
}

/// The numbers an automatic pick tries without a preference, in order.
pub(super) fn numbers(request: &Request) -> impl Iterator<Item = u16> {
    let numbers: Box<dyn Iterator<Item = u16> + '_> = match &request.allowed {
        Some(range) => Box::new(ports::shuffled(vec![range.clone()])),
        None => {
            let range = EphemeralRange::cached();
            let draws = range.draws().filter(|port| request.admits(*port));
            // The kernel's own numbers last: only a claim keeps those.
            Box::new(range.non_ephemeral().chain(draws.take(NUMBERS_TRIED)))
        }
    };
    numbers.filter(|port| request.admits(*port))
}

/// The numbers of a request for this range and without these numbers.
#[cfg(any(test, fuzzing))]
pub(crate) fn numbers_of(
    allowed: Option<std::ops::RangeInclusive<u16>>,
    exclude: crate::model::port_set::PortSet,
) -> impl Iterator<Item = u16> {
    let request = Request {
        protocols: &[Protocol::Udp],
        server: crate::model::server_kind::ServerKind::ReuseAddr,
        port: None,
        allowed,
        prefer: Vec::new(),
        exclude,
        wait: std::time::Duration::ZERO,
        label: None,
        on_behalf_of: None,
        at: std::panic::Location::caller(),
    };
    numbers(&request).collect::<Vec<_>>().into_iter()
}

fn first_of(
    request: &Request,
    numbers: impl Iterator<Item = u16>,
    effort: &mut Effort<'_>,
    stats: &mut AttemptStats,
) -> Result<Option<Reservation>, AttemptError> {
    for port in numbers {
        match exact::reserve(request, port, effort) {
            Ok(reservation) => return Ok(Some(reservation)),
            Err(error) => error.count(stats)?,
        }
    }
    Ok(None)
}
