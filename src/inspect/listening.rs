//! Listening: whether a socket would answer on a port.

use std::io;

use super::probe::{self, Reachability};
use crate::model::endpoint::Protocol;
use crate::model::port::Port;
use crate::retry::CONNECT_LIMIT;
use crate::sockets::{self, Inode};

/// Whether a socket would answer on the port, by the socket table. On systems without a socket
/// table this function tries a TCP connection, and fails for UDP.
pub(crate) fn is_listening(port: Port) -> io::Result<bool> {
    Ok(!listeners_of(port)?.is_empty())
}

/// The inodes of the sockets that would answer on the port. An entry is `None` if the inode is
/// unknown, for example if only a connection showed the listener.
pub(crate) fn listeners_of(port: Port) -> io::Result<Vec<Option<Inode>>> {
    match sockets::listening(port.number, port.protocol) {
        Ok(mut rows) => {
            rows.retain(|row| row.is_reachable_at(port.ip, port.scope_id));
            Ok(rows.iter().map(|row| row.inode).collect())
        }
        Err(e) if e.kind() == io::ErrorKind::Unsupported && port.protocol == Protocol::Tcp => {
            let accepts = probe::connect(port, CONNECT_LIMIT) == Reachability::Accepts;
            Ok(if accepts { vec![None] } else { Vec::new() })
        }
        Err(e) => Err(e),
    }
}
