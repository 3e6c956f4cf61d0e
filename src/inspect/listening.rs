//! Listening: whether a socket would answer on a port.

use std::collections::HashMap;
use std::io;

use super::probe::{self, Reachability};
use crate::model::endpoint::Protocol;
use crate::model::port::Port;
use crate::retry::CONNECT_LIMIT;
use crate::sockets::{self, Inode, Row};

/// The inodes of the sockets that would answer on a port. An entry is `None` if the inode is
/// unknown, for example if only a connection showed the listener.
pub(crate) type Listeners = Vec<Option<Inode>>;

/// Whether a socket would answer on the port, by the socket table. On systems without a socket
/// table this function tries a TCP connection, and fails for UDP.
pub(crate) fn is_listening(port: Port) -> io::Result<bool> {
    let snapshot = Snapshot::read(&[port]).map_err(|(_, cause)| cause)?;
    Ok(!snapshot.listeners_of(port).is_empty())
}

/// The listeners of several ports at one moment. One read of the socket table serves all ports of a
/// protocol.
pub(crate) struct Snapshot {
    /// `None` on systems without a socket table.
    rows: Option<HashMap<(Protocol, u16), Vec<Row>>>,
}

impl Snapshot {
    /// # Errors
    ///
    /// The first port of a protocol whose table cannot be read, and the cause.
    pub(crate) fn read(ports: &[Port]) -> Result<Snapshot, (Port, io::Error)> {
        let mut found: HashMap<_, Vec<Row>> = HashMap::new();
        // TCP is last, because a missing TCP table ends this loop: connections replace that table.
        // A missing table of another protocol is an error.
        for protocol in [Protocol::Udp, Protocol::UdpLite, Protocol::Tcp] {
            let of_protocol = || ports.iter().filter(|port| port.protocol == protocol);
            let numbers = || of_protocol().map(|port| port.number);
            let (Some(first), Some(lowest), Some(highest)) =
                (of_protocol().next(), numbers().min(), numbers().max())
            else {
                continue;
            };
            let rows = match sockets::listening_between(lowest, highest, protocol) {
                Ok(rows) => rows,
                Err(e) if e.kind() == io::ErrorKind::Unsupported && protocol == Protocol::Tcp => {
                    return Ok(Snapshot { rows: None });
                }
                Err(cause) => return Err((*first, cause)),
            };
            for row in rows {
                let key = (protocol, row.local.port());
                found.entry(key).or_default().push(row);
            }
        }
        Ok(Snapshot { rows: Some(found) })
    }

    /// The listeners of one of the ports. On systems without a socket table this function tries a
    /// TCP connection.
    pub(crate) fn listeners_of(&self, port: Port) -> Listeners {
        let Some(rows) = &self.rows else {
            let accepts = probe::connect(port, CONNECT_LIMIT) == Reachability::Accepts;
            return if accepts { vec![None] } else { Vec::new() };
        };
        let rows = rows.get(&(port.protocol, port.number));
        let rows = rows.into_iter().flatten();
        let matching = rows.filter(|row| row.is_reachable_at(port.ip, port.scope_id));
        matching.map(|row| row.inode).collect()
    }
}
