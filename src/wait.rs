//! Waits until a server listens, and waits until a port is free. The functions here block the
//! thread. `tokio.rs` uses the same polls, and a timer for the pauses.

mod steady;

use std::fmt;
use std::io;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use crate::inspect::availability::{QuickStatus, look, quick_status};
use crate::inspect::listening::is_listening;
use crate::inspect::whose::{Expected, Listener, Watch};
use crate::inspect::{diagnose, who};
use crate::model::diagnosis::Diagnosis;
use crate::model::diagnosis::verdict::Verdict;
use crate::model::error::{Error, Result};
use crate::model::holders::Holders;
use crate::model::port::Port;
use crate::model::server_kind::ServerKind;
use crate::model::to_endpoint::{ToEndpoint, ports_of};
use crate::ownership::Asker;
use crate::reservation::Reservation;
use crate::retry::{DAEMON_GRACE, FREE_PAUSE, LISTENING_PAUSES, RetryBudget, block_for};
use crate::sockets;

pub use steady::wait_until_all_listening;

/// Waits until something listens on the port: a TCP socket that would accept a connection, or a UDP
/// socket that is bound. Without an address, any address of this machine counts.
///
/// The wait polls the socket table about every millisecond, so a server that counts its connections
/// sees none. It does not check *which* process listens: see [`wait_until_held_by`].
///
/// The wait blocks the thread. On a current-thread async runtime no other task runs meanwhile, not
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
    let mut wait = Listening::new(ports_of(&port)?, None, at_most);
    block_on(|| wait.poll(|| Ok(None)))
}

/// Waits until the process `pid`, or a process that it started, listens on the port. Fails if `pid`
/// ends first, unless it left a daemon that listens. [`Reservation::wait_for_pid`] does the same
/// for a reservation.
///
/// A listener of another process does not count. It can be a server of an earlier run, or the
/// server of a parallel test. The wait goes on, and its error names that process. A listener whose
/// owner cannot be seen counts.
///
/// A process that `pid` started is a descendant of `pid`, or a daemon that `pid` left. The parent
/// of a daemon has ended, and the daemon started after `pid`. While `pid` runs, a daemon counts
/// only in the process group or session of `pid`. On Linux a subreaper (prctl(2)) can adopt the
/// daemon. If the subreaper is the calling process or an ancestor in its session, only a daemon
/// whose group or session leader has ended counts. A daemon that forked twice is one.
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
/// The errors of [`wait_until_listening`], and [`Io`](crate::ErrorKind::Io) if the process ends
/// first, unless it left a daemon that listens. [`Unsupported`](crate::ErrorKind::Unsupported) on a
/// system that does not report whether a process runs.
///
/// # Platform-specific behavior
///
/// Where the system does not show the owners of sockets, any listener counts.
pub fn wait_until_held_by(port: impl ToEndpoint, pid: u32, at_most: Duration) -> Result<()> {
    wait_by_pid(ports_of(&port)?, pid, at_most)
}

/// Waits until the port is free, in the sense of [`is_port_free`](crate::is_port_free): the server
/// is gone, and no connection of a client keeps a server from binding.
///
/// The wait polls the socket table, and binds only when no socket there blocks the port.
///
/// The wait blocks the thread. On a current-thread async runtime no other task runs meanwhile, not
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
    wait_until_free_for(port, ServerKind::ReuseAddr, at_most)
}

/// [`wait_until_free`] for a server of this kind, as
/// [`check_port_free_for`](crate::check_port_free_for): connections in TIME_WAIT stop a server that
/// sets neither SO_REUSEADDR nor SO_REUSEPORT for up to 60 s.
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
        let mut wait = Listening::new(self.ports_on_addr(), None, at_most);
        block_on(|| wait.poll(|| Ok(None)))
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
    /// Fails if the child ends first, unless it ended successfully and left a daemon that listens.
    /// A daemon in the child's process group or session counts even if the child failed. Another
    /// process's listener does not count, as [`wait_until_held_by`] explains.
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
    /// status if the child ends first, unless it ended successfully and left a daemon that listens.
    pub fn wait_for(&self, child: &mut Child, at_most: Duration) -> Result<()> {
        let expected = Expected::new(child.id());
        let mut wait = Listening::new(self.ports_on_addr(), Some(expected), at_most);
        block_on(|| wait.poll(|| Ok(child.try_wait()?.map(ExitInfo::from))))
    }

    /// Waits until the process `pid`, or a process that it started, listens on
    /// [`addr`](Reservation::addr). Unlike the child of [`wait_for`](Reservation::wait_for), the
    /// process need not be a child of the calling process. [`wait_until_held_by`] says which
    /// listeners count.
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
        wait_by_pid(self.ports_on_addr(), pid, at_most)
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

/// The outcome of one poll. The caller makes the pause: it blocks the thread, or uses a timer.
#[derive(Debug)]
pub(crate) enum Poll {
    Met,
    Pause(Duration),
    Failed(WaitError),
}

/// Why a wait failed, before the report is made. A report reads every process, so
/// [`WaitError::into_error`] is a separate step, which an async runtime can run on another thread.
#[derive(Debug)]
pub(crate) enum WaitError {
    TimedOut(Duration, Unmet),
    EndedFirst(ExitInfo, Unmet),
    CannotTell(Port, Verdict),
    System(Port, io::Error),
}

/// The port that did not meet the condition of a wait.
#[derive(Debug)]
pub(crate) struct Unmet {
    port: Port,
    verdict: Verdict,
    /// The process that was expected to listen; `None` if any process may listen.
    expected: Option<Expected>,
}

impl Unmet {
    fn report(&self) -> Diagnosis {
        match &self.expected {
            Some(expected) => diagnose::not_listening(self.port, self.verdict.clone(), expected),
            None => diagnose::after_waiting_for_any(self.port, self.verdict.clone()),
        }
    }
}

/// How the expected process ended.
#[derive(Clone, Debug)]
pub(crate) struct ExitInfo {
    /// `None` if the wait got only the pid of the process. Only the parent of a process gets its
    /// exit status.
    status: Option<ExitStatus>,
}

impl From<ExitStatus> for ExitInfo {
    fn from(status: ExitStatus) -> Self {
        ExitInfo {
            status: Some(status),
        }
    }
}

/// The exit status is `None` if other code of this process has reaped the child.
impl From<Option<ExitStatus>> for ExitInfo {
    fn from(status: Option<ExitStatus>) -> Self {
        ExitInfo { status }
    }
}

impl ExitInfo {
    fn succeeded(&self) -> Option<bool> {
        self.status.map(|status| status.success())
    }
}

impl fmt::Display for ExitInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(f, "ended ({status})"),
            None => f.write_str("ended"),
        }
    }
}

impl WaitError {
    /// `blocked_thread` says whether the wait blocked its thread. If the server is a task on that
    /// thread, this is why the wait timed out.
    pub(crate) fn into_error(self, blocked_thread: bool) -> Error {
        match self {
            WaitError::TimedOut(waited, unmet) => {
                let mut report = unmet.report();
                // An expected process is usually another process, whose listener does not need this
                // thread.
                if blocked_thread && unmet.expected.is_none() && is_in_runtime() {
                    report = report.after_blocking_runtime(match unmet.verdict {
                        Verdict::NotListening => "wait_until_listening",
                        _ => "wait_until_free",
                    });
                }
                Error::timed_out(waited, report.without_waits())
            }
            WaitError::EndedFirst(exit, unmet) => {
                let pid = unmet.expected.as_ref().and_then(Expected::pid);
                Error::ended_first(pid, &exit.to_string(), unmet.port, unmet.report())
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

    /// The time until the deadline; `None` once the deadline has passed.
    fn left(&self) -> Option<Duration> {
        let left = self.at_most.checked_sub(self.started.elapsed());
        left.filter(|left| !left.is_zero())
    }
}

/// A wait until something listens on each of the ports, which it checks in turn. With an expected
/// process, a listener of a stranger does not count.
#[derive(Debug)]
pub(crate) struct Listening {
    ports: std::vec::IntoIter<Port>,
    watch: Option<Watch>,
    deadline: Deadline,
    pauses: std::array::IntoIter<Duration, 3>,
    /// When the expected process was found to have ended.
    ended: Option<Instant>,
}

impl Listening {
    pub(crate) fn new(ports: Vec<Port>, expected: Option<Expected>, at_most: Duration) -> Self {
        Listening {
            ports: ports.into_iter(),
            watch: expected.map(Watch::new),
            deadline: Deadline::new(at_most),
            pauses: LISTENING_PAUSES.into_iter(),
            ended: None,
        }
    }

    /// Calls `exit_info` before it reads the socket table. In the other order, a process could
    /// begin to listen and end between the two steps. The wait would then report that it ended
    /// without a listener, although a descendant may still have the listener.
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
        if let (Some(watch), Some(exit)) = (&mut self.watch, &exit) {
            watch.note_end(exit.succeeded());
        }
        while let Some(&port) = self.ports.as_slice().first() {
            match self.listener(port) {
                Ok(Listener::Expected) => self.ports.next(),
                Ok(listener) => return self.not_yet(port, listener, exit),
                Err(e) => return Poll::Failed(WaitError::System(port, e)),
            };
        }
        Poll::Met
    }

    fn listener(&mut self, port: Port) -> io::Result<Listener> {
        match &mut self.watch {
            Some(watch) => watch.listener(port),
            None if is_listening(port)? => Ok(Listener::Expected),
            None => Ok(Listener::Nobody),
        }
    }

    fn not_yet(&mut self, port: Port, listener: Listener, exit: Option<ExitInfo>) -> Poll {
        let left = self.deadline.left();
        // A daemon listens a moment after the process that started it has ended.
        let may_leave_daemon = exit
            .as_ref()
            .is_some_and(|exit| exit.succeeded() != Some(false));
        let ended = *self.ended.get_or_insert_with(Instant::now);
        let has_grace = may_leave_daemon && ended.elapsed() < DAEMON_GRACE;
        if exit.is_none() {
            self.ended = None;
        }
        if let (Some(left), true) = (left, exit.is_none() || has_grace) {
            let [.., longest] = LISTENING_PAUSES;
            return Poll::Pause(self.pauses.next().unwrap_or(longest).min(left));
        }
        let expected = self.watch.as_ref().map(|watch| watch.expected.clone());
        let verdict = match (listener, &expected) {
            (Listener::Stranger, Some(expected)) => Verdict::NotHeldBy(expected.pid()),
            _ => Verdict::NotListening,
        };
        let unmet = Unmet {
            port,
            verdict,
            expected,
        };
        Poll::Failed(match exit {
            Some(exit) => WaitError::EndedFirst(exit, unmet),
            None => WaitError::TimedOut(self.deadline.at_most, unmet),
        })
    }
}

/// A wait until each of the ports is free. It checks them in turn.
#[derive(Debug)]
pub(crate) struct Freeing {
    ports: std::vec::IntoIter<Port>,
    kind: ServerKind,
    asker: Asker,
    deadline: Deadline,
}

impl Freeing {
    pub(crate) fn new(ports: Vec<Port>, kind: ServerKind, asker: Asker, at_most: Duration) -> Self {
        Freeing {
            ports: ports.into_iter(),
            kind,
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
                self.kind,
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
            verdict => {
                let unmet = Unmet {
                    port,
                    verdict,
                    expected: None,
                };
                Poll::Failed(WaitError::TimedOut(self.deadline.at_most, unmet))
            }
        }
    }
}

/// Polls until the wait ends, and blocks the thread between two polls.
pub(crate) fn block_on(mut poll: impl FnMut() -> Poll) -> Result<()> {
    loop {
        match poll() {
            Poll::Met => return Ok(()),
            Poll::Pause(pause) => block_for(pause),
            Poll::Failed(error) => return Err(error.into_error(true)),
        }
    }
}

/// Waits until the process with this pid listens. The process need not be a child of the calling
/// process.
fn wait_by_pid(ports: Vec<Port>, pid: u32, at_most: Duration) -> Result<()> {
    let started = sockets::started(pid);
    let mut wait = Listening::new(ports, Some(Expected::new(pid)), at_most);
    block_on(|| {
        wait.poll(|| {
            // A later process with the same pid has another start.
            let is_running = sockets::is_running(pid)? && sockets::started(pid) == started;
            Ok((!is_running).then_some(ExitInfo { status: None }))
        })
    })
}

/// Whether the thread belongs to a tokio runtime. Without the feature `tokio`, the answer is
/// whether this process has the event loop of an async runtime, which is known only on Linux.
fn is_in_runtime() -> bool {
    #[cfg(feature = "tokio")]
    return ::tokio::runtime::Handle::try_current().is_ok();
    #[cfg(not(feature = "tokio"))]
    return sockets::has_event_loop();
}
