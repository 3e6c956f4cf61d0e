//! Linux: an abstract name. The kernel removes it when the keeper ends. The name belongs to one
//! network namespace, as the ports do.

use std::io;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use rustix::net::{SocketAddrUnix, connect};

use crate::keeper::address::new_name;

/// The bound socket of a keeper.
#[derive(Debug)]
pub(crate) struct Bound(pub(crate) UnixListener);

impl Bound {
    pub(crate) fn new(keeper: u32) -> io::Result<Bound> {
        let address = SocketAddr::from_abstract_name(new_name(&prefix(keeper)))?;
        Ok(Bound(UnixListener::bind_addr(&address)?))
    }
}

#[derive(Debug)]
pub(crate) struct Address(String);

impl Address {
    pub(crate) fn connect(&self, socket: impl AsFd) -> rustix::io::Result<()> {
        connect(
            socket,
            &SocketAddrUnix::new_abstract_name(self.0.as_bytes())?,
        )
    }
}

/// All bound socket names of the keeper with this id. Any process can bind a name of this form, so
/// the caller must check which process answers.
pub(crate) fn release_addresses(keeper: u32) -> io::Result<Vec<Address>> {
    let prefix = format!("@{}", self::prefix(keeper));
    let table = std::fs::read("/proc/net/unix")?;
    let table = String::from_utf8_lossy(&table);
    let names = table
        .lines()
        .filter_map(|line| line.split_whitespace().last());
    let mut names: Vec<String> = names
        .filter(|name| name.starts_with(&prefix))
        .map(|name| name.trim_start_matches('@').to_owned())
        .collect();
    names.sort_unstable();
    names.dedup();
    Ok(names.into_iter().map(Address).collect())
}

fn prefix(keeper: u32) -> String {
    format!("portlease/keeper/{keeper}/")
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

    pub(crate) fn is_process(&self, pid: u32) -> bool {
        self.pid == pid
    }
}
