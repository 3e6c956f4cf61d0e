//! Reserves a TCP port of the ephemeral range. The claim (a bound socket) is made before the lease
//! (a locked file), because the bind of the claim lets the kernel choose the number. If [`reserve`]
//! returns no reservation, [`draw`] can claim a random number of the range.

use std::io;
use std::time::Instant;

use super::{AttemptError, Effort, Request, complete, lease_for};
use crate::claim::Claim;
use crate::model::attempt_stats::AttemptStats;
use crate::model::endpoint::Protocol;
use crate::model::port::Port;
use crate::model::port_set::PortSet;
use crate::ports::{EphemeralRange, ParityExhaustion};
use crate::reservation::{Guarantee, ProtocolReservation, Reservation};
use crate::residual;
use crate::retry::{KERNEL_PICKS, RANDOM_PICKS, SCARCE_AFTER, SMALL_RANGE};

/// Lets the kernel choose the number. If the caller already has a claim on a number that the kernel
/// chose, the caller passes the claim as `tested`. The call then takes or drops that claim first.
///
/// Returns `None` if the ephemeral range is small or about half used, if the request has `aligned`,
/// or if none of the chosen numbers could be reserved.
pub(super) fn reserve(
    request: &Request,
    mut tested: Option<Claim>,
    stats: &mut AttemptStats,
    effort: &mut Effort<'_>,
) -> Result<Option<Reservation>, AttemptError> {
    // The kernel chooses only numbers of one parity until these are used up. So it may never choose
    // a multiple of `aligned`.
    if request.aligned != 1 {
        return Ok(None);
    }
    let parity = ParityExhaustion::of_this_namespace();
    // The claims of rejected numbers stay open until this function ends, so that the kernel does
    // not offer these numbers again.
    let mut rejected = Vec::new();
    // An administrator may have changed the range since the last pick, so an old cached range is
    // read again.
    let mut range = EphemeralRange::recent().map_err(AttemptError::range)?;
    for _ in 0..KERNEL_PICKS {
        // Each claim takes a number from outgoing connections, even if only for a moment. So the
        // pick claims nothing if the range is known to be small or half used up.
        if parity.is_exhausted() || is_small(&range) {
            break;
        }
        let before = Instant::now();
        match tested.take().map_or_else(Claim::any, Ok) {
            Ok(claim) => {
                range = EphemeralRange::cached_with(claim.port()).map_err(AttemptError::range)?;
                parity.note(&range.range(), claim.port(), before.elapsed());
                if parity.is_exhausted() || is_small(&range) {
                    break;
                }
                match adopt(request, claim, stats, effort)? {
                    Ok(reservation) => return Ok(Some(reservation)),
                    Err(claim) => rejected.push(claim),
                }
            }
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => parity.note_exhausted(),
            Err(cause) => {
                return Err(AttemptError::System {
                    act: "bind",
                    port: None,
                    cause,
                });
            }
        }
    }
    Ok(None)
}

/// Reserves a random number of the range, except the ports in `own`, which the same public call has
/// already reserved. If few numbers are free, sets `stats.spared` and returns `None`, so that these
/// numbers stay free for outgoing connections. Also returns `None` if it can reserve none of
/// [`RANDOM_PICKS`] random numbers.
pub(super) fn draw(
    request: &Request,
    range: &EphemeralRange,
    own: &PortSet,
    stats: &mut AttemptStats,
    effort: &mut Effort<'_>,
) -> Result<Option<Reservation>, AttemptError> {
    let numbers = range
        .draws()
        .filter(|port| request.admits(*port) && !own.contains(*port))
        .take(RANDOM_PICKS);
    let mut refusals = 0;
    for number in numbers {
        let claim = match Claim::exact(number) {
            Ok(claim) => claim,
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                refusals += 1;
                stats.in_use += 1;
                continue;
            }
            Err(e) => return Err(AttemptError::bind(Port::new(number, Protocol::Tcp), e)),
        };
        let is_scarce = refusals >= SCARCE_AFTER || is_small(range);
        if is_scarce && !leaves_spare(range, own)? {
            stats.spared = true;
            return Ok(None);
        }
        if let Ok(reservation) = adopt(request, claim, stats, effort)? {
            return Ok(Some(reservation));
        }
    }
    Ok(None)
}

/// Turns the claim into a reservation. The inner `Err` returns the claim in three cases:
///
/// - The request excludes the number.
/// - Another reservation has the port's abstract Unix socket name.
/// - The lease is refused.
fn adopt(
    request: &Request,
    claim: Claim,
    stats: &mut AttemptStats,
    effort: &mut Effort<'_>,
) -> Result<Result<Reservation, Claim>, AttemptError> {
    if !request.admits(claim.port()) {
        stats.excluded += 1;
        return Ok(Err(claim));
    }
    let port = Port::new(claim.port(), Protocol::Tcp);
    // A reservation without a claim may have the port. If its lock file is in another folder, only
    // the port's abstract Unix socket name shows the reservation.
    if residual::is_named(port) {
        AttemptError::Leased(port).count(stats)?;
        return Ok(Err(claim));
    }
    match lease_for(port, true, effort) {
        Ok(lease) => {
            let guarantee = Guarantee::Kernel;
            let part = ProtocolReservation::new(port, Some(claim), None, lease, guarantee);
            Ok(Ok(complete(request, vec![part])?))
        }
        Err(error) => {
            error.count(stats)?;
            Ok(Err(claim))
        }
    }
}

/// Returns `true` if the range is small, or if the kernel has shown that at least half of it is in
/// use. Outgoing connections need the numbers of the range in both cases.
pub(super) fn is_needed(range: &EphemeralRange) -> bool {
    is_small(range) || ParityExhaustion::of_this_namespace().is_proven()
}

/// Returns `true` if the claims of a parallel test suite could take a large part of the range.
pub(super) fn is_small(range: &EphemeralRange) -> bool {
    range.range().len() < SMALL_RANGE
}

/// Claims up to [`RANDOM_PICKS`] random numbers for a moment, except those in `own`. Returns `true`
/// if at least `range.spare()` of them are free. Outgoing connections need free numbers: without
/// any, connect(2) can fail in every process.
fn leaves_spare(range: &EphemeralRange, own: &PortSet) -> Result<bool, AttemptError> {
    let mut free = Vec::with_capacity(range.spare());
    // Unlike `draw`, this does not filter by `request.admits`, because an outgoing connection can
    // also use a number that the request excludes.
    let numbers = range.draws().filter(|port| !own.contains(*port));
    let mut numbers = numbers.take(RANDOM_PICKS);
    while free.len() < range.spare() {
        let Some(number) = numbers.next() else {
            return Ok(false);
        };
        match Claim::exact(number) {
            Ok(claim) => free.push(claim),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
            Err(e) => return Err(AttemptError::bind(Port::new(number, Protocol::Tcp), e)),
        }
    }
    Ok(true)
}
