//! How sockets are bound on Unix: a plain bind excludes by itself, and a server sets SO_REUSEADDR.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use socket2::Socket;

use super::{BindMode, Identity};

/// The manners that differ here.
pub(crate) const BIND_MODES: &[BindMode] = &[BindMode::Server, BindMode::Exclusive];

/// A socket for both families is refused by a server of either.
pub(super) const ASKS_FOR_EACH_FAMILY: bool = false;

pub(super) fn identity(socket: &Socket) -> io::Result<Identity> {
    let about = rustix::fs::fstat(socket)?;
    // Linux makes a socket its maker's, as it makes a file; of other systems it was not measured.
    let user = if cfg!(target_os = "linux") {
        Some(about.st_uid)
    } else {
        None
    };
    Ok(Identity {
        inode: about.st_ino,
        user,
    })
}

pub(super) fn share(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)
}

/// A plain bind excludes by itself.
pub(super) fn behave(socket: &Socket, mode: BindMode) -> io::Result<()> {
    if mode == BindMode::Server {
        socket.set_reuse_address(true)
    } else {
        Ok(())
    }
}

pub(super) fn bind(socket: &Socket, addr: SocketAddr) -> io::Result<()> {
    socket.bind(&addr.into())
}

/// The standard library sets SO_REUSEADDR.
pub(crate) fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(addr)
}

pub(crate) fn udp_socket(addr: SocketAddr) -> io::Result<UdpSocket> {
    UdpSocket::bind(addr)
}
