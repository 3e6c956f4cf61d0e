//! [`Holder`]: a socket on a port, with the processes that have it; [`Holders`]: all of them.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::slice;
use std::time::SystemTime;
use std::vec;

use crate::model::endpoint::Protocol;
use crate::model::record::Lease;

pub(crate) mod report;

pub(crate) use report::{connections, line};

/// What a socket is doing.
///
/// ```
/// # if cfg!(target_os = "linux") {
/// let p = portlease::reserve_port();
/// let server = p.listen()?;
/// let holders = portlease::who_holds(&p)?;
/// let listener = holders.iter().find(|holder| holder.state == portlease::State::Listen).unwrap();
/// println!("{:?}", listener.state);
/// # drop(server);
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// A TCP socket that takes connections.
    Listen,
    /// Has the port and nothing more: a TCP socket that neither listens nor connects, a UDP socket without a peer.
    Bound,
    /// A UDP socket with a peer.
    Connected,
    /// A TCP connection.
    Established,
    /// A TCP connection asked for and not answered.
    SynSent,
    /// A TCP connection about to come in.
    SynRecv,
    /// Closed on this side; the peer has not confirmed it.
    FinWait1,
    /// Closed on this side and confirmed; the peer has not closed its own.
    FinWait2,
    /// Closed by the peer, not on this side.
    CloseWait,
    /// Closed on both sides at once.
    Closing,
    /// Closed by the peer, then on this side; not yet confirmed.
    LastAck,
    /// Closed, and kept by the kernel for late packets: 60 s on Linux. No process has it.
    TimeWait,
    /// A state that this release does not know, by the kernel's number.
    Unknown(u8),
}

impl State {
    /// The name in lower case, as the command's JSON has it: `listen`, `close_wait`, `unknown_17`.
    ///
    /// ```
    /// # if cfg!(target_os = "linux") {
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let holders = portlease::who_holds(&p)?;
    /// let listener = holders.iter().find(|holder| holder.state == portlease::State::Listen).unwrap();
    /// assert_eq!(listener.state.name(), "listen");
    /// # drop(server);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn name(self) -> String {
        match self {
            State::Listen => "listen",
            State::Bound => "bound",
            State::Connected => "connected",
            State::Established => "established",
            State::SynSent => "syn_sent",
            State::SynRecv => "syn_recv",
            State::FinWait1 => "fin_wait1",
            State::FinWait2 => "fin_wait2",
            State::CloseWait => "close_wait",
            State::Closing => "closing",
            State::LastAck => "last_ack",
            State::TimeWait => "time_wait",
            State::Unknown(number) => return format!("unknown_{number}"),
        }
        .to_owned()
    }
}

/// A process that has a socket, as it was when it was found.
///
/// Its command line is not here, for it carries secrets: [`command_line`](Process::command_line) reads it.
///
/// ```
/// # if cfg!(target_os = "linux") {
/// let p = portlease::reserve_port();
/// let server = p.listen()?;
/// let holders = portlease::who_holds(&p)?;
/// let listener = holders.iter().find(|holder| holder.state == portlease::State::Listen).unwrap();
/// let process = &listener.processes[0];
/// assert_eq!(process.pid, std::process::id());
/// println!("{}, {:?}", process.name, process.program);
/// # drop(server);
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// The number of the process that started it, or that took it over.
    pub parent: Option<u32>,
    /// The name that the kernel has for it (on Linux at most 15 bytes, and the process can change it). It can hold
    /// any character; the reports of this crate escape it.
    pub name: String,
    /// The path of its program, where it may be seen.
    pub program: Option<PathBuf>,
    /// The user it runs as; `None` on Windows.
    pub uid: Option<u32>,
    /// That user's name, from `/etc/passwd` alone.
    pub user: Option<String>,
    /// When it started; on Linux unknown where there is no `/proc/uptime` (mount option `subset=pid`).
    pub started: Option<SystemTime>,
    /// Its start in the system's own unit, to tell it from a later process with the same number.
    pub(crate) ticks: u64,
    /// A copy of its parent: it has not called exec since it was forked, or is in the middle of it.
    pub(crate) forked: bool,
}

/// A socket on a port, and the processes that have it.
///
/// ```
/// # if cfg!(target_os = "linux") {
/// let p = portlease::reserve_port();
/// let server = p.listen()?;
/// let holders = portlease::who_holds(&p)?;
/// let listener = holders.iter().find(|holder| holder.state == portlease::State::Listen).unwrap();
/// assert_eq!((listener.local, listener.remote), (p.addr(), None));
/// # drop(server);
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// The protocol.
    pub protocol: Protocol,
    /// The address and port on this side.
    pub local: SocketAddr,
    /// Those of the peer, if there is one.
    pub remote: Option<SocketAddr>,
    /// What the socket is doing.
    pub state: State,
    /// The user who made the socket; `None` where nobody has it any more, and on Windows.
    pub uid: Option<u32>,
    /// That user's name, from `/etc/passwd` alone.
    pub user: Option<String>,
    /// The kernel's number of the socket; 0 where no process has it: TIME_WAIT, a closed socket that the kernel still
    /// finishes, or a connection that no server has accepted yet. Windows numbers no sockets: there it is made of the
    /// process and the addresses.
    pub inode: u64,
    /// A socket on `[::]` that serves IPv4 as well. Linux tells it while a socket listens or is bound; Windows does not,
    /// and every socket on `[::]` is taken for one.
    pub dual_stack: bool,
    /// The holder dialled out: nothing on this port could have accepted the connection. (The kernel does not keep
    /// who dialled. A connection that was accepted by a listener that is closed by now looks like this too.)
    pub client: bool,
    /// Somebody has it, and no process of theirs can be seen: it is another user's, in another container, or not in
    /// a process at all.
    pub hidden: bool,
    /// Every process that has it, the oldest first. A connection that nobody has accepted yet is its listener's.
    pub processes: Vec<Process>,
}

/// Everything on one port: what [`who_holds`](crate::who_holds) answers.
///
/// Iterate for the sockets. `Display` is the report for people.
///
/// ```
/// # if cfg!(target_os = "linux") {
/// let p = portlease::reserve_port();
/// let server = p.listen()?;
/// let holders = portlease::who_holds(&p)?;
/// for holder in &holders {
///     println!("{:?} {}", holder.state, holder.local);
/// }
/// println!("{holders}"); // the same as a report for people
/// # drop(server);
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Holders {
    port: u16,
    protocol: Option<Protocol>,
    rows: Vec<Holder>,
    leases: Vec<Lease>,
    unseen: Vec<Incompleteness>,
}

impl Holders {
    /// Puts the sockets in the order of the report: listeners, bound ones, connections, TIME_WAIT.
    pub(crate) fn new(
        port: u16,
        protocol: Option<Protocol>,
        mut rows: Vec<Holder>,
        leases: Vec<Lease>,
        reasons: Vec<Incompleteness>,
    ) -> Self {
        rows.sort_by_cached_key(Holder::rank);
        let mut unseen = Vec::new();
        for reason in reasons {
            // Each once, in the order of the report.
            if let Err(at) = unseen.binary_search(&reason) {
                unseen.insert(at, reason);
            }
        }
        Holders {
            port,
            protocol,
            rows,
            leases,
            unseen,
        }
    }

    /// The port that was asked about.
    ///
    /// ```
    /// # if cfg!(target_os = "linux") {
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let holders = portlease::who_holds(&p)?;
    /// assert_eq!(holders.port(), p.port());
    /// # drop(server);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The sockets: listeners first, then bound ones, connections, TIME_WAIT.
    ///
    /// ```
    /// # if cfg!(target_os = "linux") {
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let holders = portlease::who_holds(&p)?;
    /// assert!(holders.iter().any(|holder| holder.state == portlease::State::Listen));
    /// # drop(server);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn iter(&self) -> slice::Iter<'_, Holder> {
        self.rows.iter()
    }

    /// How many sockets there are.
    ///
    /// ```
    /// # if cfg!(target_os = "linux") {
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let holders = portlease::who_holds(&p)?;
    /// assert_eq!(holders.len(), holders.iter().count());
    /// # drop(server);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether nothing was found: no socket and no reservation. It means that nobody holds the port only if
    /// [`is_complete`](Holders::is_complete).
    ///
    /// ```
    /// # if cfg!(target_os = "linux") {
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let holders = portlease::who_holds(&p)?;
    /// assert!(!holders.is_empty());
    /// # drop(server);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.leases.is_empty()
    }

    /// Whether everything could be seen. `false` where a socket's process is hidden, where processes that could
    /// share a socket may not be looked into, or where a part of the socket table could not be read. The report says
    /// which.
    ///
    /// ```
    /// # if cfg!(target_os = "linux") {
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let holders = portlease::who_holds(&p)?;
    /// if holders.is_empty() && !holders.is_complete() {
    ///     println!("nothing found, but not everything could be seen");
    /// }
    /// # drop(server);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn is_complete(&self) -> bool {
        self.unseen.is_empty() && self.rows.iter().all(|holder| !holder.hidden)
    }

    /// The reservations of this port, of this process and others.
    ///
    /// ```
    /// # if cfg!(target_os = "linux") {
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let holders = portlease::who_holds(&p)?;
    /// assert_eq!(holders.leases()[0].pid(), Some(std::process::id()));
    /// # drop(server);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn leases(&self) -> &[Lease] {
        &self.leases
    }

    /// The reservation whose own socket this is.
    pub(crate) fn lease_of(&self, holder: &Holder) -> Option<&Lease> {
        let is_claim = |lease: &&Lease| {
            lease
                .record()
                .is_some_and(|record| record.socket == holder.inode)
        };
        self.leases
            .iter()
            .filter(|_| holder.inode != 0 && holder.state == State::Bound)
            .find(is_claim)
    }
}

impl IntoIterator for Holders {
    type Item = Holder;
    type IntoIter = vec::IntoIter<Holder>;

    fn into_iter(self) -> Self::IntoIter {
        self.rows.into_iter()
    }
}

impl<'a> IntoIterator for &'a Holders {
    type Item = &'a Holder;
    type IntoIter = slice::Iter<'a, Holder>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Why an answer may lack something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(dead_code, reason = "every system has its own blind spots")]
pub(crate) enum Incompleteness {
    /// The sockets of this protocol could not be read.
    Sockets(Protocol),
    /// TCP sockets that neither listen nor connect are not shown.
    Bound,
    /// TCP sockets that no process has are not shown.
    Ownerless,
    /// The table kept changing while it was read.
    Changed(Protocol),
    /// There is no `/proc`.
    Proc,
    /// Some processes may not be looked into.
    Processes,
    /// A reservation of this protocol has no record here: its lock folder is another one, or could not be used.
    Lease(Protocol),
    /// A process has been sent descriptors that it has not received yet; the socket may be one of them.
    InFlight(u32),
}

impl Incompleteness {
    /// Whether it keeps processes from view; else it is sockets.
    fn is_of_processes(self) -> bool {
        matches!(
            self,
            Incompleteness::Proc | Incompleteness::Processes | Incompleteness::InFlight(_)
        )
    }
}

impl fmt::Display for Incompleteness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Incompleteness::Sockets(protocol) => write!(f, "the {protocol} sockets could not be read"),
            Incompleteness::Bound => f.write_str(
                "TCP sockets that are bound without listening could not be read (Linux shows them since 6.8)",
            ),
            Incompleteness::Ownerless => {
                f.write_str("TCP sockets that no process has, such as those in TIME_WAIT, are not shown here")
            }
            Incompleteness::Changed(protocol) => {
                write!(f, "the {protocol} sockets kept changing while they were read")
            }
            Incompleteness::Proc => f.write_str("processes could not be read: there is no /proc"),
            Incompleteness::Processes => f.write_str("some processes could not be read: you may not look into them"),
            Incompleteness::Lease(protocol) => {
                write!(f, "the {protocol} port is reserved by a process whose record cannot be seen here")
            }
            Incompleteness::InFlight(pid) => {
                write!(
                    f,
                    "pid {pid} has been sent descriptors that it has not received, and the socket may be one of them"
                )
            }
        }
    }
}
