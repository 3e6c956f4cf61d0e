//! How sockets are bound on Unix: a plain bind is exclusive, and a server sets SO_REUSEADDR.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroU64;

use socket2::Socket;

use super::{BindMode, Identity};

/// The bind modes whose outcomes differ on Unix.
pub(crate) const BIND_MODES: &[BindMode] = &[BindMode::Server, BindMode::Exclusive];

/// Whether a probe of every address binds `0.0.0.0` in addition to `[::]`. Not needed on Unix: if a
/// server of either family has the port, the kernel refuses the bind of `[::]` for both families.
pub(super) const PROBES_EACH_FAMILY: bool = false;

pub(super) fn identity(socket: &Socket) -> io::Result<Identity> {
    let stat = rustix::fs::fstat(socket)?;
    // On Linux a socket belongs to the user that created it. Other systems were not measured.
    let user = if cfg!(target_os = "linux") {
        Some(stat.st_uid)
    } else {
        None
    };
    Ok(Identity {
        inode: NonZeroU64::new(stat.st_ino),
        user,
    })
}

/// Whether the kernel lacks the address family of a socket: EAFNOSUPPORT, socket(2).
pub(super) fn is_missing_family(error: &io::Error) -> bool {
    rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::AFNOSUPPORT)
}

/// Lets a server that sets a reuse option bind the same port.
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

/// The standard library sets SO_REUSEADDR.
pub(crate) fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(addr)
}

pub(crate) fn udp_socket(addr: SocketAddr) -> io::Result<UdpSocket> {
    UdpSocket::bind(addr)
}
