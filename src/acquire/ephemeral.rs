//! A TCP port of the ephemeral range: the claim first, since the kernel chooses, then the lease.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::RwLock;

use super::{ANY, Obstacle, Wish, complete, count, fatal, lease_for, refused};
use crate::claim::Claim;
use crate::endpoint::{Endpoint, Protocol};
use crate::error::Tally;
use crate::pool::{Crowding, Ephemeral};
use crate::reservation::{Guarantee, Part, Reservation};

/// How many draws of the kernel's own are worth while: each one that does not do stays claimed meanwhile, so that
/// the kernel does not offer it again.
const KERNEL_DRAWS: usize = 32;

/// More draws than this fail only where next to nothing is free.
const OWN_DRAWS: usize = 1024;

/// After so many misses in a row the range is nearly used up.
const MISSES: u32 = 64;

pub(super) fn pick(wish: &Wish, tally: &mut Tally) -> Result<Option<Reservation>, Obstacle> {
    tally.ephemeral = true;
    let crowding = Crowding::of_this_process();
    let mut kept = Vec::new();
    let mut adopt = |claim: Claim, tally: &mut Tally| -> Result<Option<Reservation>, Obstacle> {
        if wish.exclude.contains(claim.port()) {
            tally.excluded += 1;
            kept.push(claim);
            return Ok(None);
        }
        match adopt(wish, claim)? {
            Ok(reservation) => Ok(Some(reservation)),
            Err((claim, obstacle)) => {
                kept.push(claim);
                count(obstacle, tally)?;
                Ok(None)
            }
        }
    };
    for _ in 0..KERNEL_DRAWS {
        if crowding.is_on() {
            break;
        }
        let before = Instant::now();
        match Claim::any() {
            Ok(claim) => {
                crowding.note(
                    &range_with(claim.port()).range(),
                    claim.port(),
                    before.elapsed(),
                );
                if let Some(reservation) = adopt(claim, tally)? {
                    return Ok(Some(reservation));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => crowding.note_exhausted(),
            Err(e) => return Err(fatal("bind", ANY, e)),
        }
    }
    let pool = range();
    let mut numbers = pool
        .draws()
        .filter(|port| !wish.exclude.contains(*port))
        .take(OWN_DRAWS);
    let mut misses = 0;
    while let Some(port) = numbers.next() {
        let claim = match Claim::exact(port) {
            Ok(claim) => claim,
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                misses += 1;
                tally.in_use += 1;
                continue;
            }
            Err(e) => return Err(refused("bind", Endpoint::of(port, Protocol::Tcp), e)),
        };
        let scarce = misses >= MISSES || pool.range().len() <= MISSES as usize;
        if scarce && !leaves_spare(&mut numbers, pool.spare(), tally) {
            tally.spared = true;
            return Ok(None);
        }
        if let Some(reservation) = adopt(claim, tally)? {
            return Ok(Some(reservation));
        }
    }
    Ok(None)
}

/// Whether so many more numbers can be claimed: with none left, no connection can be made either.
fn leaves_spare(numbers: &mut impl Iterator<Item = u16>, spare: usize, tally: &mut Tally) -> bool {
    let mut free = Vec::with_capacity(spare);
    while free.len() < spare {
        match numbers.next().map(Claim::exact) {
            Some(Ok(claim)) => free.push(claim),
            Some(Err(_)) => tally.in_use += 1,
            None => return false,
        }
    }
    true
}

/// A lease for a number that is claimed already. A number that cannot be leased comes back, still claimed.
fn adopt(wish: &Wish, claim: Claim) -> Result<Result<Reservation, (Claim, Obstacle)>, Obstacle> {
    let endpoint = Endpoint::of(claim.port(), Protocol::Tcp);
    match lease_for(endpoint, true) {
        Ok(lease) => {
            let part = Part::new(endpoint, Some(claim), None, lease, Guarantee::Kernel);
            Ok(Ok(complete(wish, vec![part])))
        }
        Err(obstacle @ (Obstacle::Leased(_) | Obstacle::Planted(..))) => Ok(Err((claim, obstacle))),
        Err(fatal) => Err(fatal),
    }
}

static EPHEMERAL: RwLock<Option<Arc<Ephemeral>>> = RwLock::new(None);

/// As the kernel reported it when this process first asked.
pub(super) fn range() -> Arc<Ephemeral> {
    if let Some(known) = EPHEMERAL.read().as_ref() {
        return known.clone();
    }
    EPHEMERAL
        .write()
        .insert(Arc::new(Ephemeral::read()))
        .clone()
}

/// The same, read again if the kernel chose a number that it does not hold.
fn range_with(port: u16) -> Arc<Ephemeral> {
    let known = range();
    if known.range().contains(&port) {
        return known;
    }
    EPHEMERAL
        .write()
        .insert(Arc::new(Ephemeral::read()))
        .clone()
}
