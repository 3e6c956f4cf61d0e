//! [`Holder`]: a socket on a port, with the processes that own it.

use std::net::SocketAddr;

use super::endpoint::Protocol;
use super::process::Process;
use super::state::State;

/// A socket on a port, and the processes that have it.
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
    /// The address and port on this side.
    pub local: SocketAddr,
    /// Those of the peer, if there is one.
    pub remote: Option<SocketAddr>,
    /// What the socket is doing.
    pub state: State,
    /// The user who made the socket; `None` where nobody has it any more, and on Windows.
    pub uid: Option<u32>,
    /// That user's name, from `/etc/passwd` alone.
    pub user: Option<String>,
    /// The kernel's number of the socket; 0 where no process has it: TIME_WAIT, a closed socket that the kernel still
    /// finishes, or a connection that no server has accepted yet. Windows numbers no sockets: there it is made of the
    /// process and the addresses.
    pub inode: u64,
    /// A socket on `[::]` that serves IPv4 as well. Linux tells it while a socket listens or is bound; Windows does not,
    /// and every socket on `[::]` is taken for one.
    pub dual_stack: bool,
    /// The holder dialled out: nothing on this port could have accepted the connection. (The kernel does not keep
    /// who dialled. A connection that was accepted by a listener that is closed by now looks like this too.)
    pub client: bool,
    /// Somebody has it, and no process of theirs can be seen: it is another user's, in another container, or not in
    /// a process at all.
    pub hidden: bool,
    /// Every process that has it, the oldest first. A connection that nobody has accepted yet is its listener's.
    pub processes: Vec<Process>,
}
