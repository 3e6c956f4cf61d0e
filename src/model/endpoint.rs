//! [`Endpoint`] and [`Protocol`], which name a port, and their text forms.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use super::text::AddrText;
use crate::link_local;
use crate::localhost::{LOCALHOST, one_address};
use crate::os_error::OsMessage;

/// A transport protocol. Each protocol has its own ports: 53/tcp and 53/udp are different ports.
///
/// ```
/// use portlease::{Endpoint, Protocol};
///
/// let endpoint: Endpoint = "53/udp".parse()?;
/// assert_eq!(endpoint.protocol, Some(Protocol::Udp));
/// # Ok::<(), portlease::ParseEndpointError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// UDP-Lite (RFC 3828), protocol 136. This crate reports who holds a UDP-Lite port, but never
    /// reserves one.
    UdpLite,
}

impl Protocol {
    pub(crate) const ALL: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::UdpLite];

    /// The protocol that the caller requested, or all protocols if the caller requested none.
    pub(crate) fn requested(one: &Option<Protocol>) -> &[Protocol] {
        if one.is_some() {
            one.as_slice()
        } else {
            &Self::ALL
        }
    }

    /// The name in lower case: `tcp`, `udp` or `udplite`.
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

/// A port number, with an optional address and an optional protocol.
///
/// The text forms are `60315`, `:60315`, `60315/udp`, `udp/60315`, `127.0.0.1:60315`,
/// `[::1]:60315/tcp` and `[fe80::1%eth0]:60315`. The forms that ss(8) and netstat(8) print are
/// accepted too: `*:60315`, `:::60315` and `[fe80::1]%eth0:60315`. The protocol `tcp6` means TCP,
/// and `udp6` means UDP.
///
/// `localhost:60315` means both loopback addresses, 127.0.0.1 and ::1. A check for a free port
/// requires that both are free. A check for a listener requires a listener on one of them.
///
/// A link-local address can name a network interface, by its name or index: `[fe80::1%eth0]:60315`.
/// A multicast address of one link or interface, such as `ff02::1`, can name an interface too. With
/// any other address, the interface has no effect.
///
/// Parsing ignores an interface that this machine does not have. But a call that takes the text
/// itself, such as `check_port_free("[fe80::1%eth7]:80")`, then fails.
///
/// An endpoint without an address means every address of this machine. An endpoint without a
/// protocol means TCP. But [`who_holds`](crate::who_holds) and
/// [`who_holds_each`](crate::who_holds_each) then answer for all protocols.
///
/// ```
/// use portlease::{Endpoint, Protocol};
///
/// let dns: Endpoint = "127.0.0.1:5353/udp".parse()?;
/// assert_eq!(dns.port, 5353);
/// assert_eq!(dns.protocol, Some(Protocol::Udp));
/// assert_eq!(dns.to_string(), "127.0.0.1:5353/udp");
/// # Ok::<(), portlease::ParseEndpointError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The port number. 0 names no port, so calls that take an endpoint reject it. A call that
    /// returns an [`Error`](crate::Error) returns
    /// [`ErrorKind::InvalidPort`](crate::ErrorKind::InvalidPort).
    pub port: u16,
    /// The local address. `None` means every address of this machine.
    ///
    /// `localhost` is stored as `::ffff:127.0.0.1`. A parsed text, a [`SocketAddr`] or an
    /// [`IpAddr`] with that address means 127.0.0.1 instead.
    ///
    /// A link-local address stores the index of its interface in bytes 4 to 7 (counted from 0):
    /// `fe80::1%2` is `fe80:0:0:2::1` here. A multicast address of one link or interface, such as
    /// `ff02::1`, stores the index too, unless the address is made from a network prefix
    /// (RFC 3306). [`socket_addr`](Endpoint::socket_addr) returns the address and the index
    /// separately.
    pub ip: Option<IpAddr>,
    /// The protocol. If it is `None`, the called function decides.
    pub protocol: Option<Protocol>,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.socket_addr() {
            Some(addr) => AddrText(addr).fmt(f)?,
            None if self.is_localhost() => write!(f, "localhost:{}", self.port)?,
            None => write!(f, "{}", self.port)?,
        }
        match self.protocol {
            Some(protocol) => write!(f, "/{protocol}"),
            None => Ok(()),
        }
    }
}

/// The error for a text that cannot be parsed as an [`Endpoint`].
///
/// ```
/// let error = "70000".parse::<portlease::Endpoint>().unwrap_err();
/// assert!(error.to_string().starts_with("\"70000\" does not name a port"));
/// // The parse error converts to the crate's error, so `?` works.
/// assert_eq!(portlease::Error::from(error).kind(), portlease::ErrorKind::InvalidPort);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseEndpointError(BadText);

#[derive(Clone, Debug, PartialEq, Eq)]
enum BadText {
    NoPort(String),
    /// A URL, and the endpoint to pass instead.
    Url(String, String),
    /// A port mapping, and its endpoint on this machine. `docker ps` prints a mapping as
    /// `0.0.0.0:8080->80/tcp`, and `docker run -p` takes it as `8080:80`.
    Mapping(String, String),
    /// A text such as `0:8080`, and the same text with a whole address.
    ShortAddress(String, String),
    /// An IPv6 address that lacks brackets before its port, and the same text with brackets.
    NoBrackets(String, String),
    /// The text, and the interface in it that this machine does not have.
    NoInterface(String, String),
    /// The text, the interface in it, and why that interface cannot be looked up.
    UnknownInterface(String, String, String),
    PortZero,
}

impl ParseEndpointError {
    pub(crate) const PORT_ZERO: ParseEndpointError = ParseEndpointError(BadText::PortZero);

    pub(super) fn is_missing_interface(&self) -> bool {
        matches!(self.0, BadText::NoInterface(..))
    }
}

impl fmt::Display for ParseEndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            BadText::NoPort(text) => write!(
                f,
                "{text:?} does not name a port: expected a number from 1 to 65535, as in 60315, \
                 60315/udp, 127.0.0.1:60315 or [::1]:60315/tcp"
            ),
            BadText::Url(text, part) => write!(f, "{text:?} is a URL: expected its port, {part}"),
            BadText::Mapping(text, part) => write!(
                f,
                "{text:?} names the port of a container too: expected only the port of this \
                 machine, {part}"
            ),
            BadText::ShortAddress(text, part) => write!(
                f,
                "{text:?} does not name a port: expected a whole address, as in {part}"
            ),
            BadText::NoBrackets(text, part) => write!(
                f,
                "{text:?} does not name a port: expected the IPv6 address in brackets, as in {part}"
            ),
            BadText::NoInterface(text, name) => write!(
                f,
                "{text:?}: this machine has no network interface {name:?}"
            ),
            BadText::UnknownInterface(text, name, reason) => write!(
                f,
                "{text:?}: cannot look up the network interface {name:?}: {reason}"
            ),
            BadText::PortZero => f.write_str(
                "port 0 names no port (bind(2) reads 0 as \"any free port\"): expected a number \
                 from 1 to 65535",
            ),
        }
    }
}

impl std::error::Error for ParseEndpointError {}

impl FromStr for Endpoint {
    type Err = ParseEndpointError;

    fn from_str(text: &str) -> Result<Self, ParseEndpointError> {
        Endpoint::parse(text).map(|(endpoint, interface)| {
            let index = interface.and_then(|name| link_local::interface_index(name).ok());
            endpoint.with_scope(index.unwrap_or(0))
        })
    }
}

impl Endpoint {
    /// Parses a text as `str::parse` does, but fails if the text names an interface that this
    /// machine does not have, or that cannot be looked up.
    pub(super) fn with_known_interface(text: &str) -> Result<Self, ParseEndpointError> {
        let (endpoint, interface) = Endpoint::parse(text)?;
        match interface {
            Some(name) => {
                let index = index_of(name, text).map_err(ParseEndpointError)?;
                Ok(endpoint.with_scope(index))
            }
            None => Ok(endpoint),
        }
    }

    /// Parses a text. Returns the endpoint without its interface, and the name of the interface.
    fn parse(text: &str) -> Result<(Self, Option<&str>), ParseEndpointError> {
        let invalid = || ParseEndpointError(BadText::of(text));
        let (address, protocol) = match text.split_once('/') {
            Some((address, name)) => match (protocol(name), protocol(address)) {
                (Some(protocol), _) => (address, Some(protocol)),
                (None, Some(protocol)) => (name, Some(protocol)),
                (None, None) => return Err(invalid()),
            },
            None => (text, None),
        };
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) => (host, port),
            None => ("", address),
        };
        let (ip, interface) = parse_host(host).ok_or_else(invalid)?;
        let port = parse_number(port).ok_or_else(invalid)?;
        let endpoint = Endpoint { port, ip, protocol };
        Ok((endpoint.checked()?, interface))
    }
}

fn index_of(interface: &str, text: &str) -> Result<u32, BadText> {
    link_local::interface_index(interface).map_err(|e| {
        let (text, name) = (text.to_owned(), interface.to_owned());
        match e.kind() {
            io::ErrorKind::NotFound => BadText::NoInterface(text, name),
            _ => BadText::UnknownInterface(text, name, OsMessage(&e).to_string()),
        }
    })
}

/// Reads the name of a protocol. netstat(8) and others print `tcp6` for a TCP socket of IPv6.
fn protocol(name: &str) -> Option<Protocol> {
    let name = name.strip_suffix(['4', '6']).unwrap_or(name);
    let mut all = Protocol::ALL.into_iter();
    all.find(|protocol| protocol.as_str().eq_ignore_ascii_case(name))
}

fn parse_number(text: &str) -> Option<u16> {
    // The parser of `u16` accepts "+80", which names no port here.
    if text.bytes().all(|b| b.is_ascii_digit()) {
        text.parse().ok()
    } else {
        None
    }
}

/// Parses the text before the port. Returns the address and its interface, or `None` if the text is
/// invalid. The address is `None` if the text stands for every address, and [`LOCALHOST`] for
/// `localhost`.
///
/// An IPv6 address other than `::` needs brackets: `::1:8080` without brackets is itself an
/// address. The interface can be inside the brackets or after them: ss(8) prints `[fe80::1]%eth0`.
fn parse_host(text: &str) -> Option<(Option<IpAddr>, Option<&str>)> {
    let (address, interface) = match text.split_once('%') {
        Some((host, _)) if host.is_empty() || is_localhost(host) => return None,
        Some((_, "" | "]")) => return None,
        Some((address, rest)) => match rest.strip_suffix(']') {
            Some(interface) => (format!("{address}]"), Some(interface)),
            None => (address.to_owned(), Some(rest)),
        },
        None => (text.to_owned(), None),
    };
    let ip = match address.as_str() {
        "" | "*" => None,
        host if is_localhost(host) => Some(LOCALHOST),
        // netstat(8) prints the wildcard of IPv6 without brackets.
        "::" => Some(Ipv6Addr::UNSPECIFIED.into()),
        ip => Some(match ip.strip_prefix('[') {
            Some(rest) => {
                let ip = rest.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?;
                one_address(ip.into())
            }
            None => ip.parse::<Ipv4Addr>().ok()?.into(),
        }),
    };
    Some((ip, interface))
}

fn is_localhost(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
}

impl BadText {
    /// Guesses what kind of text was passed instead of an endpoint, and which endpoint was meant.
    fn of(text: &str) -> BadText {
        let text = || text.to_owned();
        let endpoint = |part: &str| part.parse::<Endpoint>().ok().map(|_| part.to_owned());
        let whole = text();
        if let Some((scheme, rest)) = whole.split_once("://") {
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            let host = authority.rsplit('@').next().unwrap_or_default();
            // An endpoint cannot have a host name other than `localhost`. For a URL with another
            // host name, the error suggests only the port.
            let port = host.rsplit_once(':').and_then(|(_, port)| endpoint(port));
            // A URL without a port means the port of its scheme.
            let of_scheme = match scheme.to_ascii_lowercase().as_str() {
                "http" | "ws" => Some("80"),
                "https" | "wss" => Some("443"),
                _ => None,
            };
            let implied = || {
                // Colons inside the brackets of an IPv6 address do not begin a port.
                let has_port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
                let port = of_scheme.filter(|_| !host.is_empty() && !has_port)?;
                endpoint(&format!("{host}:{port}")).or_else(|| endpoint(port))
            };
            if let Some(part) = endpoint(host).or(port).or_else(implied) {
                return BadText::Url(text(), part);
            }
        }
        if let Some((host, container)) = whole.split_once("->") {
            let protocol = container.find('/').map_or("", |at| &container[at..]);
            if let Some(part) = endpoint(&format!("{host}{protocol}")) {
                return BadText::Mapping(text(), part);
            }
        }
        if let Some((host, container)) = whole.split_once(':')
            && let (Some(number), Some(_)) = (parse_number(host), parse_number(container))
        {
            return match number {
                0 => BadText::ShortAddress(text(), format!("0.0.0.0:{container}")),
                _ => BadText::Mapping(text(), host.to_owned()),
            };
        }
        // A mapping with an address, as `docker run -p` takes it: `127.0.0.1:5000:80`.
        if let Some((host, container)) = whole.rsplit_once(':')
            && host.contains(['.', ']'])
            && host.contains(':')
        {
            let (container, protocol) =
                container.split_at(container.find('/').unwrap_or(container.len()));
            if parse_number(container).is_some()
                && let Some(part) = endpoint(&format!("{host}{protocol}"))
            {
                return BadText::Mapping(text(), part);
            }
        }
        if let Some((ip, port)) = whole.rsplit_once(':')
            && let (Ok(ip), Some(_)) = (ip.parse::<Ipv6Addr>(), parse_number(port))
        {
            return BadText::NoBrackets(text(), format!("[{ip}]:{port}"));
        }
        BadText::NoPort(text())
    }
}

impl Endpoint {
    /// The address with the port and the scope id. `None` without an address, and for `localhost`,
    /// which is two addresses. The scope id 0 of a link-local address stands for each interface
    /// that has the address.
    ///
    /// ```
    /// let endpoint: portlease::Endpoint = "[fe80::1%1]:80".parse()?;
    /// let addr = endpoint.socket_addr().unwrap();
    /// assert_eq!(addr.ip().to_string(), "fe80::1");
    /// # Ok::<(), portlease::ParseEndpointError>(())
    /// ```
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        let ip = self.ip.filter(|_| !self.is_localhost())?;
        let (ip, scope_id) = link_local::without_scope(ip);
        Some(match ip {
            IpAddr::V6(ip) => SocketAddrV6::new(ip, self.port, 0, scope_id).into(),
            ip => SocketAddr::new(ip, self.port),
        })
    }

    /// Whether the endpoint means both loopback addresses.
    ///
    /// ```
    /// let endpoint: portlease::Endpoint = "localhost:60315".parse()?;
    /// assert!(endpoint.is_localhost() && endpoint.to_string() == "localhost:60315");
    /// # Ok::<(), portlease::ParseEndpointError>(())
    /// ```
    pub fn is_localhost(&self) -> bool {
        self.ip == Some(LOCALHOST)
    }

    /// The same endpoint on the interface with this index. The endpoint stays unchanged if its
    /// address cannot store an interface, or already stores one.
    pub(crate) fn with_scope(self, scope_id: u32) -> Self {
        let ip = self.ip.map(|ip| link_local::with_scope(ip, scope_id));
        Endpoint { ip, ..self }
    }

    pub(crate) fn checked(self) -> Result<Self, ParseEndpointError> {
        if self.port == 0 {
            Err(ParseEndpointError::PORT_ZERO)
        } else {
            Ok(self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_form_is_parsed_and_printed_again() {
        for (text, printed) in [
            ("60315", "60315"),
            (":60315", "60315"),
            ("60315/udp", "60315/udp"),
            ("60315/UDP", "60315/udp"),
            ("127.0.0.1:60315", "127.0.0.1:60315"),
            ("[::1]:60315/tcp", "[::1]:60315/tcp"),
            ("0.0.0.0:1/udplite", "0.0.0.0:1/udplite"),
            ("udp/60315", "60315/udp"),
            ("TCP/127.0.0.1:60315", "127.0.0.1:60315/tcp"),
            ("*:60315", "60315"),
            ("tcp6/80", "80/tcp"),
            ("80/UDP4", "80/udp"),
            ("LocalHost:80", "localhost:80"),
            ("localhost:60315/udp", "localhost:60315/udp"),
            ("[::ffff:127.0.0.1]:60315", "127.0.0.1:60315"),
            (":::60315", "[::]:60315"),
            ("[fe80::1]:80", "[fe80::1]:80"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), printed);
            assert_eq!(printed.parse::<Endpoint>().unwrap(), endpoint);
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_interface_of_a_link_local_address_is_kept() {
        let lo = link_local::interface_index("lo").unwrap();
        for (text, printed, scope_id) in [
            ("[fe80::1%lo]:80", "[fe80::1%lo]:80", lo),
            // ss(8) prints the interface after the brackets.
            ("[fe80::1]%lo:80/udp", "[fe80::1%lo]:80/udp", lo),
            ("[ff02::fb%lo]:80/udp", "[ff02::fb%lo]:80/udp", lo),
            ("[ff02::fb]%lo:80", "[ff02::fb%lo]:80", lo),
            ("[ff05::fb%lo]:80", "[ff05::fb]:80", 0),
            ("127.0.0.53%lo:53/udp", "127.0.0.53:53/udp", 0),
            ("*%lo:80", "80", 0),
            ("[::1%lo]:80", "[::1]:80", 0),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            let found = match endpoint.socket_addr() {
                Some(SocketAddr::V6(addr)) => addr.scope_id(),
                _ => 0,
            };
            assert_eq!((endpoint.to_string().as_str(), found), (printed, scope_id));
            assert_eq!(printed.parse::<Endpoint>().unwrap(), endpoint);
        }
        let by_index: Endpoint = format!("[fe80::1%{lo}]:80").parse().unwrap();
        assert_eq!(by_index.to_string(), "[fe80::1%lo]:80");
        for text in [
            "[fe80::1%nosuch0]:80",
            "[fe80::1%4294967295]:80",
            "127.0.0.1%nosuch0:80",
        ] {
            let ignored: Endpoint = text.parse().unwrap();
            assert!(!ignored.to_string().contains('%'), "{ignored}");
            let error = Endpoint::with_known_interface(text).unwrap_err();
            let error = error.to_string();
            assert!(
                error.contains("this machine has no network interface"),
                "{error}"
            );
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
            "example.org:80",
            "udp/80/tcp",
            "[fe80::1%]:80",
            "[fe80::1]%:80",
            "[fe80::1]%lo]:80",
            "fe80::1%lo:80",
            "%lo:80",
            "80:443:1",
            "[127.0.0.1]:80",
            "80-90",
        ] {
            let error = text.parse::<Endpoint>().unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn pasted_text_that_is_no_endpoint_is_an_error_with_the_endpoint_in_it() {
        for (text, part) in [
            (
                "http://localhost:60315/",
                "expected its port, localhost:60315",
            ),
            (
                "https://user@[::1]:60315/a?b:1",
                "expected its port, [::1]:60315",
            ),
            ("postgres://db:5432/test", "expected its port, 5432"),
            ("tcp://127.0.0.1:5000", "expected its port, 127.0.0.1:5000"),
            (
                "0.0.0.0:5000->80/tcp",
                "only the port of this machine, 0.0.0.0:5000/tcp",
            ),
            ("5000:80", "only the port of this machine, 5000"),
            ("::1:5000", "in brackets, as in [::1]:5000"),
            ("http://localhost/", "expected its port, localhost:80"),
            ("https://example.org", "expected its port, 443"),
            ("http://localhost:60315-60320/", "does not name a port"),
            ("redis://localhost/", "does not name a port"),
            (
                "127.0.0.1:5000:80/udp",
                "only the port of this machine, 127.0.0.1:5000/udp",
            ),
            ("[::1]:5000:80", "only the port of this machine, [::1]:5000"),
            ("0:8001", "a whole address, as in 0.0.0.0:8001"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(
                error.contains(part) && error.contains(&format!("{text:?}")),
                "{error}"
            );
            // The message ends with the endpoint to pass instead.
            if !part.starts_with("does not") {
                let endpoint = part.rsplit(' ').next().unwrap();
                endpoint.parse::<Endpoint>().unwrap();
            }
        }
    }

    #[test]
    fn port_0_is_an_error_that_says_so() {
        let zero = "0".parse::<Endpoint>().unwrap_err();
        assert_eq!(zero, ParseEndpointError::PORT_ZERO);
        assert!(zero.to_string().contains("port 0"), "{zero}");
    }
}
