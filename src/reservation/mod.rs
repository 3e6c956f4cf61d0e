//! [`Reservation`] keeps a port reserved while the value lives.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};

use crate::claim;
use crate::lease::LeaseLock;
use crate::link_local;
use crate::localhost::one_address;
use crate::model::endpoint::{Endpoint, Protocol};
use crate::model::error::{Error, Result};
use crate::model::port::Port;
use crate::model::record::StableName;
use crate::model::server_kind::ServerKind;
use crate::model::to_endpoint::{ToEndpoint, sealed};
use crate::residual;
use crate::retry::RetryBudget;

mod leak_check;
mod part;

pub(crate) use leak_check::{FindLeak, LeakCheck, OnLeak};
pub(crate) use part::ProtocolReservation;

/// How firmly a reservation keeps its port: see [the guarantees](crate#guarantees).
///
/// ```
/// # if cfg!(target_os = "linux") {
/// assert_eq!(portlease::reserve_port().guarantee(), portlease::Guarantee::Kernel);
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Guarantee {
    /// A lease (a locked file) keeps the port from other processes that use this crate. The kernel
    /// may assign the number to another socket.
    BestEffort,
    /// A lease (a locked file) keeps the port from other processes that use this crate. The kernel
    /// never assigns the number by itself.
    Cooperative,
    /// A claim (a bound socket of this crate) keeps the port. The kernel assigns the port to no
    /// other socket by itself. The kernel also refuses every second claim and every bind without
    /// the reuse options, from any process.
    Kernel,
}

/// A reserved port. While this value lives, this crate reserves the port for no other caller in the
/// same network namespace with the same lock folder. [`guarantee`](Reservation::guarantee) says
/// which other programs the reservation excludes.
///
/// Start the server by [number](Reservation::port) as often as you like, or get a listener from
/// [`listen`](Reservation::listen). The reservation stays in force while the server runs, so the
/// server can be stopped and started again. Until a server listens, a connection to the port is
/// refused, on Unix at once.
///
/// A `&Reservation` is an address for `TcpListener::bind`, `TcpStream::connect` and every other
/// function that takes the standard library's `ToSocketAddrs`. tokio's trait of the same name is
/// sealed. So pass [`p.addr()`](Reservation::addr) to tokio:
/// `tokio::net::TcpListener::bind(p.addr())`.
///
/// The reservation ends when this value is dropped, or when the process ends, even if it is killed.
/// Only a forked child [keeps it](crate::docs::guarantees#if-the-process-dies) for longer, until
/// the child calls exec or ends.
///
/// The reservation also ends if other code closes this crate's descriptors. A library that turns
/// the process into a daemon may do that, so call such a library before you reserve.
/// [`guarantee`](Reservation::guarantee) and [`lease_error`](Reservation::lease_error) do not show
/// that the descriptors were closed. The process may later open other files under the same
/// descriptor numbers. A drop does not write to these files, and does not close them.
///
/// The first two lines drop the reservation at once, which is a common mistake. The last two lines
/// keep the reservation:
///
/// ```
/// let port = portlease::reserve_port().port(); // dropped already: no longer reserved
/// let _ = portlease::reserve_port();           // the same
/// let _keep = portlease::reserve_port();       // reserved to the end of the block
/// let kept = portlease::reserve_port().leak(); // reserved to the end of the process
/// # let _ = (port, kept);
/// ```
#[must_use = "a reservation ends when it is dropped: keep it in a variable, or `leak` it"]
pub struct Reservation {
    /// Rust drops the first field first. So the leak check runs while the reservation is still in
    /// force.
    leak_check: Option<LeakCheck>,
    /// One part for each protocol, TCP first.
    parts: Vec<ProtocolReservation>,
    label: Option<String>,
    name: Option<StableName>,
    server: ServerKind,
}

impl Reservation {
    pub(crate) fn new(
        mut parts: Vec<ProtocolReservation>,
        label: Option<String>,
        name: Option<StableName>,
        server: ServerKind,
        on_leak: Option<(OnLeak, FindLeak)>,
    ) -> Self {
        if let [first, second] = parts.as_mut_slice() {
            second.guard.join(&first.guard);
        }
        let ports = || parts.iter().map(|part| part.port).collect();
        Reservation {
            leak_check: on_leak.map(|(action, find)| LeakCheck::new(action, find, ports())),
            parts,
            label,
            name,
            server,
        }
    }

    /// Turns off the check for servers that still run when the reservation is dropped.
    pub(crate) fn without_leak_check(mut self) -> Self {
        if let Some(check) = &mut self.leak_check {
            check.disarm();
        }
        self
    }

    /// The kind of server that the port was reserved for.
    pub(crate) fn server_kind(&self) -> ServerKind {
        self.server
    }

    /// The reserved ports, without an address.
    pub(crate) fn ports(&self) -> impl Iterator<Item = Port> {
        self.parts.iter().map(|part| part.port)
    }

    /// The port as error messages name it. For a reservation of TCP and UDP, the number alone.
    pub(crate) fn operand(&self) -> String {
        match self.parts.as_slice() {
            [part] => part.port.to_string(),
            _ => self.port().to_string(),
        }
    }

    /// The port number.
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// let argument = format!("--port={}", p.port());
    /// assert_eq!(argument, format!("--port={p}"));
    /// ```
    pub fn port(&self) -> u16 {
        self.parts[0].port.number
    }

    /// `127.0.0.1` with the port number. Pass this address to functions that take no reservation,
    /// such as those of tokio, hyper and axum.
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// assert_eq!(p.addr().to_string(), format!("127.0.0.1:{p}"));
    /// ```
    pub fn addr(&self) -> SocketAddr {
        self.addr_on(Ipv4Addr::LOCALHOST)
    }

    /// The address `ip` with the port number. A reservation covers every address of the machine.
    ///
    /// On Linux a link-local IPv6 address gets the scope id of an interface that has this address,
    /// if `/proc` shows one.
    ///
    /// ```
    /// use std::net::Ipv6Addr;
    ///
    /// let p = portlease::reserve_port();
    /// assert_eq!(p.addr_on(Ipv6Addr::LOCALHOST).to_string(), format!("[::1]:{p}"));
    /// ```
    pub fn addr_on(&self, ip: impl Into<IpAddr>) -> SocketAddr {
        link_local::socket_addrs(one_address(ip.into()), 0, self.port())[0]
    }

    /// The protocols that the port is reserved for.
    ///
    /// ```
    /// use portlease::Protocol;
    ///
    /// let dns = portlease::ReserveOptions::new().tcp_and_udp().reserve()?;
    /// assert_eq!(dns.protocols(), [Protocol::Tcp, Protocol::Udp]);
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn protocols(&self) -> &[Protocol] {
        match (self.parts.len(), self.parts[0].port.protocol) {
            (1, Protocol::Tcp) => &[Protocol::Tcp],
            (1, _) => &[Protocol::Udp],
            _ => &[Protocol::Tcp, Protocol::Udp],
        }
    }

    /// The guarantee level; for a TCP+UDP pair the weaker of the two.
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// println!("{:?}", p.guarantee()); // Kernel, on Linux
    /// ```
    pub fn guarantee(&self) -> Guarantee {
        self.parts
            .iter()
            .map(ProtocolReservation::guarantee)
            .min()
            .unwrap_or(Guarantee::BestEffort)
    }

    /// Why no lock file records this reservation, or for a TCP+UDP pair why only one protocol is
    /// recorded. For example, the lock folder is read-only, or the disk is full. `None` if the
    /// reservation is recorded.
    ///
    /// The port is still reserved. But [`reservations`](crate::reservations) omits the reservation,
    /// or lists it without its process. Reports of other processes do not say who made the
    /// reservation.
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// if let Some(error) = p.lease_error() {
    ///     eprintln!("{error}"); // cannot use the lock folder "/tmp/portlease": …
    /// }
    /// ```
    pub fn lease_error(&self) -> Option<&str> {
        let mut parts = self.parts.iter();
        let error = parts.find_map(|part| part.lease.as_ref().err().or(part.unrecorded.as_ref()));
        error.map(String::as_str)
    }

    /// The label set with [`ReserveOptions::label`](crate::ReserveOptions::label).
    ///
    /// ```
    /// assert_eq!(portlease::reserve_port().label(), None);
    /// ```
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// The stable name set with [`ReserveOptions::named`](crate::ReserveOptions::named). `None`
    /// without a name, or if [`first_choice`](Reservation::first_choice) is unknown, for example
    /// because the options allow only preferred numbers.
    ///
    /// ```
    /// assert_eq!(portlease::reserve_port().name(), None);
    /// ```
    pub fn name(&self) -> Option<&str> {
        Some(self.name.as_ref()?.name.as_str())
    }

    /// The number that the [name](Reservation::name) stands for. A call with this name tries its
    /// [preferred](crate::ReserveOptions::prefer) numbers first, and then the number of the name.
    /// If the call reserved another number, [`port`](Reservation::port) returns that number. `None`
    /// if `name` returns `None`.
    ///
    /// ```
    /// let p = portlease::ReserveOptions::new().named("db of the docs").reserve()?;
    /// if p.first_choice() != Some(p.port()) {
    ///     eprintln!("the number of \"db of the docs\" is taken, so this run uses {p}");
    /// }
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn first_choice(&self) -> Option<u16> {
        Some(self.name.as_ref()?.first_choice)
    }

    /// A UDP socket bound to [`addr`](Reservation::addr). The reservation stays in force.
    ///
    /// ```
    /// let p = portlease::reserve_udp_port();
    /// let server = p.udp_socket()?;
    /// assert_eq!(server.local_addr()?, p.addr());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `InvalidInput` if the reservation does not include UDP. Otherwise the error of the system,
    /// such as `AddrInUse` while another socket is bound to the port. The call retries before it
    /// returns `AddrInUse`, as [`listen`](Reservation::listen) does.
    ///
    /// # Platform-specific behavior
    ///
    /// On Windows the socket has SO_EXCLUSIVEADDRUSE set.
    pub fn udp_socket(&self) -> io::Result<UdpSocket> {
        self.requires(Protocol::Udp)?;
        self.retry_bind(Protocol::Udp, || claim::udp_socket(self.addr()))
    }

    /// Repeats `bind` while it fails with "address in use" and a retry can help.
    fn retry_bind<T>(&self, protocol: Protocol, bind: impl Fn() -> io::Result<T>) -> io::Result<T> {
        let port = Port::new(self.port(), protocol);
        let mut budget = RetryBudget::new();
        loop {
            match bind() {
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse
                        && budget.pause(|| residual::owner_of_servers(port)) => {}
                outcome => return outcome,
            }
        }
    }

    fn requires(&self, protocol: Protocol) -> io::Result<()> {
        if self.protocols().contains(&protocol) {
            Ok(())
        } else {
            Err(Error::not_reserved_for(self.parts[0].port, protocol).into())
        }
    }

    /// A listener on [`addr`](Reservation::addr). The call uses bind(2) with SO_REUSEADDR, then
    /// listen(2). The reservation stays in force.
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// assert_eq!(server.local_addr()?, p.addr());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `InvalidInput` if the reservation does not include TCP. Otherwise the error of the system,
    /// such as `AddrInUse` while another server listens on the port.
    ///
    /// A child that another thread forked may still have a copy of an earlier listener, until the
    /// child calls exec. While only such children have the port, the call retries for about 2 s at
    /// most. On Windows, and if no owner is visible, it retries for 100 ms.
    ///
    /// # Platform-specific behavior
    ///
    /// On Windows the listener has SO_EXCLUSIVEADDRUSE set instead of SO_REUSEADDR.
    pub fn listen(&self) -> io::Result<TcpListener> {
        self.listen_on(Ipv4Addr::LOCALHOST)
    }

    /// [`listen`](Reservation::listen) on another address of this machine. On `[::]` the system
    /// decides whether the listener serves IPv4 too.
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// let server = p.listen_on(std::net::Ipv4Addr::UNSPECIFIED)?;
    /// assert_eq!(server.local_addr()?.port(), p.port());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`listen`](Reservation::listen), and `AddrNotAvailable` for an address that
    /// this machine does not have.
    pub fn listen_on(&self, ip: impl Into<IpAddr>) -> io::Result<TcpListener> {
        self.requires(Protocol::Tcp)?;
        let addr = self.addr_on(ip);
        self.retry_bind(Protocol::Tcp, || claim::listen(addr))
    }

    /// Keeps the port until this process exits, and returns the number. `reserve_port().port()`
    /// would drop the reservation at once.
    ///
    /// ```
    /// const TEST_SERVER: &str = "127.0.0.1";
    /// let number: u16 = portlease::reserve_port().leak();
    /// println!("http://{TEST_SERVER}:{number}");
    /// ```
    pub fn leak(self) -> u16 {
        let port = self.port();
        std::mem::forget(self);
        port
    }
}

/// Prints the port number.
impl fmt::Display for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.port().fmt(f)
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("port", &self.port())
            .field("protocols", &self.protocols())
            .field("guarantee", &self.guarantee())
            .field("label", &self.label)
            .field("name", &self.name())
            .field(
                "claimed",
                &self.parts.iter().any(|part| part.claim.is_some()),
            )
            .field("leased", &self.parts.iter().all(|part| part.lease.is_ok()))
            .field(
                "recorded",
                &self
                    .parts
                    .iter()
                    .all(|part| part.lease.as_ref().is_ok_and(LeaseLock::is_recorded)),
            )
            .finish()
    }
}

/// Yields one address, [`addr`](Reservation::addr).
impl ToSocketAddrs for Reservation {
    type Iter = std::option::IntoIter<SocketAddr>;

    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        Ok(Some(self.addr()).into_iter())
    }
}

impl sealed::Sealed for &Reservation {
    fn reservation(&self) -> Option<u64> {
        Some(self.parts[0].guard.id())
    }
}

/// The endpoint is the reserved port on every address, with its protocol. For a reservation of TCP
/// and UDP the endpoint has no protocol.
impl ToEndpoint for &Reservation {
    fn to_endpoint(&self) -> Result<Endpoint> {
        Ok(match self.parts.as_slice() {
            [part] => part.port.endpoint(),
            parts => Endpoint {
                protocol: None,
                ..parts[0].port.endpoint()
            },
        })
    }
}
