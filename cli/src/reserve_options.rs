//! Converts the options of the command line to those of the library, and reserves a port with them.

use portlease::{Protocol, ReserveOptions};

use crate::args::SharedReserveArgs;
use crate::failure::Failure;
use crate::number_args::NumberArgs;
use crate::port_server::{Granted, PortServer};

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
    options = shared.numbers.apply(options);
    match shared.label.as_deref().or(label) {
        Some(label) => options.label(label),
        None => options,
    }
}

/// Fails if the user restricts the choice of numbers while the port server of `PORTSERVER_ADDRESS`
/// chooses them. `further` is an option outside `numbers` that restricts the choice, if present.
pub(crate) fn check_choice(
    numbers: &NumberArgs,
    further: Option<&'static str>,
) -> Result<(), Failure> {
    match (further.or(numbers.chooses()), PortServer::from_env()?) {
        (Some(option), Some(_)) => Err(Failure::new(format!(
            "cannot apply {option}: the port server of PORTSERVER_ADDRESS chooses the numbers; \
             unset PORTSERVER_ADDRESS"
        ))),
        _ => Ok(()),
    }
}

/// Reserves `number`. If it is `None`, the port server of `PORTSERVER_ADDRESS` picks one. If that
/// variable is not set, the library picks one.
pub(crate) fn reserve_port(
    options: &ReserveOptions,
    number: Option<u16>,
) -> Result<Granted, Failure> {
    let reservation = match (number, PortServer::from_env()?) {
        (Some(number), _) => options.clone().port(number).reserve()?,
        (None, Some(server)) => return server.reserve(options, std::process::id()),
        (None, None) => options.clone().reserve()?,
    };
    Ok(Granted::Reserved(reservation))
}
