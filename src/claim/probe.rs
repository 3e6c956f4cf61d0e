//! A probe binds a port and closes the socket at once, to find out whether a server could bind the
//! port.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use socket2::Type;

use super::{fork_guard, system, unbound, wildcard};
use crate::link_local;
use crate::localhost::LOCALHOST;
use crate::model::endpoint::Protocol;
use crate::model::port::Port;
use crate::retry::RetryBudget;

/// Which socket options a probe sets, and when. On Windows every mode sets SO_EXCLUSIVEADDRUSE.
///
/// A child that is forked during a probe has a copy of the probe's socket until it calls exec.
/// While the copy exists, the kernel refuses some servers on the port. The mode decides which
/// servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BindMode {
    /// The probe sets no reuse option. While a forked child has a copy of the probe's socket, the
    /// kernel refuses every server. So on most Unix systems the probe waits until no child has a
    /// copy.
    Plain,
    /// The probe binds without the reuse options (SO_REUSEADDR, SO_REUSEPORT) and sets them after
    /// the bind. It does not wait for forked children: on Linux, a server with SO_REUSEADDR can
    /// bind while a child still has a copy of the probe's socket.
    Exclusive,
    /// The probe sets SO_REUSEADDR before the bind, as most servers do.
    Server,
    /// The probe sets only SO_REUSEPORT before the bind, as some servers do.
    ReusePort,
}

/// Binds the port and closes the socket at once. A port without an address is bound on all
/// addresses.
pub(crate) fn try_bind(port: Port, mode: BindMode, budget: &mut RetryBudget) -> io::Result<()> {
    let addrs = match port.ip {
        Some(ip) => link_local::socket_addrs(ip, port.scope_id, port.number),
        None => {
            let every = wildcard(port.number)?;
            if every.is_ipv6() && system::PROBES_EACH_FAMILY {
                vec![(Ipv4Addr::UNSPECIFIED, port.number).into(), every]
            } else {
                vec![every]
            }
        }
    };
    for addr in addrs {
        match probe(port.protocol, addr, mode, budget) {
            // For `localhost`, 127.0.0.1 alone is enough if this machine lacks ::1.
            Err(e) if port.ip == Some(LOCALHOST) && lacks_ipv6(addr, &e) => {}
            probed => probed?,
        }
    }
    Ok(())
}

/// Whether the error of a bind means that this machine does not have the IPv6 address `addr`.
fn lacks_ipv6(addr: SocketAddr, error: &io::Error) -> bool {
    let is_missing = error.kind() == io::ErrorKind::AddrNotAvailable;
    addr.is_ipv6() && (is_missing || system::is_missing_family(error))
}

fn probe(
    protocol: Protocol,
    addr: SocketAddr,
    mode: BindMode,
    budget: &mut RetryBudget,
) -> io::Result<()> {
    let (kind, mode) = match protocol {
        Protocol::Tcp => (Type::STREAM, mode),
        // Every UDP probe binds without reuse options. A UDP server with a reuse option usually
        // wants to share its port.
        Protocol::Udp | Protocol::UdpLite => (Type::DGRAM, BindMode::Plain),
    };
    let bound = || {
        let socket = unbound(kind, addr.ip())?;
        system::set_mode(&socket, mode)?;
        system::bind(&socket, addr)?;
        Ok(socket)
    };
    match mode {
        BindMode::Plain => fork_guard::wait_for_forked_copies(|| bound().map(drop), budget),
        // `share` sets the reuse options after the bind. (On Windows it sets none.) The options
        // belong to the socket, so they also apply to a copy in a forked child.
        BindMode::Exclusive => system::share(&bound()?),
        BindMode::Server | BindMode::ReusePort => bound().map(drop),
    }
}
