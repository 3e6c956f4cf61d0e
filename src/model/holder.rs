//! [`Holder`]: a socket on a port, with the processes that own it.

use std::net::SocketAddr;

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
    /// The user who created the socket. `None` on Windows, and if no process owns the socket any
    /// more.
    pub uid: Option<u32>,
    /// The name of the user `uid` in `/etc/passwd`. `None` if the user is not listed there, and on
    /// macOS and Windows.
    pub user: Option<String>,
    /// The number by which the kernel identifies the socket.
    ///
    /// The number is 0 if no process owns the socket: in TIME_WAIT, while the kernel finishes
    /// closing the socket, and before a server has accepted the connection. Windows has no such
    /// numbers, so this crate computes one from the process and the addresses.
    pub inode: u64,
    /// Whether a socket on `[::]` serves IPv4 as well.
    ///
    /// Linux reports this for sockets that listen or are bound. Windows does not report it, so
    /// every socket on `[::]` counts as dual-stack there.
    pub dual_stack: bool,
    /// Whether the socket is an outgoing (client) connection: no listener on this port could have
    /// accepted it.
    ///
    /// The kernel does not record which side connected. So an accepted connection also counts as
    /// outgoing once its listener is closed.
    pub client: bool,
    /// Whether the socket is in use, but no process that owns it is visible.
    ///
    /// The owner can be a process of another user or a process in another container. The socket can
    /// also belong to no process, for example while its descriptor is being sent to another
    /// process.
    pub hidden: bool,
    /// Every process that owns the socket, the oldest first. A connection that has not been
    /// accepted yet belongs to the processes of its listener.
    pub processes: Vec<Process>,
}
