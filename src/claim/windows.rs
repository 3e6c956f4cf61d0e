//! Binds sockets on Windows, always with SO_EXCLUSIVEADDRUSE.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use socket2::{Domain, Socket, Type};

use super::{BindMode, ffi};

/// The modes in which a diagnosis tries to bind a port. One is enough, because every mode sets
/// SO_EXCLUSIVEADDRUSE on Windows.
pub(crate) const BIND_MODES: &[BindMode] = &[BindMode::Exclusive];

/// `true`: a probe of all addresses binds `0.0.0.0` in addition to `[::]`. No document says whether
/// Windows refuses a bind of `[::]` while a server for IPv4 alone has the port. So the probe tries
/// both.
pub(super) const PROBES_EACH_FAMILY: bool = true;

pub(super) fn is_missing_family(error: &io::Error) -> bool {
    const WSAEAFNOSUPPORT: i32 = 10047;
    error.raw_os_error() == Some(WSAEAFNOSUPPORT)
}

/// Does nothing, because Windows refuses SO_REUSEADDR on a socket with SO_EXCLUSIVEADDRUSE.
pub(super) fn share(_socket: &Socket) -> io::Result<()> {
    Ok(())
}

/// Sets SO_EXCLUSIVEADDRUSE in every mode. Without it, Windows lets a probe bind the wildcard
/// address although a server has the port on one address.
pub(super) fn set_mode(socket: &Socket, _mode: BindMode) -> io::Result<()> {
    ffi::set_exclusive(socket)
}

/// Binds the socket, and reports "access denied" as "address in use". Windows can deny access if
/// another socket has the port, or if the port lies in an excluded range. A missing privilege is
/// never the cause, because Windows has no ports that require a privilege.
pub(super) fn bind(socket: &Socket, addr: SocketAddr) -> io::Result<()> {
    const WSAEACCES: i32 = 10013;
    const WSAEADDRINUSE: i32 = 10048;
    match socket.bind(&addr.into()) {
        Err(e) if e.raw_os_error() == Some(WSAEACCES) => {
            Err(io::Error::from_raw_os_error(WSAEADDRINUSE))
        }
        outcome => outcome,
    }
}

/// Listens with SO_EXCLUSIVEADDRUSE. Without this option, another process could bind the same
/// address with SO_REUSEADDR and receive the connections.
pub(crate) fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    /// The backlog that `TcpListener::bind` of the standard library uses.
    const BACKLOG: i32 = 128;
    let socket = bound(addr, Type::STREAM)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

pub(crate) fn udp_socket(addr: SocketAddr) -> io::Result<UdpSocket> {
    Ok(bound(addr, Type::DGRAM)?.into())
}

fn bound(addr: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), kind, None)?;
    ffi::set_exclusive(&socket)?;
    bind(&socket, addr)?;
    Ok(socket)
}
