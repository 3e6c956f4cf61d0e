//! Reserves a TCP port of the ephemeral range. The claim (a bound socket) comes before the lease,
//! because the bind of the claim lets the kernel choose the number. If the kernel's choices fail,
//! random numbers of the range follow.

use std::io;
use std::time::Instant;

use super::{AttemptError, Effort, Request, complete, lease_for};
use crate::claim::Claim;
use crate::model::attempt_stats::AttemptStats;
use crate::model::endpoint::Protocol;
use crate::model::port::Port;
use crate::ports::{EphemeralRange, ParityExhaustion};
use crate::reservation::{Guarantee, ProtocolReservation, Reservation};
use crate::retry::{KERNEL_PICKS, RANDOM_PICKS, SCARCE_AFTER};

/// Reserves any ephemeral number: first one that the kernel chooses, then a random one.
///
/// Returns `None` if every attempt fails. It also returns `None`, and sets `stats.spared`, if the
/// only free numbers are those that this crate leaves for outgoing connections.
pub(super) fn reserve(
    request: &Request,
    stats: &mut AttemptStats,
    effort: &mut Effort<'_>,
) -> Result<Option<Reservation>, AttemptError> {
    let mut pick = Pick {
        request,
        effort,
        rejected: Vec::new(),
    };
    // The kernel chooses among one half of the numbers, perhaps without one requested multiple.
    if request.aligned == 1
        && let Some(reservation) = pick.by_the_kernel(stats)?
    {
        return Ok(Some(reservation));
    }
    pick.at_random(stats)
}

struct Pick<'a, 'b> {
    request: &'a Request,
    effort: &'a mut Effort<'b>,
    /// The claims of rejected numbers. They stay open until the pick ends, so that the kernel does
    /// not offer these numbers again.
    rejected: Vec<Claim>,
}

impl Pick<'_, '_> {
    fn by_the_kernel(
        &mut self,
        stats: &mut AttemptStats,
    ) -> Result<Option<Reservation>, AttemptError> {
        let parity = ParityExhaustion::of_this_namespace();
        for _ in 0..KERNEL_PICKS {
            if parity.is_exhausted() {
                break;
            }
            let before = Instant::now();
            match Claim::any() {
                Ok(claim) => {
                    let range = EphemeralRange::cached_with(claim.port());
                    parity.note(&range.range(), claim.port(), before.elapsed());
                    // If the range is small or half used up, random numbers follow instead:
                    // `at_random` checks that enough numbers are left for outgoing connections.
                    if parity.is_exhausted() || is_small(&range) {
                        break;
                    }
                    if let Some(reservation) = self.adopt(claim, stats)? {
                        return Ok(Some(reservation));
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

    fn at_random(&mut self, stats: &mut AttemptStats) -> Result<Option<Reservation>, AttemptError> {
        let range = EphemeralRange::refreshed();
        let request = self.request;
        let mut numbers = range
            .draws()
            .filter(|port| request.admits(*port))
            .take(RANDOM_PICKS);
        let mut refusals = 0;
        while let Some(number) = numbers.next() {
            let claim = match Claim::exact(number) {
                Ok(claim) => claim,
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                    refusals += 1;
                    stats.in_use += 1;
                    continue;
                }
                Err(e) => return Err(AttemptError::bind(Port::new(number, Protocol::Tcp), e)),
            };
            let is_scarce = refusals >= SCARCE_AFTER || is_small(&range);
            if is_scarce && !leaves_spare(&mut numbers, range.spare(), stats)? {
                stats.spared = true;
                return Ok(None);
            }
            if let Some(reservation) = self.adopt(claim, stats)? {
                return Ok(Some(reservation));
            }
        }
        Ok(None)
    }

    /// Turns the claim into a reservation. Returns `None` if an automatic pick must not yield the
    /// number, or if the lease is refused.
    fn adopt(
        &mut self,
        claim: Claim,
        stats: &mut AttemptStats,
    ) -> Result<Option<Reservation>, AttemptError> {
        if !self.request.admits(claim.port()) {
            stats.excluded += 1;
            self.rejected.push(claim);
            return Ok(None);
        }
        let port = Port::new(claim.port(), Protocol::Tcp);
        match lease_for(port, true, self.effort) {
            Ok(lease) => {
                let guarantee = Guarantee::Kernel;
                let part = ProtocolReservation::new(port, Some(claim), None, lease, guarantee);
                Ok(Some(complete(self.request, vec![part])))
            }
            Err(error) => {
                error.count(stats)?;
                self.rejected.push(claim);
                Ok(None)
            }
        }
    }
}

/// Whether the range is so small that each pick must check how many free numbers it leaves for
/// outgoing connections.
fn is_small(range: &EphemeralRange) -> bool {
    range.range().len() <= SCARCE_AFTER as usize
}

/// Whether `spare` more numbers are free, which outgoing connections need: with no free number,
/// connect(2) fails in every process. The function claims the numbers for a moment to find out.
fn leaves_spare(
    numbers: &mut impl Iterator<Item = u16>,
    spare: usize,
    stats: &mut AttemptStats,
) -> Result<bool, AttemptError> {
    let mut free = Vec::with_capacity(spare);
    while free.len() < spare {
        let Some(number) = numbers.next() else {
            return Ok(false);
        };
        match Claim::exact(number) {
            Ok(claim) => free.push(claim),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => stats.in_use += 1,
            Err(e) => return Err(AttemptError::bind(Port::new(number, Protocol::Tcp), e)),
        }
    }
    Ok(true)
}
