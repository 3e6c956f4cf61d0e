//! Binds sockets on Unix, where a bind without options is exclusive, and most servers set
//! SO_REUSEADDR.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use socket2::Socket;

use super::BindMode;

/// The modes in which a diagnosis tries to bind a port: as a server with SO_REUSEADDR, and as a
/// server without reuse options.
pub(crate) const BIND_MODES: &[BindMode] = &[BindMode::Server, BindMode::Exclusive];

/// A probe of all addresses does not bind `0.0.0.0` in addition to `[::]`. On Unix the probe
/// binds `[::]` only where `[::]` covers both families.
pub(super) const PROBES_EACH_FAMILY: bool = false;

/// Whether a system call failed with EAFNOSUPPORT: the kernel lacks the address family.
pub(super) fn is_missing_family(error: &io::Error) -> bool {
    rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::AFNOSUPPORT)
}

/// Sets both reuse options. On Linux, a server with SO_REUSEADDR can then bind the same port, and
/// so can a server of the same user with SO_REUSEPORT alone.
pub(super) fn share(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)
}

pub(super) fn set_mode(socket: &Socket, mode: BindMode) -> io::Result<()> {
    match mode {
        BindMode::Plain | BindMode::Exclusive => Ok(()),
        BindMode::Server => socket.set_reuse_address(true),
        BindMode::ReusePort => socket.set_reuse_port(true),
    }
}

pub(super) fn bind(socket: &Socket, addr: SocketAddr) -> io::Result<()> {
    socket.bind(&addr.into())
}

/// Listens with SO_REUSEADDR, which `TcpListener::bind` of the standard library sets.
pub(crate) fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(addr)
}

pub(crate) fn udp_socket(addr: SocketAddr) -> io::Result<UdpSocket> {
    UdpSocket::bind(addr)
}
