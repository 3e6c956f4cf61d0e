//! Converts the options of the command line to those of the library, and reserves a port with them.

use portlease::{Protocol, Reservation, ReserveOptions};

use crate::args::SharedReserveArgs;
use crate::failure::Failure;
use crate::port_server::PortServer;

pub(crate) fn reserve_options(
    shared: &SharedReserveArgs,
    protocol: Protocol,
    label: Option<&str>,
    command: &str,
) -> ReserveOptions {
    let mut options = ReserveOptions::new()
        .command(command)
        .reuse_addr(!shared.no_reuse_addr)
        .wait(shared.wait.unwrap_or_default());
    if protocol == Protocol::Udp {
        options = options.udp();
    }
    match shared.label.as_deref().or(label) {
        Some(label) => options.label(label),
        None => options,
    }
}

/// Reserves `number`. If it is `None`, the server of `PORTSERVER_ADDRESS` picks a number. If that
/// variable is not set, the library picks one.
pub(crate) fn reserve_port(
    options: &ReserveOptions,
    number: Option<u16>,
) -> Result<Reservation, Failure> {
    match (number, PortServer::from_env()) {
        (Some(number), _) => Ok(options.clone().port(number).reserve()?),
        (None, Some(server)) => server.reserve(options),
        (None, None) => Ok(options.clone().reserve()?),
    }
}
