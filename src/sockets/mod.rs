//! The socket table: which sockets are on a port, and which processes have them.
//!
//! One function per act, alike on every system. Looking at sockets is cheap and touches no process; looking for
//! their processes is the expensive half, and asked for apart.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;

use crate::model::endpoint::Protocol;
use crate::model::error::{Error, Result};
use crate::model::holder::{Holder, Incompleteness, Process, State};

pub(crate) mod decode;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(any(not(any(target_os = "linux", target_os = "macos", windows)), test))]
mod unsupported;
#[cfg(windows)]
mod windows;

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;

#[cfg(target_os = "linux")]
use linux as system;
#[cfg(target_os = "macos")]
use macos as system;
#[cfg(not(any(target_os = "linux", target_os = "macos", windows)))]
use unsupported as system;
#[cfg(windows)]
use windows as system;

/// Whether a child has its parent's sockets until it execs.
pub(crate) const CHILDREN_SHARE: bool = cfg!(unix);

/// Whether a look at the listeners is one question to the system. macOS' is a walk over every process, and where there is
/// no table at all a connection has to tell.
#[cfg_attr(
    not(feature = "tokio"),
    allow(dead_code, reason = "without a runtime nobody is in the way of")
)]
pub(crate) const IS_QUICK: bool = cfg!(any(target_os = "linux", windows));

/// The sockets that were seen, and what could not be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub(crate) rows: Vec<Row>,
    pub(crate) unseen: Vec<Incompleteness>,
}

/// A socket, its processes not yet looked for: the fields of [`Holder`] that the table itself tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) protocol: Protocol,
    pub(crate) local: SocketAddr,
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) state: State,
    pub(crate) uid: Option<u32>,
    pub(crate) inode: u64,
    pub(crate) dual_stack: bool,
    pub(crate) client: bool,
}

/// How far to look for processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScanDepth {
    /// Every process that has one of the sockets.
    Complete,
    /// One process for each socket, the newest first: for a report that must not take long.
    FirstHit,
}

/// The rows with their processes.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnedRows {
    pub(crate) holders: Vec<Holder>,
    pub(crate) unseen: Vec<Incompleteness>,
}

/// What [`owners`] asks of a system.
#[derive(Clone, Debug, Default)]
pub(crate) struct ScanResult {
    /// Each process once, with those of the sockets that it has.
    pub(crate) found: Vec<(Process, Vec<u64>)>,
    pub(crate) unseen: Vec<Incompleteness>,
}

/// Every socket with this local port, of one protocol or of all.
///
/// # Errors
///
/// Where no table of sockets can be read at all; `Unsupported` on systems that have none yet.
pub(crate) fn sockets(port: u16, protocol: Option<Protocol>) -> io::Result<Table> {
    let mut table = system::sockets(port, protocol)?;
    label_clients(&mut table.rows);
    Ok(table)
}

/// The sockets that would answer on this port: TCP ones that listen, UDP ones that have no peer. Cheap enough to be
/// asked every millisecond.
pub(crate) fn listening(port: u16, protocol: Protocol) -> io::Result<Vec<Row>> {
    system::listening(port, protocol)
}

/// The sockets that matter most on this port: those of [`listening`], or, where there are none, all of the others.
/// As cheap as that while there are some; without them as dear as [`sockets`].
pub(crate) fn glance(port: u16, protocol: Protocol) -> io::Result<Table> {
    let rows = listening(port, protocol)?;
    if rows.is_empty() {
        sockets(port, Some(protocol))
    } else {
        Ok(Table {
            rows,
            unseen: Vec::new(),
        })
    }
}

/// The processes that have the abstract Unix socket of this name; `None` where nobody has, or there are no such names.
pub(crate) fn processes_named(name: &str) -> io::Result<Option<Vec<Process>>> {
    let Some(inode) = system::abstract_socket(name)? else {
        return Ok(None);
    };
    let search = system::processes(&[(inode, None)], ScanDepth::Complete)?;
    Ok(Some(
        search
            .found
            .into_iter()
            .map(|(process, _)| process)
            .collect(),
    ))
}

/// Every TCP socket that listens, on any port.
pub(crate) fn all_listeners() -> io::Result<Vec<Row>> {
    system::listening(0, Protocol::Tcp)
}

/// Looks for the processes of these sockets. Where no socket can have one, nothing is searched.
pub(crate) fn owners(rows: Vec<Row>, depth: ScanDepth) -> io::Result<OwnedRows> {
    let wanted: Vec<(u64, Option<u32>)> = rows
        .iter()
        .filter(|row| row.inode != 0)
        .map(|row| (row.inode, row.uid))
        .collect();
    let search = if wanted.is_empty() {
        ScanResult::default()
    } else {
        system::processes(&wanted, depth)?
    };
    let rows = still_there(rows, &search.found);
    let named = rows.iter().any(|row| row.uid.is_some()) || !search.found.is_empty();
    let users = if named { system::users() } else { Vec::new() };
    Ok(OwnedRows {
        holders: join(rows, search.found, &users),
        unseen: search.unseen,
    })
}

/// Without the sockets that were closed while their processes were looked for: they are not hidden, but gone.
fn still_there(mut rows: Vec<Row>, found: &[(Process, Vec<u64>)]) -> Vec<Row> {
    let mut known = HashSet::<u64>::new();
    for (_, inodes) in found {
        known.extend(inodes);
    }
    let is_lost = |row: &Row| row.inode != 0 && !known.contains(&row.inode);
    let mut lost = rows.iter().filter(|row| is_lost(row));
    let Some(first) = lost.next() else {
        return rows;
    };
    let port = if lost.all(|row| row.local.port() == first.local.port()) {
        first.local.port()
    } else {
        0
    };
    // What cannot be looked at again is taken to be there still.
    if let Ok(table) = system::sockets(port, None) {
        let present: HashSet<u64> = table.rows.iter().map(|row| row.inode).collect();
        if table.unseen.is_empty() {
            rows.retain(|row| !is_lost(row) || present.contains(&row.inode));
        }
    }
    rows
}

/// The start of a process in the system's own unit, to tell it from a later one with the same number.
pub(crate) fn started(pid: u32) -> Option<u64> {
    system::started(pid)
}

/// The parent of a process; `None` where the process is gone or cannot be seen.
pub(crate) fn parent(pid: u32) -> Option<u32> {
    system::parent(pid)
}

/// Whether a process runs: one that ended and was not waited for does not.
pub(crate) fn is_running(pid: u32) -> io::Result<bool> {
    system::is_running(pid)
}

impl Process {
    /// The command line, read now. It is not part of any report unless asked for: command lines carry secrets.
    ///
    /// ```
    /// # if cfg!(target_os = "linux") {
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let holders = portlease::who_holds(&p)?;
    /// let process = &holders.iter().next().unwrap().processes[0];
    /// println!("{:?}", process.command_line()?);
    /// # drop(server);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Where the process has ended, even if another one has its number by now, or may not be looked into.
    ///
    /// # Platform-specific behavior
    ///
    /// Linux reads `/proc/PID/cmdline`; other systems answer
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported).
    pub fn command_line(&self) -> Result<Vec<OsString>> {
        match system::command_line(self.pid, self.ticks) {
            Ok(arguments) => Ok(arguments),
            Err(cause) => Err(Error::command_line(self.pid, cause)),
        }
    }
}

impl Row {
    /// Whether a connection that looks like `row` could have come in through this socket.
    fn accepts(&self, row: &Row) -> bool {
        let answers = match self.protocol {
            Protocol::Tcp => self.state == State::Listen,
            Protocol::Udp | Protocol::UdpLite => self.state == State::Bound,
        };
        let (own, its) = (self.local.ip(), row.local.ip().to_canonical());
        let any = own.is_unspecified() && (self.dual_stack || own.is_ipv4() == its.is_ipv4());
        answers
            && self.protocol == row.protocol
            && self.local.port() == row.local.port()
            && (any || own.to_canonical() == its)
    }

    /// Came in and was not accepted yet: nobody's own socket, but for the listener to take.
    fn waits_for_accept(&self) -> bool {
        self.inode == 0
            && matches!(
                self.state,
                State::Established | State::CloseWait | State::SynRecv
            )
    }

    fn into_holder(self, users: &[(u32, String)]) -> Holder {
        Holder {
            protocol: self.protocol,
            local: self.local,
            remote: self.remote,
            state: self.state,
            uid: self.uid,
            user: name_of(self.uid, users),
            inode: self.inode,
            dual_stack: self.dual_stack,
            client: self.client,
            hidden: false,
            processes: Vec::new(),
        }
    }
}

/// The kernel does not keep who dialled. What no listener can have accepted dialled out itself.
fn label_clients(rows: &mut [Row]) {
    let answering: Vec<Row> = rows
        .iter()
        .filter(|row| matches!(row.state, State::Listen | State::Bound))
        .cloned()
        .collect();
    for row in rows {
        row.client = match row.state {
            State::SynSent => true,
            State::Listen | State::Bound | State::SynRecv | State::TimeWait | State::Unknown(_) => {
                false
            }
            _ => row.inode != 0 && !answering.iter().any(|socket| socket.accepts(row)),
        };
    }
}

fn name_of(uid: Option<u32>, users: &[(u32, String)]) -> Option<String> {
    let uid = uid?;
    users
        .iter()
        .find(|(known, _)| *known == uid)
        .map(|(_, name)| name.clone())
}

/// Gives every row its processes, the oldest first: of a server and its workers, the server.
fn join(
    rows: Vec<Row>,
    mut found: Vec<(Process, Vec<u64>)>,
    users: &[(u32, String)],
) -> Vec<Holder> {
    for (process, _) in &mut found {
        process.user = name_of(process.uid, users);
    }
    let age = |process: &Process| (process.ticks, process.pid);
    let mut by_inode: HashMap<u64, Vec<&Process>> = HashMap::new();
    for (process, inodes) in &found {
        for inode in inodes {
            let processes = by_inode.entry(*inode).or_default();
            let at = processes.partition_point(|older| age(older) < age(process));
            // A process can have a socket more than once.
            if processes
                .get(at)
                .is_none_or(|same| age(same) != age(process))
            {
                processes.insert(at, process);
            }
        }
    }
    let listeners: Vec<Row> = rows
        .iter()
        .filter(|row| row.state == State::Listen)
        .cloned()
        .collect();
    let holder = |mut row: Row| {
        let mut inode = row.inode;
        if row.waits_for_accept() {
            // An exact address wins over a wildcard, as it does in the kernel.
            let taker = listeners.iter().filter(|listener| listener.accepts(&row));
            if let Some(taker) = taker.min_by_key(|listener| listener.local.ip().is_unspecified()) {
                (inode, row.uid) = (taker.inode, taker.uid);
            }
        }
        let mut holder = row.into_holder(users);
        if let Some(processes) = by_inode.get(&inode) {
            holder.processes = processes.iter().copied().cloned().collect();
        }
        holder.hidden = inode != 0 && holder.processes.is_empty();
        holder
    };
    rows.into_iter().map(holder).collect()
}

/// The kernel's number of a state. UDP has two, by the names of TCP's: connected to somebody, and not.
#[cfg(any(target_os = "linux", test, fuzzing))]
fn state(protocol: Protocol, number: u8) -> State {
    match (protocol, number) {
        (Protocol::Tcp, 1) => State::Established,
        (Protocol::Tcp, 2) => State::SynSent,
        // 12 is a connection request that is no socket of its own yet.
        (Protocol::Tcp, 3 | 12) => State::SynRecv,
        (Protocol::Tcp, 4) => State::FinWait1,
        (Protocol::Tcp, 5) => State::FinWait2,
        (Protocol::Tcp, 6) => State::TimeWait,
        // Asked for as 13, a socket that is only bound answers as 7, "closed".
        (Protocol::Tcp, 7 | 13) => State::Bound,
        (Protocol::Tcp, 8) => State::CloseWait,
        (Protocol::Tcp, 9) => State::LastAck,
        (Protocol::Tcp, 10) => State::Listen,
        (Protocol::Tcp, 11) => State::Closing,
        (Protocol::Udp | Protocol::UdpLite, 1) => State::Connected,
        (Protocol::Udp | Protocol::UdpLite, 7) => State::Bound,
        (_, number) => State::Unknown(number),
    }
}
