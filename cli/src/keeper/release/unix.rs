//! Unix: the request goes through the socket of the keeper.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use portlease::Endpoint;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketType, socket};

use crate::failure::Failure;
use crate::keeper::address::{Address, Peer, all_addresses};
use crate::keeper::messages::LIST;
use crate::keeper::release::{no_answer, released};
use crate::limits::{KEEPER_ANSWER_BYTES, RELEASE_RETRY_DELAY, RELEASE_TIMEOUT, remaining, sleep};

/// Asks each keeper in `keepers` to release the port, and also each keeper that holds any port
/// without a lock file. Returns the endpoints that keepers released: a reservation of a number for
/// TCP and UDP has two. Ignores a keeper that refuses, that does not hold the port, or that exits
/// before it answers.
pub(crate) fn request_release(
    keepers: &[u32],
    endpoint: Endpoint,
) -> Result<Vec<Endpoint>, Failure> {
    let mut all = Vec::new();
    // A keeper in another PID namespace may have the same pid, so one pid may have several
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

/// Whether the process is a keeper that obeys `release` of this user.
pub(crate) fn can_release(pid: u32) -> bool {
    // If the search or the connection fails, `release` fails too.
    let addresses = all_addresses().unwrap_or_default();
    let mut addresses = addresses.iter().filter(|address| address.keeper == pid);
    addresses.any(|address| matches!(connect_to_trusted(address, Instant::now()), Ok(Some(_))))
}

/// The ports that no lock file records, each with the pid of the keeper that holds it. Asks only
/// keepers that [`connect_to_trusted`] trusts.
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
    all_addresses().map_err(|e| Failure::system("search for the control sockets of keepers", &e))
}

/// The answer of a keeper. Returns `None` if [`connect_to_trusted`] does not trust the process that
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

/// Connects to the process that has the address. Returns `None` if that process is not trusted.
fn connect_to_trusted(address: &Address, started: Instant) -> io::Result<Option<UnixStream>> {
    const ROOT: u32 = 0;
    let stream = connect_within(address, address.keeper, started)?;
    // Any user can bind a name of this form, so the peer must belong to this user. Root also trusts
    // a process of another user, if the process has the keeper's pid.
    let (peer, own) = (Peer::of(&stream)?, Peer::own()?);
    let is_trusted = peer.uid == own.uid || own.uid == ROOT && peer.is_process(address.keeper);
    Ok(is_trusted.then_some(stream))
}

fn try_ask(address: &Address, request: &str) -> io::Result<Option<String>> {
    let (started, keeper) = (Instant::now(), address.keeper);
    let Some(stream) = connect_to_trusted(address, started)? else {
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

/// Connects with a non-blocking socket. A suspended keeper accepts no client, so its queue can
/// become full. On Linux a blocking connect to a full queue would not return. Other systems refuse
/// such a connect.
fn connect_within(address: &Address, keeper: u32, started: Instant) -> io::Result<UnixStream> {
    let socket = socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
    let socket = UnixStream::from(socket);
    socket.set_nonblocking(true)?;
    loop {
        match address.connect(&socket) {
            Ok(()) => return Ok(socket),
            Err(rustix::io::Errno::AGAIN) => {
                time_left(keeper, started)?;
                sleep(RELEASE_RETRY_DELAY);
            }
            Err(e) => return Err(e.into()),
        }
    }
}

fn time_left(keeper: u32, started: Instant) -> io::Result<std::time::Duration> {
    match remaining(RELEASE_TIMEOUT, started) {
        left if left.is_zero() => Err(no_answer(keeper)),
        left => Ok(left),
    }
}
