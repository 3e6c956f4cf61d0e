//! [`ToEndpoint`]: the values that can name a port in a call.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::endpoint::{Endpoint, ParseEndpointError, Protocol};
use super::error::Result;
use super::port::Port;
use crate::localhost::one_address;

pub(crate) mod sealed {
    /// Other crates cannot name this supertrait, so they cannot implement
    /// [`ToEndpoint`](super::ToEndpoint).
    #[expect(unnameable_types, reason = "that is how a trait is sealed")]
    pub trait Sealed {
        /// The id of the operand, if the operand is a reservation. A check then counts only this
        /// reservation as the caller's own.
        #[doc(hidden)]
        fn reservation(&self) -> Option<u64> {
            None
        }
    }
}

/// A value that names a port: a `u16`, text such as `"60315/udp"`, a [`SocketAddr`], an
/// `(ip, port)` pair, an [`Endpoint`], or a `&Reservation`.
///
/// The trait is sealed. `u16` is the only integer type that names a port. So the compiler takes an
/// integer literal as a `u16`, and rejects 70000. A [`Reservation`](crate::Reservation) is accepted
/// by reference only. By value, an assertion would drop the reservation, and so release the port.
///
/// ```
/// let p = portlease::reserve_udp_port();
/// // A number without a protocol is a TCP port. A reservation names the ports it reserved.
/// for free in [
///     portlease::is_port_free(60315),
///     portlease::is_port_free("127.0.0.1:60315"),
///     portlease::is_port_free(&p),
/// ] {
///     println!("{free}");
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not name a port",
    note = "pass a `u16`, `\"60315/udp\"`, a `SocketAddr`, `(ip, port)`, an \
            `Endpoint` or a `&Reservation`"
)]
pub trait ToEndpoint: sealed::Sealed {
    /// The endpoint that the value names.
    ///
    /// # Errors
    ///
    /// - [`InvalidPort`](crate::ErrorKind::InvalidPort) for port 0, and for text that names no
    ///   port.
    /// - [`InvalidPort`](crate::ErrorKind::InvalidPort) for text with a network interface that
    ///   cannot be looked up.
    /// - [`AddressNotAvailable`](crate::ErrorKind::AddressNotAvailable) for text with a network
    ///   interface that this machine does not have.
    fn to_endpoint(&self) -> Result<Endpoint>;
}

/// The port that the operand names. An operand without a protocol names a TCP port.
pub(crate) fn port_of(operand: &impl ToEndpoint) -> Result<Port> {
    Ok(Port::of(operand.to_endpoint()?))
}

/// The ports that a check examines. A reservation of TCP and UDP has one port for each protocol,
/// and its ports have no address.
pub(crate) fn ports_of(operand: &impl ToEndpoint) -> Result<Vec<Port>> {
    let endpoint = operand.to_endpoint()?;
    Ok(match (endpoint.protocol, operand.reservation()) {
        (None, Some(_)) => [Protocol::Tcp, Protocol::Udp]
            .map(|protocol| Port {
                protocol,
                ..Port::of(endpoint)
            })
            .into(),
        _ => vec![Port::of(endpoint)],
    })
}

/// The ports on which a check or a wait expects a listener. The ports of a reservation have the
/// address [`Reservation::addr`](crate::Reservation::addr), to which the clients of a test connect.
pub(crate) fn listening_ports_of(operand: &impl ToEndpoint) -> Result<Vec<Port>> {
    let mut ports = ports_of(operand)?;
    if operand.reservation().is_some() {
        for port in &mut ports {
            port.ip = Some(Ipv4Addr::LOCALHOST.into());
        }
    }
    Ok(ports)
}

macro_rules! names_a_port {
    ($($type:ty: $value:ident => $endpoint:expr;)*) => {$(
        impl sealed::Sealed for $type {}
        impl ToEndpoint for $type {
            fn to_endpoint(&self) -> Result<Endpoint> {
                let $value = self;
                Ok($endpoint?)
            }
        }
        impl sealed::Sealed for &$type {}
        impl ToEndpoint for &$type {
            fn to_endpoint(&self) -> Result<Endpoint> {
                (**self).to_endpoint()
            }
        }
    )*};
}

fn at(ip: Option<IpAddr>, port: u16) -> Result<Endpoint, ParseEndpointError> {
    Endpoint {
        port,
        ip: ip.map(one_address),
        protocol: None,
    }
    .checked()
}

fn at_addr(addr: SocketAddr) -> Result<Endpoint, ParseEndpointError> {
    let scope_id = match addr {
        SocketAddr::V6(addr) => addr.scope_id(),
        SocketAddr::V4(_) => 0,
    };
    Ok(at(Some(addr.ip()), addr.port())?.with_scope(scope_id))
}

names_a_port! {
    u16: port => at(None, *port);
    str: text => Endpoint::with_known_interface(text);
    String: text => Endpoint::with_known_interface(text);
    Endpoint: endpoint => endpoint.checked();
    SocketAddr: addr => at_addr(*addr);
    SocketAddrV4: addr => at_addr((*addr).into());
    SocketAddrV6: addr => at_addr((*addr).into());
    (IpAddr, u16): pair => at(Some(pair.0), pair.1);
    (Ipv4Addr, u16): pair => at(Some(IpAddr::V4(pair.0)), pair.1);
    (Ipv6Addr, u16): pair => at(Some(IpAddr::V6(pair.0)), pair.1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::error_kind::ErrorKind;

    #[test]
    fn an_operand_that_names_no_port_is_an_invalid_port() {
        let zero = [
            0u16.to_endpoint(),
            (Ipv4Addr::LOCALHOST, 0).to_endpoint(),
            SocketAddr::from(([127, 0, 0, 1], 0)).to_endpoint(),
            Endpoint {
                port: 0,
                ip: None,
                protocol: None,
            }
            .to_endpoint(),
            "0".to_endpoint(),
            "x".to_endpoint(),
        ];
        for outcome in zero {
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::InvalidPort);
        }
    }
}
