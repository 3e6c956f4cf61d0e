//! [`Holder`]: a socket on a port, with the processes that own it.

use std::net::{IpAddr, SocketAddr};

use super::endpoint::Protocol;
use super::process::Process;
use super::state::State;

/// A socket on a port, with the processes that own it.
///
/// ```
/// # if cfg!(target_os = "linux") {
/// let p = portlease::reserve_port();
/// let server = p.listen()?;
/// let holders = portlease::who_holds(&p)?;
/// let listener = holders.iter().find(|holder| holder.state == portlease::State::Listen).unwrap();
/// assert_eq!((listener.local, listener.remote), (p.addr(), None));
/// # drop(server);
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// The protocol.
    pub protocol: Protocol,
    /// The local address and port.
    pub local: SocketAddr,
    /// The address and port of the peer; `None` if the socket is not connected.
    pub remote: Option<SocketAddr>,
    /// What the socket is doing.
    pub state: State,
    /// The user who created the socket. A connection that the server has not accepted yet has the
    /// user of its listener. `None` on macOS and Windows, for any other socket whose
    /// [inode](Holder::inode) is 0, and for a user outside of the user namespace of this process.
    pub uid: Option<u32>,
    /// The name of the user `uid` in `/etc/passwd`. `None` if the user is not listed there, and on
    /// macOS and Windows.
    pub user: Option<String>,
    /// The number by which the kernel identifies the socket.
    ///
    /// The number is 0 for a socket in TIME_WAIT, for a socket that the kernel is closing, and for
    /// a connection that the server has not accepted yet. Windows has no such numbers, so this
    /// crate computes one from the process and the addresses.
    pub inode: u64,
    /// Whether a socket on `[::]` also serves IPv4. The value means nothing for a socket on another
    /// address.
    ///
    /// With sock_diag(7), Linux reports the value for sockets that listen or are bound. For every
    /// other socket the value is `false`. On Windows, and on Linux without sock_diag(7), the value
    /// is not reported, so every socket on `[::]` counts as dual-stack.
    pub dual_stack: bool,
    /// Whether the socket is an outgoing (client) connection.
    ///
    /// The kernel does not record which side connected. These sockets count as outgoing:
    ///
    /// - A TCP connection in SYN_SENT.
    /// - A TCP connection that a process owns, if no listener on this port could have accepted it,
    ///   and one of these conditions holds:
    ///   - A socket of this machine listens at the other end.
    ///   - The local number is ephemeral, and the peer's number is not.
    ///   - The socket is connected to itself.
    /// - A connected UDP socket, if no UDP socket without a peer serves its local address and port.
    pub client: bool,
    /// The network interface that the socket is bound to (SO_BINDTODEVICE of socket(7)). Only
    /// packets of this interface reach the socket. `None` if the socket is bound to no interface,
    /// or if the scope id of `local` already names the interface. Always `None` without
    /// sock_diag(7) of Linux.
    pub interface: Option<String>,
    /// Whether another socket also serves this protocol and local address. SO_REUSEPORT allows
    /// this, and on UDP also SO_REUSEADDR. Each connection and each unicast datagram reaches only
    /// one of the sockets.
    pub shared: bool,
    /// Whether the socket is in use, but no process that owns it is visible.
    ///
    /// The owner can be a process of another user or a process in another container. The socket can
    /// also belong to no process, for example while its descriptor is being sent to another
    /// process.
    pub hidden: bool,
    /// Every visible process that owns the socket, the oldest first. Exception: if many processes
    /// run, the report of a failed check may list only one owner and its relatives. A connection
    /// that has not been accepted yet belongs to the processes of its listener.
    pub processes: Vec<Process>,
    /// Who can own the socket, if it is [hidden](Holder::hidden).
    pub(crate) unseen_owner: UnseenOwner,
    /// Whether the socket may belong to a client: a UDP or UDP-Lite socket without a peer, on a
    /// wildcard address and with an ephemeral number.
    pub(crate) may_be_client: bool,
    /// Whether the call has ended every process that owns the socket, after the socket was read.
    /// The report then speaks of the socket in the past tense.
    pub(crate) is_past: bool,
}

/// Who owns a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Owner {
    /// Visible processes: [`Holder::processes`].
    Processes,
    /// No process: every process could be inspected, and none of them owns the socket. The owner is
    /// the kernel itself (VXLAN, WireGuard, NFS), or a call in progress, such as accept(2) or an
    /// io_uring request. The descriptor of the socket may also be on its way to another process.
    Unowned,
    /// A process that this user may not inspect, a process that `/proc` does not show, or the
    /// kernel itself.
    Hidden,
    /// A process outside of this pid namespace, such as one on the host of this container, or the
    /// kernel itself.
    Elsewhere,
    /// No owner: every process has closed the socket, and the kernel keeps it for a while, for
    /// example in TIME_WAIT.
    None,
}

/// Who can own a socket that has no visible owner. The kernel itself can always be the owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UnseenOwner {
    /// Some processes, or all, could not be inspected.
    pub(crate) is_denied: bool,
    /// No process could be inspected, because no `/proc` shows the processes of this pid namespace.
    pub(crate) lacks_proc: bool,
    /// This process is in a pid namespace that does not show every process.
    pub(crate) is_outside: bool,
    /// This process runs as root. Always `true` on Windows.
    pub(crate) as_root: bool,
    /// The ids of processes to which another process has sent descriptors. The processes have not
    /// received these descriptors yet. One of these descriptors may be the socket's.
    pub(crate) in_flight: Vec<u32>,
}

impl Holder {
    /// Whether this socket and `other` serve the same address. The kernel then gives each client to
    /// only one of the two sockets.
    pub(super) fn shares_address_with(&self, other: &Holder) -> bool {
        let is_server = |socket: &Holder| matches!(socket.state, State::Listen | State::Bound);
        let is_wildcard = |socket: &Holder| socket.local.ip().is_unspecified();
        let is_same = self.local == other.local
            || is_wildcard(self) && is_wildcard(other) && (self.dual_stack || other.dual_stack);
        self.protocol == other.protocol
            && self.state == other.state
            && self.interface == other.interface
            && is_server(self)
            && is_same
    }

    /// Whether the socket is a server's: a TCP socket that listens, or a bound UDP socket without a
    /// peer.
    ///
    /// A UDP socket on a wildcard address with an ephemeral number may belong to a client whose
    /// number the kernel chose. Such a socket does not count as a server's.
    ///
    /// ```
    /// # if cfg!(target_os = "linux") {
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let client = std::net::TcpStream::connect(p.addr())?;
    /// let holders = portlease::who_holds(&p)?;
    /// assert_eq!(holders.iter().filter(|holder| holder.is_server()).count(), 1);
    /// # drop((server, client));
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn is_server(&self) -> bool {
        match self.protocol {
            Protocol::Tcp => self.state == State::Listen,
            Protocol::Udp | Protocol::UdpLite => self.state == State::Bound && !self.may_be_client,
        }
    }

    /// Whether the socket answers: it is a TCP socket that listens, or a UDP socket without a peer.
    /// A TCP claim (the bound socket of a reservation) does not listen, so it does not answer.
    pub(crate) fn answers(&self) -> bool {
        match self.protocol {
            Protocol::Tcp => self.state == State::Listen,
            Protocol::Udp | Protocol::UdpLite => self.state == State::Bound,
        }
    }

    /// Whether the addresses of the two sockets overlap: they are equal, or one of them is a
    /// wildcard that contains the other. An IPv4-mapped address is equal to the IPv4 address. Both
    /// sockets must have the same port.
    pub(crate) fn overlaps(&self, other: &Holder) -> bool {
        let address = |socket: &Holder| match socket.local {
            SocketAddr::V4(local) => (IpAddr::V4(*local.ip()), 0),
            SocketAddr::V6(local) => (local.ip().to_canonical(), local.scope_id()),
        };
        let contains = |wildcard: &Holder, other: &Holder| {
            let (ip, of) = (address(wildcard).0, address(other).0);
            ip.is_unspecified() && (ip.is_ipv4() == of.is_ipv4() || wildcard.dual_stack)
        };
        self.protocol == other.protocol
            && (address(self) == address(other) || contains(self, other) || contains(other, self))
    }

    /// Whether a process that this user may not inspect probably owns the socket too. This is so if
    /// none of the visible owners runs as the user who created the socket. An example is a master
    /// that runs as root and has workers of an ordinary user. Always `false` for root, and for a
    /// socket without a visible owner.
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let holders = portlease::who_holds(&p)?;
    /// assert!(!holders.iter().any(|holder| holder.may_have_hidden_owners()));
    /// # drop(server);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn may_have_hidden_owners(&self) -> bool {
        let is_others = |process: &Process| process.uid.is_some() && process.uid != self.uid;
        self.unseen_owner.is_denied
            && !self.unseen_owner.as_root
            && self.uid.is_some()
            && !self.processes.is_empty()
            && self.processes.iter().all(is_others)
    }

    /// Who owns the socket.
    ///
    /// ```
    /// # if cfg!(target_os = "linux") {
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let holders = portlease::who_holds(&p)?;
    /// assert_eq!(holders.iter().next().unwrap().owner(), portlease::Owner::Processes);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn owner(&self) -> Owner {
        match &self.unseen_owner {
            _ if !self.processes.is_empty() => Owner::Processes,
            _ if !self.hidden => Owner::None,
            UnseenOwner {
                is_denied: true, ..
            } => Owner::Hidden,
            UnseenOwner {
                is_outside: true, ..
            } => Owner::Elsewhere,
            _ => Owner::Unowned,
        }
    }
}
