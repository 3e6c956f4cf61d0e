//! [`Row`]: a socket as the system's table shows it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroU64};

use crate::localhost::{LOCALHOST, LOOPBACKS};
use crate::model::endpoint::Protocol;
use crate::model::holder::Holder;
use crate::model::incompleteness::Incompleteness;
use crate::model::process::Process;
use crate::model::state::State;

/// The number that identifies a socket. On Linux it is the inode of the socket. Windows has no such
/// number, so `decode::iphlpapi` makes one up.
pub(crate) type Inode = NonZeroU64;

/// The sockets that were read, and a list of what could not be read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub(crate) rows: Vec<Row>,
    pub(crate) unseen: Vec<Incompleteness>,
}

/// A socket as the system's table shows it. The processes that own the socket are not known yet.
/// Unless the comment on a field says otherwise, the field means the same as in [`Holder`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) protocol: Protocol,
    pub(crate) local: SocketAddr,
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) state: State,
    pub(crate) uid: Option<u32>,
    /// `None` if the socket has no inode: no process owns it, as in TIME_WAIT or before accept(2).
    /// A socket with an inode can also be without a process, such as one of the kernel itself.
    pub(crate) inode: Option<Inode>,
    pub(crate) dual_stack: bool,
    /// Also `true` for an accepted connection whose listener was closed. The module `inspect`
    /// corrects the value in the holders.
    pub(crate) client: bool,
    /// The index of the network interface to which SO_BINDTODEVICE binds the socket. `None` without
    /// such an interface, and if the system does not report it. Also `None` if the scope id of
    /// `local` names an interface.
    pub(crate) interface: Option<NonZeroU32>,
    /// The queue of a listener. `None` for any other socket, and without sock_diag(7) of Linux.
    pub(crate) queue: Option<Queue>,
}

/// A listener's queue of connections that its process has not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Queue {
    pub(crate) is_full: bool,
    /// How many packets the listener has dropped, usually because this queue was full. Packets that
    /// a packet filter drops do not count, because they never reach the listener. `None` before
    /// Linux 4.7.
    pub(crate) drops: Option<u32>,
}

/// How far to search for the processes that own the sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScanDepth {
    /// Every process that owns one of the sockets.
    Complete,
    /// The depth of the report on a failed check that expects no process.
    ///
    /// On Linux, if more than [`PROCESSES_OF_REPORT`](crate::retry::PROCESSES_OF_REPORT) processes
    /// run, the search reads processes until every socket has one. It then reads only the ancestors
    /// and descendants of the processes that it has found. With fewer processes, and on other
    /// systems, this depth is the same as `Complete`.
    Report,
    /// One process for each socket is enough. The search starts at probable owners, such as the
    /// newest processes, and ends when every socket has a process.
    FirstHit,
}

/// The result of a search for the processes that own sockets.
#[derive(Clone, Debug, Default)]
pub(crate) struct ScanResult {
    /// The processes that own at least one of the sockets. Each comes with the sockets that it
    /// owns.
    pub(crate) found: Vec<(Process, Vec<Inode>)>,
    pub(crate) unseen: Vec<Incompleteness>,
}

/// The rows as holders: each socket with the processes that own it.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnedRows {
    pub(crate) holders: Vec<Holder>,
    pub(crate) unseen: Vec<Incompleteness>,
}

impl Row {
    /// Whether the socket can keep a server from binding this address (`None`: any address).
    ///
    /// If the argument `scope_id` is 0, it stands for every interface. If the scope id of the
    /// socket's address is 0, the socket serves the interface to which SO_BINDTODEVICE has bound
    /// it. Without such a bind, the socket serves every interface.
    pub(crate) fn matches_addr(&self, ip: Option<IpAddr>, scope_id: u32) -> bool {
        let Some(ip) = ip else { return true };
        if ip == LOCALHOST {
            return LOOPBACKS
                .iter()
                .any(|ip| self.matches_addr(Some(*ip), scope_id));
        }
        let interface = match self.local {
            SocketAddr::V6(local) if local.scope_id() != 0 => local.scope_id(),
            _ => self.interface.map_or(0, NonZeroU32::get),
        };
        if scope_id != 0 && ![0, scope_id].contains(&interface) {
            return false;
        }
        let (requested, local) = (ip.to_canonical(), self.local.ip().to_canonical());
        // A check of 0.0.0.0 includes every IPv4 address, and a check of [::] every address.
        requested == local
            || local.is_unspecified() && (self.dual_stack || local.is_ipv4() == requested.is_ipv4())
            || requested.is_unspecified() && (requested.is_ipv6() || local.is_ipv4())
    }

    /// Whether packets to this address (`None`: any address) reach the socket. Packets to a
    /// loopback address arrive on the loopback interface. So a socket that SO_BINDTODEVICE binds to
    /// another interface gets none of them.
    pub(crate) fn is_reachable_at(&self, ip: Option<IpAddr>, scope_id: u32) -> bool {
        // The value is LOOPBACK_IFINDEX of Linux. Other systems do not report the interface.
        const LOOPBACK_INTERFACE: u32 = 1;
        let is_loopback = ip.is_some_and(|ip| ip.to_canonical().is_loopback());
        let is_other = |interface: NonZeroU32| interface.get() != LOOPBACK_INTERFACE;
        self.matches_addr(ip, scope_id) && !(is_loopback && self.interface.is_some_and(is_other))
    }

    /// How closely the local address of a listener matches this address. If several listeners
    /// match, the system gives a client to one of the closest. A socket bound to the address itself
    /// is closest, then a wildcard of the same IP version, then any other wildcard. For example,
    /// 0.0.0.0 is closer to an IPv4 address than a dual-stack `[::]`. Measured on Linux 6.18.
    pub(crate) fn closeness(&self, ip: IpAddr) -> u8 {
        let (ip, local) = (ip.to_canonical(), self.local.ip());
        2 * u8::from(local.to_canonical() == ip) + u8::from(local.is_ipv4() == ip.is_ipv4())
    }

    /// Whether the socket can be a connection, open or closed, that a server accepted. A new server
    /// can bind beside such a connection if the old server and the new server set SO_REUSEADDR.
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

    /// Whether the socket answers: it is a TCP socket that listens, or a UDP socket without a peer.
    pub(super) fn answers(&self) -> bool {
        match self.protocol {
            Protocol::Tcp => self.state == State::Listen,
            Protocol::Udp | Protocol::UdpLite => self.state == State::Bound,
        }
    }

    /// Whether this socket could have accepted the connection that `row` shows.
    pub(super) fn accepts(&self, row: &Row) -> bool {
        let (own, target) = (self.local.ip(), row.local.ip().to_canonical());
        let any = own.is_unspecified() && (self.dual_stack || own.is_ipv4() == target.is_ipv4());
        self.answers()
            && self.protocol == row.protocol
            && self.local.port() == row.local.port()
            && (any || own.to_canonical() == target)
    }

    /// Whether the socket is a connection that no process has accepted yet.
    pub(super) fn waits_for_accept(&self) -> bool {
        let pending = [State::Established, State::CloseWait, State::SynRecv];
        self.inode.is_none() && pending.contains(&self.state)
    }
}

/// Sets `client` on outgoing connections. The kernel does not record which side connected. So a
/// connection owned by a process counts as outgoing if no listener in `rows` can have accepted it.
/// A connection in SYN_SENT is outgoing.
pub(super) fn label_clients(rows: &mut [Row]) {
    let answering = by_number(rows.iter().filter(|row| row.answers()));
    for row in rows {
        row.client = match row.state {
            State::SynSent => true,
            State::Listen | State::Bound | State::SynRecv | State::TimeWait | State::Unknown(_) => {
                false
            }
            _ => {
                let mut of_number = answering.get(&row.local.port()).into_iter().flatten();
                row.inode.is_some() && !of_number.any(|socket| socket.accepts(row))
            }
        };
    }
}

/// The rows by their local port number.
pub(super) fn by_number<'a>(rows: impl Iterator<Item = &'a Row>) -> HashMap<u16, Vec<Row>> {
    let mut found: HashMap<u16, Vec<Row>> = HashMap::new();
    for row in rows {
        found.entry(row.local.port()).or_default().push(row.clone());
    }
    found
}
