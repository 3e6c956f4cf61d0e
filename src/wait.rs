//! Waits until a server listens, and waits until a port is free. The functions here block the
//! thread. `tokio.rs` uses the same polls, and a timer for the pauses.

mod poll;
mod steady;

use std::process::Child;
use std::time::Duration;

use crate::inspect::expected::Expected;
use crate::inspect::who;
use crate::model::error::{Error, Result};
use crate::model::holders::Holders;
use crate::model::port::Port;
use crate::model::server_kind::ServerKind;
use crate::model::to_endpoint::{ToEndpoint, listening_ports_of, ports_of};
use crate::ownership::Asker;
use crate::reservation::Reservation;
use crate::sockets;

pub(crate) use poll::{ExitInfo, Freeing, Listening, block_on};
#[cfg(feature = "tokio")]
pub(crate) use poll::{Poll, WaitError};
pub use steady::wait_until_all_listening;

/// Waits until something listens on the port: a TCP socket that would accept a connection, or a
/// bound UDP socket without a peer. If the operand names no address, a socket on any address
/// counts. For a `&Reservation`, the socket must listen on its [`addr`](Reservation::addr).
///
/// The wait reads the socket table about every millisecond and does not connect, so a server that
/// counts its connections sees none. A listener of any process counts. [`wait_until_held_by`] waits
/// for the listener of one process.
///
/// If no socket listens on a TCP port when the time is up, a packet filter may still redirect the
/// port's connections. So the report tries to connect to the address of the operand. If the operand
/// names no address, the report tries 127.0.0.1 and ::1. If an address accepts, the report connects
/// to it a second time, to rule out a server that accepted one client and then closed its listener.
///
/// The wait blocks the thread. On a current-thread async runtime no other task runs meanwhile, not
/// even a server that is a task. `portlease::tokio` has a wait that does not block (feature
/// `tokio`).
///
/// ```
/// use std::time::Duration;
///
/// let p = portlease::reserve_port();
/// let addr = p.addr();
/// let server = std::thread::spawn(move || std::net::TcpListener::bind(addr).unwrap());
/// portlease::wait_until_listening(&p, Duration::from_secs(10))?;
/// # drop(server.join());
/// # Ok::<(), portlease::Error>(())
/// ```
///
/// # Errors
///
/// - [`TimedOut`](crate::ErrorKind::TimedOut) with a [diagnosis](crate::Error::diagnosis) of the
///   port. The report takes additional time after `at_most`.
/// - [`InvalidPort`](crate::ErrorKind::InvalidPort) if `port` names no port.
/// - [`AddressNotAvailable`](crate::ErrorKind::AddressNotAvailable) if `port` is a text with a
///   network interface that this machine does not have.
/// - [`PermissionDenied`](crate::ErrorKind::PermissionDenied) if a sandbox forbids reading the
///   socket table.
/// - [`Io`](crate::ErrorKind::Io) if the table cannot be read for another reason.
/// - [`Unsupported`](crate::ErrorKind::Unsupported) for UDP on a system without a socket table.
///
/// # Platform-specific behavior
///
/// On systems without a socket table each poll tries one TCP connection, for at most 100 ms. If the
/// operand names no address, the poll connects to 127.0.0.1, and finds no listener on another
/// address. For `localhost`, the poll connects to ::1. If that fails, it connects to 127.0.0.1 too.
///
/// On macOS the report does not try to connect, because macOS hides the listeners of other users.
pub fn wait_until_listening(port: impl ToEndpoint, at_most: Duration) -> Result<()> {
    let mut wait = Listening::new(listening_ports_of(&port)?, None, at_most);
    block_on(|| wait.poll(|| Ok(None)))
}

/// Waits until the process `pid`, or a process that it started, listens on the port.
/// [`Reservation::wait_for_pid`] does the same for a reservation.
///
/// A listener of an unrelated process, such as a server of an earlier run or of a parallel test,
/// does not count. The wait then goes on. If it fails, its error names that process. A listener
/// whose owner cannot be seen counts.
///
/// The wait succeeds even if an unrelated process shares the port (SO_REUSEPORT). Some connections
/// then reach that process. [`check_port_held_by`](crate::check_port_held_by) finds such a process.
///
/// These processes count as started by `pid`:
///
/// - A descendant of `pid`.
/// - A process that started after `pid`, in a process group or session that `pid` leads or led.
/// - A daemon that `pid` left: a process that started after `pid`, and whose parent has ended. If
///   `pid` ends during the wait, the daemon may be in any process group and session. Otherwise the
///   daemon must be in the process group or session of `pid`.
///
/// On Linux a subreaper (prctl(2)) can adopt a daemon. Only the calling process and its ancestors
/// are recognized as subreapers. If an ancestor is in another session than the calling process, all
/// children of the ancestor count as adopted. The calling process, or an ancestor in the same
/// session, may have started its children itself. So a child of one of these processes counts as
/// adopted only in three cases:
///
/// - `pid` leads the process group or session of the child.
/// - The leader of the child's process group or session has ended, as after a double fork. The
///   parent of the child is outside of that group or session.
/// - The child leads its own session, and its parent is known as a subreaper. Two subreapers can be
///   known: the calling process, and `portlease run --leaks`, which sets the variable
///   `PORTLEASE_ADOPTER` to its pid.
///
/// If `pid` ends before the wait succeeds, the wait goes on for at most 500 ms, because `pid` may
/// have left a daemon that listens a moment later. After that time the wait fails.
///
/// ```
/// use std::time::Duration;
///
/// let p = portlease::reserve_port();
/// let server = p.listen()?;
/// portlease::wait_until_held_by(&p, std::process::id(), Duration::from_secs(10))?;
/// # drop(server);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// The errors of [`wait_until_listening`], and [`Io`](crate::ErrorKind::Io) if the wait fails
/// after the process has ended. [`Unsupported`](crate::ErrorKind::Unsupported) on a system that
/// does not report whether a process runs.
///
/// # Platform-specific behavior
///
/// If the system does not show the owners of sockets, any listener counts. Linux does not show the
/// owners without `/proc`, or if `/proc` was mounted for another pid namespace.
pub fn wait_until_held_by(port: impl ToEndpoint, pid: u32, at_most: Duration) -> Result<()> {
    wait_by_pid(listening_ports_of(&port)?, pid, at_most)
}

/// Waits until the process `pid`, or a process that it started, listens on each of the ports, as
/// [`wait_until_held_by`] does for one. The ports need not have listeners at the same moment.
///
/// The error can also name a listener of `pid` on another port, because the server may have taken
/// another number. If `pid` is the calling process, the error names no such listener, because the
/// process may run other servers.
///
/// ```
/// use std::time::Duration;
///
/// let [web, admin] = portlease::reserve_ports();
/// let servers = (web.listen()?, admin.listen()?);
/// let (pid, at_most) = (std::process::id(), Duration::from_secs(10));
/// portlease::wait_until_all_held_by([&web, &admin], pid, at_most)?;
/// # drop(servers);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// The errors of [`wait_until_held_by`], for one port. This is the first port on which only
/// unrelated processes listen. If there is no such port, it is the first port without a listener.
///
/// # Platform-specific behavior
///
/// As [`wait_until_held_by`].
pub fn wait_until_all_held_by<P: ToEndpoint>(
    ports: impl IntoIterator<Item = P>,
    pid: u32,
    at_most: Duration,
) -> Result<()> {
    let mut all = Vec::new();
    for port in ports {
        all.extend(listening_ports_of(&port)?);
    }
    wait_by_pid(all, pid, at_most)
}

/// Waits until the port is free, in the sense of [`is_port_free`](crate::is_port_free): the server
/// is gone, and no connection of a client keeps a server from binding.
///
/// The wait polls the socket table and the reservations. It tries a bind only if both show that the
/// port may be free, or if the time is up. On a system without a socket table each poll tries a
/// bind, unless a reservation blocks the port.
///
/// The wait blocks the thread. On a current-thread async runtime no other task runs meanwhile, not
/// even a server that is a task. `portlease::tokio` has a wait that does not block (feature
/// `tokio`).
///
/// ```
/// use std::time::Duration;
///
/// let p = portlease::reserve_port();
/// drop(p.listen()?);
/// portlease::wait_until_free(&p, Duration::from_secs(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// - [`TimedOut`](crate::ErrorKind::TimedOut) with a [diagnosis](crate::Error::diagnosis) that
///   names the holder. The last checks take up to 200 ms after `at_most` for each port, and the
///   report takes additional time.
/// - [`InvalidPort`](crate::ErrorKind::InvalidPort) if the operand names no port.
/// - [`PermissionDenied`](crate::ErrorKind::PermissionDenied),
///   [`AddressNotAvailable`](crate::ErrorKind::AddressNotAvailable) or [`Io`](crate::ErrorKind::Io)
///   if the port cannot be bound or checked.
pub fn wait_until_free(port: impl ToEndpoint, at_most: Duration) -> Result<()> {
    wait_until_free_for(port, ServerKind::ReuseAddr, at_most)
}

/// Waits until the port is free for a server of this kind, in the sense of
/// [`check_port_free_for`](crate::check_port_free_for). Connections in TIME_WAIT keep a server from
/// binding if it sets neither SO_REUSEADDR nor SO_REUSEPORT. On Linux TIME_WAIT lasts 60 s.
///
/// ```
/// use portlease::ServerKind;
/// use std::time::Duration;
///
/// let port = portlease::ReserveOptions::new().reuse_addr(false).reserve()?.port();
/// portlease::wait_until_free_for(port, ServerKind::Plain, Duration::from_secs(70))?;
/// # Ok::<(), portlease::Error>(())
/// ```
///
/// # Errors
///
/// As [`wait_until_free`].
pub fn wait_until_free_for(
    port: impl ToEndpoint,
    kind: ServerKind,
    at_most: Duration,
) -> Result<()> {
    let mut wait = Freeing::new(ports_of(&port)?, kind, Asker::of(&port), at_most);
    block_on(|| wait.poll())
}

impl Reservation {
    /// Waits until something listens on [`addr`](Reservation::addr), as [`wait_until_listening`]
    /// does.
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// p.wait_until_listening(std::time::Duration::from_secs(10))?;
    /// # drop(server);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`wait_until_listening`].
    pub fn wait_until_listening(&self, at_most: Duration) -> Result<()> {
        wait_until_listening(self, at_most)
    }

    /// Waits until the port is free on every address, as [`wait_until_free`] does.
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// p.wait_until_free(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), portlease::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`wait_until_free`].
    pub fn wait_until_free(&self, at_most: Duration) -> Result<()> {
        wait_until_free(self, at_most)
    }

    /// Waits until the child, or a process that it started, listens on [`addr`](Reservation::addr).
    /// [`wait_until_held_by`] says which listeners the wait accepts.
    ///
    /// If the child ends with a failure, the wait checks the port a last time. In this check a
    /// daemon counts only if it is in the process group or session of the child. If the child ends
    /// without a failure, the wait goes on for at most 500 ms, because a daemon may listen a moment
    /// later. In both cases the wait fails if the last check finds no listener that it accepts.
    ///
    /// ```
    /// # #[cfg(unix)] {
    /// let p = portlease::reserve_port();
    /// let mut child = std::process::Command::new("false").spawn()?;
    /// let error = p.wait_for(&mut child, std::time::Duration::from_secs(10)).unwrap_err();
    /// assert!(error.to_string().contains("exit status: 1"));
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`wait_until_listening`]. [`Io`](crate::ErrorKind::Io) with the child's exit
    /// status if the wait fails because the child has ended. If other code of this process has
    /// reaped the child, the error has no exit status.
    pub fn wait_for(&self, child: &mut Child, at_most: Duration) -> Result<()> {
        let expected = Expected::new(child.id());
        let mut wait = Listening::new(listening_ports_of(&self)?, Some(expected), at_most);
        block_on(|| wait.poll(|| ExitInfo::of(child.try_wait())))
    }

    /// Waits until the process `pid`, or a process that it started, listens on
    /// [`addr`](Reservation::addr). [`wait_for`](Reservation::wait_for) accepts only a child of the
    /// calling process. This call accepts any process. [`wait_until_held_by`] says which listeners
    /// count.
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// p.wait_for_pid(std::process::id(), std::time::Duration::from_secs(10))?;
    /// # drop(server);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`wait_until_held_by`].
    pub fn wait_for_pid(&self, pid: u32, at_most: Duration) -> Result<()> {
        wait_until_held_by(self, pid, at_most)
    }

    /// Reports the sockets and the reservations of the port, as [`who_holds`](crate::who_holds)
    /// does, for the protocols of this reservation.
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// assert_eq!(p.holders()?.leases()[0].pid(), Some(std::process::id()));
    /// # Ok::<(), portlease::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`who_holds`](crate::who_holds).
    pub fn holders(&self) -> Result<Holders> {
        who::who_holds(self)
    }
}

/// Waits until the process with this pid, or a process that it started, listens on each of the
/// ports. The process need not be a child of the calling process.
fn wait_by_pid(ports: Vec<Port>, pid: u32, at_most: Duration) -> Result<()> {
    let started = sockets::started(pid)
        .map_err(|cause| Error::of_system("read the start of", &format!("pid {pid}"), cause))?;
    let mut wait = Listening::new(ports, Some(Expected::new(pid)), at_most);
    let mut has_run = false;
    block_on(|| {
        wait.poll(|| {
            // A later process with the same pid has another start.
            let is_running = sockets::is_running(pid)? && sockets::started(pid)? == started;
            has_run |= is_running;
            Ok((!is_running).then(|| match has_run {
                true => ExitInfo::from(None),
                false => ExitInfo::before_wait(),
            }))
        })
    })
}
