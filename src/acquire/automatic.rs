//! Reserves one port without an exact number: a preferred number if possible, else any allowed one.

use super::{AttemptError, Effort, Request, exact, kernel_choice};
use crate::model::attempt_stats::AttemptStats;
use crate::model::endpoint::Protocol;
use crate::model::port_set::PortSet;
use crate::ports::{self, EphemeralRange};
use crate::reservation::Reservation;
use crate::retry::{NUMBERS_LOOKED_UP, NUMBERS_OF_NAME, NUMBERS_TRIED, RetryLevel};

/// Reserves a port that is not in `own`: the ports that the public call has already reserved.
pub(super) fn reserve(
    request: &Request,
    own: &PortSet,
    effort: &mut Effort<'_>,
) -> Result<Reservation, AttemptError> {
    let mut stats = AttemptStats::default();
    let is_other = |port: &u16| !own.contains(*port);
    for port in request.prefer.iter().copied().filter(is_other) {
        // All preferred numbers share the retry budget of the call. From 100 ms after the first
        // refusal (`is_spent`), each further preferred number gets a single bind.
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
    if let Some(reservation) = of_name(request, own, effort)? {
        return Ok(reservation);
    }
    let mut tested = None;
    let kernel_chooses = request.allowed.is_none()
        && request.protocols == [Protocol::Tcp]
        && request.claims_with(Protocol::Tcp, &mut tested)?;
    if kernel_chooses {
        if let Some(reservation) = kernel_choice::reserve(request, tested, &mut stats, effort)? {
            return Ok(reservation);
        }
        // Reserving a non-ephemeral number takes longer than reserving an ephemeral one. So
        // non-ephemeral numbers come first only if outgoing connections need the ephemeral ones.
        let ephemeral = EphemeralRange::refreshed().map_err(AttemptError::range)?;
        let others_first = kernel_choice::is_needed(&ephemeral);
        for others in [others_first, !others_first] {
            let reserved = if others {
                let numbers = ephemeral.non_ephemeral();
                let numbers = numbers.filter(|port| request.admits(*port) && is_other(port));
                let mut once = effort.at_most(RetryLevel::Once);
                first_of(request, numbers, &mut once, &mut stats)?
            } else {
                kernel_choice::draw(request, &ephemeral, own, &mut stats, effort)?
            };
            if let Some(reservation) = reserved {
                return Ok(reservation);
            }
        }
    } else {
        // `numbers` and `first_of` use the cached ephemeral range. The range may have changed since
        // it was cached, so this call reads it again.
        EphemeralRange::refreshed().map_err(AttemptError::range)?;
        let mut once = effort.at_most(RetryLevel::Once);
        if let Some(reservation) = first_of(
            request,
            numbers(request)?.filter(is_other),
            &mut once,
            &mut stats,
        )? {
            return Ok(reservation);
        }
    }
    // A number that only old connections (such as TIME_WAIT) occupy can be reserved, but only the
    // socket table shows this. So the last pass reads the table. If `spared` is set, there is no
    // last pass: the last free numbers must stay free for outgoing connections.
    if effort.level > RetryLevel::Once && !stats.spared {
        let numbers = numbers(request)?.filter(is_other).take(NUMBERS_LOOKED_UP);
        let mut with_table = effort.at_most(RetryLevel::WithTable);
        let mut again = AttemptStats::default();
        if let Some(reservation) = first_of(request, numbers, &mut with_table, &mut again)? {
            return Ok(reservation);
        }
    }
    stats.blocked = request.blocked_in_range(stats.tried(), request.aligned);
    let allowed = request.allowed.clone().unwrap_or(1..=u16::MAX);
    stats.own = own
        .within(allowed)
        .filter(|port| request.admits(*port))
        .collect();
    Err(AttemptError::NoneFree(Box::new(stats)))
}

/// Reserves the first free number in the order that the stable name determines. Returns `None`
/// without a name, or if the first [`NUMBERS_OF_NAME`] numbers are taken. The error of the call
/// does not count these refusals.
fn of_name(
    request: &Request,
    own: &PortSet,
    effort: &mut Effort<'_>,
) -> Result<Option<Reservation>, AttemptError> {
    if request.name.is_none() {
        return Ok(None);
    }
    let range = EphemeralRange::refreshed().map_err(AttemptError::range)?;
    let Some(numbers) = request.numbers_of_name(range) else {
        return Ok(None);
    };
    let numbers = numbers.filter(|port| !own.contains(*port));
    let mut numbers = numbers.take(NUMBERS_OF_NAME);
    // A forked child that has not called exec can hold a copy of a socket that was just closed. The
    // copy occupies the number until the child calls exec or exits. So that the name still yields
    // its usual number, the first number gets the retries of a number requested with `port`. Each
    // other number gets one attempt.
    let first = numbers.by_ref().take(1);
    let mut stats = AttemptStats::default();
    if let Some(reservation) = first_of(request, first, effort, &mut stats)? {
        return Ok(Some(reservation));
    }
    let mut once = effort.at_most(RetryLevel::WithTable);
    first_of(request, numbers, &mut once, &mut stats)
}

/// Allowed numbers, in the order in which an automatic pick tries them. Ephemeral numbers come
/// last, because the kernel can assign them to other sockets. Exception: if every port of the
/// request gets a claim (a bound socket), the numbers of a requested range come in random order.
/// Without a requested range, at most [`NUMBERS_TRIED`] of the numbers are ephemeral.
pub(super) fn numbers(request: &Request) -> Result<impl Iterator<Item = u16>, AttemptError> {
    let numbers: Box<dyn Iterator<Item = u16> + '_> = match &request.allowed {
        Some(allowed) => {
            let all = || ports::shuffled(vec![allowed.clone()]);
            if request.claims_every_port()? {
                Box::new(all())
            } else {
                let range = EphemeralRange::cached().map_err(AttemptError::range)?;
                let (outside, inside) = (range.clone(), range);
                let outside = all().filter(move |port| outside.is_non_ephemeral(*port));
                let inside = all().filter(move |port| !inside.is_non_ephemeral(*port));
                Box::new(outside.chain(inside))
            }
        }
        None => {
            let range = EphemeralRange::cached().map_err(AttemptError::range)?;
            let draws = range.draws().filter(|port| request.admits(*port));
            Box::new(range.non_ephemeral().chain(draws.take(NUMBERS_TRIED)))
        }
    };
    Ok(numbers.filter(|port| request.admits(*port)))
}

/// The numbers that an automatic pick tries for this range and these exclusions, in order.
#[cfg(any(test, fuzzing))]
pub(crate) fn numbers_of(
    allowed: Option<std::ops::RangeInclusive<u16>>,
    exclude: crate::model::port_set::PortSet,
) -> impl Iterator<Item = u16> {
    let request = Request {
        protocols: &[Protocol::Udp],
        server: crate::model::server_kind::ServerKind::ReuseAddr,
        exact: Vec::new(),
        allowed,
        env_range: None,
        prefer: Vec::new(),
        exclude,
        aligned: 1,
        wait: std::time::Duration::ZERO,
        label: None,
        command: None,
        name: None,
        on_leak: None,
        on_behalf_of: None,
        at: std::panic::Location::caller(),
    };
    let numbers = numbers(&request).expect("the ephemeral range can be read");
    numbers.collect::<Vec<_>>().into_iter()
}

/// Reserves the first of these numbers that is free. Uses the cached ephemeral range, which the
/// caller has just read.
fn first_of(
    request: &Request,
    numbers: impl Iterator<Item = u16>,
    effort: &mut Effort<'_>,
    stats: &mut AttemptStats,
) -> Result<Option<Reservation>, AttemptError> {
    for port in numbers {
        match exact::reserve_in(request, port, EphemeralRange::cached, effort) {
            Ok(reservation) => return Ok(Some(reservation)),
            Err(error) => error.count(stats)?,
        }
    }
    Ok(None)
}
