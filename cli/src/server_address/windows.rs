//! Windows: a named pipe. As in portpicker, `@NAME` is the pipe `\\.\pipe\NAME`.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::Duration;

use crate::limits::PORT_SERVER_LINE_BYTES;
use crate::named_pipe::{PipeListener, PipeStream};

const PREFIX: &str = r"\\.\pipe\";

/// The address of a port server: `@NAME`, or the path of the pipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerAddress {
    name: String,
}

impl FromStr for ServerAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let name = text.strip_prefix('@').or(text.strip_prefix(PREFIX));
        match name {
            Some(name) if !name.is_empty() && !name.contains('\\') => Ok(ServerAddress {
                name: name.to_owned(),
            }),
            _ => Err(r"expected @NAME or \\.\pipe\NAME, the name of a pipe"),
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", self.name)
    }
}

impl ServerAddress {
    fn path(&self) -> String {
        format!("{PREFIX}{}", self.name)
    }
}

/// A connection to a client or to a server.
#[derive(Debug)]
pub(crate) struct PortStream {
    pipe: PipeStream,
    timeout: Duration,
}

impl PortStream {
    /// Connects. `timeout` limits the connect, and each later send and receive.
    pub(crate) fn connect(address: &ServerAddress, timeout: Duration) -> io::Result<PortStream> {
        let pipe = PipeStream::connect(&address.path(), timeout)?;
        Ok(PortStream { pipe, timeout })
    }

    /// Always `None`: Windows has no pid namespaces.
    pub(crate) fn peer(&self) -> Option<u32> {
        None
    }

    /// Reads a line, as [`PipeStream::receive`] does.
    pub(crate) fn receive(&self) -> io::Result<String> {
        self.pipe
            .receive(PORT_SERVER_LINE_BYTES as usize, self.timeout)
    }

    pub(crate) fn send(&self, line: &str) -> io::Result<()> {
        self.pipe.send(line, self.timeout)
    }
}

/// The pipe of `serve`.
#[derive(Debug)]
pub(crate) struct PortListener(PipeListener);

impl PortListener {
    /// Listens on the address. Windows removes the pipe when this process ends.
    pub(crate) fn bind(address: &ServerAddress) -> io::Result<PortListener> {
        Ok(PortListener(PipeListener::bind(&address.path())?))
    }

    /// Waits for a client. `timeout` limits each later send and receive.
    pub(crate) fn accept(&mut self, timeout: Duration) -> io::Result<PortStream> {
        let pipe = self.0.accept()?;
        Ok(PortStream { pipe, timeout })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_name_or_the_path_of_a_pipe() {
        let ports = ServerAddress {
            name: "ports".to_owned(),
        };
        assert_eq!("@ports".parse(), Ok(ports.clone()));
        assert_eq!(r"\\.\pipe\ports".parse(), Ok(ports));
        for bad in ["", "@", r"\\.\pipe\", r"@a\b", r"C:\x", "ports"] {
            assert!(bad.parse::<ServerAddress>().is_err(), "{bad}");
        }
    }
}
