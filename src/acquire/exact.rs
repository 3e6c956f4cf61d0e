//! An explicit number: the lease first, so that whoever is refused learns by whom, then the claim.

use std::io;
use std::time::{Duration, Instant};

use super::{Effort, Obstacle, Wish, complete, fatal, keeps_claims, refused};
use crate::claim::{self, Claim, Manner};
use crate::endpoint::Protocol;
use crate::error::Error;
use crate::holder::{State, Unseen};
use crate::lease::{self, Refusal};
use crate::reservation::{Guarantee, Reservation};
use crate::table;

pub(super) fn exact(wish: &Wish, port: u16, effort: Effort) -> Result<Reservation, Obstacle> {
    let keeps_claims = keeps_claims()?;
    let lease = match lease::acquire(Protocol::Tcp, port) {
        Ok(held) => Some(held),
        Err(Refusal::Taken) => return Err(Obstacle::Leased(port)),
        Err(Refusal::Planted { path, cause }) => return Err(Obstacle::Planted(path, cause)),
        Err(Refusal::OutOfDescriptors(cause)) => return Err(fatal("lock", port, cause)),
        // What the kernel guarantees needs no folder.
        Err(Refusal::Unusable(folder)) if keeps_claims && !folder.misconfigured => None,
        Err(Refusal::Unusable(folder)) => {
            return Err(Obstacle::Fatal(Error::lock_folder(&folder.path, folder.cause)));
        }
    };
    let (claim, guarantee) = if keeps_claims {
        let (claim, guarantee) = claim_exactly(port, effort, lease.is_some())?;
        (Some(claim), guarantee)
    } else {
        claim::could_bind(Protocol::Tcp, None, port, Manner::Exclusive)
            .map_err(|e| refused("bind", port, e))?;
        (None, Guarantee::BestEffort)
    };
    Ok(complete(wish, port, claim, lease, guarantee))
}

/// How long a number is retried that nobody visible explains: a child forked at this moment shares what was let go
/// until it execs, and a look occupies a number for its microseconds.
const PATIENCE: Duration = Duration::from_millis(100);

fn claim_exactly(port: u16, effort: Effort, leased: bool) -> Result<(Claim, Guarantee), Obstacle> {
    let mut deadline = None;
    let mut pause = Duration::from_micros(20);
    loop {
        match Claim::exact(port) {
            Ok(claim) => return Ok((claim, Guarantee::Kernel)),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
            Err(e) => return Err(refused("bind", port, e)),
        }
        if effort == Effort::Glance {
            return Err(Obstacle::Occupied(port));
        }
        match occupant(port) {
            Occupant::TimeWait { sees_claims } if sees_claims || leased => {
                let claim = claim_over_time_wait(port)?.ok_or(Obstacle::Occupied(port))?;
                // A claim that cannot be seen, another container's, would not have stopped this bind.
                return Ok((claim, if sees_claims { Guarantee::Kernel } else { Guarantee::Cooperative }));
            }
            Occupant::TimeWait { .. } | Occupant::Server => return Err(Obstacle::Occupied(port)),
            Occupant::Passing => {}
        }
        let deadline = *deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
        if effort == Effort::Look || Instant::now() >= deadline {
            return Err(Obstacle::Occupied(port));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(2));
    }
}

/// The bind over TIME_WAIT proves nothing by itself; the table does, before and after it.
fn claim_over_time_wait(port: u16) -> Result<Option<Claim>, Obstacle> {
    let claim = match Claim::over_time_wait(port) {
        Ok(claim) => claim,
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => return Ok(None),
        Err(e) => return Err(refused("bind", port, e)),
    };
    let inode = claim.inode().map_err(|e| fatal("inspect the claim of", port, e))?;
    let sockets = table::sockets(port, Some(Protocol::Tcp)).map_err(|e| fatal("look at", port, e))?;
    let alone = sockets.rows.iter().all(|row| row.state == State::TimeWait || row.inode == inode);
    Ok(alone.then_some(claim))
}

/// What keeps a number from being claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Occupant {
    /// A listener or a connection.
    Server,
    /// Nothing but connections that have ended; and whether a claim would have been seen beside them.
    TimeWait { sees_claims: bool },
    /// Nothing that is seen, or a socket bound and not listening: another's look, or a claim that a child forked at
    /// this moment still has.
    Passing,
}

fn occupant(port: u16) -> Occupant {
    let Ok(sockets) = table::sockets(port, Some(Protocol::Tcp)) else { return Occupant::Passing };
    let count = |states: fn(State) -> bool| sockets.rows.iter().filter(|row| states(row.state)).count();
    let passing = count(|state| state == State::Bound);
    let ended = count(|state| state == State::TimeWait);
    if passing + ended < sockets.rows.len() {
        Occupant::Server
    } else if ended > 0 && passing == 0 {
        Occupant::TimeWait { sees_claims: !sockets.unseen.contains(&Unseen::Bound) }
    } else {
        Occupant::Passing
    }
}
