//! An explicit number: the lease first, so that whoever is refused learns by whom, then what keeps the port.

use std::io;

use super::{Effort, Obstacle, Wish, complete, ephemeral, fatal, lease_for, refused};
use crate::claim::{Claim, ExclusiveName, Manner, could_bind};
use crate::diagnose;
use crate::endpoint::{Endpoint, Protocol};
use crate::holder::{State, Unseen};
use crate::patience::Patience;
use crate::reservation::{Guarantee, Part, Reservation};
use crate::table;

pub(super) fn exact(wish: &Wish, port: u16, effort: Effort) -> Result<Reservation, Obstacle> {
    let parts = wish
        .protocols
        .iter()
        .map(|protocol| part(wish, Endpoint::of(port, *protocol), effort));
    Ok(complete(wish, parts.collect::<Result<_, _>>()?))
}

fn part(wish: &Wish, endpoint: Endpoint, effort: Effort) -> Result<Part, Obstacle> {
    let Endpoint { port, .. } = endpoint;
    let protocol = endpoint.protocol.unwrap_or(Protocol::Tcp);
    let claims = wish.claims(protocol)?;
    let lease = lease_for(endpoint, claims)?;
    let quiet = ephemeral::range().is_quiet(port);
    // Where numbers are kept without a claim, containers that do not share the lock folder meet by name.
    let mut name = if claims && !quiet {
        None
    } else {
        exclusive_name(endpoint, effort)?
    };
    let (claim, guarantee) = if claims {
        let (claim, guarantee) = claim_exactly(endpoint, effort, lease.is_some(), &mut name)?;
        (Some(claim), guarantee)
    } else {
        probe(endpoint, effort)?;
        (
            None,
            if quiet {
                Guarantee::Cooperative
            } else {
                Guarantee::BestEffort
            },
        )
    };
    Ok(Part::new(endpoint, claim, name, lease, guarantee))
}

/// `None` on systems that have no such names.
fn exclusive_name(endpoint: Endpoint, effort: Effort) -> Result<Option<ExclusiveName>, Obstacle> {
    let mut patience = Patience::new();
    loop {
        match ExclusiveName::take(endpoint.protocol.unwrap_or(Protocol::Tcp), endpoint.port) {
            Ok(name) => return Ok(Some(name)),
            Err(e) if e.kind() == io::ErrorKind::Unsupported => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
            Err(e) => return Err(fatal("name", endpoint, e)),
        }
        // Another container's, or one just let go that a child forked at this moment still has.
        if !effort.persists(&mut patience, || diagnose::left(endpoint)) {
            return Err(Obstacle::Leased(endpoint));
        }
    }
}

/// Proves that nobody has the port at the moment. A plain server cannot bind over TIME_WAIT, so that counts.
fn probe(endpoint: Endpoint, effort: Effort) -> Result<(), Obstacle> {
    let mut patience = Patience::new();
    loop {
        match could_bind(
            endpoint.protocol.unwrap_or(Protocol::Tcp),
            None,
            endpoint.port,
            Manner::Plain,
        ) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
            Err(e) => return Err(refused("bind", endpoint, e)),
        }
        if effort < Effort::Prefer {
            return Err(Obstacle::Occupied(endpoint));
        }
        let passes = match occupant(endpoint) {
            Occupant::Passing => true,
            Occupant::Server => diagnose::is_left_to_children(endpoint),
            Occupant::TimeWait { .. } => false,
        };
        if !passes || !effort.persists(&mut patience, || diagnose::sockets_left(endpoint)) {
            return Err(Obstacle::Occupied(endpoint));
        }
    }
}

fn claim_exactly(
    endpoint: Endpoint,
    effort: Effort,
    leased: bool,
    name: &mut Option<ExclusiveName>,
) -> Result<(Claim, Guarantee), Obstacle> {
    let mut patience = Patience::new();
    loop {
        match Claim::exact(endpoint.port) {
            Ok(claim) => return Ok((claim, Guarantee::Kernel)),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
            Err(e) => return Err(refused("bind", endpoint, e)),
        }
        if effort == Effort::Glance {
            return Err(Obstacle::Occupied(endpoint));
        }
        match occupant(endpoint) {
            Occupant::TimeWait { sees_claims } if sees_claims || leased => {
                let claim = claim_over_time_wait(endpoint, effort, name)?;
                // A claim that cannot be seen, another container's, would not have stopped this bind.
                return Ok((
                    claim,
                    if sees_claims {
                        Guarantee::Kernel
                    } else {
                        Guarantee::Cooperative
                    },
                ));
            }
            Occupant::TimeWait { .. } => return Err(Obstacle::Occupied(endpoint)),
            Occupant::Server
                if effort >= Effort::Prefer && diagnose::is_left_to_children(endpoint) => {}
            Occupant::Server => return Err(Obstacle::Occupied(endpoint)),
            Occupant::Passing => {}
        }
        // Nobody: it was let go since the bind.
        if !effort.persists(&mut patience, || diagnose::sockets_left(endpoint)) {
            return Err(Obstacle::Occupied(endpoint));
        }
    }
}

/// The bind over TIME_WAIT proves nothing by itself; the name does, and the table, before and after it.
fn claim_over_time_wait(
    endpoint: Endpoint,
    effort: Effort,
    name: &mut Option<ExclusiveName>,
) -> Result<Claim, Obstacle> {
    if name.is_none() {
        *name = exclusive_name(endpoint, effort)?;
    }
    let name = name.as_ref().ok_or(Obstacle::Occupied(endpoint))?;
    let claim =
        Claim::over_time_wait(endpoint.port, name).map_err(|e| refused("bind", endpoint, e))?;
    let own = claim
        .identity()
        .map_err(|e| fatal("inspect the claim of", endpoint, e))?;
    let sockets = table::sockets(endpoint.port, endpoint.protocol)
        .map_err(|e| fatal("look at", endpoint, e))?;
    let alone = sockets
        .rows
        .iter()
        .all(|row| row.state == State::TimeWait || row.inode == own.inode);
    if alone {
        Ok(claim)
    } else {
        Err(Obstacle::Occupied(endpoint))
    }
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

fn occupant(endpoint: Endpoint) -> Occupant {
    let Ok(sockets) = table::sockets(endpoint.port, endpoint.protocol) else {
        return Occupant::Passing;
    };
    let count =
        |states: fn(State) -> bool| sockets.rows.iter().filter(|row| states(row.state)).count();
    // A bound TCP socket serves nobody; a bound UDP socket is a server.
    let tcp = endpoint.protocol == Some(Protocol::Tcp);
    let passing = if tcp {
        count(|state| state == State::Bound)
    } else {
        0
    };
    let ended = count(|state| state == State::TimeWait);
    if passing + ended < sockets.rows.len() {
        Occupant::Server
    } else if ended > 0 && passing == 0 {
        Occupant::TimeWait {
            sees_claims: !sockets.unseen.contains(&Unseen::Bound),
        }
    } else {
        Occupant::Passing
    }
}
