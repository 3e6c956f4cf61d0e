//! Parses the ports that users type: lists, ranges, and ports with the name of a variable.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use portlease::{Endpoint, Protocol, ToEndpoint};

use crate::limits::PORTS_IN_SUMMARY;

/// Why an argument is not a port. clap prints the text.
#[derive(Debug)]
pub(crate) struct InvalidPort(String);

impl InvalidPort {
    pub(crate) fn new(text: String) -> Self {
        InvalidPort(text)
    }
}

impl fmt::Display for InvalidPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidPort {}

impl From<portlease::Error> for InvalidPort {
    fn from(error: portlease::Error) -> Self {
        InvalidPort(error.to_string())
    }
}

/// The ports of one argument, such as `5432,6379`, `8000-8010`, `53/udp` or `[::1]:8080`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortList(Vec<Endpoint>);

impl FromStr for PortList {
    type Err = InvalidPort;

    fn from_str(text: &str) -> Result<Self, InvalidPort> {
        let mut endpoints = Vec::new();
        // The text is also split at blanks. zsh does not split an unquoted $PORTS, so the output of
        // `reserve -n 2` can be one argument.
        let items = text
            .split(',')
            .flat_map(|part| match part.split_whitespace().next() {
                Some(_) => part.split_whitespace().collect(),
                None => vec![part],
            });
        for item in items {
            if item.is_empty() && !text.trim().is_empty() {
                return Err(InvalidPort(format!(
                    "the list {text:?} has an empty part: expected a port before and after each \
                     comma"
                )));
            }
            match parse_range(item)? {
                Some(range) => endpoints.extend(range),
                None => endpoints.push(item.to_endpoint()?),
            }
        }
        Ok(PortList(endpoints))
    }
}

impl PortList {
    /// The ports of several arguments, without duplicates.
    pub(crate) fn endpoints(arguments: &[PortList]) -> Vec<Endpoint> {
        unique(arguments.iter().flat_map(|ports| &ports.0).copied())
    }

    /// The ports of several arguments, without duplicates. A port without a protocol is a TCP port.
    pub(crate) fn tcp_by_default(arguments: &[PortList]) -> Vec<Endpoint> {
        let all = arguments.iter().flat_map(|ports| &ports.0);
        unique(all.map(|endpoint| Endpoint {
            protocol: endpoint.protocol.or(Some(Protocol::Tcp)),
            ..*endpoint
        }))
    }
}

/// Parses ports of reservations. A reservation has no address, because it holds its port on every
/// address.
pub(crate) fn parse_reserved(text: &str) -> Result<PortList, InvalidPort> {
    let list: PortList = text.parse()?;
    let Some(first) = list.0.iter().find(|endpoint| endpoint.ip.is_some()) else {
        return Ok(list);
    };
    let expected = match list.0.len() {
        1 => Endpoint { ip: None, ..*first }.to_string(),
        _ => "only numbers, as in 8000-8010,9000".to_owned(),
    };
    Err(InvalidPort(format!(
        "{first} names an address, but reservations have no address: write {expected}"
    )))
}

/// The endpoints that a client of this machine would connect to. If the endpoint has no address or
/// is `localhost`, these are 127.0.0.1 and ::1.
pub(crate) fn client_endpoints(endpoint: Endpoint) -> Vec<Endpoint> {
    let loopbacks: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let on = |ip| Endpoint {
        ip: Some(ip),
        ..endpoint
    };
    match endpoint.ip {
        Some(ip) if !endpoint.is_localhost() => vec![on(ip)],
        _ => loopbacks.map(on).to_vec(),
    }
}

/// A short list of the ports, such as `80/tcp, 81/tcp, 82/tcp, 83/tcp and 6 more`.
pub(crate) fn port_summary(endpoints: &[Endpoint]) -> String {
    let listed: Vec<String> = endpoints
        .iter()
        .take(PORTS_IN_SUMMARY)
        .map(ToString::to_string)
        .collect();
    match endpoints.len().saturating_sub(PORTS_IN_SUMMARY) {
        0 => listed.join(", "),
        more => format!("{} and {more} more", listed.join(", ")),
    }
}

fn unique(endpoints: impl Iterator<Item = Endpoint>) -> Vec<Endpoint> {
    let mut seen = HashSet::new();
    endpoints
        .filter(|endpoint| seen.insert(*endpoint))
        .collect()
}

/// Parses a range such as `127.0.0.1:8000-8010/udp`. Returns `None` if the text is not a range.
fn parse_range(item: &str) -> Result<Option<impl Iterator<Item = Endpoint> + use<>>, InvalidPort> {
    // `docker ps` prints a mapping such as `0.0.0.0:8000-8002->80-82/tcp`. Its first part names
    // ports of this machine, and the error suggests that part.
    if let Some((host, container)) = item.split_once("->") {
        let protocol = container.find('/').map_or("", |at| &container[at..]);
        let ports = format!("{host}{protocol}");
        if host.contains('-') && parse_range(&ports).is_ok_and(|range| range.is_some()) {
            return Err(InvalidPort(format!(
                "{item:?} names the ports of a container too: expected only the ports of this \
                 machine, {ports}"
            )));
        }
    }
    // A URL or a mapping is not a range. The parser of endpoints rejects the text. If the text
    // contains an endpoint, the error of that parser names the endpoint.
    if item.contains("://") || item.contains("->") {
        return Ok(None);
    }
    let (head, protocol) = item.split_at(item.rfind('/').unwrap_or(item.len()));
    let (address, numbers) = head.split_at(head.rfind(':').map_or(0, |colon| colon + 1));
    let Some((low, high)) = numbers.split_once('-') else {
        return Ok(None);
    };
    let end = |number: &str| -> Result<Endpoint, InvalidPort> {
        if number.is_empty() {
            return Err(InvalidPort(format!(
                "range {item:?} lacks a number: expected LOW-HIGH, as in 8000-8010"
            )));
        }
        Ok(format!("{address}{number}{protocol}").to_endpoint()?)
    };
    let (low, high) = (end(low)?, end(high)?.port);
    if low.port > high {
        return Err(InvalidPort(format!(
            "range {item:?} is empty: expected LOW-HIGH with LOW <= HIGH"
        )));
    }
    Ok(Some(
        (low.port..=high).map(move |port| Endpoint { port, ..low }),
    ))
}

/// A port to reserve, and the environment variable for its number: `REDIS`, `REDIS=6379` or
/// `DNS/udp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedPort {
    pub(crate) name: String,
    pub(crate) port: Option<u16>,
    pub(crate) protocol: Protocol,
}

/// Prints the port as a user types it.
impl fmt::Display for NamedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(port) = self.port {
            write!(f, "={port}")?;
        }
        match self.protocol {
            Protocol::Tcp => Ok(()),
            other => write!(f, "/{other}"),
        }
    }
}

impl FromStr for NamedPort {
    type Err = InvalidPort;

    fn from_str(text: &str) -> Result<Self, InvalidPort> {
        let (head, protocol) = match text.rsplit_once('/') {
            Some((head, "tcp")) => (head, Protocol::Tcp),
            Some((head, "udp")) => (head, Protocol::Udp),
            Some((_, other)) => {
                return Err(InvalidPort(format!(
                    "protocol {other:?} cannot be reserved: expected tcp or udp"
                )));
            }
            None => (text, Protocol::Tcp),
        };
        let (name, port) = match head.split_once('=') {
            Some((name, port)) => (name, Some(parse_port(port)?)),
            None => (head, None),
        };
        if !is_variable_name(name) {
            return Err(InvalidPort(format!(
                "{name:?} is not a variable name: expected NAME, NAME=N or NAME/udp, \
                 as in REDIS=6379"
            )));
        }
        check_use(name)?;
        Ok(NamedPort {
            name: name.to_owned(),
            port,
            protocol,
        })
    }
}

/// Parses the name of an environment variable.
pub(crate) fn parse_variable(text: &str) -> Result<String, InvalidPort> {
    if is_variable_name(text) {
        check_use(text)?;
        return Ok(text.to_owned());
    }
    Err(InvalidPort(format!(
        "{text:?} is not a variable name: expected ASCII letters, digits and underscores, and no \
         digit at the start, as in DB_PORT"
    )))
}

/// Refuses a variable that the system reads to find or start a program. If the value of such a
/// variable were a number, no program would start, or each program would start with an error of the
/// dynamic linker.
fn check_use(name: &str) -> Result<(), InvalidPort> {
    let is_taken = |taken: &&str| match cfg!(windows) {
        true => name.eq_ignore_ascii_case(taken),
        false => name == *taken,
    };
    match STARTS_PROGRAMS.iter().any(is_taken) {
        true => Err(InvalidPort(format!(
            "the system needs the variable {name} to start programs: expected another name, as in \
             DB_PORT"
        ))),
        false => Ok(()),
    }
}

const STARTS_PROGRAMS: &[&str] = match cfg!(windows) {
    true => &["COMSPEC", "PATH", "PATHEXT", "SYSTEMROOT"],
    false => &[
        "DYLD_INSERT_LIBRARIES",
        "DYLD_LIBRARY_PATH",
        "LD_AUDIT",
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "PATH",
    ],
};

fn is_variable_name(text: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    text.starts_with(is_letter) && text.chars().all(|c| is_letter(c) || c.is_ascii_digit())
}

/// Parses a port number that stands alone, without an address or a protocol.
pub(crate) fn parse_port(text: &str) -> Result<u16, InvalidPort> {
    let endpoint = text.to_endpoint()?;
    if text.starts_with(':') {
        return Err(InvalidPort(format!(
            "{text:?} begins with a colon: expected only a number, such as 60315"
        )));
    }
    match endpoint {
        Endpoint {
            port,
            ip: None,
            protocol: None,
            ..
        } => Ok(port),
        Endpoint { ip: None, .. } => Err(InvalidPort(format!(
            "{text:?} names a protocol: expected only a number, such as 60315"
        ))),
        _ => Err(InvalidPort(format!(
            "{text:?} names an address: expected only a number, because a port is reserved on \
             every address"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<String>, String> {
        let ports: PortList = text.parse().map_err(|e: InvalidPort| e.to_string())?;
        Ok(ports.0.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn lists_and_ranges_are_read_with_their_addresses_and_protocols() {
        assert_eq!(read("5432,6379/udp").unwrap(), ["5432", "6379/udp"]);
        assert_eq!(read("80, 81\n82").unwrap(), ["80", "81", "82"]);
        assert_eq!(read("8000-8002").unwrap(), ["8000", "8001", "8002"]);
        assert_eq!(
            read("[::1]:65534-65535/udp").unwrap(),
            ["[::1]:65534/udp", "[::1]:65535/udp"]
        );
        if cfg!(target_os = "linux") {
            assert_eq!(read("[::1%lo]:80").unwrap(), ["[::1]:80"]);
        }
        assert_eq!(read(":80,127.0.0.1:81").unwrap(), ["80", "127.0.0.1:81"]);
    }

    #[test]
    fn a_port_that_is_more_than_a_number_is_refused_with_the_reason() {
        for (text, reason) in [
            (":80", "begins with a colon"),
            ("127.0.0.1:80", "names an address"),
            ("80/udp", "names a protocol"),
        ] {
            let error = parse_port(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn an_address_of_a_reservation_is_refused_with_the_number_to_write() {
        for (text, expected) in [
            ("192.0.2.7:8910", "write 8910"),
            ("localhost:8910/udp", "write 8910/udp"),
            (
                "[::1]:8000-8010",
                "write only numbers, as in 8000-8010,9000",
            ),
        ] {
            let error = parse_reserved(text).unwrap_err().to_string();
            assert!(error.ends_with(expected), "{text}: {error}");
        }
        for text in ["8910", "8910/tcp", ":8910", "8000-8010,9000/udp"] {
            assert_eq!(
                parse_reserved(text).unwrap(),
                text.parse().unwrap(),
                "{text}"
            );
        }
    }

    #[test]
    fn an_argument_that_is_no_port_is_refused_with_the_reason() {
        for (text, reason) in [
            ("0", "port 0 names no port"),
            ("70000", "\"70000\" does not name a port"),
            ("80-70", "range \"80-70\" is empty"),
            ("80-", "lacks a number"),
            ("-80", "lacks a number"),
            ("1-2-3", "does not name a port"),
            ("0-3", "port 0 names no port"),
            ("", "\"\" does not name a port"),
            ("80,", "the list \"80,\" has an empty part"),
            ("80/sctp", "does not name a port"),
            (
                "0.0.0.0:32768-32770->8000-8002/tcp",
                "only the ports of this machine, 0.0.0.0:32768-32770/tcp",
            ),
            ("[fe80::1%nosuch0]:80", "no network interface \"nosuch0\""),
            ("127.0.0.53%nosuch0:53", "no network interface \"nosuch0\""),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn duplicate_ports_are_removed() {
        let arguments: Vec<PortList> = ["80-81,80", "80/tcp", "80/udp"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        let all: Vec<String> = PortList::tcp_by_default(&arguments)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(all, ["80/tcp", "81/tcp", "80/udp"]);
    }

    #[test]
    fn named_ports_are_read() {
        let named = |text: &str| text.parse::<NamedPort>().map_err(|e| e.to_string());
        let dns = NamedPort {
            name: "DNS".to_owned(),
            port: Some(53),
            protocol: Protocol::Udp,
        };
        assert_eq!(named("DNS=53/udp"), Ok(dns));
        assert_eq!(
            named("_a1").map(|n| (n.port, n.protocol)),
            Ok((None, Protocol::Tcp))
        );
        for bad in [
            "",
            "8080",
            "A B",
            "A=",
            "A=0",
            "A=70000",
            "A=:80",
            "A=1/udplite",
            "A/sctp",
            "=80",
        ] {
            assert!(named(bad).is_err(), "{bad:?}");
        }
    }
}
