//! [`ReserveOptions`]: which ports to reserve, and how.

use std::ops::{Bound, RangeBounds};
use std::time::Duration;

use super::explain::explain;
use crate::acquire;
use crate::model::endpoint::Protocol;
use crate::model::error::{Error, Result};
use crate::model::offsets::Offsets;
use crate::model::port_set::PortSet;
use crate::model::server_kind::ServerKind;
use crate::reservation::Reservation;

/// Which port to reserve, and how.
///
/// Without any option, [`reserve`](Self::reserve) reserves what
/// [`reserve_port`](crate::reserve_port) reserves: a TCP port for a server that sets SO_REUSEADDR,
/// as practically all servers do. On Linux the kernel normally chooses the number. On other systems
/// this crate chooses it, if possible outside the ephemeral range.
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
    pub(super) ports: Vec<u16>,
    pub(super) range: Option<(Bound<u16>, Bound<u16>)>,
    pub(super) prefer: Vec<u16>,
    pub(super) exclude: PortSet,
    pub(super) aligned: u16,
    pub(super) wait: Duration,
    pub(super) label: Option<String>,
    pub(super) command: Option<String>,
    pub(super) name: Option<String>,
    pub(super) strict: bool,
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
            ports: Vec::new(),
            range: None,
            prefer: Vec::new(),
            exclude: PortSet::default(),
            aligned: 1,
            wait: Duration::ZERO,
            label: None,
            command: None,
            name: None,
            strict: false,
            on_behalf_of: None,
        }
    }

    /// Reserves a UDP port instead of a TCP port.
    ///
    /// A UDP server rarely sets the reuse options, so it could not bind beside a claim (a bound
    /// socket of this crate). Instead, a lease (a locked file) keeps the port from other processes
    /// that use this crate. The call prefers numbers that the kernel never assigns by itself. These
    /// numbers have the guarantee [`Cooperative`](crate::Guarantee::Cooperative). An ephemeral
    /// number has only the guarantee [`BestEffort`](crate::Guarantee::BestEffort). If the system
    /// does not report its ephemeral range, every number has `BestEffort`.
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
    /// A server that sets neither SO_REUSEADDR nor SO_REUSEPORT cannot bind while a claim (a bound
    /// socket of this crate) exists. So with `false` a lease (a locked file) keeps the port. The
    /// call then prefers numbers that the kernel never assigns by itself, as it does with
    /// [`udp`](Self::udp).
    ///
    /// Examples of servers that need `false` are Python's bare `socketserver.TCPServer`, Erlang's
    /// `gen_tcp` with its defaults, and Java after `setReuseAddress(false)`. On Unix such a server
    /// cannot be restarted on a number while connections of that number are in TIME_WAIT, with or
    /// without a reservation.
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
    /// crate) exists. So a lease (a locked file) keeps the port instead. The call then prefers
    /// numbers that the kernel never assigns by itself, as it does with [`udp`](Self::udp).
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

    /// Reserves exactly this number. If the number is taken and its holder is visible, the error
    /// names the holder.
    ///
    /// For [`reserve_block`](Self::reserve_block) the number is the first of the block, and for
    /// [`reserve_offsets`](Self::reserve_offsets) it is the base number. The variable
    /// `PORTLEASE_RANGE` applies to these two calls if they reserve two or more ports. It does not
    /// apply to any other exact number.
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
    /// After a reservation or a server of this process has ended, a forked child can still have a
    /// copy of the closed socket, until the child calls exec. So the call retries. Without a
    /// [`wait`](Self::wait), a refused call normally returns an error within 150 ms. Exception:
    /// this limit is 2.5 s while a forked child that has not called exec holds the number, or while
    /// other processes check the lock file of the number.
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Reserves exactly these numbers, with [`reserve_many`](Self::reserve_many): all of them or
    /// none. The results are in the order of `ports`. If `reserve_many` is called for more ports,
    /// this crate picks the remaining ones.
    ///
    /// A call takes its exact numbers in ascending order, and keeps the lower ones while it
    /// [waits](Self::wait) for a higher one. Because of the order, calls that wait for the same
    /// numbers cannot deadlock. But tests that request their numbers in several calls can deadlock.
    /// So request all fixed numbers of a test in one call.
    ///
    /// ```
    /// # use portlease::{ReserveOptions, reserve_ports};
    /// # let [one, other] = reserve_ports().map(|p| p.port());
    /// let options = ReserveOptions::new().ports([one, other]); // such as 15432 and 16379
    /// let held = options.reserve_many(2)?;
    /// assert_eq!((held[0].port(), held[1].port()), (one, other));
    /// # Ok::<(), portlease::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The call that reserves returns [`InvalidPort`](crate::ErrorKind::InvalidPort) for a number
    /// that occurs twice, and for more numbers than ports to reserve. The call also returns this
    /// error if [`port`](Self::port) is set too. [`reserve_block`](Self::reserve_block) and
    /// [`reserve_offsets`](Self::reserve_offsets) return this error for more than one number. If a
    /// number is taken and its holder is visible, the error names the holder.
    pub fn ports(mut self, ports: impl IntoIterator<Item = u16>) -> Self {
        self.ports = ports.into_iter().collect();
        self
    }

    /// Reserves only numbers of this range and [preferred](Self::prefer) numbers. Automatic picks
    /// skip 65535 and the numbers that browsers and `fetch` refuse to connect to (the Fetch
    /// standard's port blocking). [`port`](Self::port), [`ports`](Self::ports) and
    /// [`prefer`](Self::prefer) can name the skipped numbers.
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
    /// them can be reserved, the call reserves any other allowed number. The call skips a preferred
    /// number that [`exclude`](Self::exclude) or `PORTLEASE_RANGE` rules out.
    ///
    /// For ports at fixed distances, such as a block, a preferred number is the base number, and
    /// every port must be in the range.
    ///
    /// ```
    /// // If the number is busy, the call reserves another one.
    /// let p = portlease::ReserveOptions::new().prefer([60315]).reserve()?;
    /// println!("{p}");
    /// # Ok::<(), portlease::Error>(())
    /// ```
    ///
    /// # Races
    ///
    /// Without a [`wait`](Self::wait), the call retries a busy preferred number for up to 100 ms if
    /// no owner is visible. If a forked child that has not called exec holds the number, the call
    /// retries for up to 2 s. Once 100 ms have passed since the first refusal, each further
    /// preferred number gets one try. For ports at fixed distances, each preferred base number gets
    /// one try.
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

    /// Reserves only multiples of `multiple`; 1 by default. For several ports at fixed distances
    /// the option applies to their base number. For example, an RTP stream takes an even number,
    /// and its control stream the next one.
    ///
    /// ```
    /// # use portlease::ReserveOptions;
    /// let pair = ReserveOptions::new().udp().aligned(2).reserve_block(2)?;
    /// assert!(pair[0].port().is_multiple_of(2));
    /// # Ok::<(), portlease::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The call that reserves returns [`InvalidPort`](crate::ErrorKind::InvalidPort) for 0, and for
    /// an exact number that is not a multiple. The call skips a preferred number that is not a
    /// multiple.
    pub fn aligned(mut self, multiple: u16) -> Self {
        self.aligned = multiple;
        self
    }

    /// If the port is busy, waits up to `at_most` until the port can be reserved. Tests in several
    /// processes that need the same port then run one after another.
    ///
    /// `at_most` replaces the retry budget of the call. The pause between two tries grows from
    /// about 0.2 ms to about 10 ms. For a range, where a try takes longer, the pause can grow to
    /// about 1 s.
    ///
    /// The call blocks the thread. On a current-thread async runtime nothing else runs meanwhile.
    /// So a server of that runtime cannot release the port during the call.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let p = portlease::reserve_port();
    /// let number = p.port();
    /// let waiter = std::thread::spawn(move || {
    ///     portlease::ReserveOptions::new().port(number).wait(Duration::from_secs(60)).reserve()
    /// });
    /// drop(p); // now the waiter can reserve it
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

    /// Labels the reservation. Reports about the port show the label to every process.
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

    /// Sets the command that runs under the reservation, for a program that reserves ports and
    /// starts other programs. Reports show the command to every process, in place of the source
    /// line of the call.
    ///
    /// With [`on_behalf_of`](Self::on_behalf_of), pass the name of the process for which the call
    /// reserves. In a text longer than 200 bytes, `…` replaces the middle. Pass no secret, because
    /// every user can read the text.
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

    /// Reserves the number that this name stands for: the same number for the same user, project
    /// and name, run after run. The number is computed from a hash of these three, so nothing is
    /// stored. You can bookmark the number or write it into a configuration.
    ///
    /// The project is the nearest folder that has `.git` (a file or a folder): the working
    /// directory itself or a folder above it. So each git worktree has its own numbers. Without
    /// such a folder the project is the working directory. If the variable `PORTLEASE_PROJECT` is
    /// set, its text identifies the project instead.
    ///
    /// If possible, the number is one that the kernel never assigns by itself. With a
    /// [range](Self::range) it is a number of the range. Without a range the call skips the numbers
    /// of common services, except those that the administrator withheld from the kernel (on Linux
    /// `ip_local_reserved_ports`).
    ///
    /// Each name has its own order of numbers. The call reserves the first free number of this
    /// order. If the first 256 numbers are taken, the call picks a number as if there were no name.
    /// If the call did not reserve the first number, [`Reservation::first_choice`] differs from
    /// [`port`](Reservation::port), and reports say so.
    ///
    /// Two names of a project can have the same first number. With 100 names and the default
    /// ephemeral range of Linux, about one project in eight has such a pair.
    ///
    /// With [`reserve_many`](Self::reserve_many) the name stands for one number per port. For a
    /// block the name stands for the first port of the block: the first number of the name's order
    /// at which the block fits.
    ///
    /// ```
    /// let number = |name| -> portlease::Result<u16> {
    ///     Ok(portlease::ReserveOptions::new().named(name).reserve()?.port())
    /// };
    /// assert_eq!(number("db")?, number("db")?);
    /// # Ok::<(), portlease::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The call that reserves returns [`InvalidPort`](crate::ErrorKind::InvalidPort) for an empty
    /// name, for an empty `PORTLEASE_PROJECT`, and for a name together with an exact number. It
    /// returns [`Io`](crate::ErrorKind::Io) if `PORTLEASE_PROJECT` is not set and the working
    /// directory cannot be read.
    ///
    /// # Platform-specific behavior
    ///
    /// The number depends on the user. On Unix the user is the owner of the files that this process
    /// creates. On Windows the path of the temporary directory stands for the user.
    ///
    /// The number of a name also depends on the system's ephemeral range, its list of reserved
    /// ports and its services file. A change of one of them can change the number.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Makes a test fail if the test does not stop its server. If this process or a descendant
    /// still listens on the port when the reservation is dropped, the drop panics, and the message
    /// names the process. If the thread already panics, the drop prints the message on stderr
    /// instead.
    ///
    /// The variable `PORTLEASE_ON_LEAK` applies to every reservation of a process. Its value
    /// `panic` does the same as this option. With `warn`, the drop prints the message on stderr and
    /// does not panic. libtest does not capture the printed message.
    ///
    /// Drop the server before the reservation. Variables are dropped in the reverse order of their
    /// declaration, and the fields of a struct in the order of their declaration. A
    /// [`Server`](crate::Server) ends its program before its reservation. [`Reservation::release`]
    /// returns an error instead of panicking.
    ///
    /// ```should_panic
    /// # if !cfg!(target_os = "linux") { panic!("only where the sockets can be read") }
    /// let p = portlease::ReserveOptions::new().strict().reserve()?;
    /// let forgotten = p.listen()?;
    /// drop(p); // port 41023/tcp was left listening: …
    /// # drop(forgotten);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The call that reserves returns [`InvalidPort`](crate::ErrorKind::InvalidPort) for a value of
    /// `PORTLEASE_ON_LEAK` other than `panic` and `warn`.
    ///
    /// # Races
    ///
    /// A listener that was closed a moment ago can stay open in a forked child until the child
    /// calls exec. While only such children have the listener, the drop retries, for about 2 s at
    /// most.
    ///
    /// # Platform-specific behavior
    ///
    /// On systems whose sockets or processes this crate cannot read, nothing is checked.
    pub fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// Reserves on behalf of the process `pid`. For that process and its descendants, the
    /// reservation counts as their own: if they call [`is_port_free`](crate::is_port_free), this
    /// reservation does not make the port busy. It only keeps a server without SO_REUSEADDR
    /// ([`ServerKind::Plain`](crate::ServerKind::Plain)) from binding, as their own reservation
    /// would. If another user runs the process `pid` on Unix, only a reservation of root has this
    /// effect.
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
    /// - [`Lease`](crate::ErrorKind::Lease) if `PORTLEASE_DIR` is no absolute path or is a link
    ///   that leads nowhere, or if the lock file of an exact port cannot be used. The same error
    ///   results if the lock folder cannot be used and no claim (a bound socket of this crate) can
    ///   keep the port.
    /// - [`Io`](crate::ErrorKind::Io) for other errors of the system, such as too many open files.
    ///
    /// # Races
    ///
    /// All retries of the call share one budget. If an exact port is refused, the call normally
    /// returns within 150 ms. Exception: this limit is 2.5 s while a forked child that has not
    /// called exec holds the port, or while other processes check the lock file of the port.
    ///
    /// The call repeats a failed pick, within the budget, in one case: the pick tried at most 64
    /// numbers, and sockets occupied some of them. A [`wait`](Self::wait) replaces the budget.
    #[track_caller]
    pub fn reserve(self) -> Result<Reservation> {
        let mut reservations = self.reserve_many(1)?;
        Ok(reservations
            .pop()
            .unwrap_or_else(|| unreachable!("reserve_many(1) returns one reservation")))
    }

    /// Reserves `n` ports with distinct numbers: all of them or none. With `n` = 0 the call returns
    /// an empty list and does not check the options.
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
    /// above 1, and for more ports than the options allow.
    #[track_caller]
    pub fn reserve_many(self, n: usize) -> Result<Vec<Reservation>> {
        if n == 0 {
            return Ok(Vec::new());
        }
        if let (Some(port), 2.., true) = (self.port, n, self.ports.is_empty()) {
            return Err(Error::many_of_one_number(port, n));
        }
        if self.ports.len() > n {
            return Err(Error::more_ports_than(n, self.ports.len()));
        }
        let asked = self.ports.clone();
        let request = self.validate(n)?;
        match acquire::reserve_many(&request, n) {
            Ok(mut ascending) => {
                let others = ascending.split_off(asked.len());
                let mut held = in_order_asked(&asked, ascending);
                held.extend(others);
                Ok(held)
            }
            Err(refused) => Err(explain(&request, refused)),
        }
    }

    /// Reserves `n` ports with consecutive numbers, in ascending order: all of them or none. With
    /// `n` = 0 the call returns an empty list and does not check the options.
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
        let Some(offsets) = Offsets::of_block(n) else {
            return Err(Error::block_cannot_fit(n, &(1..=u16::MAX)));
        };
        let request = self.validate_offsets(&offsets)?;
        acquire::reserve_offsets(&request, &offsets).map_err(|refused| explain(&request, refused))
    }

    /// Reserves the ports at these distances from one base number: all of them or none. Some
    /// servers derive further numbers from their port number. For example a node of a Redis Cluster
    /// also listens on its port number plus 10000.
    ///
    /// The results are in the order of `offsets`. If `offsets` is empty, the call reserves no port.
    /// `reserve_block(n)` is the same as the offsets from 0 to `n` - 1.
    ///
    /// [`port`](Self::port) and [`prefer`](Self::prefer) name the base number, and
    /// [`aligned`](Self::aligned) applies to it. Every port obeys the range and the exclusions.
    /// `PORTLEASE_RANGE` applies too. Exception: it does not apply if `port` names the base number
    /// and there is only one offset. The call reserves the ports in ascending order.
    ///
    /// ```
    /// # use portlease::ReserveOptions;
    /// let node = ReserveOptions::new().reserve_offsets([0, 10000])?;
    /// assert_eq!(node[1].port(), node[0].port() + 10000);
    /// # Ok::<(), portlease::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`reserve`](Self::reserve), with one retry budget for all ports. Besides,
    /// [`InvalidPort`](crate::ErrorKind::InvalidPort) for an offset that occurs twice, and for
    /// offsets that cannot fit into the allowed numbers.
    #[track_caller]
    pub fn reserve_offsets(
        self,
        offsets: impl IntoIterator<Item = u16>,
    ) -> Result<Vec<Reservation>> {
        let asked: Vec<u16> = offsets.into_iter().collect();
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        let offsets = Offsets::of(asked.clone()).map_err(Error::offset_twice)?;
        let request = self.validate_offsets(&offsets)?;
        match acquire::reserve_offsets(&request, &offsets) {
            Ok(ascending) => Ok(in_order_asked(&asked, ascending)),
            Err(refused) => Err(explain(&request, refused)),
        }
    }
}

/// Sorts the reservations into the order of `asked`, which has the requested ports or offsets.
/// `ascending` has one reservation for each of them, in ascending order.
fn in_order_asked(asked: &[u16], ascending: Vec<Reservation>) -> Vec<Reservation> {
    let mut places: Vec<usize> = (0..asked.len()).collect();
    places.sort_unstable_by_key(|place| asked[*place]);
    let mut placed: Vec<_> = places.into_iter().zip(ascending).collect();
    placed.sort_unstable_by_key(|(place, _)| *place);
    let reservations = placed.into_iter().map(|(_, reservation)| reservation);
    reservations.collect()
}

/// Returns [`ReserveOptions::new`]'s options.
impl Default for ReserveOptions {
    fn default() -> Self {
        Self::new()
    }
}
