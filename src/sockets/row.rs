//! [`Row`]: a socket as the system's table shows it.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;

use crate::model::endpoint::Protocol;
use crate::model::holder::Holder;
use crate::model::incompleteness::Incompleteness;
use crate::model::process::Process;
use crate::model::state::State;

/// The kernel's number of a socket.
pub(crate) type Inode = NonZeroU64;

/// The sockets that were read, and what could not be read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub(crate) rows: Vec<Row>,
    pub(crate) unseen: Vec<Incompleteness>,
}

/// A socket whose processes have not been searched: the fields of [`Holder`] that the table itself
/// shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) protocol: Protocol,
    pub(crate) local: SocketAddr,
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) state: State,
    pub(crate) uid: Option<u32>,
    /// `None` if no process owns the socket.
    pub(crate) inode: Option<Inode>,
    pub(crate) dual_stack: bool,
    pub(crate) client: bool,
}

/// How far to search for processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScanDepth {
    /// Every process that owns one of the sockets.
    Complete,
    /// One process for each socket, the newest first: for a report that must not take long.
    FirstHit,
}

/// What a system's search for processes found.
#[derive(Clone, Debug, Default)]
pub(crate) struct ScanResult {
    /// Each process once, with those of the sockets that it owns.
    pub(crate) found: Vec<(Process, Vec<Inode>)>,
    pub(crate) unseen: Vec<Incompleteness>,
}

/// The rows with their processes.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnedRows {
    pub(crate) holders: Vec<Holder>,
    pub(crate) unseen: Vec<Incompleteness>,
}

impl Row {
    /// Whether the socket matters to a caller that asks about this address. Scope id 0 is every
    /// interface, of the question and of the socket.
    pub(crate) fn matches_addr(&self, ip: Option<IpAddr>, scope_id: u32) -> bool {
        let Some(ip) = ip else { return true };
        if let SocketAddr::V6(local) = self.local
            && scope_id != 0
            && ![0, scope_id].contains(&local.scope_id())
        {
            return false;
        }
        let (requested, local) = (ip.to_canonical(), self.local.ip().to_canonical());
        // A question about a wildcard is about every address of its family.
        requested == local
            || local.is_unspecified() && (self.dual_stack || local.is_ipv4() == requested.is_ipv4())
            || requested.is_unspecified() && (requested.is_ipv6() || local.is_ipv4())
    }

    /// Whether it is a connection that a server left, or accepted and has not closed. Another
    /// server can bind beside it if both set SO_REUSEADDR.
    pub(crate) fn is_leftover(&self) -> bool {
        match self.state {
            State::TimeWait => true,
            State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck => self.protocol == Protocol::Tcp,
            State::Listen
            | State::Bound
            | State::Connected
            | State::SynSent
            | State::SynRecv
            | State::Unknown(_) => false,
        }
    }

    /// Whether this socket could have accepted the connection that `row` shows.
    pub(super) fn accepts(&self, row: &Row) -> bool {
        let answers = match self.protocol {
            Protocol::Tcp => self.state == State::Listen,
            Protocol::Udp | Protocol::UdpLite => self.state == State::Bound,
        };
        let (own, target) = (self.local.ip(), row.local.ip().to_canonical());
        let any = own.is_unspecified() && (self.dual_stack || own.is_ipv4() == target.is_ipv4());
        answers
            && self.protocol == row.protocol
            && self.local.port() == row.local.port()
            && (any || own.to_canonical() == target)
    }

    /// Whether it is a connection that no process has accepted yet.
    pub(super) fn waits_for_accept(&self) -> bool {
        let pending = [State::Established, State::CloseWait, State::SynRecv];
        self.inode.is_none() && pending.contains(&self.state)
    }
}

/// Marks outgoing connections. The kernel does not record who connected, so a connection counts as
/// outgoing if no listener can have accepted it.
pub(super) fn label_clients(rows: &mut [Row]) {
    let answers = |row: &&Row| matches!(row.state, State::Listen | State::Bound);
    let answering: Vec<Row> = rows.iter().filter(answers).cloned().collect();
    for row in rows {
        row.client = match row.state {
            State::SynSent => true,
            State::Listen | State::Bound | State::SynRecv | State::TimeWait | State::Unknown(_) => {
                false
            }
            _ => row.inode.is_some() && !answering.iter().any(|socket| socket.accepts(row)),
        };
    }
}
