//! [`PortTables`]: the sockets of some ports. A few ports are read one by one, and many at once.

use std::collections::HashMap;
use std::io;

use super::row::{Row, Table};
use crate::model::endpoint::Protocol;
use crate::model::incompleteness::Incompleteness;
use crate::retry::PORTS_READ_ALONE;

/// The sockets of some ports. If there are more than [`PORTS_READ_ALONE`] ports, one read of the
/// socket table serves all of them. Otherwise each call reads the sockets of its port.
#[derive(Debug)]
pub(crate) enum PortTables {
    EachPort,
    Snapshot {
        rows: HashMap<(u16, Protocol), Vec<Row>>,
        unseen: Vec<Incompleteness>,
    },
}

impl PortTables {
    /// Reads the socket table if there are more than [`PORTS_READ_ALONE`] ports. `protocols` has
    /// one entry for each port: its protocol, or `None` for every protocol. If all entries are the
    /// same protocol, the call reads only the sockets of that protocol.
    ///
    /// # Errors
    ///
    /// The errors of [`sockets`](super::sockets).
    pub(crate) fn of(protocols: impl IntoIterator<Item = Option<Protocol>>) -> io::Result<Self> {
        let mut protocols: Vec<Option<Protocol>> = protocols.into_iter().collect();
        if protocols.len() <= PORTS_READ_ALONE {
            return Ok(PortTables::EachPort);
        }
        protocols.dedup();
        let only = if let [only] = protocols[..] {
            only
        } else {
            None
        };
        let table = super::sockets(0, only)?;
        let mut rows: HashMap<_, Vec<Row>> = HashMap::new();
        for row in table.rows {
            let key = (row.local.port(), row.protocol);
            rows.entry(key).or_default().push(row);
        }
        Ok(PortTables::Snapshot {
            rows,
            unseen: table.unseen,
        })
    }

    /// What [`sockets`](super::sockets) returns for this port.
    pub(crate) fn sockets(&self, port: u16, protocol: Option<Protocol>) -> io::Result<Table> {
        match self {
            PortTables::EachPort => super::sockets(port, protocol),
            PortTables::Snapshot { rows, unseen } => {
                let protocols = Protocol::requested(&protocol);
                let of = |protocol: &Protocol| rows.get(&(port, *protocol)).into_iter().flatten();
                let is_meant = |reason: &Incompleteness| {
                    let of = reason.protocol();
                    of.is_none_or(|of| protocols.contains(&of))
                };
                Ok(Table {
                    rows: protocols.iter().flat_map(of).cloned().collect(),
                    unseen: unseen.iter().copied().filter(is_meant).collect(),
                })
            }
        }
    }

    /// What [`listening`](super::listening) returns for this port.
    pub(crate) fn listening(&self, port: u16, protocol: Protocol) -> io::Result<Vec<Row>> {
        match self {
            PortTables::EachPort => super::listening(port, protocol),
            PortTables::Snapshot { rows, .. } => {
                let rows = rows.get(&(port, protocol)).into_iter().flatten();
                Ok(rows.filter(|row| row.answers()).cloned().collect())
            }
        }
    }
}
