//! Waits: until something listens, until it lets go, or until the process that was to do it has ended. Here they block
//! the thread; the looks they are made of serve whoever pauses in another way.

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

/// Waits until something listens on the port: a TCP socket that would accept a connection, or a UDP socket that is
/// bound. Without an address, on any of this machine's.
///
/// It looks at the socket table about every millisecond, and connects only on systems where that cannot be read: a
/// server that counts its connections sees none. It does not ask *who* listens: see
/// [`assert_port_held_by`](crate::assert_port_held_by).
///
/// The wait blocks the thread. On a current-thread async runtime nothing else runs meanwhile, the server neither: there,
/// `portlease::tokio` has one that does not (feature `tokio`).
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
/// [`TimedOut`](crate::ErrorKind::TimedOut) with a [diagnosis](Error::diagnosis) of the port;
/// [`InvalidPort`](crate::ErrorKind::InvalidPort) for what names no port.
pub fn wait_until_listening(port: impl ToEndpoint, at_most: Duration) -> Result<()> {
    listening(ports_of(&port)?, at_most, || Ok(None))
}

/// Waits until the port is free, in the sense of [`is_port_free`](crate::is_port_free): a server is gone, and no
/// connection of a client keeps the number.
///
/// It looks at the socket table, and binds only once nothing there is in the way.
///
/// The wait blocks the thread. On a current-thread async runtime nothing else runs meanwhile, the server neither: there,
/// `portlease::tokio` has one that does not (feature `tokio`).
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
/// [`TimedOut`](crate::ErrorKind::TimedOut) with a [diagnosis](Error::diagnosis) that says who has it;
/// [`InvalidPort`](crate::ErrorKind::InvalidPort) for what names no port.
pub fn wait_until_free(port: impl ToEndpoint, at_most: Duration) -> Result<()> {
    let mut wait = Freeing::new(ports_of(&port)?, Asker::of(&port), at_most);
    block_on(|| wait.poll())
}

impl Reservation {
    /// Waits until something listens on [`addr`](Reservation::addr), as [`wait_until_listening`] does.
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

    /// Waits until the server on it is gone, on every address.
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

    /// Waits until something listens on [`addr`](Reservation::addr), or fails as soon as the child ends.
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
    /// As [`wait_until_listening`], and [`Io`](crate::ErrorKind::Io) with the child's exit status if it ends first.
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

    /// The same for a process that is not a child of this one's [`Command`](std::process::Command).
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
    /// As [`wait_for`](Reservation::wait_for), without the exit status;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where the system does not tell whether a process lives.
    pub fn wait_for_pid(&self, pid: u32, at_most: Duration) -> Result<()> {
        let born = sockets::started(pid);
        listening(self.ports_on_addr(), at_most, || {
            let lives = sockets::is_running(pid)? && sockets::started(pid) == born;
            let exit = || ExitInfo {
                pid: Some(pid),
                how: "gone".to_owned(),
            };
            Ok((!lives).then(exit))
        })
    }

    /// Everything on the port, as [`who_holds`](crate::who_holds) tells it, for the protocols of the reservation.
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

/// The outcome of one poll. The caller pauses: by the thread, or by a runtime's timer.
#[derive(Debug)]
pub(crate) enum Poll {
    Met,
    Pause(Duration),
    Failed(WaitError),
}

/// Why a wait ended without its condition. Its report reads every process, so making it is a step of
/// its own.
#[derive(Debug)]
pub(crate) enum WaitError {
    TimedOut(Duration, Port, Verdict),
    EndedFirst(ExitInfo, Port),
    CannotTell(Port, Verdict),
    System(Port, io::Error),
}

/// How a process ended, and its pid if it is still known.
#[derive(Clone, Debug)]
pub(crate) struct ExitInfo {
    pub(crate) pid: Option<u32>,
    pub(crate) how: String,
}

impl WaitError {
    /// `blocked`: the wait blocked its thread, which may be the reason.
    pub(crate) fn into_error(self, blocked: bool) -> Error {
        match self {
            WaitError::TimedOut(waited, port, verdict) => {
                let report = diagnose::report(port, verdict);
                let report = if blocked {
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

    /// `ended` is asked first: a listener of a process that ended afterwards still shows, or is
    /// gone.
    pub(crate) fn poll(&mut self, ended: impl FnOnce() -> io::Result<Option<ExitInfo>>) -> Poll {
        let Some(&first) = self.ports.as_slice().first() else {
            return Poll::Met;
        };
        let end = match ended() {
            Ok(end) => end,
            Err(e) => return Poll::Failed(WaitError::System(first, e)),
        };
        while let Some(&port) = self.ports.as_slice().first() {
            match is_listening(port) {
                Ok(true) => self.ports.next(),
                Ok(false) => return self.not_yet(port, end),
                Err(e) => return Poll::Failed(WaitError::System(port, e)),
            };
        }
        Poll::Met
    }

    fn not_yet(&mut self, port: Port, end: Option<ExitInfo>) -> Poll {
        if let Some(end) = end {
            return Poll::Failed(WaitError::EndedFirst(end, port));
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
        let look = || {
            look(
                port,
                ServerKind::ReuseAddr,
                self.asker,
                &mut RetryBudget::new(),
            )
            .verdict
        };
        let pause = match quick_status(port, self.asker) {
            Ok(QuickStatus::Busy) => longest,
            Ok(QuickStatus::BusyExpensive) => FREE_PAUSE,
            Ok(QuickStatus::MaybeFree) => match look() {
                Verdict::Free => return Poll::Met,
                Verdict::InUse(_) => FREE_PAUSE,
                verdict => return Poll::Failed(WaitError::CannotTell(port, verdict)),
            },
            Err(e) => return Poll::Failed(WaitError::System(port, e)),
        };
        if let Some(left) = self.deadline.left() {
            return Poll::Pause(pause.min(left));
        }
        match look() {
            Verdict::Free => Poll::Met,
            verdict => Poll::Failed(WaitError::TimedOut(self.deadline.at_most, port, verdict)),
        }
    }
}

/// Polls until the wait ends, and blocks the thread in between.
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
    mut ended: impl FnMut() -> io::Result<Option<ExitInfo>>,
) -> Result<()> {
    let mut wait = Listening::new(ports, at_most);
    block_on(|| wait.poll(&mut ended))
}
