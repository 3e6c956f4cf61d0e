//! The protocol of portpicker's port server. A client sends a process id and a newline. The server
//! answers with a port number and a newline, or closes the connection to refuse.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::PathBuf;

use portlease::{ErrorKind, Reservation, ReserveOptions};

use crate::failure::Failure;
use crate::limits::{PORT_SERVER_ATTEMPTS, PORT_SERVER_LINE_BYTES, PORT_SERVER_TIMEOUT};
use crate::text::os_message;

/// The address of a port server: `@name` in the abstract namespace, or the path of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServerAddress {
    Abstract(String),
    Path(PathBuf),
}

impl From<&str> for ServerAddress {
    fn from(text: &str) -> Self {
        match text.strip_prefix('@') {
            Some(name) => ServerAddress::Abstract(name.to_owned()),
            None => ServerAddress::Path(text.into()),
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

/// The port server from which this process requests numbers.
#[derive(Debug)]
pub(crate) struct PortServer(ServerAddress);

impl PortServer {
    /// The server that `PORTSERVER_ADDRESS` names.
    pub(crate) fn from_env() -> Option<PortServer> {
        let address = std::env::var("PORTSERVER_ADDRESS")
            .ok()
            .filter(|address| !address.is_empty())?;
        Some(PortServer(address.as_str().into()))
    }

    /// Reserves a number that the server grants. A grant does not stop other programs from binding
    /// the port. So if a granted number is in use, this function requests another one. It makes at
    /// most [`PORT_SERVER_ATTEMPTS`] requests.
    pub(crate) fn reserve(&self, options: &ReserveOptions) -> Result<Reservation, Failure> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match options.clone().port(self.request_port()?).reserve() {
                Err(error)
                    if error.kind() == ErrorKind::InUse && attempts < PORT_SERVER_ATTEMPTS => {}
                outcome => return outcome.map_err(Failure::from),
            }
        }
    }

    fn request_port(&self) -> Result<u16, Failure> {
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
            (&stream).write_all(format!("{}\n", std::process::id()).as_bytes())?;
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
        assert_eq!(
            ServerAddress::from("@a"),
            ServerAddress::Abstract("a".to_owned())
        );
        assert_eq!(
            ServerAddress::from("/run/a@b"),
            ServerAddress::Path("/run/a@b".into())
        );
        assert_eq!(ServerAddress::from("@a").to_string(), "@a");
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
