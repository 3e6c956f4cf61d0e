//! Waits: until something listens, until the port is free, or until the server's process has ended.
//! The functions here block the thread. `tokio.rs` uses the same polls, and a timer for the pauses.

use std::io;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use crate::inspect::availability::{QuickStatus, look, quick_status};
use crate::inspect::listening::is_listening;
use crate::inspect::{diagnose, who};
use crate::model::diagnosis::verdict::Verdict;
use crate::model::error::{Error, Result};
use crate::model::holders::Holders;
use crate::model::port::Port;
use crate::model::server_kind::ServerKind;
use crate::model::to_endpoint::{ToEndpoint, ports_of};
use crate::ownership::Asker;
use crate::reservation::Reservation;
use crate::retry::{FREE_PAUSE, LISTENING_PAUSES, RetryBudget, block_for};
use crate::sockets;

/// Waits until something listens on the port: a TCP socket that would accept a connection, or a UDP
/// socket that is bound. Without an address, any address of this machine counts.
///
/// It polls the socket table about every millisecond, so a server that counts its connections sees
/// none. It does not check *which* process listens: see
/// [`assert_port_held_by`](crate::assert_port_held_by).
///
/// The wait blocks the thread. On a current-thread async runtime nothing else runs meanwhile, not
/// even the server. `portlease::tokio` has a wait that does not block (feature `tokio`).
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
/// - [`TimedOut`](crate::ErrorKind::TimedOut) with a [diagnosis](Error::diagnosis) of the port. The
///   report takes additional time after `at_most`.
/// - [`InvalidPort`](crate::ErrorKind::InvalidPort) if the operand names no port.
/// - [`Io`](crate::ErrorKind::Io) if the socket table cannot be read.
/// - [`Unsupported`](crate::ErrorKind::Unsupported) for UDP on a system without a socket table.
///
/// # Platform-specific behavior
///
/// On systems without a socket table each poll tries one TCP connection, for at most 100 ms.
pub fn wait_until_listening(port: impl ToEndpoint, at_most: Duration) -> Result<()> {
    listening(ports_of(&port)?, at_most, || Ok(None))
}

/// Waits until the port is free, in the sense of [`is_port_free`](crate::is_port_free): the server
/// is gone, and no connection of a client keeps the number.
///
/// It polls the socket table, and binds only when no socket there blocks the port.
///
/// The wait blocks the thread. On a current-thread async runtime nothing else runs meanwhile, not
/// even the server. `portlease::tokio` has a wait that does not block (feature `tokio`).
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
/// - [`TimedOut`](crate::ErrorKind::TimedOut) with a [diagnosis](Error::diagnosis) that names the
///   holder. The last check takes up to 100 ms after `at_most`, and the report takes additional
///   time.
/// - [`InvalidPort`](crate::ErrorKind::InvalidPort) if the operand names no port.
/// - [`PermissionDenied`](crate::ErrorKind::PermissionDenied),
///   [`AddressNotAvailable`](crate::ErrorKind::AddressNotAvailable) or [`Io`](crate::ErrorKind::Io)
///   if the port cannot be bound or checked.
pub fn wait_until_free(port: impl ToEndpoint, at_most: Duration) -> Result<()> {
    let mut wait = Freeing::new(ports_of(&port)?, Asker::of(&port), at_most);
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
    /// As [`wait_until_listening`].
    pub fn wait_until_listening(&self, at_most: Duration) -> Result<()> {
        listening(self.ports_on_addr(), at_most, || Ok(None))
    }

    /// Waits until the server on the port is gone, on every address.
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// p.wait_until_free(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), portlease::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`wait_until_free`].
    pub fn wait_until_free(&self, at_most: Duration) -> Result<()> {
        wait_until_free(self, at_most)
    }

    /// Waits until something listens on [`addr`](Reservation::addr). Fails as soon as the child
    /// ends.
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
    /// As [`wait_until_listening`], and [`Io`](crate::ErrorKind::Io) with the child's exit status
    /// if it ends first.
    pub fn wait_for(&self, child: &mut Child, at_most: Duration) -> Result<()> {
        let pid = child.id();
        listening(self.ports_on_addr(), at_most, || {
            let exit = |status: ExitStatus| ExitInfo {
                pid: Some(pid),
                how: status.to_string(),
            };
            Ok(child.try_wait()?.map(exit))
        })
    }

    /// [`wait_for`](Reservation::wait_for) by pid, for a process that need not be a child of this
    /// one.
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
    /// As [`wait_for`](Reservation::wait_for), without the exit status, and
    /// [`Unsupported`](crate::ErrorKind::Unsupported) on a system that does not report whether a
    /// process runs.
    pub fn wait_for_pid(&self, pid: u32, at_most: Duration) -> Result<()> {
        let started = sockets::started(pid);
        listening(self.ports_on_addr(), at_most, || {
            // A later process can get the same pid. Its start time differs.
            let is_running = sockets::is_running(pid)? && sockets::started(pid) == started;
            let exit = || ExitInfo {
                pid: Some(pid),
                how: "exit status unknown".to_owned(),
            };
            Ok((!is_running).then(exit))
        })
    }

    /// Everything on the port, as [`who_holds`](crate::who_holds) returns it, for the protocols of
    /// the reservation.
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// assert_eq!(p.holders()?.leases()[0].pid(), Some(std::process::id()));
    /// # Ok::<(), portlease::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`who_holds`](crate::who_holds).
    pub fn holders(&self) -> Result<Holders> {
        who::who_holds(self)
    }
}

/// The outcome of one poll. The caller does the pause: it blocks the thread, or uses a timer.
#[derive(Debug)]
pub(crate) enum Poll {
    Met,
    Pause(Duration),
    Failed(WaitError),
}

/// Why a wait failed. The report reads every process, so [`WaitError::into_error`] makes it in a
/// step of its own, which a runtime can run on another thread.
#[derive(Debug)]
pub(crate) enum WaitError {
    TimedOut(Duration, Port, Verdict),
    EndedFirst(ExitInfo, Port),
    CannotTell(Port, Verdict),
    System(Port, io::Error),
}

/// How a process ended, and its pid if that is still known.
#[derive(Clone, Debug)]
pub(crate) struct ExitInfo {
    pub(crate) pid: Option<u32>,
    pub(crate) how: String,
}

impl WaitError {
    /// `blocked_thread`: the wait blocked its thread, which may be the reason that it timed out.
    pub(crate) fn into_error(self, blocked_thread: bool) -> Error {
        match self {
            WaitError::TimedOut(waited, port, verdict) => {
                let report = diagnose::report(port, verdict);
                let report = if blocked_thread {
                    report.after_a_wait()
                } else {
                    report
                };
                Error::timed_out(waited, report)
            }
            WaitError::EndedFirst(ExitInfo { pid, how }, port) => {
                Error::ended_first(pid, &how, diagnose::report(port, Verdict::NotListening))
            }
            WaitError::CannotTell(port, verdict) => diagnose::report(port, verdict).into(),
            WaitError::System(port, cause) => Error::system("wait for", Some(port), cause),
        }
    }
}

#[derive(Debug)]
struct Deadline {
    started: Instant,
    at_most: Duration,
}

impl Deadline {
    fn new(at_most: Duration) -> Self {
        Deadline {
            started: Instant::now(),
            at_most,
        }
    }

    /// The time left; `None` once it is over.
    fn left(&self) -> Option<Duration> {
        let left = self.at_most.checked_sub(self.started.elapsed());
        left.filter(|left| !left.is_zero())
    }
}

/// A wait until something listens, on each port in turn.
#[derive(Debug)]
pub(crate) struct Listening {
    ports: std::vec::IntoIter<Port>,
    deadline: Deadline,
    pauses: std::array::IntoIter<Duration, 3>,
}

impl Listening {
    pub(crate) fn new(ports: Vec<Port>, at_most: Duration) -> Self {
        Listening {
            ports: ports.into_iter(),
            deadline: Deadline::new(at_most),
            pauses: LISTENING_PAUSES.into_iter(),
        }
    }

    /// `exit_info` is called before the socket table is read. In the other order, a process that
    /// listens and ends between the two calls would count as ended without a listener, although a
    /// descendant may still have it.
    pub(crate) fn poll(
        &mut self,
        exit_info: impl FnOnce() -> io::Result<Option<ExitInfo>>,
    ) -> Poll {
        let Some(&first) = self.ports.as_slice().first() else {
            return Poll::Met;
        };
        let exit = match exit_info() {
            Ok(exit) => exit,
            Err(e) => return Poll::Failed(WaitError::System(first, e)),
        };
        while let Some(&port) = self.ports.as_slice().first() {
            match is_listening(port) {
                Ok(true) => self.ports.next(),
                Ok(false) => return self.not_yet(port, exit),
                Err(e) => return Poll::Failed(WaitError::System(port, e)),
            };
        }
        Poll::Met
    }

    fn not_yet(&mut self, port: Port, exit: Option<ExitInfo>) -> Poll {
        if let Some(exit) = exit {
            return Poll::Failed(WaitError::EndedFirst(exit, port));
        }
        match self.deadline.left() {
            Some(left) => {
                let [.., longest] = LISTENING_PAUSES;
                Poll::Pause(self.pauses.next().unwrap_or(longest).min(left))
            }
            None => Poll::Failed(WaitError::TimedOut(
                self.deadline.at_most,
                port,
                Verdict::NotListening,
            )),
        }
    }
}

/// A wait until each port in turn is free.
#[derive(Debug)]
pub(crate) struct Freeing {
    ports: std::vec::IntoIter<Port>,
    asker: Asker,
    deadline: Deadline,
}

impl Freeing {
    pub(crate) fn new(ports: Vec<Port>, asker: Asker, at_most: Duration) -> Self {
        Freeing {
            ports: ports.into_iter(),
            asker,
            deadline: Deadline::new(at_most),
        }
    }

    pub(crate) fn poll(&mut self) -> Poll {
        while let Some(&port) = self.ports.as_slice().first() {
            match self.poll_port(port) {
                Poll::Met => self.ports.next(),
                poll => return poll,
            };
        }
        Poll::Met
    }

    fn poll_port(&self, port: Port) -> Poll {
        let [.., longest] = LISTENING_PAUSES;
        let check = || {
            look(
                port,
                ServerKind::ReuseAddr,
                self.asker,
                &mut RetryBudget::of_poll(self.deadline.left()),
            )
            .verdict
        };
        let pause = match quick_status(port, self.asker) {
            Ok(QuickStatus::Busy) => longest,
            Ok(QuickStatus::BusyExpensive) => FREE_PAUSE,
            Ok(QuickStatus::MaybeFree) => match check() {
                Verdict::Free => return Poll::Met,
                Verdict::InUse(_) => FREE_PAUSE,
                verdict => return Poll::Failed(WaitError::CannotTell(port, verdict)),
            },
            Err(e) => return Poll::Failed(WaitError::System(port, e)),
        };
        if let Some(left) = self.deadline.left() {
            return Poll::Pause(pause.min(left));
        }
        match check() {
            Verdict::Free => Poll::Met,
            verdict => Poll::Failed(WaitError::TimedOut(self.deadline.at_most, port, verdict)),
        }
    }
}

/// Polls until the wait ends, and blocks the thread between two polls.
fn block_on(mut poll: impl FnMut() -> Poll) -> Result<()> {
    loop {
        match poll() {
            Poll::Met => return Ok(()),
            Poll::Pause(pause) => block_for(pause),
            Poll::Failed(error) => return Err(error.into_error(true)),
        }
    }
}

fn listening(
    ports: Vec<Port>,
    at_most: Duration,
    mut exit_info: impl FnMut() -> io::Result<Option<ExitInfo>>,
) -> Result<()> {
    let mut wait = Listening::new(ports, at_most);
    block_on(|| wait.poll(&mut exit_info))
}
