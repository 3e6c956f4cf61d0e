//! The protocol of portpicker's port server: a process id and a line end go in, a number and a line end come out.
//! Silence is a refusal.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use portlease::{ErrorKind, Reservation, ReserveOptions};

use crate::failure::Failure;
use crate::text::lower;

/// `@name`, in the abstract namespace, or the path of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Abstract(String),
    Path(PathBuf),
}

impl From<&str> for Address {
    fn from(text: &str) -> Self {
        match text.strip_prefix('@') {
            Some(name) => Address::Abstract(name.to_owned()),
            None => Address::Path(text.into()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Abstract(name) => write!(f, "@{name}"),
            Address::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Address {
    fn resolve(&self) -> io::Result<SocketAddr> {
        match self {
            Address::Abstract(name) => SocketAddr::from_abstract_name(name),
            Address::Path(path) => SocketAddr::from_pathname(path),
        }
    }

    pub(crate) fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect_addr(&self.resolve()?)
    }

    pub(crate) fn bind(&self) -> io::Result<UnixListener> {
        UnixListener::bind_addr(&self.resolve()?)
    }
}

/// More than that is no number. What is left unread would be a reset to the other side, instead of silence.
const LONGEST: u64 = 100;

/// The one number on a line that the other side says.
pub(crate) fn read_number(stream: &UnixStream) -> io::Result<Option<u32>> {
    let mut line = String::new();
    BufReader::new(stream.take(LONGEST)).read_line(&mut line)?;
    Ok(line.trim().parse().ok())
}

/// A port server that gives numbers to this process.
#[derive(Debug)]
pub(crate) struct PortServer(Address);

/// A server that has been asked for so long is not there.
const PATIENCE: Duration = Duration::from_secs(30);

/// So many numbers of the server may be somebody's.
const ATTEMPTS: usize = 16;

impl PortServer {
    /// What `PORTSERVER_ADDRESS` names.
    pub(crate) fn of_environment() -> Option<PortServer> {
        let address = std::env::var("PORTSERVER_ADDRESS")
            .ok()
            .filter(|address| !address.is_empty())?;
        Some(PortServer(address.as_str().into()))
    }

    /// Reserves a number of the server's: it gives each to one process, and does not keep anybody else from it.
    pub(crate) fn reserve(&self, options: &ReserveOptions) -> Result<Reservation, Failure> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match options.clone().port(self.number()?).reserve() {
                Err(error) if error.kind() == ErrorKind::InUse && attempts < ATTEMPTS => {}
                outcome => return outcome.map_err(Failure::from),
            }
        }
    }

    fn number(&self) -> Result<u16, Failure> {
        let cannot = |cause: &str| {
            Failure::new(format!(
                "cannot get a port from PORTSERVER_ADDRESS, {}: {cause}",
                self.0
            ))
        };
        let ask = || -> io::Result<Option<u32>> {
            let stream = self.0.connect()?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            (&stream).write_all(format!("{}\n", std::process::id()).as_bytes())?;
            read_number(&stream)
        };
        let answer = ask().map_err(|e| cannot(&lower(&e)))?;
        let number = answer
            .and_then(|number| u16::try_from(number).ok())
            .filter(|number| *number > 0);
        number.ok_or_else(|| cannot("the server has none for this process"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart_by_their_first_letter() {
        assert_eq!(Address::from("@a"), Address::Abstract("a".to_owned()));
        assert_eq!(Address::from("/run/a@b"), Address::Path("/run/a@b".into()));
        assert_eq!(Address::from("@a").to_string(), "@a");
    }

    #[test]
    fn what_is_no_number_is_a_refusal() {
        for (said, number) in [
            ("41023\n", Some(41023)),
            ("7", Some(7)),
            ("", None),
            ("x\n", None),
            ("1 2\n", None),
        ] {
            let (ours, mut its) = UnixStream::pair().unwrap();
            its.write_all(said.as_bytes()).unwrap();
            drop(its);
            assert_eq!(read_number(&ours).unwrap(), number, "{said:?}");
        }
    }
}
