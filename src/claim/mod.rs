//! A claim is a TCP socket that this crate binds and never listens on. While the claim exists,
//! Linux assigns its port to no other socket. The self-test checks this.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU64;

use once_cell::sync::OnceCell;
use socket2::{Domain, Socket, Type};

use crate::kept_fd::KeptFd;

mod abstract_name;
mod autobind_reuse;
#[cfg(windows)]
mod ffi;
mod fork_guard;
mod probe;
mod self_test;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

pub(crate) use abstract_name::ExclusiveName;
pub(crate) use autobind_reuse::assigns_no_claimed_port;
pub(crate) use probe::{BindMode, try_bind};
pub(crate) use self_test::{kernel_keeps_claims, test_kernel, test_sandbox};
pub(crate) use system::{BIND_MODES, listen, udp_socket};

/// A TCP socket that is bound to a port on all addresses and never listens.
///
/// If the kernel [keeps claims](kernel_keeps_claims), it gives the port to no `bind(…, 0)` and no
/// outgoing connection while the claim exists. The kernel refuses every bind without the reuse
/// options (SO_REUSEADDR, SO_REUSEPORT). A second [`Claim::exact`] therefore fails. A server that
/// sets SO_REUSEADDR can still bind the port and listen on it.
#[derive(Debug)]
pub(crate) struct Claim {
    socket: KeptFd<Socket>,
    port: u16,
}

impl Claim {
    /// Claims a number that the kernel chooses from its ephemeral range.
    pub(crate) fn any() -> io::Result<Claim> {
        Self::test_and_set(0)
    }

    /// Claims this number. The bind fails with `AddrInUse` if any TCP socket has the port, even one
    /// in TIME_WAIT.
    pub(crate) fn exact(port: u16) -> io::Result<Claim> {
        Self::test_and_set(port)
    }

    /// Claims a number whose only sockets are connections of an earlier server. The kernel refuses
    /// the bind if that server set no reuse option.
    ///
    /// The claim sets the reuse options before its bind, so the kernel would admit a second claim
    /// of this kind. `_exclusive`, the abstract name of this port, prevents a second claim: only
    /// one caller at a time can have the name. The bind can also succeed beside other sockets with
    /// reuse options, so the caller must read the socket table before and after the bind.
    pub(crate) fn over_leftovers(port: u16, _exclusive: &ExclusiveName) -> io::Result<Claim> {
        let socket = wildcard_socket()?;
        system::share(&socket)?;
        socket.bind(&wildcard(port)?.into())?;
        let socket = KeptFd::sole(socket)?;
        Ok(Claim { socket, port })
    }

    fn test_and_set(port: u16) -> io::Result<Claim> {
        let socket = wildcard_socket()?;
        socket.bind(&wildcard(port)?.into())?;
        let bound = socket.local_addr()?.as_socket().map(|addr| addr.port());
        let port = bound.ok_or(io::ErrorKind::AddrNotAvailable)?;
        system::share(&socket)?;
        let socket = KeptFd::sole(socket)?;
        Ok(Claim { socket, port })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The inode that the socket table shows for this socket. `None` on Windows, where sockets have
    /// no inode.
    pub(crate) fn inode(&self) -> Option<NonZeroU64> {
        self.socket.inode()
    }
}

/// The wildcard address with this port: `[::]`, which also serves IPv4, or `0.0.0.0` if
/// [`has_ipv6`] is false.
fn wildcard(port: u16) -> io::Result<SocketAddr> {
    let ip = if has_ipv6()? {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    };
    Ok(SocketAddr::new(ip, port))
}

/// `true` if the kernel has IPv6 sockets that also serve IPv4. The process keeps the answer.
static HAS_IPV6: OnceCell<bool> = OnceCell::new();

fn has_ipv6() -> io::Result<bool> {
    HAS_IPV6
        .get_or_try_init(|| Ok(new_ipv6_socket()?.is_some()))
        .copied()
}

/// A socket that serves both IP families, or `None` if the kernel has no such sockets.
///
/// If socket(2) fails with EAFNOSUPPORT, IPv6 is missing. Any other error of socket(2), for example
/// from a lack of descriptors, shows nothing about IPv6, so the function returns the error.
fn new_ipv6_socket() -> io::Result<Option<Socket>> {
    let socket = match Socket::new(Domain::IPV6, Type::STREAM, None) {
        Err(e) if system::is_missing_family(&e) => return Ok(None),
        made => made?,
    };
    match socket.set_only_v6(false) {
        Ok(()) => Ok(Some(socket)),
        // A sandbox forbids the call. The error does not show whether the socket can serve IPv4.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(e),
        // OpenBSD refuses this option, because its IPv6 sockets never serve IPv4.
        Err(_) => Ok(None),
    }
}

/// An unbound socket for the address of [`wildcard`].
fn wildcard_socket() -> io::Result<Socket> {
    if HAS_IPV6.get().is_none() {
        let socket = new_ipv6_socket()?;
        // Another thread may have set the same answer first.
        let _answer = HAS_IPV6.set(socket.is_some());
        if let Some(socket) = socket {
            return Ok(socket);
        }
    }
    unbound(Type::STREAM, wildcard(0)?.ip())
}

/// An unbound socket for the family of `ip`. If `ip` is `[::]`, the socket also serves IPv4.
fn unbound(kind: Type, ip: IpAddr) -> io::Result<Socket> {
    let family = if ip.is_ipv4() {
        Domain::IPV4
    } else {
        Domain::IPV6
    };
    let socket = Socket::new(family, kind, None)?;
    if ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests;
