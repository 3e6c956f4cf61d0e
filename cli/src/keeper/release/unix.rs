//! Unix: the request goes through the socket of the keeper.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use nix::unistd::geteuid;
use portlease::Endpoint;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketType, socket};

use crate::keeper::address::{Address, Peer, release_addresses};
use crate::keeper::messages::RELEASED;
use crate::keeper::release::no_answer;
use crate::limits::{RELEASE_LINE_BYTES, RELEASE_RETRY_DELAY, RELEASE_TIMEOUT, remaining, sleep};

/// Requests that the process `keeper` release a port. Returns `false` if the process is not a
/// keeper, refuses, does not hold the port, or exits before it answers.
pub(crate) fn request_release(keeper: u32, endpoint: Endpoint) -> io::Result<bool> {
    let mut released = false;
    // A keeper in another PID namespace may have the same id, so there may be several names.
    for address in release_addresses(keeper)? {
        match ask(&address, keeper, endpoint) {
            Ok(answer) => released |= answer,
            // The keeper exited before it read the request, so it did not release the port.
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::ConnectionRefused
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::BrokenPipe
                ) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(released)
}

fn ask(address: &Address, keeper: u32, endpoint: Endpoint) -> io::Result<bool> {
    let started = Instant::now();
    let stream = connect_within(address, keeper, started)?;
    // Any user can bind a name of this form. So the peer must belong to this user. Root also
    // accepts the process of another user if its id is that of the keeper.
    let peer = Peer::of(&stream)?;
    if peer.uid != geteuid().as_raw() && !(geteuid().is_root() && peer.is_process(keeper)) {
        return Ok(false);
    }
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(time_left(keeper, started)?))?;
    (&stream).write_all(format!("{endpoint}\n").as_bytes())?;
    let mut reply = Vec::new();
    while !reply.ends_with(b"\n") && reply.len() < RELEASE_LINE_BYTES {
        stream.set_read_timeout(Some(time_left(keeper, started)?))?;
        let mut byte = [0];
        match (&stream).read(&mut byte) {
            Ok(0) => break,
            Ok(_) => reply.extend(byte),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(no_answer(keeper)),
            Err(e) => return Err(e),
        }
    }
    Ok(reply.strip_suffix(b"\n") == Some(RELEASED.as_bytes()))
}

/// Connects with a non-blocking socket. A suspended keeper accepts no client, so a blocking connect
/// would never return once the keeper's queue is full.
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
