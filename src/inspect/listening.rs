//! Listening: whether a socket would answer on a port.

use std::io;

use super::probe::{self, Reachability};
use crate::model::endpoint::Protocol;
use crate::model::port::Port;
use crate::retry::CONNECT_LIMIT;
use crate::sockets;

/// Whether a socket would answer on the port, by the socket table. On systems without a socket
/// table this function tries a TCP connection, and fails for UDP.
pub(crate) fn is_listening(port: Port) -> io::Result<bool> {
    match sockets::listening(port.number, port.protocol) {
        Ok(rows) => Ok(rows
            .iter()
            .any(|row| row.matches_addr(port.ip, port.scope_id))),
        Err(e) if e.kind() == io::ErrorKind::Unsupported && port.protocol == Protocol::Tcp => {
            Ok(probe::connect(port, CONNECT_LIMIT) == Reachability::Accepts)
        }
        Err(e) => Err(e),
    }
}
