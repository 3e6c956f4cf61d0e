//! How sockets are bound on Windows: with exclusive use, always.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use socket2::{Domain, Socket, Type};

use super::{BindMode, Identity, ffi};

/// The system's custom is exclusive use: there is no other manner.
pub(crate) const BIND_MODES: &[BindMode] = &[BindMode::Exclusive];

/// Whether a socket for both families is refused by a server of IPv4 alone is said nowhere.
pub(super) const ASKS_FOR_EACH_FAMILY: bool = true;

/// Sockets have neither.
pub(super) fn identity(_socket: &Socket) -> io::Result<Identity> {
    Ok(Identity::default())
}

/// SO_REUSEADDR after an exclusive bind is refused, and what it would allow is theft.
pub(super) fn share(_socket: &Socket) -> io::Result<()> {
    Ok(())
}

/// Without exclusive use, a bind on the wildcard succeeds beside a server on one address.
pub(super) fn behave(socket: &Socket, _manner: BindMode) -> io::Result<()> {
    ffi::set_exclusive(socket)
}

/// A number that is held with exclusive use, or lies in an excluded range, is refused as "access denied": no
/// number takes a privilege here.
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

/// With exclusive use, so that nobody takes the connections by SO_REUSEADDR.
pub(crate) fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    /// The standard library's.
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
