//! Reserves an exact number: first its lease (a locked file), then its claim (a bound socket). The
//! lease comes first because its record names the process that has the number.

use std::io;
use std::sync::Arc;

use super::{AttemptError, Effort, Request, complete, lease_for};
use crate::claim::{BindMode, Claim, ExclusiveName, try_bind};
use crate::lease::{self, LeaseLock};
use crate::model::endpoint::Protocol;
use crate::model::port::Port;
use crate::model::server_kind::ServerKind;
use crate::ports::EphemeralRange;
use crate::reservation::{Guarantee, ProtocolReservation, Reservation};
use crate::residual;
use crate::retry::{ResidualOwner, RetryLevel};
use crate::sockets::{self, Row};

pub(super) fn reserve(
    request: &Request,
    number: u16,
    effort: &mut Effort<'_>,
) -> Result<Reservation, AttemptError> {
    reserve_in(request, number, EphemeralRange::refreshed, effort)
}

/// Reserves the number as [`reserve`] does. The function `ephemeral` returns the ephemeral range. A
/// caller that tries many numbers has already read the range, so it passes
/// `EphemeralRange::cached`.
pub(super) fn reserve_in(
    request: &Request,
    number: u16,
    ephemeral: fn() -> io::Result<Arc<EphemeralRange>>,
    effort: &mut Effort<'_>,
) -> Result<Reservation, AttemptError> {
    let mut parts = Vec::with_capacity(request.protocols.len());
    for protocol in request.protocols {
        let port = Port::new(number, *protocol);
        parts.push(part(request, port, ephemeral, effort)?);
    }
    complete(request, parts)
}

fn part(
    request: &Request,
    port: Port,
    ephemeral: fn() -> io::Result<Arc<EphemeralRange>>,
    effort: &mut Effort<'_>,
) -> Result<ProtocolReservation, AttemptError> {
    let claims = request.claims(port.protocol)?;
    let lease = lease_of_exact(port, claims, effort)?;
    // This function takes the abstract Unix socket name of the port here in three cases:
    // - The reservation gets no claim.
    // - The number is not ephemeral, so another process may have reserved it without a claim.
    // - Another process already has the name. `exclusive_name` then retries or fails.
    // Processes of one network namespace can have different lock folders, for example in a
    // container. If another process has a reservation without a claim, and uses another lock
    // folder, only the name shows the reservation.
    let is_named = !claims
        || ephemeral()
            .map_err(AttemptError::range)?
            .is_non_ephemeral(port.number)
        || residual::is_named(port);
    let mut name = if is_named {
        exclusive_name(port, effort)?
    } else {
        None
    };
    let (claim, guarantee) = if claims {
        let (claim, guarantee) = claim(request, port, effort, lease.is_ok(), &mut name)?;
        (Some(claim), guarantee)
    } else {
        probe(port, effort)?;
        let guarantee = Guarantee::without_claim(port.number);
        (None, guarantee.map_err(AttemptError::range)?)
    };
    Ok(ProtocolReservation::new(
        port, claim, name, lease, guarantee,
    ))
}

/// Takes the lease of an exact number. If another call has the lease but has written no record, the
/// function retries, because the lease may be free again soon. A process that tries several numbers
/// takes each lease for a moment, and records only the number that it reserves.
fn lease_of_exact(
    port: Port,
    claims: bool,
    effort: &mut Effort<'_>,
) -> Result<Result<LeaseLock, String>, AttemptError> {
    loop {
        match lease_for(port, claims, effort) {
            Err(AttemptError::Leased(_))
                if effort.retries()
                    && !lease::is_recorded(port)
                    && effort.budget.pause(|| ResidualOwner::Unknown) => {}
            outcome => return outcome,
        }
    }
}

/// Takes the port's abstract Unix socket name. Returns `None` on systems without such names.
fn exclusive_name(
    port: Port,
    effort: &mut Effort<'_>,
) -> Result<Option<ExclusiveName>, AttemptError> {
    loop {
        match ExclusiveName::take(port.protocol, port.number) {
            Ok(name) => return Ok(Some(name)),
            Err(e) if e.kind() == io::ErrorKind::Unsupported => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
            Err(e) => {
                return Err(AttemptError::system(
                    "bind the abstract Unix socket of",
                    port,
                    e,
                ));
            }
        }
        if !effort.retries() || !effort.budget.pause(|| residual::owner_of_name(port)) {
            return Err(AttemptError::Named(port));
        }
    }
}

/// Checks that a bind without the reuse options succeeds now. Connections of an earlier server make
/// this bind fail, as they make the bind of a server without the options fail.
///
/// On a kernel that cannot keep claims (bound sockets), the caller also requests this check for a
/// server that sets the reuse options. The check can then fail although that server could bind.
fn probe(port: Port, effort: &mut Effort<'_>) -> Result<(), AttemptError> {
    let mut is_last = false;
    loop {
        match try_bind(port, BindMode::Plain, effort.budget) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
            Err(e) => return Err(AttemptError::bind(port, e)),
        }
        if is_last || !effort.retries() {
            return Err(AttemptError::Occupied(port));
        }
        is_last = !pause_for(Occupant::of(port), effort);
    }
}

fn claim(
    request: &Request,
    port: Port,
    effort: &mut Effort<'_>,
    leased: bool,
    name: &mut Option<ExclusiveName>,
) -> Result<(Claim, Guarantee), AttemptError> {
    let mut is_last = false;
    loop {
        match Claim::exact(port.number) {
            Ok(claim) => return Ok((claim, Guarantee::Kernel)),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
            Err(e) => return Err(AttemptError::bind(port, e)),
        }
        if effort.level == RetryLevel::Once {
            return Err(AttemptError::Occupied(port));
        }
        let mut occupant = Occupant::of(port);
        if let Occupant::Leftovers { sees_claims } = occupant
            && (sees_claims || leased)
        {
            // If the socket table cannot show claims (`sees_claims` is false), a process with
            // another lock folder, for example in a container, may have a claim on this number. The
            // bind below could succeed beside that claim, so the guarantee is lower.
            let guarantee = if sees_claims {
                Guarantee::Kernel
            } else {
                Guarantee::Cooperative
            };
            match claim_over_leftovers(request, port, effort, name)? {
                Ok(claim) => return Ok((claim, guarantee)),
                Err(others) => occupant = Occupant::Sockets(others),
            }
        }
        if is_last || !effort.retries() {
            return Err(AttemptError::Occupied(port));
        }
        // The bind may have failed because another process probed the port at that time. So one
        // more try follows even if the budget allows no further pause. By then a probe has usually
        // ended, because the search for an owner in `pause_for` takes longer than a probe.
        is_last = !pause_for(occupant, effort);
    }
}

/// Claims a number on which an earlier server left connections (leftovers). If other sockets have
/// the number too, the function releases the claim and returns these sockets as the inner `Err`.
///
/// This claim sets the reuse options before its bind, so the kernel would allow a second claim of
/// this kind. The abstract Unix socket name of the port prevents the second claim, because only one
/// reservation at a time can have the name. The name does not rule out other sockets. So the
/// function that calls this one reads the socket table before the bind, and this function reads the
/// table after the bind.
fn claim_over_leftovers(
    request: &Request,
    port: Port,
    effort: &mut Effort<'_>,
    name: &mut Option<ExclusiveName>,
) -> Result<Result<Claim, Vec<Row>>, AttemptError> {
    if name.is_none() {
        *name = exclusive_name(port, effort)?;
    }
    let name = name.as_ref().ok_or(AttemptError::Occupied(port))?;
    // Connections can keep the requested server from binding. The claim sets both reuse options, so
    // it can bind in spite of these connections. This function therefore also probes with the
    // options of that server. The probe comes before the claim. After the claim, a probe that sets
    // only SO_REUSEPORT would succeed in spite of the connections.
    let mode = match request.server {
        ServerKind::ReusePort => BindMode::ReusePort,
        _ => BindMode::Server,
    };
    try_bind(port, mode, effort.budget).map_err(|e| AttemptError::bind(port, e))?;
    let claim =
        Claim::over_leftovers(port.number, name).map_err(|e| AttemptError::bind(port, e))?;
    let own = claim.inode();
    let table = sockets::sockets(port.number, Some(port.protocol))
        .map_err(|e| AttemptError::system("read the sockets on", port, e))?;
    let is_other = |row: &Row| !row.is_leftover() && row.inode != own;
    let others: Vec<Row> = table.rows.into_iter().filter(is_other).collect();
    Ok(if others.is_empty() {
        Ok(claim)
    } else {
        Err(others)
    })
}

/// What occupies a number that could not be bound.
#[derive(Clone, Debug)]
enum Occupant {
    /// The sockets that are no [leftovers](Row::is_leftover). The list is empty if no such socket
    /// is visible, for example because it was closed since the bind.
    Sockets(Vec<Row>),
    /// Only leftovers are visible on the number. Usually they are connections that an earlier
    /// server accepted. They can also be outgoing connections whose source port is the number. Then
    /// the bind in [`claim_over_leftovers`] usually fails. `sees_claims` is `true` if the kernel's
    /// socket table would also show a claim.
    Leftovers { sees_claims: bool },
    /// The socket table cannot be read.
    Unreadable,
}

impl Occupant {
    fn of(port: Port) -> Occupant {
        let Ok(table) = sockets::sockets(port.number, Some(port.protocol)) else {
            return Occupant::Unreadable;
        };
        let (leftovers, others): (Vec<Row>, Vec<Row>) =
            table.rows.into_iter().partition(Row::is_leftover);
        if others.is_empty() && !leftovers.is_empty() && port.protocol == Protocol::Tcp {
            Occupant::Leftovers {
                sees_claims: !table.unseen.iter().any(|reason| reason.is_of_bound()),
            }
        } else {
            Occupant::Sockets(others)
        }
    }
}

fn pause_for(occupant: Occupant, effort: &mut Effort<'_>) -> bool {
    effort.budget.pause(|| match occupant {
        Occupant::Sockets(rows) => residual::owner_of_sockets(rows),
        Occupant::Leftovers { .. } => ResidualOwner::Process,
        Occupant::Unreadable => ResidualOwner::Unknown,
    })
}
