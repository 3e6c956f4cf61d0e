//! [`Reservation`]: a port that stays free for whoever holds this value.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs};

use crate::claim::Claim;
use crate::diagnose;
use crate::diagnosis::Verdict;
use crate::endpoint::{Endpoint, Protocol, ToEndpoint, sealed};
use crate::error::{Error, Result};
use crate::lease::Held;
use crate::own::Entry;
use crate::table;

/// Who keeps the promise that a reserved port stays free.
///
/// ```
/// assert_eq!(portlease::reserve_port().guarantee(), portlease::Guarantee::Kernel);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Guarantee {
    /// A lease alone, on a number that the kernel may assign to somebody else.
    BestEffort,
    /// A lease, on a number that the kernel assigns to nobody by itself: cooperating processes keep off.
    Cooperative,
    /// A claim: the kernel gives the port to nobody it chooses for, and refuses every second claim and every bind
    /// without the reuse options, whoever asks.
    Kernel,
}

/// A reserved port: nobody else is given it while this value lives.
///
/// Start the server by [number](Reservation::port) as often as you like, or take a socket that is bound already from
/// [`listen`](Reservation::listen). The reservation stays in force beside the server, so that it can be stopped and
/// started again, and until something listens, connecting to it is refused at once.
///
/// It ends when it is dropped, or with the process, however that dies. The usual pitfalls:
///
/// ```
/// let port = portlease::reserve_port().port(); // dropped already: the number is anybody's
/// let _ = portlease::reserve_port();           // so is this one
/// let _keep = portlease::reserve_port();       // reserved to the end of the block
/// let kept = portlease::reserve_port().leak(); // reserved to the end of the process
/// # let _ = (port, kept);
/// ```
#[must_use = "a reservation ends when it is dropped: bind it to a name, or `leak` it"]
pub struct Reservation {
    // In drop order. The entry first: the number may be reserved again by another thread as soon as the rest is
    // gone. The claim before the lease: whoever gets the lease must find the port free.
    entry: Entry,
    claim: Option<Claim>,
    lease: Option<Held>,
    guarantee: Guarantee,
    port: u16,
    label: Option<String>,
}

impl Reservation {
    pub(crate) fn new(
        port: u16,
        claim: Option<Claim>,
        lease: Option<Held>,
        guarantee: Guarantee,
        label: Option<String>,
        socket: u64,
    ) -> Self {
        Reservation { entry: Entry::new(port, Protocol::Tcp, socket), claim, lease, guarantee, port, label }
    }

    /// The number.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1` and the number.
    pub fn addr(&self) -> SocketAddr {
        self.addr_on(Ipv4Addr::LOCALHOST)
    }

    /// This address and the number. The port is reserved on every address of the machine.
    pub fn addr_on(&self, ip: impl Into<IpAddr>) -> SocketAddr {
        SocketAddr::new(ip.into(), self.port)
    }

    /// What the port is reserved for.
    pub fn protocols(&self) -> &[Protocol] {
        &[Protocol::Tcp]
    }

    /// Who keeps the promise.
    pub fn guarantee(&self) -> Guarantee {
        self.guarantee
    }

    /// What [`ReserveOptions::label`](crate::ReserveOptions::label) was given.
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// A listener on [`addr`](Reservation::addr), by bind(2) with SO_REUSEADDR and listen(2). The reservation stays in
    /// force.
    ///
    /// # Errors
    ///
    /// Those of the system: `AddrInUse` while another server listens there.
    pub fn listen(&self) -> io::Result<TcpListener> {
        self.listen_on(Ipv4Addr::LOCALHOST)
    }

    /// The same on another address of this machine; on `[::]` the system decides whether it serves IPv4 too.
    ///
    /// # Errors
    ///
    /// Those of the system: `AddrNotAvailable` for an address the machine does not have.
    pub fn listen_on(&self, ip: impl Into<IpAddr>) -> io::Result<TcpListener> {
        // On Unix the standard library sets SO_REUSEADDR.
        TcpListener::bind(self.addr_on(ip))
    }

    /// Ends the reservation, either way, and tells whether its server was left running.
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let error = p.release().unwrap_err();
    /// assert_eq!(error.kind(), portlease::ErrorKind::InUse);
    /// println!("{error}"); // port 41023/tcp was left listening: my-test (pid 4100) listens on 127.0.0.1:41023
    /// # drop(server);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InUse`](crate::ErrorKind::InUse) with a [diagnosis](crate::Error::diagnosis) that names it, if something
    /// still listens on the port; [`Io`](crate::ErrorKind::Io) if the system did not let it look. On a system whose
    /// socket table cannot be read, nothing is told.
    pub fn release(self) -> Result<()> {
        let endpoint = Endpoint::of(self.port, Protocol::Tcp);
        let listening = match table::listening(self.port, Protocol::Tcp) {
            Ok(rows) => !rows.is_empty(),
            Err(e) if e.kind() == io::ErrorKind::Unsupported => false,
            Err(e) => return Err(Error::system("look at", Some(endpoint), e)),
        };
        if !listening {
            return Ok(());
        }
        let diagnosis = diagnose::report(endpoint, Verdict::Leaked);
        drop(self);
        Err(Error::left_listening(diagnosis))
    }

    /// Keeps the port until this process exits, and returns the number: what `reserve_port().port()` was meant to do.
    pub fn leak(self) -> u16 {
        let port = self.port;
        std::mem::forget(self);
        port
    }
}

/// The bare number.
impl fmt::Display for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.port.fmt(f)
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("port", &self.port)
            .field("protocols", &self.protocols())
            .field("guarantee", &self.guarantee)
            .field("label", &self.label)
            .field("claimed", &self.claim.is_some())
            .field("leased", &self.lease.is_some())
            .field("recorded", &self.lease.as_ref().is_some_and(Held::is_recorded))
            .finish()
    }
}

/// [`addr`](Reservation::addr).
impl ToSocketAddrs for Reservation {
    type Iter = std::option::IntoIter<SocketAddr>;

    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        Ok(Some(self.addr()).into_iter())
    }
}

impl sealed::Sealed for &Reservation {
    fn reservation(&self) -> Option<u64> {
        Some(self.entry.id())
    }
}

/// Its port, on every address.
impl ToEndpoint for &Reservation {
    fn to_endpoint(&self) -> Result<Endpoint> {
        Ok(Endpoint::of(self.port, Protocol::Tcp))
    }
}
