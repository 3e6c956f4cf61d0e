//! Linux: an abstract name, which the kernel removes when the keeper ends. The name belongs to one
//! network namespace, as the ports do.

use std::io;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use rustix::net::{SocketAddrUnix, connect};

use crate::keeper::address::new_name;

/// The bound socket of a keeper.
#[derive(Debug)]
pub(crate) struct Bound(pub(crate) UnixListener);

impl Bound {
    pub(crate) fn new(keeper: u32, has_unrecorded: bool) -> io::Result<Bound> {
        let unrecorded = if has_unrecorded { UNRECORDED } else { "" };
        let name = new_name(&format!("{PREFIX}{keeper}/"));
        let address = SocketAddr::from_abstract_name(format!("{name}{unrecorded}"))?;
        Ok(Bound(UnixListener::bind_addr(&address)?))
    }
}

const PREFIX: &str = "portlease/keeper/";
const UNRECORDED: &str = "/unrecorded";

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address {
    pub(crate) keeper: u32,
    /// Whether the keeper holds a port that no lock file records. Only the keeper knows this port,
    /// so `release` and `list` ask the keeper for it.
    pub(crate) has_unrecorded: bool,
    name: String,
}

impl Address {
    pub(crate) fn connect(&self, socket: impl AsFd) -> rustix::io::Result<()> {
        let address = SocketAddrUnix::new_abstract_name(self.name.as_bytes())?;
        connect(socket, &address)
    }

    fn parse(name: &str) -> Option<Address> {
        let (keeper, random) = name.strip_prefix(PREFIX)?.split_once('/')?;
        Some(Address {
            keeper: keeper.parse().ok()?,
            has_unrecorded: random.ends_with(UNRECORDED),
            name: name.to_owned(),
        })
    }
}

/// The addresses of all keepers. Any process can bind a name of this form, so the caller must check
/// which process answers.
pub(crate) fn all_addresses() -> io::Result<Vec<Address>> {
    let table = std::fs::read("/proc/net/unix")?;
    let table = String::from_utf8_lossy(&table);
    let names = table
        .lines()
        .filter_map(|line| line.split_whitespace().last()?.strip_prefix('@'));
    let mut addresses: Vec<Address> = names.filter_map(Address::parse).collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// The process at the other end of a socket.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
    pid: u32,
}

impl Peer {
    pub(crate) fn of(socket: &impl AsFd) -> io::Result<Peer> {
        let peer = getsockopt(socket, PeerCredentials)?;
        Ok(Peer {
            uid: peer.uid(),
            pid: peer.pid().cast_unsigned(),
        })
    }

    /// This process, as the kernel would describe it to a peer. The uid can differ from geteuid(2),
    /// which returns 0 under `proot -0`.
    pub(crate) fn own() -> io::Result<Peer> {
        let (socket, _other) = UnixStream::pair()?;
        Peer::of(&socket)
    }

    pub(crate) fn is_process(&self, pid: u32) -> bool {
        self.pid == pid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_keeper_says_whether_lock_files_record_its_ports() {
        let parse = |name| Address::parse(name).map(|of| (of.keeper, of.has_unrecorded));
        assert_eq!(parse("portlease/keeper/42/0a"), Some((42, false)));
        assert_eq!(parse("portlease/keeper/42/0a/unrecorded"), Some((42, true)));
        assert_eq!(parse("portlease/tcp/40001"), None);
    }
}
