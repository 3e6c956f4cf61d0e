//! An explicit number: the lease first, so that whoever is refused learns by whom, then what keeps the port.

use std::io;

use super::{AttemptError, Request, RetryLevel, automatic, complete, fatal, lease_for, refused};
use crate::claim::{BindMode, Claim, ExclusiveName, try_bind};
use crate::inspect::diagnose;
use crate::model::endpoint::{Endpoint, Protocol};
use crate::model::holder::{Incompleteness, State};
use crate::reservation::{Guarantee, ProtocolReservation, Reservation};
use crate::retry::RetryBudget;
use crate::sockets;

pub(super) fn exact(
    request: &Request,
    port: u16,
    level: RetryLevel,
) -> Result<Reservation, AttemptError> {
    let parts = request
        .protocols
        .iter()
        .map(|protocol| part(request, Endpoint::of(port, *protocol), level));
    Ok(complete(request, parts.collect::<Result<_, _>>()?))
}

fn part(
    request: &Request,
    endpoint: Endpoint,
    level: RetryLevel,
) -> Result<ProtocolReservation, AttemptError> {
    let Endpoint { port, .. } = endpoint;
    let protocol = endpoint.protocol.unwrap_or(Protocol::Tcp);
    let claims = request.claims(protocol)?;
    let lease = lease_for(endpoint, claims)?;
    let non_ephemeral = automatic::range().is_non_ephemeral(port);
    // Where numbers are kept without a claim, containers that do not share the lock folder meet by name.
    let mut name = if claims && !non_ephemeral {
        None
    } else {
        exclusive_name(endpoint, level)?
    };
    let (claim, guarantee) = if claims {
        let (claim, guarantee) = claim_exactly(endpoint, level, lease.is_some(), &mut name)?;
        (Some(claim), guarantee)
    } else {
        probe(endpoint, level)?;
        (
            None,
            if non_ephemeral {
                Guarantee::Cooperative
            } else {
                Guarantee::BestEffort
            },
        )
    };
    Ok(ProtocolReservation::new(
        endpoint, claim, name, lease, guarantee,
    ))
}

/// `None` on systems that have no such names.
fn exclusive_name(
    endpoint: Endpoint,
    level: RetryLevel,
) -> Result<Option<ExclusiveName>, AttemptError> {
    let mut budget = RetryBudget::new();
    loop {
        match ExclusiveName::take(endpoint.protocol.unwrap_or(Protocol::Tcp), endpoint.port) {
            Ok(name) => return Ok(Some(name)),
            Err(e) if e.kind() == io::ErrorKind::Unsupported => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
            Err(e) => return Err(fatal("name", endpoint, e)),
        }
        // Another container's, or one just let go that a child forked at this moment still has.
        if !level.persists(&mut budget, || diagnose::left(endpoint)) {
            return Err(AttemptError::Leased(endpoint));
        }
    }
}

/// Proves that nobody has the port at the moment. A plain server cannot bind over TIME_WAIT, so that counts.
fn probe(endpoint: Endpoint, level: RetryLevel) -> Result<(), AttemptError> {
    let mut budget = RetryBudget::new();
    loop {
        match try_bind(
            endpoint.protocol.unwrap_or(Protocol::Tcp),
            None,
            endpoint.port,
            BindMode::Plain,
        ) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
            Err(e) => return Err(refused("bind", endpoint, e)),
        }
        if level < RetryLevel::Prefer {
            return Err(AttemptError::Occupied(endpoint));
        }
        let passes = match occupant(endpoint) {
            Occupant::Passing => true,
            Occupant::Server => diagnose::is_left_to_children(endpoint),
            Occupant::TimeWait { .. } => false,
        };
        if !passes || !level.persists(&mut budget, || diagnose::sockets_left(endpoint)) {
            return Err(AttemptError::Occupied(endpoint));
        }
    }
}

fn claim_exactly(
    endpoint: Endpoint,
    level: RetryLevel,
    leased: bool,
    name: &mut Option<ExclusiveName>,
) -> Result<(Claim, Guarantee), AttemptError> {
    let mut budget = RetryBudget::new();
    loop {
        match Claim::exact(endpoint.port) {
            Ok(claim) => return Ok((claim, Guarantee::Kernel)),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
            Err(e) => return Err(refused("bind", endpoint, e)),
        }
        if level == RetryLevel::QuickStatus {
            return Err(AttemptError::Occupied(endpoint));
        }
        match occupant(endpoint) {
            Occupant::TimeWait { sees_claims } if sees_claims || leased => {
                let claim = claim_over_time_wait(endpoint, level, name)?;
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
            Occupant::TimeWait { .. } => return Err(AttemptError::Occupied(endpoint)),
            Occupant::Server
                if level >= RetryLevel::Prefer && diagnose::is_left_to_children(endpoint) => {}
            Occupant::Server => return Err(AttemptError::Occupied(endpoint)),
            Occupant::Passing => {}
        }
        // Nobody: it was let go since the bind.
        if !level.persists(&mut budget, || diagnose::sockets_left(endpoint)) {
            return Err(AttemptError::Occupied(endpoint));
        }
    }
}

/// The bind over TIME_WAIT proves nothing by itself; the name does, and the table, before and after it.
fn claim_over_time_wait(
    endpoint: Endpoint,
    level: RetryLevel,
    name: &mut Option<ExclusiveName>,
) -> Result<Claim, AttemptError> {
    if name.is_none() {
        *name = exclusive_name(endpoint, level)?;
    }
    let name = name.as_ref().ok_or(AttemptError::Occupied(endpoint))?;
    let claim =
        Claim::over_time_wait(endpoint.port, name).map_err(|e| refused("bind", endpoint, e))?;
    let own = claim
        .identity()
        .map_err(|e| fatal("inspect the claim of", endpoint, e))?;
    let sockets = sockets::sockets(endpoint.port, endpoint.protocol)
        .map_err(|e| fatal("look at", endpoint, e))?;
    let alone = sockets
        .rows
        .iter()
        .all(|row| row.state == State::TimeWait || row.inode == own.inode);
    if alone {
        Ok(claim)
    } else {
        Err(AttemptError::Occupied(endpoint))
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
    let Ok(sockets) = sockets::sockets(endpoint.port, endpoint.protocol) else {
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
            sees_claims: !sockets.unseen.contains(&Incompleteness::Bound),
        }
    } else {
        Occupant::Passing
    }
}
