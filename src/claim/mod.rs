//! The claim: a TCP socket that is bound and never listens. While it exists the kernel assigns the
//! port to no other socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU64;

use once_cell::sync::OnceCell;
use socket2::{Domain, Socket, Type};

mod abstract_name;
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
pub(crate) use probe::{BindMode, try_bind};
pub(crate) use self_test::{assigns_no_claimed_port, kernel_keeps_claims};
/// `listen` and `udp_socket` set the socket options that servers on this system set.
pub(crate) use system::{BIND_MODES, listen, udp_socket};

/// While a claim exists, no `bind(…, 0)` and no outgoing connection is given its port. The kernel
/// refuses a second claim and every bind without the reuse options. A server that sets SO_REUSEADDR
/// binds and listens over the claim.
#[derive(Debug)]
pub(crate) struct Claim {
    socket: Socket,
    port: u16,
}

impl Claim {
    /// Claims a number that the kernel chooses from its ephemeral range.
    pub(crate) fn any() -> io::Result<Claim> {
        Self::test_and_set(0)
    }

    /// Claims this number. The bind is the test: it fails if any socket has the port, also one in
    /// TIME_WAIT.
    pub(crate) fn exact(port: u16) -> io::Result<Claim> {
        Self::test_and_set(port)
    }

    /// Claims this number although connections of an earlier server with SO_REUSEADDR still have
    /// it.
    ///
    /// The reuse options are set before the bind, so two such binds both succeed. The caller
    /// therefore reads the socket table before and after the bind. The abstract name excludes a
    /// second caller.
    pub(crate) fn over_leftovers(port: u16, _exclusive: &ExclusiveName) -> io::Result<Claim> {
        let socket = wildcard_socket()?;
        system::share(&socket)?;
        socket.bind(&wildcard(port)?.into())?;
        Ok(Claim { socket, port })
    }

    fn test_and_set(port: u16) -> io::Result<Claim> {
        let socket = wildcard_socket()?;
        socket.bind(&wildcard(port)?.into())?;
        let bound = socket.local_addr()?.as_socket().map(|addr| addr.port());
        let port = bound.ok_or(io::ErrorKind::AddrNotAvailable)?;
        system::share(&socket)?;
        Ok(Claim { socket, port })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn identity(&self) -> io::Result<Identity> {
        system::identity(&self.socket)
    }
}

/// What fstat(2) reports about a claim's socket.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Identity {
    /// The inode that the socket table shows for it; `None` where sockets have no inode.
    pub(crate) inode: Option<NonZeroU64>,
    /// The user who made the socket, which is the file-system user of this process. `None` except
    /// on Linux.
    pub(crate) user: Option<u32>,
}

/// `[::]` for both families, or `0.0.0.0` on a machine without IPv6.
fn wildcard(port: u16) -> io::Result<SocketAddr> {
    let ip = if has_ipv6()? {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    };
    Ok(SocketAddr::new(ip, port))
}

/// Whether the kernel has IPv6 sockets that also serve IPv4. The function makes one to find out,
/// and keeps the answer for the process. A failure for another reason (a lack of descriptors, a
/// sandbox) says nothing about IPv6, so it is not kept.
fn has_ipv6() -> io::Result<bool> {
    static ANSWER: OnceCell<bool> = OnceCell::new();
    let ask = || match Socket::new(Domain::IPV6, Type::STREAM, None) {
        // OpenBSD has no sockets for both families.
        Ok(socket) => Ok(socket.set_only_v6(false).is_ok()),
        Err(e) if system::is_missing_family(&e) => Ok(false),
        Err(e) => Err(e),
    };
    ANSWER.get_or_try_init(ask).copied()
}

fn wildcard_socket() -> io::Result<Socket> {
    unbound(Type::STREAM, wildcard(0)?.ip())
}

/// A socket for both families if `ip` is the IPv6 wildcard.
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
