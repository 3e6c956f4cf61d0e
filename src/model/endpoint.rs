//! What names a port: [`Endpoint`], its text form, and [`ToEndpoint`].

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::str::FromStr;

use crate::model::error::{Error, Result};

/// A transport protocol. A port number means a different port in each.
///
/// ```
/// use portlease::{Endpoint, Protocol};
///
/// let endpoint: Endpoint = "53/udp".parse()?;
/// assert_eq!(endpoint.protocol, Some(Protocol::Udp));
/// # Ok::<(), portlease::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// UDP-Lite (RFC 3828), protocol 136: diagnosed, never reserved.
    UdpLite,
}

impl Protocol {
    pub(crate) const ALL: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::UdpLite];

    /// The one that was asked for, or all.
    pub(crate) fn asked(one: &Option<Protocol>) -> &[Protocol] {
        if one.is_some() {
            one.as_slice()
        } else {
            &Self::ALL
        }
    }

    /// `tcp`, `udp` or `udplite`.
    ///
    /// ```
    /// assert_eq!(portlease::Protocol::Tcp.as_str(), "tcp");
    /// ```
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::UdpLite => "udplite",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A port, with the address and the protocol where they were said.
///
/// Its text forms are `60315`, `:60315`, `60315/udp`, `127.0.0.1:60315` and `[::1]:60315/tcp`. No address means
/// every address of this machine; no protocol means TCP, except for [`who_holds`](crate::who_holds), which then
/// answers about all of them.
///
/// ```
/// use portlease::{Endpoint, Protocol};
///
/// let dns: Endpoint = "127.0.0.1:5353/udp".parse()?;
/// assert_eq!(dns.port, 5353);
/// assert_eq!(dns.protocol, Some(Protocol::Udp));
/// assert_eq!(dns.to_string(), "127.0.0.1:5353/udp");
/// # Ok::<(), portlease::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The port number. 0 names no port: whatever takes an endpoint answers it with
    /// [`ErrorKind::InvalidPort`](crate::ErrorKind::InvalidPort).
    pub port: u16,
    /// The local address; `None` is every address of this machine.
    pub ip: Option<IpAddr>,
    /// The protocol; `None` is left to the call.
    pub protocol: Option<Protocol>,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            Some(ip) => write!(f, "{}", SocketAddr::new(ip, self.port))?,
            None => write!(f, "{}", self.port)?,
        }
        match self.protocol {
            Some(protocol) => write!(f, "/{protocol}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = || Error::invalid_endpoint(text);
        let (address, protocol) = match text.rsplit_once('/') {
            Some((address, name)) => {
                let known = Protocol::ALL
                    .into_iter()
                    .find(|p| p.as_str().eq_ignore_ascii_case(name));
                (address, Some(known.ok_or_else(invalid)?))
            }
            None => (text, None),
        };
        let (ip, port) = match address.rsplit_once(':') {
            Some(("", port)) => (None, port),
            Some((ip, port)) => (Some(parse_ip(ip).ok_or_else(invalid)?), port),
            None => (None, address),
        };
        // u16's own parser would take "+80".
        if !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid());
        }
        let port = port.parse().map_err(|_| invalid())?;
        Endpoint { port, ip, protocol }.checked()
    }
}

/// An IPv6 address needs its brackets before a port: `::1:8080` is an address of its own.
fn parse_ip(text: &str) -> Option<IpAddr> {
    match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse().ok().map(IpAddr::V6),
        None => text.parse().ok().map(IpAddr::V4),
    }
}

impl Endpoint {
    fn checked(self) -> Result<Self> {
        if self.port == 0 {
            Err(Error::port_zero())
        } else {
            Ok(self)
        }
    }

    /// The endpoints a check is about: for a reservation of two protocols, one for each.
    pub(crate) fn checked_of(port: &impl ToEndpoint) -> Result<Vec<Endpoint>> {
        let endpoint = port.to_endpoint()?;
        Ok(match (endpoint.protocol, port.reservation()) {
            (None, Some(_)) => [Protocol::Tcp, Protocol::Udp]
                .map(|protocol| Endpoint {
                    protocol: Some(protocol),
                    ..endpoint
                })
                .into(),
            _ => vec![endpoint.or_tcp()],
        })
    }

    /// This endpoint with the protocol said: TCP where it was not.
    pub(crate) fn or_tcp(self) -> Self {
        Endpoint {
            protocol: self.protocol.or(Some(Protocol::Tcp)),
            ..self
        }
    }

    pub(crate) fn of(port: u16, protocol: Protocol) -> Self {
        Endpoint {
            port,
            ip: None,
            protocol: Some(protocol),
        }
    }
}

pub(crate) mod sealed {
    #[expect(unnameable_types, reason = "that is how a trait is sealed")]
    /// Says which reservation the operand is, where it is one: that one alone is then the caller's own.
    pub trait Sealed {
        #[doc(hidden)]
        fn reservation(&self) -> Option<u64> {
            None
        }
    }
}

/// Whatever names a port: a `u16`, text such as `"60315/udp"`, a [`SocketAddr`], an `(ip, port)` pair, an
/// [`Endpoint`], or a `&Reservation`.
///
/// The trait is sealed. `u16` is the only integer, so that a literal is a port number and 70000 does not compile;
/// a [`Reservation`](crate::Reservation) is taken by reference alone, so that an assertion cannot end it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not name a port",
    note = "pass a `u16`, `\"60315/udp\"`, a `SocketAddr`, `(ip, port)`, an `Endpoint` or a `&Reservation`"
)]
///
/// ```
/// let p = portlease::reserve_udp_port();
/// // A bare number is a TCP port; a reservation, by reference, is what it reserved.
/// for free in [portlease::is_port_free(60315_u16), portlease::is_port_free("127.0.0.1:60315"), portlease::is_port_free(&p)] {
///     println!("{free}");
/// }
/// ```
pub trait ToEndpoint: sealed::Sealed {
    /// The endpoint this names.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPort`](crate::ErrorKind::InvalidPort) for port 0 and for text that names none.
    fn to_endpoint(&self) -> Result<Endpoint>;
}

macro_rules! names_a_port {
    ($($type:ty: $value:ident => $endpoint:expr;)*) => {$(
        impl sealed::Sealed for $type {}
        impl ToEndpoint for $type {
            fn to_endpoint(&self) -> Result<Endpoint> {
                let $value = self;
                $endpoint
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

fn at(ip: IpAddr, port: u16) -> Result<Endpoint> {
    Endpoint {
        port,
        ip: Some(ip),
        protocol: None,
    }
    .checked()
}

names_a_port! {
    u16: port => Endpoint { port: *port, ip: None, protocol: None }.checked();
    str: text => text.parse();
    String: text => text.parse();
    Endpoint: endpoint => endpoint.checked();
    SocketAddr: addr => at(addr.ip(), addr.port());
    SocketAddrV4: addr => at(IpAddr::V4(*addr.ip()), addr.port());
    SocketAddrV6: addr => at(IpAddr::V6(*addr.ip()), addr.port());
    (IpAddr, u16): pair => at(pair.0, pair.1);
    (Ipv4Addr, u16): pair => at(IpAddr::V4(pair.0), pair.1);
    (Ipv6Addr, u16): pair => at(IpAddr::V6(pair.0), pair.1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::error::ErrorKind;

    #[test]
    fn every_text_form_is_read_and_written_back() {
        for (text, printed) in [
            ("60315", "60315"),
            (":60315", "60315"),
            ("60315/udp", "60315/udp"),
            ("60315/UDP", "60315/udp"),
            ("127.0.0.1:60315", "127.0.0.1:60315"),
            ("[::1]:60315/tcp", "[::1]:60315/tcp"),
            ("0.0.0.0:1/udplite", "0.0.0.0:1/udplite"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), printed);
            assert_eq!(printed.parse::<Endpoint>().unwrap(), endpoint);
        }
    }

    #[test]
    fn text_that_names_no_port_is_an_error_that_quotes_it() {
        for text in [
            "",
            ":",
            "x",
            "70000",
            "-1",
            "+80",
            " 80",
            "80 ",
            "80/",
            "80/sctp",
            "/tcp",
            "::1:80",
            "[::1]",
            "1.2.3:80",
            "localhost:80",
            "[127.0.0.1]:80",
            "80-90",
        ] {
            let error = text.parse::<Endpoint>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidPort, "{text:?}");
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn port_0_is_an_error_that_says_so() {
        let zero = "0".parse::<Endpoint>().unwrap_err();
        assert_eq!(zero.kind(), ErrorKind::InvalidPort);
        assert!(zero.to_string().contains("port 0"), "{zero}");
        assert!(0u16.to_endpoint().is_err());
        assert!((Ipv4Addr::LOCALHOST, 0).to_endpoint().is_err());
        assert!(
            Endpoint {
                port: 0,
                ip: None,
                protocol: None
            }
            .to_endpoint()
            .is_err()
        );
    }
}
