//! A number of the ephemeral range: the claim first, since the kernel chooses, then the lease.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::RwLock;

use super::{Obstacle, Wish, complete, count, fatal, keeps_claims, refused};
use crate::claim::Claim;
use crate::endpoint::Protocol;
use crate::error::{Error, Tally};
use crate::lease::{self, Refusal};
use crate::pool::{Crowding, Ephemeral};
use crate::reservation::{Guarantee, Reservation};

/// How many draws of the kernel's own are worth while: each one that does not do stays claimed meanwhile, so that
/// the kernel does not offer it again.
const KERNEL_DRAWS: usize = 32;

/// More draws than this fail only where next to nothing is free.
const OWN_DRAWS: usize = 1024;

/// After so many misses in a row the range is nearly used up.
const MISSES: u32 = 64;

pub(super) fn pick(wish: &Wish, tally: &mut Tally) -> Result<Option<Reservation>, Obstacle> {
    let keeps_claims = keeps_claims()?;
    let crowding = Crowding::of_this_process();
    let mut kept = Vec::new();
    let mut adopt = |claim: Claim, tally: &mut Tally| -> Result<Option<Reservation>, Obstacle> {
        if wish.exclude.contains(&claim.port()) {
            tally.excluded += 1;
            kept.push(claim);
            return Ok(None);
        }
        match adopt(wish, claim, keeps_claims)? {
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
                crowding.note(&range_with(claim.port()).range(), claim.port(), before.elapsed());
                if let Some(reservation) = adopt(claim, tally)? {
                    return Ok(Some(reservation));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => crowding.note_exhausted(),
            Err(e) => return Err(fatal("bind", 0, e)),
        }
    }
    let pool = range();
    let mut numbers = pool.draws().filter(|port| !wish.exclude.contains(port)).take(OWN_DRAWS);
    let mut misses = 0;
    while let Some(port) = numbers.next() {
        let claim = match Claim::exact(port) {
            Ok(claim) => claim,
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                misses += 1;
                tally.in_use += 1;
                continue;
            }
            Err(e) => return Err(refused("bind", port, e)),
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
fn adopt(
    wish: &Wish,
    claim: Claim,
    keeps_claims: bool,
) -> Result<Result<Reservation, (Claim, Obstacle)>, Obstacle> {
    let port = claim.port();
    let lease = match lease::acquire(Protocol::Tcp, port) {
        Ok(held) => Some(held),
        Err(Refusal::Taken) => return Ok(Err((claim, Obstacle::Leased(port)))),
        Err(Refusal::Planted { path, cause }) => return Ok(Err((claim, Obstacle::Planted(path, cause)))),
        Err(Refusal::OutOfDescriptors(cause)) => return Err(fatal("lock", port, cause)),
        Err(Refusal::Unusable(folder)) if keeps_claims && !folder.misconfigured => None,
        Err(Refusal::Unusable(folder)) => {
            return Err(Obstacle::Fatal(Error::lock_folder(&folder.path, folder.cause)));
        }
    };
    let (claim, guarantee) =
        if keeps_claims { (Some(claim), Guarantee::Kernel) } else { (None, Guarantee::BestEffort) };
    Ok(Ok(complete(wish, port, claim, lease, guarantee)))
}

static EPHEMERAL: RwLock<Option<Arc<Ephemeral>>> = RwLock::new(None);

/// As the kernel reported it when this process first asked.
pub(super) fn range() -> Arc<Ephemeral> {
    if let Some(known) = EPHEMERAL.read().as_ref() {
        return known.clone();
    }
    EPHEMERAL.write().insert(Arc::new(Ephemeral::read())).clone()
}

/// The same, read again if the kernel chose a number that it does not hold.
fn range_with(port: u16) -> Arc<Ephemeral> {
    let known = range();
    if known.range().contains(&port) {
        return known;
    }
    EPHEMERAL.write().insert(Arc::new(Ephemeral::read())).clone()
}
