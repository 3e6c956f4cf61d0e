//! A TCP port of the ephemeral range: the claim first, since the kernel chooses, then the lease.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::RwLock;

use super::{ANY, AttemptError, Request, complete, count, fatal, lease_for, refused};
use crate::claim::Claim;
use crate::model::endpoint::{Endpoint, Protocol};
use crate::model::error::AttemptStats;
use crate::ports::{EphemeralRange, ParityExhaustion};
use crate::reservation::{Guarantee, ProtocolReservation, Reservation};

/// How many draws of the kernel's own are worth while: each one that does not do stays claimed meanwhile, so that
/// the kernel does not offer it again.
const KERNEL_DRAWS: usize = 32;

/// More draws than this fail only where next to nothing is free.
const OWN_DRAWS: usize = 1024;

/// After so many misses in a row the range is nearly used up.
const MISSES: u32 = 64;

pub(super) fn pick(
    request: &Request,
    stats: &mut AttemptStats,
) -> Result<Option<Reservation>, AttemptError> {
    stats.ephemeral = true;
    let parity = ParityExhaustion::of_this_process();
    let mut kept = Vec::new();
    let mut adopt =
        |claim: Claim, stats: &mut AttemptStats| -> Result<Option<Reservation>, AttemptError> {
            if request.exclude.contains(claim.port()) {
                stats.excluded += 1;
                kept.push(claim);
                return Ok(None);
            }
            match adopt(request, claim)? {
                Ok(reservation) => Ok(Some(reservation)),
                Err((claim, error)) => {
                    kept.push(claim);
                    count(error, stats)?;
                    Ok(None)
                }
            }
        };
    for _ in 0..KERNEL_DRAWS {
        if parity.is_on() {
            break;
        }
        let before = Instant::now();
        match Claim::any() {
            Ok(claim) => {
                parity.note(
                    &range_with(claim.port()).range(),
                    claim.port(),
                    before.elapsed(),
                );
                if let Some(reservation) = adopt(claim, stats)? {
                    return Ok(Some(reservation));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => parity.note_exhausted(),
            Err(e) => return Err(fatal("bind", ANY, e)),
        }
    }
    let pool = range();
    let mut numbers = pool
        .draws()
        .filter(|port| !request.exclude.contains(*port))
        .take(OWN_DRAWS);
    let mut misses = 0;
    while let Some(port) = numbers.next() {
        let claim = match Claim::exact(port) {
            Ok(claim) => claim,
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                misses += 1;
                stats.in_use += 1;
                continue;
            }
            Err(e) => return Err(refused("bind", Endpoint::of(port, Protocol::Tcp), e)),
        };
        let scarce = misses >= MISSES || pool.range().len() <= MISSES as usize;
        if scarce && !leaves_spare(&mut numbers, pool.spare(), stats) {
            stats.spared = true;
            return Ok(None);
        }
        if let Some(reservation) = adopt(claim, stats)? {
            return Ok(Some(reservation));
        }
    }
    Ok(None)
}

/// Whether so many more numbers can be claimed: with none left, no connection can be made either.
fn leaves_spare(
    numbers: &mut impl Iterator<Item = u16>,
    spare: usize,
    stats: &mut AttemptStats,
) -> bool {
    let mut free = Vec::with_capacity(spare);
    while free.len() < spare {
        match numbers.next().map(Claim::exact) {
            Some(Ok(claim)) => free.push(claim),
            Some(Err(_)) => stats.in_use += 1,
            None => return false,
        }
    }
    true
}

/// A lease for a number that is claimed already. A number that cannot be leased comes back, still claimed.
fn adopt(
    request: &Request,
    claim: Claim,
) -> Result<Result<Reservation, (Claim, AttemptError)>, AttemptError> {
    let endpoint = Endpoint::of(claim.port(), Protocol::Tcp);
    match lease_for(endpoint, true) {
        Ok(lease) => {
            let part =
                ProtocolReservation::new(endpoint, Some(claim), None, lease, Guarantee::Kernel);
            Ok(Ok(complete(request, vec![part])))
        }
        Err(error @ (AttemptError::Leased(_) | AttemptError::Planted(..))) => {
            Ok(Err((claim, error)))
        }
        Err(fatal) => Err(fatal),
    }
}

static EPHEMERAL: RwLock<Option<Arc<EphemeralRange>>> = RwLock::new(None);

/// As the kernel reported it when this process first asked.
pub(super) fn range() -> Arc<EphemeralRange> {
    if let Some(known) = EPHEMERAL.read().as_ref() {
        return known.clone();
    }
    EPHEMERAL
        .write()
        .insert(Arc::new(EphemeralRange::read()))
        .clone()
}

/// The same, read again if the kernel chose a number that it does not hold.
fn range_with(port: u16) -> Arc<EphemeralRange> {
    let known = range();
    if known.range().contains(&port) {
        return known;
    }
    EPHEMERAL
        .write()
        .insert(Arc::new(EphemeralRange::read()))
        .clone()
}
