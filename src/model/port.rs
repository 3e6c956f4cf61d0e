//! [`Port`]: a port of one protocol. Internal code uses it in place of [`Endpoint`], whose protocol
//! can be missing.

use std::fmt;
use std::net::IpAddr;

use super::endpoint::{Endpoint, Protocol};
use crate::link_local;

/// A port of one protocol, on one address or on every address of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Port {
    pub(crate) number: u16,
    pub(crate) protocol: Protocol,
    pub(crate) ip: Option<IpAddr>,
    /// The index of the network interface of `ip`, or 0 without an interface. Only an IPv6
    /// link-local address, or a multicast address of one link or interface, has an interface.
    pub(crate) scope_id: u32,
}

impl Port {
    /// The port on every address of this machine.
    pub(crate) fn new(number: u16, protocol: Protocol) -> Port {
        Port {
            number,
            protocol,
            ip: None,
            scope_id: 0,
        }
    }

    /// The port that the endpoint names. An endpoint without a protocol names a TCP port.
    pub(crate) fn of(endpoint: Endpoint) -> Port {
        let (ip, scope_id) = endpoint.ip.map(link_local::without_scope).unzip();
        Port {
            number: endpoint.port,
            protocol: endpoint.protocol.unwrap_or(Protocol::Tcp),
            ip,
            scope_id: scope_id.unwrap_or(0),
        }
    }

    pub(crate) fn endpoint(self) -> Endpoint {
        Endpoint {
            port: self.number,
            ip: self.ip,
            protocol: Some(self.protocol),
        }
        .with_scope(self.scope_id)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.endpoint().fmt(f)
    }
}
