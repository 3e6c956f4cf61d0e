//! Unix: connects to the socket of a keeper (a process that holds ports).

use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketType, socket};

use crate::keeper::address::{Address, Peer, all_addresses};
use crate::keeper::client::no_answer;
use crate::limits::{RELEASE_RETRY_DELAY, RELEASE_TIMEOUT, remaining, sleep};

/// Whether the process is a keeper (a process that holds ports) and obeys a `release`
/// command of this user.
pub(crate) fn can_release(pid: u32) -> bool {
    // If the search or the connection fails, `release` would fail too, so the result is `false`.
    let addresses = all_addresses().unwrap_or_default();
    let mut addresses = addresses.iter().filter(|address| address.keeper == pid);
    addresses.any(|address| matches!(connect(address, Instant::now()), Ok(Some(_))))
}

/// Connects to the process that has the address. Returns `None` if that process is not trusted.
pub(crate) fn connect(address: &Address, started: Instant) -> io::Result<Option<UnixStream>> {
    const ROOT: u32 = 0;
    let stream = connect_within(address, address.keeper, started)?;
    // Any user can bind a name of this form, so the peer must belong to this user. Root also trusts
    // a process of another user, if the process has the keeper's pid.
    let (peer, own) = (Peer::of(&stream)?, Peer::own()?);
    let is_trusted = peer.uid == own.uid || own.uid == ROOT && peer.is_process(address.keeper);
    Ok(is_trusted.then_some(stream))
}

/// Connects with a non-blocking socket. A suspended keeper accepts no client, so its queue can
/// become full. On Linux, a blocking connect to a full queue would not return while the keeper is
/// suspended. Other systems refuse the connect.
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

pub(crate) fn time_left(keeper: u32, started: Instant) -> io::Result<Duration> {
    match remaining(RELEASE_TIMEOUT, started) {
        left if left.is_zero() => Err(no_answer(keeper)),
        left => Ok(left),
    }
}
