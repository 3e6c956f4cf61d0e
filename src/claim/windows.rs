//! How sockets are bound on Windows: always with SO_EXCLUSIVEADDRUSE.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use socket2::{Domain, Socket, Type};

use super::{BindMode, Identity, ffi};

/// Servers on Windows set SO_EXCLUSIVEADDRUSE, so there is no other mode.
pub(crate) const BIND_MODES: &[BindMode] = &[BindMode::Exclusive];

/// Whether a probe of every address binds `0.0.0.0` in addition to `[::]`. No document says whether
/// Windows refuses a bind for both families while a server for IPv4 alone has the port.
pub(super) const PROBES_EACH_FAMILY: bool = true;

/// Sockets of Windows have no inode and no user.
pub(super) fn identity(_socket: &Socket) -> io::Result<Identity> {
    Ok(Identity::default())
}

pub(super) fn is_missing_family(error: &io::Error) -> bool {
    const WSAEAFNOSUPPORT: i32 = 10047;
    error.raw_os_error() == Some(WSAEAFNOSUPPORT)
}

/// Does nothing: Windows refuses SO_REUSEADDR after an exclusive bind, and the option would let
/// other processes take over the port.
pub(super) fn share(_socket: &Socket) -> io::Result<()> {
    Ok(())
}

/// Every mode is exclusive. Otherwise a bind of the wildcard succeeds although a server has the
/// port on one address.
pub(super) fn set_mode(socket: &Socket, _mode: BindMode) -> io::Result<()> {
    ffi::set_exclusive(socket)
}

/// Reports "access denied" as "address in use". Windows denies a number that another socket has
/// with SO_EXCLUSIVEADDRUSE, or that lies in an excluded range. No number requires a privilege
/// there.
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

/// Sets SO_EXCLUSIVEADDRUSE, so that no other process can take over the connections by
/// SO_REUSEADDR.
pub(crate) fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    /// The backlog of the standard library.
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
