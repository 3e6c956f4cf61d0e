//! Unix: the request goes through the socket of the keeper (the process that holds the ports).

use std::io::{self, Read, Write};
use std::time::Instant;

use portlease::Endpoint;

use crate::failure::Failure;
use crate::keeper::address::{Address, all_addresses};
use crate::keeper::client::{connect, no_answer, time_left};
use crate::keeper::messages::LIST;
use crate::keeper::release::released;
use crate::limits::KEEPER_ANSWER_BYTES;

/// Asks each of these keepers (processes that hold ports) to release the port. Also asks each
/// keeper that holds a port without a lock file. Returns the released endpoints: a reservation for
/// TCP and UDP has two.
///
/// Ignores a keeper that refuses, that does not hold the port, or that exits before it answers.
pub(crate) fn request_release(
    keepers: &[u32],
    endpoint: Endpoint,
) -> Result<Vec<Endpoint>, Failure> {
    let mut all = Vec::new();
    // A keeper in another pid namespace may have the same pid, so one pid may have several
    // addresses.
    for address in addresses()? {
        if keepers.contains(&address.keeper) || address.has_unrecorded {
            let answer = ask(&address, &endpoint.to_string()).map_err(|e| {
                let act = format_args!("ask pid {} to release port {endpoint}", address.keeper);
                Failure::system(act, &e)
            })?;
            all.extend(released(&answer.unwrap_or_default()));
        }
    }
    Ok(all)
}

/// The ports that no lock file records, each with the pid of the keeper that holds it. Asks only
/// keepers that [`connect`] trusts.
pub(crate) fn unrecorded_ports() -> Result<Vec<(Endpoint, u32)>, Failure> {
    let mut ports = Vec::new();
    for address in addresses()? {
        if address.has_unrecorded {
            let answer = ask(&address, LIST).map_err(|e| {
                Failure::system(format_args!("ask pid {} for its ports", address.keeper), &e)
            })?;
            let answer = answer.unwrap_or_default();
            let endpoints = answer.split(' ').filter_map(|port| port.parse().ok());
            ports.extend(endpoints.map(|endpoint| (endpoint, address.keeper)));
        }
    }
    Ok(ports)
}

fn addresses() -> Result<Vec<Address>, Failure> {
    all_addresses().map_err(|e| Failure::system("find the processes that hold reserved ports", &e))
}

/// The answer of a keeper. Returns `None` if [`connect`] does not trust the process that
/// has the address, or if the keeper exited before it answered.
fn ask(address: &Address, request: &str) -> io::Result<Option<String>> {
    match try_ask(address, request) {
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
            ) =>
        {
            Ok(None)
        }
        answered => answered,
    }
}

fn try_ask(address: &Address, request: &str) -> io::Result<Option<String>> {
    let (started, keeper) = (Instant::now(), address.keeper);
    let Some(stream) = connect(address, started)? else {
        return Ok(None);
    };
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(time_left(keeper, started)?))?;
    (&stream).write_all(format!("{request}\n").as_bytes())?;
    let mut reply = Vec::new();
    while !reply.ends_with(b"\n") && reply.len() < KEEPER_ANSWER_BYTES {
        stream.set_read_timeout(Some(time_left(keeper, started)?))?;
        let mut byte = [0];
        match (&stream).read(&mut byte) {
            Ok(0) => break,
            Ok(_) => reply.extend(byte),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(no_answer(keeper)),
            Err(e) => return Err(e),
        }
    }
    match reply.strip_suffix(b"\n") {
        Some(line) => Ok(Some(String::from_utf8_lossy(line).into_owned())),
        None if reply.is_empty() => Ok(None),
        None => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the answer is incomplete",
        )),
    }
}
