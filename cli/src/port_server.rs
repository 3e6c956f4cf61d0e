//! The protocol of portpicker's port server. A client sends a process id and a newline. The server
//! answers with a port number and a newline, or closes the connection to refuse.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::PathBuf;
use std::str::FromStr;

use portlease::{ErrorKind, Protocol, Reservation, ReserveOptions};

use crate::failure::Failure;
use crate::limits::{PORT_SERVER_ATTEMPTS, PORT_SERVER_LINE_BYTES, PORT_SERVER_TIMEOUT};
use crate::output::json::ReservedRow;
use crate::text::os_message;

/// The address of a port server: `@name` in the abstract namespace, or the path of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServerAddress {
    Abstract(String),
    Path(PathBuf),
}

impl FromStr for ServerAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text.strip_prefix('@') {
            None if text.is_empty() => Err("expected @NAME or the path of a Unix socket"),
            Some("") => Err("expected a name after the @"),
            Some(name) => Ok(ServerAddress::Abstract(name.to_owned())),
            None => Ok(ServerAddress::Path(text.into())),
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerAddress::Abstract(name) => write!(f, "@{name}"),
            ServerAddress::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

impl ServerAddress {
    fn resolve(&self) -> io::Result<SocketAddr> {
        match self {
            ServerAddress::Abstract(name) => SocketAddr::from_abstract_name(name),
            ServerAddress::Path(path) => SocketAddr::from_pathname(path),
        }
    }

    pub(crate) fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect_addr(&self.resolve()?)
    }

    pub(crate) fn bind(&self) -> io::Result<UnixListener> {
        UnixListener::bind_addr(&self.resolve()?)
    }
}

/// Reads the line that the other side sends. Returns the number on it, or `None` if the other side
/// sends anything else.
pub(crate) fn read_number(stream: &UnixStream) -> io::Result<Option<u32>> {
    let mut line = String::new();
    BufReader::new(stream.take(PORT_SERVER_LINE_BYTES)).read_line(&mut line)?;
    Ok(line.trim().parse().ok())
}

/// A number that a port server granted.
#[derive(Debug)]
pub(crate) enum Granted {
    Reserved(Reservation),
    /// The server holds a reservation until the process ends for which it was requested.
    HeldByServer(u16),
}

impl Granted {
    pub(crate) fn port(&self) -> u16 {
        match self {
            Granted::Reserved(reservation) => reservation.port(),
            Granted::HeldByServer(port) => *port,
        }
    }

    pub(crate) fn protocols(&self) -> &[Protocol] {
        match self {
            Granted::Reserved(reservation) => reservation.protocols(),
            // `portlease serve` reserves each number for both.
            Granted::HeldByServer(_) => &[Protocol::Tcp, Protocol::Udp],
        }
    }

    /// Releases a port that this process reserved. Fails if something still listens on it. Does
    /// nothing for a port that the port server holds.
    pub(crate) fn release(self) -> portlease::Result<()> {
        match self {
            Granted::Reserved(reservation) => reservation.release(),
            Granted::HeldByServer(_) => Ok(()),
        }
    }
}

impl From<&Granted> for ReservedRow {
    fn from(granted: &Granted) -> Self {
        match granted {
            Granted::Reserved(reservation) => reservation.into(),
            Granted::HeldByServer(port) => ReservedRow::granted(*port),
        }
    }
}

/// Whether a process has reserved the port on behalf of the process `pid`.
fn is_reserved_for(port: u16, pid: u32) -> Result<bool, Failure> {
    let leases = portlease::reservations()?;
    Ok(leases
        .iter()
        .any(|lease| lease.port() == port && lease.on_behalf_of() == Some(pid)))
}

/// The port server from which this process requests numbers.
#[derive(Debug)]
pub(crate) struct PortServer(ServerAddress);

impl PortServer {
    /// The server that `PORTSERVER_ADDRESS` names.
    pub(crate) fn from_env() -> Result<Option<PortServer>, Failure> {
        let Some(address) = std::env::var_os("PORTSERVER_ADDRESS").filter(|a| !a.is_empty()) else {
            return Ok(None);
        };
        let parsed = match address.to_str() {
            Some(address) => address.parse(),
            None => Err("expected UTF-8 text"),
        };
        parsed.map(PortServer).map(Some).map_err(|expected| {
            Failure::new(format!(
                "cannot use the port server {address:?} (PORTSERVER_ADDRESS): {expected}"
            ))
        })
    }

    /// Reserves a number that the server grants. Most servers only remember their grants, which
    /// stops no other program from binding the port. So if a granted number is in use, this
    /// function requests another one. It makes at most [`PORT_SERVER_ATTEMPTS`] requests.
    /// `portlease serve` reserves what it grants, until the process `pid` ends.
    pub(crate) fn reserve(&self, options: &ReserveOptions, pid: u32) -> Result<Granted, Failure> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let port = self.request_port(pid)?;
            if is_reserved_for(port, pid)? {
                return Ok(Granted::HeldByServer(port));
            }
            match options.clone().port(port).reserve() {
                Err(error)
                    if error.kind() == ErrorKind::InUse && attempts < PORT_SERVER_ATTEMPTS => {}
                Err(error) => return Err(error.into()),
                Ok(reservation) => return Ok(Granted::Reserved(reservation)),
            }
        }
    }

    fn request_port(&self, pid: u32) -> Result<u16, Failure> {
        let cannot = |cause: &str| {
            Failure::new(format!(
                "cannot get a port from the port server {} (PORTSERVER_ADDRESS): {cause}",
                self.0
            ))
        };
        let ask = || -> io::Result<Option<u32>> {
            let stream = self.0.connect()?;
            stream.set_read_timeout(Some(PORT_SERVER_TIMEOUT))?;
            stream.set_write_timeout(Some(PORT_SERVER_TIMEOUT))?;
            (&stream).write_all(format!("{pid}\n").as_bytes())?;
            read_number(&stream)
        };
        let answer = ask().map_err(|e| cannot(&os_message(&e)))?;
        let number = answer
            .and_then(|number| u16::try_from(number).ok())
            .filter(|number| *number > 0);
        number.ok_or_else(|| cannot("the server refused, and sent no port number"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_starts_with_at_is_abstract() {
        assert_eq!("@a".parse(), Ok(ServerAddress::Abstract("a".to_owned())));
        assert_eq!(
            "/run/a@b".parse(),
            Ok(ServerAddress::Path("/run/a@b".into()))
        );
        assert_eq!(ServerAddress::Abstract("a".to_owned()).to_string(), "@a");
        assert!("".parse::<ServerAddress>().is_err() && "@".parse::<ServerAddress>().is_err());
    }

    #[test]
    fn an_answer_without_a_number_is_a_refusal() {
        for (answer, number) in [
            ("41023\n", Some(41023)),
            ("7", Some(7)),
            ("", None),
            ("x\n", None),
            ("1 2\n", None),
        ] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(answer.as_bytes()).unwrap();
            drop(theirs);
            assert_eq!(read_number(&ours).unwrap(), number, "{answer:?}");
        }
    }
}
