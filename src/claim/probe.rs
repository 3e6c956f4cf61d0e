//! Probes: binds that are undone at once.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use socket2::Type;

use super::{fork_guard, system, unbound, wildcard};
use crate::link_local;
use crate::model::endpoint::Protocol;
use crate::model::port::Port;
use crate::retry::RetryBudget;

/// How a probe binds. A child that is forked during the probe has a copy of its socket. The mode
/// decides which servers the kernel refuses because of that copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BindMode {
    /// Without the reuse options. The probe returns only when no forked child has a copy of its
    /// socket, so that a server of any kind can bind next.
    Plain,
    /// Without the reuse options, which are set after the bind. A copy then does not stop a server
    /// with SO_REUSEADDR.
    Exclusive,
    /// As a server with SO_REUSEADDR binds.
    Server,
    /// As a server with SO_REUSEPORT alone binds.
    ReusePort,
}

/// Binds the port and closes the socket at once.
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
        probe(port.protocol, addr, mode, budget)?;
    }
    Ok(())
}

fn probe(
    protocol: Protocol,
    addr: SocketAddr,
    mode: BindMode,
    budget: &mut RetryBudget,
) -> io::Result<()> {
    let (kind, mode) = match protocol {
        Protocol::Tcp => (Type::STREAM, mode),
        // A UDP server sets a reuse option only to share its number on purpose.
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
        // The options belong to the socket, so they hold for every copy.
        BindMode::Exclusive => system::share(&bound()?),
        BindMode::Server | BindMode::ReusePort => bound().map(drop),
    }
}
