//! [`ServerAddress`]: where a port server listens, and the sockets or pipes to reach it.
//!
//! A client sends a process id and a newline. The server answers with a port number and a newline,
//! or closes the connection to refuse.

use std::io;

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

pub(crate) use system::{PortListener, PortStream, ServerAddress};

impl PortStream {
    /// Reads a line from the other side, and returns the number on the line. Returns `None` if the
    /// line is not a number.
    pub(crate) fn receive_number(&self) -> io::Result<Option<u32>> {
        Ok(self.receive()?.trim().parse().ok())
    }
}
