//! [`probe`] and [`probe_listener`] connect to a port and report what a client would meet.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use socket2::SockRef;

use crate::link_local;
use crate::localhost::{self, LOCALHOST};
use crate::model::endpoint::Protocol;
use crate::model::port::Port;
use crate::model::remedy::Remedy;
use crate::model::to_endpoint::{ToEndpoint, port_of};
use crate::retry::{CONNECT_LIMIT, SHORTEST_CONNECT};
use crate::sockets::{self, Inode, Queue, Row};

/// What a client meets at an address.
///
/// ```
/// use std::time::Duration;
///
/// let p = portlease::reserve_port();
/// match portlease::probe(&p, Duration::from_secs(5)) {
///     portlease::Reachability::Accepts => println!("a server accepts"),
///     other => println!("no server yet: {other:?}"),
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reachability {
    /// The connection was made (nmap: open).
    Accepts,
    /// The connection was refused at once, usually because nothing listens there (nmap: closed).
    Refuses,
    /// No answer came within the limit. A firewall may drop the packets, or the accept queue may be
    /// full (nmap: filtered).
    NoAnswer,
    /// The connection could not be tried, or it failed in another way.
    Failed(io::ErrorKind),
}

/// What probably keeps clients from a socket that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Blocker {
    /// A connection is refused, or fails with [`HostUnreachable`](io::ErrorKind::HostUnreachable),
    /// although a socket listens and has room for connections.
    PacketFilterRejects,
    /// A connection gets no answer, although a socket listens and has room for connections.
    PacketFilterDrops,
    /// The connection found no room in the queue of the listener. The queue holds the connections
    /// that the server has not accepted yet.
    QueueFull,
    /// The loopback interface is down. Linux sends every connection from this machine to itself
    /// through that interface, even a connection to the address of another interface.
    LoopbackDown,
    /// This machine does not have the address, although a socket listens there. For example, the
    /// machine lost the address after the bind, the socket was bound with IP_FREEBIND (ip(7)), or
    /// the socket listens on every address.
    AddressMissing,
}

impl Blocker {
    /// What to do about it. `None` if no remedy is known.
    pub fn remedy(self) -> Option<Remedy> {
        match self {
            Blocker::PacketFilterRejects | Blocker::PacketFilterDrops => {
                Some(Remedy::ListPacketFilter)
            }
            Blocker::QueueFull | Blocker::LoopbackDown | Blocker::AddressMissing => None,
        }
    }
}

/// Prints the cause, such as `a packet filter probably rejects the connections`.
impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Blocker::PacketFilterRejects => "a packet filter probably rejects the connections",
            Blocker::PacketFilterDrops => "a packet filter probably drops the connections",
            Blocker::QueueFull => "the server's queue of unaccepted connections was full",
            Blocker::LoopbackDown => {
                "the network interface lo is down: `ip link set lo up` brings it up"
            }
            Blocker::AddressMissing => "this machine does not have the address",
        })
    }
}

/// Reports what a client would meet. The call makes **one TCP connection**, which a listening
/// server sees, and closes it.
///
/// `addr` is an address of this machine. Without an address the call tries `127.0.0.1`. In two
/// cases the call tries several addresses, until one accepts a connection:
/// - For `localhost`: `::1`, then `127.0.0.1`.
/// - For a link-local IPv6 address without a scope id, on Linux: the address on each interface that
///   has it.
///
/// A connection shows whether packets get through, which the socket table does not show. `at_most`
/// is the limit for each connection.
///
/// ```
/// use portlease::{Reachability, probe, reserve_port};
/// use std::time::Duration;
///
/// let p = reserve_port();
/// assert_eq!(probe(&p, Duration::from_secs(5)), Reachability::Refuses);
/// let server = p.listen()?;
/// assert_eq!(probe(&p, Duration::from_secs(5)), Reachability::Accepts);
/// # drop(server);
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "nmap")]
pub fn probe(addr: impl ToEndpoint, at_most: Duration) -> Reachability {
    let Ok(port) = port_of(&addr) else {
        return Reachability::Failed(io::ErrorKind::InvalidInput);
    };
    if port.protocol != Protocol::Tcp {
        return Reachability::Failed(io::ErrorKind::Unsupported);
    }
    connect(port, at_most)
}

/// Like [`probe`]. If a socket listens at the address but no connection was made, the call also
/// reports what probably prevents the connection. The socket table must show the same listeners
/// before and after the attempt.
///
/// The second value is always `None` in three cases: without sock_diag(7) of Linux, for a UDP port,
/// and for an operand with several addresses, such as `localhost`.
///
/// ```
/// use portlease::{Reachability, probe_listener, reserve_port};
/// use std::time::Duration;
///
/// let p = reserve_port();
/// let silent = (Reachability::Refuses, None); // nothing listens
/// assert_eq!(probe_listener(&p, Duration::from_secs(5)), silent);
/// ```
pub fn probe_listener(addr: impl ToEndpoint, at_most: Duration) -> (Reachability, Option<Blocker>) {
    let Some(port) = port_of(&addr)
        .ok()
        .filter(|of| of.protocol == Protocol::Tcp)
    else {
        return (probe(addr, at_most), None);
    };
    let before = queues(port);
    let met = connect(port, at_most);
    if let Reachability::Accepts = met {
        return (met, None);
    }
    let blocker = before.and_then(|before| {
        let after = queues(port)?;
        let is_steady = !before.is_empty() && inodes(&before) == inodes(&after);
        let find = || unreachable(port).or_else(|| blocker(met, &before, &after));
        is_steady.then(find).flatten()
    });
    (met, blocker)
}

fn inodes(queues: &[(Inode, Queue)]) -> Vec<Inode> {
    queues.iter().map(|(inode, _)| *inode).collect()
}

/// Why no packet gets to the address of the port.
fn unreachable(port: Port) -> Option<Blocker> {
    if link_local::is_loopback_down() {
        return Some(Blocker::LoopbackDown);
    }
    let ip = port.ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let addr = link_local::socket_addrs(ip, port.scope_id, 0)[0];
    let is_missing = |e: io::Error| e.kind() == io::ErrorKind::AddrNotAvailable;
    let is_missing = UdpSocket::bind(addr).is_err_and(is_missing);
    is_missing.then_some(Blocker::AddressMissing)
}

/// What probably caused the result `met` of an attempt to connect. `before` and `after` are the
/// queues of the same listeners before and after the attempt.
fn blocker(
    met: Reachability,
    before: &[(Inode, Queue)],
    after: &[(Inode, Queue)],
) -> Option<Blocker> {
    let is_full = |of: &[(Inode, Queue)]| of.iter().any(|(_, queue)| queue.is_full);
    let dropped = |of: &[(Inode, Queue)]| {
        let drops = of.iter().map(|(_, queue)| queue.drops);
        drops.collect::<Option<Vec<_>>>()
    };
    let (was_full, is_full) = (is_full(before), is_full(after));
    match met {
        // A filter that rejects with an ICMP error "administratively prohibited" causes the error
        // "host unreachable".
        Reachability::Refuses | Reachability::Failed(io::ErrorKind::HostUnreachable) => {
            (!was_full && !is_full).then_some(Blocker::PacketFilterRejects)
        }
        // If the queue is full before and after the attempt, the full queue is the cause: the
        // kernel then does not answer a new connection.
        Reachability::NoAnswer if was_full && is_full => Some(Blocker::QueueFull),
        // The queue may have been full only for a moment. In that case the kernel dropped a packet,
        // and the number of drops has changed.
        Reachability::NoAnswer => match (dropped(before)?, dropped(after)?) {
            (before, after) if before != after => Some(Blocker::QueueFull),
            _ if was_full || is_full => None,
            _ => Some(Blocker::PacketFilterDrops),
        },
        Reachability::Accepts | Reachability::Failed(_) => None,
    }
}

/// The listeners that may get the connections to the port: the inode of each, and its queue of
/// connections. `None` if the system does not report the queues, or if the port has several
/// addresses.
fn queues(port: Port) -> Option<Vec<(Inode, Queue)>> {
    let ip = port.ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    if link_local::socket_addrs(ip, port.scope_id, port.number).len() != 1 {
        return None;
    }
    let mut rows = sockets::listening(port.number, port.protocol).ok()?;
    rows.retain(|row| row.is_reachable_at(Some(ip), port.scope_id));
    let closest = rows.iter().map(|row| row.closeness(ip)).max();
    rows.retain(|row| Some(row.closeness(ip)) == closest);
    let queue = |row: &Row| Some((row.inode?, row.queue?));
    let mut queues = rows.iter().map(queue).collect::<Option<Vec<_>>>()?;
    queues.sort_unstable_by_key(|(inode, _)| *inode);
    Some(queues)
}

pub(crate) fn connect(port: Port, at_most: Duration) -> Reachability {
    let ip = port.ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let at_most = at_most.max(SHORTEST_CONNECT);
    let connect = |addr| match TcpStream::connect_timeout(&addr, at_most) {
        Ok(stream) if is_own_end(&stream, addr) => Reachability::Refuses,
        Ok(_) => Reachability::Accepts,
        Err(e) => match e.kind() {
            io::ErrorKind::ConnectionRefused => Reachability::Refuses,
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Reachability::NoAnswer,
            kind => Reachability::Failed(kind),
        },
    };
    let addrs = link_local::socket_addrs(ip, port.scope_id, port.number);
    let (last, others) = addrs
        .split_last()
        .expect("socket_addrs returns at least one address");
    others
        .iter()
        .map(|addr| connect(*addr))
        .find(|met| *met == Reachability::Accepts)
        .unwrap_or_else(|| connect(*last))
}

/// Returns `true` if the socket is connected to itself. If a client connects to an ephemeral port
/// that no socket has, the kernel can choose this port as the client's source port. TCP then
/// connects the socket to itself.
///
/// If the socket is connected to itself, the function sets SO_LINGER, so that a close resets the
/// connection. Without the reset, the port would stay in TIME_WAIT.
fn is_own_end(stream: &TcpStream, addr: SocketAddr) -> bool {
    let is_own = stream
        .local_addr()
        .is_ok_and(|local| (local.ip(), local.port()) == (addr.ip(), addr.port()));
    if is_own {
        // If the call fails, the port is free only after TIME_WAIT.
        let _set = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    }
    is_own
}

/// The address of the port, if a packet filter redirects its connections: a connection is accepted
/// there, although no socket listens. For a port without an address, the function tries each
/// loopback address. `None` if no connection is redirected, or if the listeners cannot be read.
/// Always `None` for UDP, and on macOS, which hides the listeners of other users.
///
/// Two steps rule out that a server accepted the connection:
/// - The function reads the listeners again after an accepted connection, because a server may have
///   begun to listen after the caller read the listeners.
/// - A second connection must be accepted too. This rules out a server that accepts one client, and
///   closes its listener before the listeners are read.
pub(crate) fn redirected(port: Port) -> Option<SocketAddr> {
    if port.protocol != Protocol::Tcp || cfg!(target_os = "macos") {
        return None;
    }
    let addresses = localhost::addresses(port.ip.unwrap_or(LOCALHOST));
    let is_redirected = |ip: &IpAddr| {
        let addressed = Port {
            ip: Some(*ip),
            ..port
        };
        let is_accepted =
            || connect(addressed, CONNECT_LIMIT) == Reachability::Accepts && !may_listen(addressed);
        is_accepted() && is_accepted()
    };
    let found = addresses.into_iter().find(is_redirected);
    found.map(|ip| link_local::socket_addrs(ip, port.scope_id, port.number)[0])
}

/// Whether a socket listens at the port. Also `true` if the listeners cannot be read.
fn may_listen(port: Port) -> bool {
    let is_listener = |row: &Row| row.is_reachable_at(port.ip, port.scope_id);
    sockets::listening(port.number, port.protocol).map_or(true, |rows| rows.iter().any(is_listener))
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use socket2::{Domain, Socket, Type};

    use super::*;

    /// The test calls `redirected` while a server listens. In the real case, a server begins to
    /// listen after the caller of `redirected` has read the listeners.
    #[test]
    fn a_server_that_began_to_listen_is_no_packet_filter() {
        let localhost = |server: &TcpListener| Port {
            ip: Some(Ipv4Addr::LOCALHOST.into()),
            ..Port::new(server.local_addr().unwrap().port(), Protocol::Tcp)
        };
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert_eq!(redirected(localhost(&server)), None);

        let once = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = localhost(&once);
        let accepts_once = thread::spawn(move || once.accept().unwrap());
        assert_eq!(redirected(port), None);
        accepts_once.join().unwrap();
    }

    /// A listener whose queue has room for one connection. `None` if the kernel or a sandbox has no
    /// sock_diag(7).
    fn listener_with_short_queue() -> Option<(Socket, SocketAddr, Port)> {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        listener.bind(&any.into()).unwrap();
        listener.listen(0).unwrap();
        let addr = listener.local_addr().unwrap().as_socket().unwrap();
        let port = Port {
            ip: Some(addr.ip()),
            ..Port::new(addr.port(), Protocol::Tcp)
        };
        queues(port)?;
        Some((listener, addr, port))
    }

    fn fill(addr: SocketAddr, port: Port) -> TcpStream {
        let client = TcpStream::connect(addr).unwrap();
        // The connection is in the queue only after the last packet of the handshake. The kernel
        // may deliver this packet after `connect` has returned.
        while !queues(port).unwrap()[0].1.is_full {
            thread::yield_now();
        }
        client
    }

    #[test]
    fn a_full_queue_is_no_packet_filter() {
        let Some((listener, addr, port)) = listener_with_short_queue() else {
            return;
        };
        let _client = fill(addr, port);
        let blocked = (Reachability::NoAnswer, Some(Blocker::QueueFull));
        assert_eq!(probe_listener(addr, CONNECT_LIMIT), blocked);
        drop(listener);
        let refused = (Reachability::Refuses, None);
        assert_eq!(probe_listener(addr, CONNECT_LIMIT), refused);
    }

    #[test]
    fn a_queue_that_was_full_for_a_moment_is_no_packet_filter() {
        let Some((listener, addr, port)) = listener_with_short_queue() else {
            return;
        };
        let before = queues(port).unwrap();
        let client = fill(addr, port);
        let met = connect(port, CONNECT_LIMIT);
        assert_eq!(met, Reachability::NoAnswer);
        let _accepted = listener.accept().unwrap();
        let after = queues(port).unwrap();
        assert!(!before[0].1.is_full && !after[0].1.is_full);
        drop(client);
        let Some(dropped) = after[0].1.drops else {
            return; // The kernel is older than Linux 4.7.
        };
        assert!(dropped > 0, "{after:?}");
        assert_eq!(blocker(met, &before, &after), Some(Blocker::QueueFull));
        // Equal numbers of drops mean that no packet reached the listener.
        let filtered = Some(Blocker::PacketFilterDrops);
        assert_eq!(blocker(met, &after, &after), filtered);
    }
}
