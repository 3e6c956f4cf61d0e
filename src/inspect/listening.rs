//! Checks whether a socket would answer on a port.

use std::collections::HashMap;
use std::io;

use super::probe::{self, Reachability};
use crate::model::endpoint::Protocol;
use crate::model::holder::Holder;
use crate::model::port::Port;
use crate::retry::CONNECT_LIMIT;
use crate::sockets::{self, Inode, Row, ScanDepth};

/// The inodes of the sockets that would answer on a port. An entry is `None` if the inode is
/// unknown, for example if only a connection showed the listener.
pub(crate) type Listeners = Vec<Option<Inode>>;

/// Whether a socket would answer on the port, according to the socket table. On systems without a
/// socket table this function tries a TCP connection, and fails for UDP.
pub(crate) fn is_listening(port: Port) -> io::Result<bool> {
    let snapshot = Snapshot::read(&[port]).map_err(|(_, cause)| cause)?;
    Ok(!snapshot.listeners_of(port).is_empty())
}

type Rows = HashMap<(Protocol, u16), Vec<Row>>;

fn matching(rows: &Rows, port: Port) -> impl Iterator<Item = &Row> {
    let rows = rows
        .get(&(port.protocol, port.number))
        .into_iter()
        .flatten();
    rows.filter(move |row| row.is_reachable_at(port.ip, port.scope_id))
}

/// The listeners of several ports. One read of the socket table serves all ports of a protocol.
pub(crate) struct Snapshot {
    /// `None` on systems without a socket table.
    rows: Option<Rows>,
}

impl Snapshot {
    /// # Errors
    ///
    /// If the table of a protocol cannot be read. The error has the first port of the protocol, and
    /// the cause. If the system has no TCP table, the call does not fail, and the snapshot has no
    /// rows.
    pub(crate) fn read(ports: &[Port]) -> Result<Snapshot, (Port, io::Error)> {
        let mut found: HashMap<_, Vec<Row>> = HashMap::new();
        // TCP is last, because a missing TCP table ends this loop: `listeners_of` then tries
        // connections. A missing table of another protocol is an error.
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
        matching(rows, port).map(|row| row.inode).collect()
    }

    /// Returns one listener of each port, with a process that owns the listener. A listener whose
    /// owner is hidden has no process. One search serves all ports.
    ///
    /// `None` if the port has no listener, if the listener was closed meanwhile, or if the search
    /// fails. Always `None` on systems without a socket table.
    pub(crate) fn owned_listeners(&self, ports: &[Port]) -> Vec<Option<Holder>> {
        let first = |port: &Port| -> Vec<Row> {
            let rows = self.rows.iter().flat_map(|rows| matching(rows, *port));
            rows.take(1).cloned().collect()
        };
        let parts = ports.iter().map(first).collect();
        let owned = sockets::owners_of_each(parts, ScanDepth::FirstHit).unwrap_or_default();
        let mut owned: Vec<_> = owned
            .into_iter()
            .map(|part| part.holders.into_iter().next())
            .collect();
        owned.resize(ports.len(), None);
        owned
    }
}
