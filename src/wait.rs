//! Waits: until something listens, until it lets go, or until the process that was to do it has ended.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::Child;
use std::time::{Duration, Instant};

use crate::diagnose;
use crate::diagnosis::Verdict;
use crate::endpoint::{Endpoint, Protocol, ToEndpoint};
use crate::error::{Error, Result};
use crate::free::{Glance, Mine, concerns, glance, is_free};
use crate::holder::Holders;
use crate::reservation::Reservation;
use crate::table;

/// Waits until something listens on the port: a TCP socket that would accept a connection, or a UDP socket that is
/// bound. Without an address, on any of this machine's.
///
/// It looks at the socket table about every millisecond, and connects only on systems where that cannot be read: a
/// server that counts its connections sees none. It does not ask *who* listens: see
/// [`assert_port_held_by`](crate::assert_port_held_by).
///
/// The wait blocks the thread. On a current-thread async runtime nothing else runs meanwhile, the server neither.
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
    listening(&Endpoint::checked_of(&port)?, at_most, || Ok(None))
}

/// Waits until the port is free, in the sense of [`is_port_free`](crate::is_port_free): a server is gone, and no
/// connection of a client keeps the number.
///
/// It looks at the socket table, and binds only once nothing there is in the way.
///
/// The wait blocks the thread. On a current-thread async runtime nothing else runs meanwhile, the server neither.
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
    let started = Instant::now();
    for endpoint in Endpoint::checked_of(&port)? {
        free(endpoint, Mine::of(&port), at_most, started)?;
    }
    Ok(())
}

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
    /// It was refused at once: nothing listens there (nmap: closed).
    Refuses,
    /// Nothing came back in time: a firewall, a full accept queue (nmap: filtered).
    NoAnswer,
    /// It could not be tried.
    Failed(io::ErrorKind),
}

/// What a client would meet: tries **one TCP connection**, which a server that listens will see, and closes it.
///
/// For addresses of this machine; without one, `127.0.0.1`. It tells what the socket table does not: whether packets
/// get through.
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
    let Ok(endpoint) = addr.to_endpoint() else { return Reachability::Failed(io::ErrorKind::InvalidInput) };
    if endpoint.or_tcp().protocol != Some(Protocol::Tcp) {
        return Reachability::Failed(io::ErrorKind::Unsupported);
    }
    connect(endpoint, at_most)
}

fn connect(endpoint: Endpoint, at_most: Duration) -> Reachability {
    let ip = endpoint.ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    // The standard library refuses a time-out of nothing.
    let at_most = at_most.max(Duration::from_millis(1));
    match TcpStream::connect_timeout(&SocketAddr::new(ip, endpoint.port), at_most) {
        Ok(_) => Reachability::Accepts,
        Err(e) => match e.kind() {
            io::ErrorKind::ConnectionRefused => Reachability::Refuses,
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Reachability::NoAnswer,
            kind => Reachability::Failed(kind),
        },
    }
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
        listening(&self.endpoints(), at_most, || Ok(None))
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
        listening(&self.endpoints(), at_most, || {
            Ok(child.try_wait()?.map(|status| (pid, status.to_string())))
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
        let born = table::started(pid);
        listening(&self.endpoints(), at_most, || {
            let lives = table::is_running(pid)? && table::started(pid) == born;
            Ok((!lives).then(|| (pid, "gone".to_owned())))
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

    fn endpoints(&self) -> Vec<Endpoint> {
        let at = |protocol: &Protocol| Endpoint {
            ip: Some(self.addr().ip()),
            ..Endpoint::of(self.port(), *protocol)
        };
        self.protocols().iter().map(at).collect()
    }
}

/// The first pauses are short, for a server that is nearly there; a look at the listeners costs some ten
/// microseconds.
const PAUSES: [Duration; 3] =
    [Duration::from_micros(100), Duration::from_micros(300), Duration::from_millis(1)];

/// A look at every socket costs some hundred microseconds.
const LONG_PAUSE: Duration = Duration::from_millis(20);

/// How long one connection is tried, where there is no table to look at.
const CONNECT: Duration = Duration::from_millis(100);

fn listening(
    endpoints: &[Endpoint],
    at_most: Duration,
    mut ended: impl FnMut() -> io::Result<Option<(u32, String)>>,
) -> Result<()> {
    let started = Instant::now();
    let mut pauses = PAUSES.into_iter();
    for &endpoint in endpoints {
        let fail = |e: io::Error| Error::system("wait for", Some(endpoint), e);
        loop {
            // Asked first: what listened before it ended is still seen, or is gone.
            let end = ended().map_err(fail)?;
            if is_listening(endpoint).map_err(fail)? {
                break;
            }
            let report = || diagnose::report(endpoint, Verdict::NotListening);
            if let Some((pid, how)) = end {
                return Err(Error::ended_first(pid, &how, report()));
            }
            let Some(left) = at_most.checked_sub(started.elapsed()).filter(|left| !left.is_zero()) else {
                return Err(Error::timed_out(at_most, report()));
            };
            std::thread::sleep(pauses.next().unwrap_or(PAUSES[2]).min(left));
        }
    }
    Ok(())
}

/// By the table, or by a connection where there is none.
pub(crate) fn is_listening(endpoint: Endpoint) -> io::Result<bool> {
    let protocol = endpoint.protocol.unwrap_or(Protocol::Tcp);
    match table::listening(endpoint.port, protocol) {
        Ok(rows) => Ok(rows.iter().any(|row| concerns(row, endpoint.ip))),
        Err(e) if e.kind() == io::ErrorKind::Unsupported && protocol == Protocol::Tcp => {
            Ok(connect(endpoint, CONNECT) == Reachability::Accepts)
        }
        Err(e) => Err(e),
    }
}

fn free(endpoint: Endpoint, mine: Mine, at_most: Duration, started: Instant) -> Result<()> {
    loop {
        let look = glance(endpoint, mine);
        let pause = match look.map_err(|e| Error::system("wait for", Some(endpoint), e))? {
            Glance::Served => PAUSES[2],
            Glance::Held => LONG_PAUSE,
            Glance::Open => match is_free(endpoint, mine) {
                Verdict::Free => return Ok(()),
                Verdict::InUse(_) => LONG_PAUSE,
                verdict => return Err(Error::cannot_tell(diagnose::report(endpoint, verdict))),
            },
        };
        let Some(left) = at_most.checked_sub(started.elapsed()).filter(|left| !left.is_zero()) else {
            let verdict = is_free(endpoint, mine);
            if verdict == Verdict::Free {
                return Ok(());
            }
            return Err(Error::timed_out(at_most, diagnose::report(endpoint, verdict)));
        };
        std::thread::sleep(pause.min(left));
    }
}
