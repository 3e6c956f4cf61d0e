//! [`ReserveOptions`]: which ports to reserve, and how.

use std::ops::{Bound, RangeBounds};
use std::time::Duration;

use super::explain::explain;
use crate::acquire;
use crate::model::endpoint::Protocol;
use crate::model::error::{Error, Result};
use crate::model::port_set::PortSet;
use crate::model::server_kind::ServerKind;
use crate::reservation::Reservation;

/// Which port to reserve, and how.
///
/// Without any option, [`reserve`](Self::reserve) reserves what
/// [`reserve_port`](crate::reserve_port) reserves: a TCP port that the kernel chooses, for a server
/// that sets SO_REUSEADDR, as practically all servers do.
///
/// ```
/// use portlease::ReserveOptions;
///
/// let redis = ReserveOptions::new().prefer([6379]).label("redis primary").reserve()?;
/// let cluster = ReserveOptions::new().exclude([redis.port()]).reserve_many(3)?;
/// # Ok::<(), portlease::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "options reserve nothing until `reserve` is called"]
pub struct ReserveOptions {
    pub(super) protocols: &'static [Protocol],
    pub(super) server: ServerKind,
    pub(super) port: Option<u16>,
    pub(super) range: Option<(Bound<u16>, Bound<u16>)>,
    pub(super) prefer: Vec<u16>,
    pub(super) exclude: PortSet,
    pub(super) wait: Duration,
    pub(super) label: Option<String>,
    pub(super) command: Option<String>,
    pub(super) on_behalf_of: Option<u32>,
}

impl ReserveOptions {
    /// Options for a TCP port with any number.
    ///
    /// ```
    /// let p = portlease::ReserveOptions::new().reserve()?; // as reserve_port()
    /// # drop(p);
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn new() -> Self {
        ReserveOptions {
            protocols: &[Protocol::Tcp],
            server: ServerKind::ReuseAddr,
            port: None,
            range: None,
            prefer: Vec::new(),
            exclude: PortSet::default(),
            wait: Duration::ZERO,
            label: None,
            command: None,
            on_behalf_of: None,
        }
    }

    /// Reserves a UDP port instead of a TCP port.
    ///
    /// A UDP server rarely sets the reuse options, so it could not bind beside a claim (a bound
    /// socket of this crate). The port is therefore kept by a lease (a locked file), which other
    /// users of this crate respect. Its number is one that the kernel never assigns by itself:
    /// [`Guarantee::Cooperative`](crate::Guarantee::Cooperative). If no such number is free, the
    /// call reserves an ephemeral one: [`Guarantee::BestEffort`](crate::Guarantee::BestEffort).
    ///
    /// ```
    /// let p = portlease::ReserveOptions::new().udp().reserve()?;
    /// let server = std::net::UdpSocket::bind(p.addr())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn udp(mut self) -> Self {
        self.protocols = &[Protocol::Udp];
        self
    }

    /// Reserves one number for both protocols, as DNS and HTTP/3 servers need.
    ///
    /// ```
    /// let p = portlease::ReserveOptions::new().tcp_and_udp().reserve()?;
    /// let (tcp, udp) = (p.listen()?, p.udp_socket()?);
    /// assert_eq!(tcp.local_addr()?.port(), udp.local_addr()?.port());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn tcp_and_udp(mut self) -> Self {
        self.protocols = &[Protocol::Tcp, Protocol::Udp];
        self
    }

    /// Whether the TCP server sets SO_REUSEADDR before it binds; `true` by default. For a server
    /// that sets only SO_REUSEPORT, use [`server`](Self::server).
    ///
    /// A server that sets neither option cannot bind while a claim exists. A claim is this crate's
    /// own bound socket on the port. With `false` there is no claim: a lease (a locked file) keeps
    /// the port. As for [`udp`](Self::udp), the number is one that the kernel never assigns by
    /// itself, if such a number is free.
    ///
    /// Servers that need `false` are Python's bare `socketserver.TCPServer`, Erlang's `gen_tcp`
    /// with its defaults, and Java after `setReuseAddress(false)`. Such a server cannot be
    /// restarted on a number while connections of that number are in TIME_WAIT, with or without a
    /// reservation.
    ///
    /// ```
    /// let p = portlease::ReserveOptions::new().reuse_addr(false).reserve()?;
    /// assert!(p.guarantee() <= portlease::Guarantee::Cooperative);
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn reuse_addr(self, sets_it: bool) -> Self {
        self.server(if sets_it {
            ServerKind::ReuseAddr
        } else {
            ServerKind::Plain
        })
    }

    /// Which reuse options the TCP server sets before it binds;
    /// [`ReuseAddr`](ServerKind::ReuseAddr) by default.
    ///
    /// A [`Plain`](ServerKind::Plain) server cannot bind while a claim (a bound socket of this
    /// crate) exists. Its port is therefore kept like a UDP port: by a lease (a locked file), on a
    /// number that the kernel never assigns by itself.
    ///
    /// ```
    /// use portlease::{Guarantee, ReserveOptions, ServerKind};
    ///
    /// let p = ReserveOptions::new().server(ServerKind::Plain).reserve()?;
    /// assert!(p.guarantee() <= Guarantee::Cooperative);
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn server(mut self, kind: ServerKind) -> Self {
        self.server = kind;
        self
    }

    /// Reserves exactly this number. If it is taken, the error names its holder.
    ///
    /// `PORTLEASE_RANGE` does not apply to an exact number, because it limits only the numbers that
    /// this crate chooses. For [`reserve_block`](Self::reserve_block) the number is the first of
    /// the block, and `PORTLEASE_RANGE` applies to a block of two or more.
    ///
    /// ```
    /// # use portlease::{ErrorKind, ReserveOptions, reserve_port};
    /// let first = reserve_port();
    /// let second = ReserveOptions::new().port(first.port()).reserve();
    /// assert_eq!(second.unwrap_err().kind(), ErrorKind::InUse);
    /// ```
    ///
    /// # Races
    ///
    /// If a reservation or a server of this process ended a moment ago, a forked child can still
    /// have a copy of the closed socket, until it calls exec. The call then retries. A refused call
    /// returns an error within 150 ms, or within 2.5 s while a forked child that has not called
    /// exec holds the number. Neither a child that never calls exec nor an owner that cannot be
    /// seen extends these limits.
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Reserves only numbers of this range. Automatic picks skip 65535 and the numbers that
    /// browsers and `fetch` refuse to connect to (the Fetch standard's port blocking).
    /// [`port`](Self::port) and [`prefer`](Self::prefer) can name these numbers.
    ///
    /// ```
    /// # use portlease::ReserveOptions;
    /// let p = ReserveOptions::new().range(20000..=29999).reserve()?;
    /// assert!((20000..=29999).contains(&p.port()));
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn range(mut self, range: impl RangeBounds<u16>) -> Self {
        self.range = Some((range.start_bound().cloned(), range.end_bound().cloned()));
        self
    }

    /// Tries these numbers first, in this order, even outside the [range](Self::range). If none of
    /// them can be reserved, the call reserves any other allowed number. It skips a preferred
    /// number that [`exclude`](Self::exclude) or `PORTLEASE_RANGE` rules out.
    ///
    /// ```
    /// // If the number is busy, any other.
    /// let p = portlease::ReserveOptions::new().prefer([60315]).reserve()?;
    /// println!("{p}");
    /// # Ok::<(), portlease::Error>(())
    /// ```
    ///
    /// # Races
    ///
    /// If a preferred number is busy and no owner is visible, the call retries it for up to 100 ms.
    /// While a forked child that has not called exec holds it, the call retries it for up to 2 s.
    /// All preferred numbers share this time.
    pub fn prefer(mut self, ports: impl IntoIterator<Item = u16>) -> Self {
        self.prefer.extend(ports);
        self
    }

    /// Reserves none of these numbers.
    ///
    /// ```
    /// # use portlease::ReserveOptions;
    /// let p = ReserveOptions::new().range(20000..=20099).exclude([20080, 20043]).reserve()?;
    /// assert!(![20080, 20043].contains(&p.port()));
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn exclude(mut self, ports: impl IntoIterator<Item = u16>) -> Self {
        self.exclude.extend(ports);
        self
    }

    /// If the port is busy, waits for it, for at most `at_most`. Tests in several processes that
    /// need the same port then run one after another.
    ///
    /// This limit replaces the retry budget of the call. The pause between two tries grows from
    /// about 0.2 ms to about 10 ms. If each try walks a range, the pause is about 20 times the
    /// duration of the fastest try, but at most about 1 s.
    ///
    /// The call blocks the thread. On a current-thread async runtime nothing else runs meanwhile,
    /// not even a server of that runtime that has the port.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let p = portlease::reserve_port();
    /// let number = p.port();
    /// let waiter = std::thread::spawn(move || {
    ///     portlease::ReserveOptions::new().port(number).wait(Duration::from_secs(60)).reserve()
    /// });
    /// drop(p); // the waiter has it now
    /// assert_eq!(waiter.join().unwrap()?.port(), number);
    /// # Ok::<(), portlease::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`TimedOut`](crate::ErrorKind::TimedOut) if the port is still busy after `at_most`. The last
    /// try and the report take additional time. If waiting cannot help, the call returns its error
    /// at once.
    pub fn wait(mut self, at_most: Duration) -> Self {
        self.wait = at_most;
        self
    }

    /// A name for the reservation. Reports about the port show it to every process.
    ///
    /// ```
    /// let p = portlease::ReserveOptions::new().label("database of the login tests").reserve()?;
    /// assert_eq!(p.label(), Some("database of the login tests"));
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// The command that runs under the reservation, for a program that reserves ports and starts
    /// other programs. Reports show it to every process, in place of the source line of the call.
    ///
    /// With [`on_behalf_of`](Self::on_behalf_of), pass the name of that process. Of a text of more
    /// than 200 bytes, the middle is replaced by `…`. Pass no secret.
    ///
    /// ```
    /// let p = portlease::ReserveOptions::new().command("redis-server --port 6379").reserve()?;
    /// let lease = p.holders()?.leases()[0].clone();
    /// assert_eq!((lease.command(), lease.at()), (Some("redis-server --port 6379"), None));
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn command(mut self, command: impl Into<String>) -> Self {
        self.command = Some(command.into());
        self
    }

    /// Reserves on behalf of the process `pid`. For that process and its descendants, the
    /// reservation counts as their own: [`is_port_free`](crate::is_port_free) and the other checks
    /// do not report the port as reserved to them.
    ///
    /// The reservation still ends with the process that made it, not with the process `pid`. The
    /// option has no effect if the process `pid` does not exist, or on a system that does not
    /// report when a process started.
    ///
    /// ```
    /// # use portlease::{ReserveOptions, reservations};
    /// # let shell = std::process::id();
    /// // In a daemon that reserves ports for other processes.
    /// let p = ReserveOptions::new().on_behalf_of(shell).reserve()?;
    /// # let lease = reservations()?.into_iter().find(|lease| lease.port() == p.port()).unwrap();
    /// # assert_eq!(lease.on_behalf_of(), Some(shell));
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn on_behalf_of(mut self, pid: u32) -> Self {
        self.on_behalf_of = Some(pid);
        self
    }

    /// Reserves one port.
    ///
    /// ```
    /// let p = portlease::ReserveOptions::new().range(20000..=29999).reserve()?;
    /// assert!((20000..=29999).contains(&p.port()));
    /// # Ok::<(), portlease::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - [`InvalidPort`](crate::ErrorKind::InvalidPort) for port 0, for options that contradict
    ///   each other (such as a range of excluded ports only), and for a `PORTLEASE_RANGE` that is
    ///   no range.
    /// - [`InUse`](crate::ErrorKind::InUse), with a [diagnosis](Error::diagnosis), if the
    ///   [exact port](Self::port) is taken.
    /// - [`NoFreePort`](crate::ErrorKind::NoFreePort), with counts of the numbers that were tried,
    ///   if none of several numbers could be reserved.
    /// - [`TimedOut`](crate::ErrorKind::TimedOut) instead of `InUse` or `NoFreePort` after a
    ///   [`wait`](Self::wait).
    /// - [`PermissionDenied`](crate::ErrorKind::PermissionDenied) for a port that requires a
    ///   privilege, or that a sandbox or a security policy forbids.
    /// - [`Lease`](crate::ErrorKind::Lease) if `PORTLEASE_DIR` is no absolute path, or if the lock
    ///   file of an exact port cannot be used. It is also returned if the lock folder cannot be
    ///   used and no claim (a bound socket of this crate) can keep the port.
    /// - [`Io`](crate::ErrorKind::Io) if the process is out of file descriptors.
    ///
    /// # Races
    ///
    /// The call has one retry budget. If an exact port is refused, the call returns within 150 ms,
    /// or within 2.5 s while a forked child that has not called exec holds the port. Preferred
    /// numbers share that budget. The call also retries within it if it tried at most 64 numbers
    /// and all were refused. A [`wait`](Self::wait) replaces the budget.
    #[track_caller]
    pub fn reserve(self) -> Result<Reservation> {
        let request = self.validate(1)?;
        acquire::reserve(&request).map_err(|refused| explain(&request, refused))
    }

    /// Reserves `n` ports with distinct numbers: all of them or none. With `n` = 0 it reserves
    /// none.
    ///
    /// ```
    /// let nodes = portlease::ReserveOptions::new().label("node").reserve_many(3)?;
    /// assert_eq!(nodes.len(), 3);
    /// # Ok::<(), portlease::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`reserve`](Self::reserve), with one retry budget for all `n` ports. Besides,
    /// [`InvalidPort`](crate::ErrorKind::InvalidPort) for an [exact port](Self::port) with `n`
    /// above 1, or for more ports than the options allow.
    #[track_caller]
    pub fn reserve_many(self, n: usize) -> Result<Vec<Reservation>> {
        if n == 0 {
            return Ok(Vec::new());
        }
        if let (Some(port), 2..) = (self.port, n) {
            return Err(Error::many_of_one_number(port, n));
        }
        let request = self.validate(n)?;
        acquire::reserve_many(&request, n).map_err(|refused| explain(&request, refused))
    }

    /// Reserves `n` ports with consecutive numbers, in ascending order: all of them or none. With
    /// `n` = 0 it reserves none.
    ///
    /// Every number of the block obeys the range and the exclusions. The call tries each preferred
    /// number as the first number of a block.
    ///
    /// ```
    /// # use portlease::ReserveOptions;
    /// let block = ReserveOptions::new().reserve_block(4)?;
    /// assert_eq!(block[3].port(), block[0].port() + 3);
    /// # Ok::<(), portlease::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`reserve`](Self::reserve), with one retry budget for the whole block.
    /// Besides, [`InvalidPort`](crate::ErrorKind::InvalidPort) for a block that cannot fit into the
    /// allowed numbers.
    #[track_caller]
    pub fn reserve_block(self, n: usize) -> Result<Vec<Reservation>> {
        if n == 0 {
            return Ok(Vec::new());
        }
        let request = self.validate(n)?;
        acquire::reserve_block(&request, n).map_err(|refused| explain(&request, refused))
    }
}

/// Returns [`ReserveOptions::new`]'s options.
impl Default for ReserveOptions {
    fn default() -> Self {
        Self::new()
    }
}
