//! Converts the options of the command line to those of the library, and reserves a port with them.

use portlease::{Protocol, ReserveOptions, ServerKind};

use crate::args::{RunArgs, SharedReserveArgs};
use crate::failure::Failure;
use crate::number_args::NumberArgs;
use crate::port_server::{Granted, PortServer};
use crate::ports::NamedPort;

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

/// The kind of server that must be able to bind the reserved port. A server of every kind
/// can bind a reserved UDP port, because no socket of the library is bound to it.
pub(crate) fn server_kind(shared: &SharedReserveArgs, protocol: Protocol) -> ServerKind {
    match shared.no_reuse_addr && (protocol == Protocol::Tcp || shared.numbers.both) {
        true => ServerKind::Plain,
        false => ServerKind::ReuseAddr,
    }
}

/// If `PORTSERVER_ADDRESS` is set, the port server chooses the numbers. The call then fails if the
/// user passed an option that influences the choice: one in `numbers`, or the option with the name
/// `further`.
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

/// Fails in two cases, in which the library would name a reservation of this same `run` as the
/// obstacle:
///
/// - Two options of `run` name the same port.
/// - `--range` has too few numbers for the ports without a number.
pub(crate) fn check_distinct(args: &RunArgs) -> Result<(), Failure> {
    let numbers = &args.shared.numbers;
    let ports = args.ports.iter().map(|port| ("--port", port));
    let ports: Vec<(&str, &NamedPort)> = ports
        .chain(args.listen.iter().map(|port| ("--listen", port)))
        .collect();
    let shares =
        |one: &NamedPort, other: &NamedPort| numbers.both || one.protocol == other.protocol;
    for (n, (option, port)) in ports.iter().enumerate() {
        let is_same = |earlier: &NamedPort| earlier.port == port.port && shares(earlier, port);
        let earlier = ports[..n].iter().find(|(_, earlier)| is_same(earlier));
        if let (Some(number), Some((earlier_option, earlier))) = (port.port, earlier) {
            return Err(Failure::new(format!(
                "cannot reserve port {number} twice: {earlier_option} {earlier} and {option} \
                 {port} name the same port; give each its own number"
            )));
        }
    }
    let Some(range) = numbers.range else {
        return Ok(());
    };
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let is_of_protocol =
            |port: &&(&str, &NamedPort)| numbers.both || port.1.protocol == protocol;
        let (exact, picked): (Vec<_>, Vec<_>) = ports
            .iter()
            .filter(is_of_protocol)
            .partition(|(_, port)| port.port.is_some());
        let is_taken = |number| exact.iter().any(|(_, port)| port.port == Some(number));
        let room = numbers.allowed().filter(|n| !is_taken(*n)).count();
        let is_within = |port: &NamedPort| port.port.is_some_and(|n| range.contains(n));
        let within = exact.iter().filter(|(_, port)| is_within(port));
        let taken: Vec<String> = within
            .map(|(option, port)| format!("{option} {port}"))
            .collect();
        // Continues if the range has enough numbers. Also continues if only one port uses the
        // range: the library then reports why this port cannot be reserved.
        if picked.len() <= room || picked.len() + taken.len() == 1 {
            continue;
        }
        let names: Vec<&str> = picked.iter().map(|(_, port)| port.name.as_str()).collect();
        let besides = match taken.as_slice() {
            [] => String::new(),
            taken => format!(" besides {}", taken.join(", ")),
        };
        return Err(Failure::new(format!(
            "cannot reserve {} from --range {range}: it has {}{besides}, and {} {} needed; pass a \
             wider range",
            names.join(", "),
            match room {
                1 => "1 number".to_owned(),
                room => format!("{room} numbers"),
            },
            names.len(),
            if names.len() == 1 { "is" } else { "are" },
        )));
    }
    Ok(())
}

/// Reserves `number`. Without a number, the port server of `PORTSERVER_ADDRESS` picks one. If that
/// variable is not set, the library picks one. The port is for a server of the kind `kind`.
pub(crate) fn reserve_port(
    options: &ReserveOptions,
    kind: ServerKind,
    number: Option<u16>,
) -> Result<Granted, Failure> {
    let reservation = match (number, PortServer::from_env()?) {
        (Some(number), _) => options.clone().port(number).reserve()?,
        (None, Some(server)) => return server.reserve(options, kind, std::process::id()),
        (None, None) => options.clone().reserve()?,
    };
    Ok(Granted::Reserved(reservation))
}
