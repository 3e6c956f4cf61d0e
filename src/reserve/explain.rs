//! Turns the reason why a reservation was refused into the error of the call. The error has a
//! diagnosis if an exact port is taken or not permitted.

use crate::acquire::{AttemptError, Refused, Request};
use crate::inspect::{diagnose, ephemeral_usage, who};
use crate::lease::Unusable;
use crate::model::endpoint::Protocol;
use crate::model::error::Error;
use crate::model::error_kind::ErrorKind;
use crate::model::port_set::PortSet;
use crate::os_error::is_out_of_descriptors;
use crate::ports;
use crate::retry::NUMBERS_EXPLAINED;

pub(super) fn explain(request: &Request, refused: Refused) -> Error {
    let Refused { error, waited } = refused;
    match error {
        AttemptError::Leased(port) | AttemptError::Named(port) | AttemptError::Occupied(port) => {
            Error::cannot_reserve(port, waited, diagnose::in_use(port, request.server))
        }
        AttemptError::NotPermitted(port, cause) => {
            let diagnosis = diagnose::not_permitted(port, request.server);
            if diagnosis.error_kind() == ErrorKind::InUse {
                Error::cannot_reserve(port, waited, diagnosis)
            } else {
                Error::not_permitted(port, ports::unprivileged_from(), diagnosis, cause)
            }
        }
        AttemptError::Planted(path, cause) => Error::planted(&path, cause),
        AttemptError::NoneFree(stats) => {
            let usage = match request.allowed {
                // If every number was refused for lack of permission, the usage of the ephemeral
                // range does not explain the refusals.
                _ if stats.not_permitted > 0 && stats.not_permitted == stats.tried() => None,
                None if request.protocols.contains(&Protocol::Tcp) => ephemeral_usage::read(),
                _ => ephemeral_usage::if_crowded(request.protocols),
            };
            let taken = taken(request, &stats.own);
            Error::no_free_port(
                request.allowed.as_ref(),
                waited,
                &stats,
                &taken,
                usage.as_ref(),
            )
            .limited_by(request.env_range.as_ref())
        }
        AttemptError::LockFolder(folder) => lock_folder(folder),
        AttemptError::System { act, port, cause } => Error::system(act, port, cause),
    }
}

/// Explains the first [`NUMBERS_EXPLAINED`] numbers that the request allows. The numbers in `own`,
/// which the call itself has taken, are left out. The sentence for a number names the holders. A
/// number without a visible socket or reservation gets no sentence. The result is empty if neither
/// the request nor `PORTLEASE_RANGE` sets a range.
fn taken(request: &Request, own: &PortSet) -> Vec<(u16, String)> {
    let numbers = request.allowed.iter().cloned().flatten();
    let numbers: Vec<u16> = numbers
        .filter(|number| request.admits(*number) && !own.contains(*number))
        .take(NUMBERS_EXPLAINED)
        .collect();
    who::headlines(&numbers, request.protocols)
}

pub(super) fn lock_folder(folder: Unusable) -> Error {
    out_of_descriptors(folder)
        .unwrap_or_else(|folder| Error::lock_folder(&folder.path, folder.cause))
}

/// The error of `reservations` if it could not read the lock folder.
pub(super) fn unread_lock_folder(folder: Unusable) -> Error {
    out_of_descriptors(folder)
        .unwrap_or_else(|folder| Error::unread_lock_folder(&folder.path, folder.cause))
}

fn out_of_descriptors(folder: Unusable) -> Result<Error, Unusable> {
    if is_out_of_descriptors(&folder.cause) {
        let path = format!("{:?}", folder.path.display().to_string());
        Ok(Error::of_system("read", &path, folder.cause))
    } else {
        Err(folder)
    }
}
