//! Waits: until something listens, until it lets go, or until the process that was to do it has ended. Here they block
//! the thread; the looks they are made of serve whoever pauses in another way.

use std::io;
use std::process::Child;
use std::time::{Duration, Instant};

use crate::inspect::availability::{Asker, QuickStatus, glance, is_free, matches_addr};
use crate::inspect::diagnose;
use crate::inspect::probe::{self, Reachability};
use crate::model::diagnosis::Verdict;
use crate::model::endpoint::{Endpoint, Protocol, ToEndpoint};
use crate::model::error::{Error, Result};
use crate::model::holder::Holders;
use crate::reservation::Reservation;
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
    listening(Endpoint::checked_of(&port)?, at_most, || Ok(None))
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
    let mut wait = Freeing::new(Endpoint::checked_of(&port)?, Asker::of(&port), at_most);
    blocking(|| wait.look())
}

impl Reservation {
    /// Waits until something listens on [`addr`](Reservation::addr), as [`wait_until_listening`] does.
    ///
    /// # Errors
    ///
    /// As [`wait_until_listening`].
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// p.wait_until_listening(std::time::Duration::from_secs(10))?;
    /// # drop(server);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_until_listening(&self, at_most: Duration) -> Result<()> {
        listening(self.endpoints(), at_most, || Ok(None))
    }

    /// Waits until the server on it is gone, on every address.
    ///
    /// # Errors
    ///
    /// As [`wait_until_free`].
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// p.wait_until_free(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn wait_until_free(&self, at_most: Duration) -> Result<()> {
        wait_until_free(self, at_most)
    }

    /// Waits until something listens on [`addr`](Reservation::addr), or fails as soon as the child ends.
    ///
    /// # Errors
    ///
    /// As [`wait_until_listening`], and [`Io`](crate::ErrorKind::Io) with the child's exit status if it ends first.
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
    pub fn wait_for(&self, child: &mut Child, at_most: Duration) -> Result<()> {
        let pid = child.id();
        listening(self.endpoints(), at_most, || {
            Ok(child
                .try_wait()?
                .map(|status| (Some(pid), status.to_string())))
        })
    }

    /// The same for a process that is not a child of this one's [`Command`](std::process::Command).
    ///
    /// # Errors
    ///
    /// As [`wait_for`](Reservation::wait_for), without the exit status;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where the system does not tell whether a process lives.
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// p.wait_for_pid(std::process::id(), std::time::Duration::from_secs(10))?;
    /// # drop(server);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_for_pid(&self, pid: u32, at_most: Duration) -> Result<()> {
        let born = sockets::started(pid);
        listening(self.endpoints(), at_most, || {
            let lives = sockets::is_running(pid)? && sockets::started(pid) == born;
            Ok((!lives).then(|| (Some(pid), "gone".to_owned())))
        })
    }

    /// Everything on the port, as [`who_holds`](crate::who_holds) tells it, for the protocols of the reservation.
    ///
    /// # Errors
    ///
    /// As [`who_holds`](crate::who_holds).
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// assert_eq!(p.holders()?.leases()[0].pid(), Some(std::process::id()));
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn holders(&self) -> Result<Holders> {
        diagnose::who_holds(self)
    }

    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        let at = |protocol: &Protocol| Endpoint {
            ip: Some(self.addr().ip()),
            ..Endpoint::of(self.port(), *protocol)
        };
        self.protocols().iter().map(at).collect()
    }
}

/// The first pauses are short, for a server that is nearly there; a look at the listeners costs some ten
/// microseconds.
const PAUSES: [Duration; 3] = [
    Duration::from_micros(100),
    Duration::from_micros(300),
    Duration::from_millis(1),
];

/// A look at every socket costs some hundred microseconds.
const LONG_PAUSE: Duration = Duration::from_millis(20);

/// How long one connection is tried, where there is no table to look at.
const CONNECT: Duration = Duration::from_millis(100);

/// What a look tells whoever waits. How to pause is theirs: by the thread, or by a runtime's timer.
#[derive(Debug)]
pub(crate) enum Poll {
    Met,
    Pause(Duration),
    Failed(WaitError),
}

/// Why a wait is over without its end. The report of it looks at every process, so it is asked for apart.
#[derive(Debug)]
pub(crate) enum WaitError {
    TimedOut(Duration, Endpoint, Verdict),
    EndedFirst(End, Endpoint),
    CannotTell(Endpoint, Verdict),
    CannotLook(Endpoint, io::Error),
}

/// How a process has ended, and its number where that is still known.
pub(crate) type End = (Option<u32>, String);

impl WaitError {
    /// `blocked`: the thread did nothing else meanwhile, which may be why.
    pub(crate) fn into_error(self, blocked: bool) -> Error {
        let report = diagnose::report;
        match self {
            WaitError::TimedOut(waited, endpoint, verdict) if blocked => {
                Error::timed_out(waited, report(endpoint, verdict).after_a_wait())
            }
            WaitError::TimedOut(waited, endpoint, verdict) => {
                Error::timed_out(waited, report(endpoint, verdict))
            }
            WaitError::EndedFirst((pid, how), endpoint) => {
                Error::ended_first(pid, &how, report(endpoint, Verdict::NotListening))
            }
            WaitError::CannotTell(endpoint, verdict) => {
                Error::cannot_tell(report(endpoint, verdict))
            }
            WaitError::CannotLook(endpoint, cause) => {
                Error::system("wait for", Some(endpoint), cause)
            }
        }
    }
}

/// How much longer, of a time that is not over yet.
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

    fn left(&self) -> Option<Duration> {
        self.at_most
            .checked_sub(self.started.elapsed())
            .filter(|left| !left.is_zero())
    }
}

/// A wait until something listens, on each endpoint in turn.
#[derive(Debug)]
pub(crate) struct Listening {
    endpoints: std::vec::IntoIter<Endpoint>,
    term: Deadline,
    pauses: std::array::IntoIter<Duration, 3>,
}

impl Listening {
    pub(crate) fn new(endpoints: Vec<Endpoint>, at_most: Duration) -> Self {
        Listening {
            endpoints: endpoints.into_iter(),
            term: Deadline::new(at_most),
            pauses: PAUSES.into_iter(),
        }
    }

    /// `ended` is asked first: what listened before it ended is still seen, or is gone.
    pub(crate) fn look(&mut self, ended: impl FnOnce() -> io::Result<Option<End>>) -> Poll {
        let Some(&first) = self.endpoints.as_slice().first() else {
            return Poll::Met;
        };
        let end = match ended() {
            Ok(end) => end,
            Err(e) => return Poll::Failed(WaitError::CannotLook(first, e)),
        };
        while let Some(&endpoint) = self.endpoints.as_slice().first() {
            match is_listening(endpoint) {
                Ok(true) => self.endpoints.next(),
                Ok(false) => return self.not_yet(endpoint, end),
                Err(e) => return Poll::Failed(WaitError::CannotLook(endpoint, e)),
            };
        }
        Poll::Met
    }

    fn not_yet(&mut self, endpoint: Endpoint, end: Option<End>) -> Poll {
        if let Some(end) = end {
            return Poll::Failed(WaitError::EndedFirst(end, endpoint));
        }
        match self.term.left() {
            Some(left) => Poll::Pause(self.pauses.next().unwrap_or(PAUSES[2]).min(left)),
            None => Poll::Failed(WaitError::TimedOut(
                self.term.at_most,
                endpoint,
                Verdict::NotListening,
            )),
        }
    }
}

/// A wait until each endpoint in turn is free.
#[derive(Debug)]
pub(crate) struct Freeing {
    endpoints: std::vec::IntoIter<Endpoint>,
    asker: Asker,
    term: Deadline,
}

impl Freeing {
    pub(crate) fn new(endpoints: Vec<Endpoint>, asker: Asker, at_most: Duration) -> Self {
        Freeing {
            endpoints: endpoints.into_iter(),
            asker,
            term: Deadline::new(at_most),
        }
    }

    pub(crate) fn look(&mut self) -> Poll {
        while let Some(&endpoint) = self.endpoints.as_slice().first() {
            match self.look_at(endpoint) {
                Poll::Met => self.endpoints.next(),
                step => return step,
            };
        }
        Poll::Met
    }

    fn look_at(&self, endpoint: Endpoint) -> Poll {
        let pause = match glance(endpoint, self.asker) {
            Ok(QuickStatus::Busy) => PAUSES[2],
            Ok(QuickStatus::LeaseLock) => LONG_PAUSE,
            Ok(QuickStatus::MaybeFree) => match is_free(endpoint, self.asker) {
                Verdict::Free => return Poll::Met,
                Verdict::InUse(_) => LONG_PAUSE,
                verdict => return Poll::Failed(WaitError::CannotTell(endpoint, verdict)),
            },
            Err(e) => return Poll::Failed(WaitError::CannotLook(endpoint, e)),
        };
        if let Some(left) = self.term.left() {
            return Poll::Pause(pause.min(left));
        }
        match is_free(endpoint, self.asker) {
            Verdict::Free => Poll::Met,
            verdict => Poll::Failed(WaitError::TimedOut(self.term.at_most, endpoint, verdict)),
        }
    }
}

/// Looks again and again, and leaves the thread to nobody in between.
fn blocking(mut look: impl FnMut() -> Poll) -> Result<()> {
    loop {
        match look() {
            Poll::Met => return Ok(()),
            Poll::Pause(pause) => std::thread::sleep(pause),
            Poll::Failed(vain) => return Err(vain.into_error(true)),
        }
    }
}

fn listening(
    endpoints: Vec<Endpoint>,
    at_most: Duration,
    mut ended: impl FnMut() -> io::Result<Option<End>>,
) -> Result<()> {
    let mut wait = Listening::new(endpoints, at_most);
    blocking(|| wait.look(&mut ended))
}

/// By the table, or by a connection where there is none.
pub(crate) fn is_listening(endpoint: Endpoint) -> io::Result<bool> {
    let protocol = endpoint.protocol.unwrap_or(Protocol::Tcp);
    match sockets::listening(endpoint.port, protocol) {
        Ok(rows) => Ok(rows.iter().any(|row| matches_addr(row, endpoint.ip))),
        Err(e) if e.kind() == io::ErrorKind::Unsupported && protocol == Protocol::Tcp => {
            Ok(probe::connect(endpoint, CONNECT) == Reachability::Accepts)
        }
        Err(e) => Err(e),
    }
}
