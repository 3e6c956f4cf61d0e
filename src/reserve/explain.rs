//! Turns the reason why a reservation was refused into an error with a diagnosis.

use crate::acquire::{AttemptError, Refused, Request};
use crate::inspect::{diagnose, ephemeral_usage};
use crate::lease::Unusable;
use crate::model::endpoint::Protocol;
use crate::model::error::Error;
use crate::os_error::is_out_of_descriptors;
use crate::ports;

pub(super) fn explain(request: &Request, refused: Refused) -> Error {
    let Refused { error, waited } = refused;
    match error {
        AttemptError::Leased(port) | AttemptError::Named(port) | AttemptError::Occupied(port) => {
            Error::cannot_reserve(port, waited, diagnose::in_use(port, request.server))
        }
        AttemptError::NotPermitted(port, cause) => {
            Error::not_permitted(port, ports::is_privileged(port.number), cause)
        }
        AttemptError::Planted(path, cause) => Error::planted(&path, cause),
        AttemptError::NoneFree(stats) => {
            let usage = match request.allowed {
                None if request.protocols.contains(&Protocol::Tcp) => ephemeral_usage::read(),
                _ => ephemeral_usage::if_crowded(request.protocols),
            };
            Error::no_free_port(request.allowed.as_ref(), waited, &stats, usage.as_ref())
        }
        AttemptError::LockFolder(folder) => lock_folder(folder),
        AttemptError::System { act, port, cause } => Error::system(act, port, cause),
    }
}

pub(super) fn lock_folder(folder: Unusable) -> Error {
    if is_out_of_descriptors(&folder.cause) {
        let path = format!("{:?}", folder.path.display().to_string());
        return Error::of_system("read", &path, folder.cause);
    }
    Error::lock_folder(&folder.path, folder.cause)
}
