//! Finds out who has a listener: the expected process, a process that it started, or a stranger
//! (any other process).

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::time::Instant;

use super::listening::is_listening;
use crate::lease;
use crate::localhost::LOCALHOST;
use crate::model::endpoint::Protocol;
use crate::model::holder::Holder;
use crate::model::lease_info::Lease;
use crate::model::port::Port;
use crate::model::process::{Process, ProcessState, Relation};
use crate::model::state::State;
use crate::ownership::{is_descendant, lineage};
use crate::retry::{OWNERS_EVERY, TICKS_OF_PIPELINE};
use crate::sockets::{self, Group, Inode, OwnedRows, PortTables, Row, ScanDepth};

/// The process that a wait or an assertion expects to listen. A process that the expected process
/// started may listen instead.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    /// `None` if the process has ended and its handle no longer reports a pid.
    pid: Option<u32>,
    /// The start distinguishes the process from a later one with the same pid. `None` if the start
    /// is unknown.
    started: Option<NonZeroU64>,
    group: Option<Group>,
    /// The earliest time at which a daemon of the process can have started.
    earliest_daemon: Option<NonZeroU64>,
    /// `true` if the process has ended and may have left a daemon. This is so in two cases:
    ///
    /// - The process succeeded.
    /// - The exit status of the process is unknown, but its start is known.
    ///
    /// An orphan that started at `earliest_daemon` or later may then be that daemon.
    ended_well: bool,
}

/// Who listens on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listener {
    Nobody,
    Stranger,
    /// The expected process, a process that it started, or a process that cannot be seen.
    Expected,
}

impl Expected {
    pub(crate) fn new(pid: u32) -> Expected {
        let started = sockets::started(pid).ok().flatten();
        Expected {
            pid: Some(pid),
            started,
            group: sockets::group(pid),
            earliest_daemon: started,
            ended_well: false,
        }
    }

    /// A process that has ended and whose handle no longer reports a pid.
    #[cfg(feature = "tokio")]
    pub(crate) fn ended() -> Expected {
        Expected {
            pid: None,
            started: None,
            group: None,
            earliest_daemon: None,
            ended_well: false,
        }
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Notes that the process has ended. `succeeded` is `None` if its exit status is not known: the
    /// process is no child of the calling process, or other code has reaped it.
    ///
    /// If neither the exit status nor the start of the process is known, any orphan could be a
    /// daemon of the process. Then an orphan counts as a daemon only if it is in the process group
    /// or session of the process.
    ///
    /// If only the start is unknown, the exit status is known. Only the parent of a process gets
    /// its exit status, so the process is a child of the calling process. The child and its daemon
    /// cannot be older than the calling process. So the start of the calling process replaces the
    /// unknown start.
    pub(crate) fn note_end(&mut self, succeeded: Option<bool>) {
        if self.started.is_none() && succeeded.is_some() {
            self.earliest_daemon = sockets::started(std::process::id()).ok().flatten();
        }
        self.ended_well = succeeded.unwrap_or(self.started.is_some());
    }

    /// Whether the socket belongs to the expected process, a descendant of it, or a daemon that it
    /// left.
    pub(crate) fn has(&self, socket: &Holder) -> bool {
        socket
            .processes
            .iter()
            .any(|process| self.includes(process))
    }

    /// Like [`has`](Self::has), for many sockets: each process is examined only once.
    pub(crate) fn judge(&self) -> impl FnMut(&Holder) -> bool + '_ {
        let mut known = HashMap::new();
        move |socket| {
            socket.processes.iter().any(|process| {
                let key = (process.pid, process.ticks);
                *known.entry(key).or_insert_with(|| self.includes(process))
            })
        }
    }

    /// Whether the process is the expected one, a descendant of it, or a daemon that it left.
    fn includes(&self, process: &Process) -> bool {
        let is_this_start = |started| self.started.is_none() || started == self.started;
        let is_or_is_below = |pid| {
            if process.pid == pid {
                is_this_start(process.ticks)
            } else {
                sockets::started(pid).is_ok_and(is_this_start) && is_descendant(process.pid, pid)
            }
        };
        self.pid.is_some_and(is_or_is_below)
            || self.left_behind(process)
            || self.is_adopted(process)
    }

    /// Whether the calling process is `portlease run --leaks`, and has adopted the process or an
    /// ancestor of it. `run` expects only its command to listen, and starts nothing else that
    /// listens.
    fn is_adopted(&self, process: &Process) -> bool {
        let own = std::process::id();
        process.pid != own
            && process.ticks >= self.earliest_daemon
            && is_adopter(own)
            && sockets::adopts_orphans()
            && is_descendant(process.pid, own)
    }

    /// Whether the caller may have named the expected process but meant `process`. This is so in
    /// three cases:
    ///
    /// - `process` is an ancestor of the expected process, such as the primary process of a Node.js
    ///   cluster.
    /// - On Linux, `process` and the expected process have the same parent and process group, and
    ///   started at almost the same time. A shell probably started them as one pipeline, and `$!`
    ///   names only the last part of the pipeline.
    /// - The expected process ended before the call, and `process` is an [orphan](is_orphan) with a
    ///   higher pid. It may be a daemon that the expected process left: the kernel gives pids in
    ///   ascending order until they wrap around.
    ///
    /// With `listens`, the expected process has a listener of its own, so only the first case
    /// counts. Always `false` for the calling process and its ancestors.
    pub(crate) fn may_mean(&self, process: &Process, listens: bool) -> bool {
        let (Some(pid), None | Some(Relation::Descendant)) = (self.pid, process.relation) else {
            return false;
        };
        let is_ancestor = is_descendant(pid, process.pid);
        let starts = process.ticks.zip(self.started);
        let is_part_of_pipeline = cfg!(target_os = "linux")
            && process.relation.is_none()
            && process.parent.is_some()
            && process.parent == sockets::parent(pid)
            && self.group.map(|of| of.group) == sockets::group(process.pid).map(|of| of.group)
            && starts
                .is_some_and(|(one, other)| one.get().abs_diff(other.get()) <= TICKS_OF_PIPELINE);
        let may_be_daemon =
            self.started.is_none() && process.pid > pid && is_orphan(process.pid, process.parent);
        is_ancestor || !listens && (is_part_of_pipeline || may_be_daemon)
    }

    /// The running processes that may be a daemon of the expected process. Call this only if the
    /// expected process has ended with success.
    ///
    /// The list is sorted by pid, from the pid of the expected process upwards: the kernel gives
    /// pids in ascending order, and a daemon starts soon after its starter.
    pub(crate) fn running_daemons(&self) -> Vec<Process> {
        let (Some(starter), Some(_)) = (self.pid, self.started) else {
            return Vec::new();
        };
        let is_later =
            |pid: &u32| sockets::started(*pid).is_ok_and(|started| started >= self.started);
        let found = sockets::pids().into_iter().filter(is_later);
        let found = found.filter_map(sockets::describe);
        let mut found: Vec<Process> = found
            .filter(|process| process.state != ProcessState::Zombie && self.left_behind(process))
            .collect();
        found.sort_by_key(|process| process.pid.wrapping_sub(starter));
        found
    }

    /// Whether the process is a daemon that the expected process left behind. The parent of a
    /// daemon has ended, so the daemon is no descendant any more. A process that started before
    /// `earliest_daemon` does not count. Any other process counts in one of three cases:
    ///
    /// - The number of its process group or session is the pid of the expected process.
    /// - It is an [orphan](is_orphan) in the group or session of the expected process.
    /// - It is an orphan in any group or session, and `ended_well` is `true`. The daemon may have
    ///   called setsid(2).
    fn left_behind(&self, process: &Process) -> bool {
        // On Linux the start is in units of 10 ms. A daemon can have the same start as its parent,
        // so an equal start is accepted.
        if process.ticks < self.earliest_daemon {
            return false;
        }
        let group = sockets::group(process.pid);
        // The kernel does not reuse a pid while a process group or a session still has that number.
        // So the expected process itself made each group or session that has its pid.
        let is_led = group
            .zip(self.pid)
            .is_some_and(|(of, pid)| of.group == pid || of.session == pid);
        let is_shared = group.zip(self.group).is_some_and(|(of, expected)| {
            of.group == expected.group || of.session == expected.session
        });
        is_led || is_orphan(process.pid, process.parent) && (is_shared || self.ended_well)
    }
}

/// Who started the owners of the listeners that are left on the port of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The calling process, or a process that it started, owns a listener.
    Own,
    /// Every owner is visible, and the calling process started none of them.
    Unrelated,
    /// An owner is hidden, or may be a daemon that the calling process left.
    Unknown,
}

/// Who started the owners of these listeners.
pub(crate) fn origin(listeners: &[Holder]) -> Origin {
    let own = std::process::id();
    let started = |pid| sockets::started(pid).ok().flatten();
    let own_start = started(own);
    let group = |pid| sockets::group(pid).map(|of| of.group);
    let is_older = |pid| own_start.is_some_and(|own| started(pid).is_some_and(|of| of < own));
    // If this process is a subreaper, it adopts every daemon that it leaves. Its daemons are then
    // its descendants, and no other orphan is its daemon.
    let keeps_daemons = sockets::adopts_orphans();
    let of_process = |process: &Process| {
        if is_descendant(process.pid, own) {
            return Origin::Own;
        }
        for pid in lineage(process.pid) {
            if is_older(pid) || is_descendant(own, pid) {
                return Origin::Unrelated;
            }
            if !keeps_daemons && is_orphan(pid, sockets::parent(pid)) {
                let is_in_own_group = group(pid).is_some_and(|of| Some(of) == group(own));
                return match is_in_own_group {
                    true => Origin::Own,
                    false => Origin::Unknown,
                };
            }
        }
        Origin::Unknown
    };
    let owners = listeners.iter().flat_map(|listener| &listener.processes);
    let origins: Vec<Origin> = owners.map(of_process).collect();
    let is_hidden = |listener: &Holder| listener.hidden || listener.processes.is_empty();
    if origins.contains(&Origin::Own) {
        Origin::Own
    } else if origins.is_empty()
        || origins.contains(&Origin::Unknown)
        || listeners.iter().any(is_hidden)
    {
        Origin::Unknown
    } else {
        Origin::Unrelated
    }
}

/// Whether `parent`, the present parent of the process `pid`, adopted `pid` after its first parent
/// had ended. Init and subreapers (`PR_SET_CHILD_SUBREAPER` of prctl(2)) adopt processes. A process
/// cannot find out whether another process is a subreaper. So the result is `true` in these cases:
///
/// - `parent` is unknown.
/// - `parent` is pid 1, and the calling process is not pid 1.
/// - `parent` is an ancestor of the calling process in another session, such as `systemd --user`.
/// - `parent` is the calling process or its ancestor, and [`has_lost_leader`] is `true`, as for a
///   daemon that forked twice.
/// - `parent` is a known subreaper, and `pid` leads its own session, as a daemon that forked once
///   does. Two subreapers can be known: the calling process, and `portlease run --leaks`
///   ([`ADOPTER`]). `run` itself starts only one command.
///
/// In any other case the result is `false`, because `parent` may have started `pid` itself.
fn is_orphan(pid: u32, parent: Option<u32>) -> bool {
    const INIT: u32 = 1;
    let own = std::process::id();
    let session = |pid| sockets::group(pid).map(|of| of.session);
    let is_known_subreaper = |pid: u32| match pid == own {
        true => sockets::adopts_orphans(),
        false => is_adopter(pid),
    };
    parent.is_none_or(|parent| {
        parent == INIT && own != INIT
            || is_descendant(own, parent)
                && (parent != own && session(parent) != session(own)
                    || has_lost_leader(pid, parent)
                    || session(pid) == Some(pid) && is_known_subreaper(parent))
    })
}

/// The environment variable with the pid of `portlease run --leaks`. `run` sets the variable for
/// itself, and its command inherits it.
const ADOPTER: &str = "PORTLEASE_ADOPTER";

/// Whether [`ADOPTER`] names the process.
fn is_adopter(pid: u32) -> bool {
    std::env::var(ADOPTER).is_ok_and(|adopter| adopter == pid.to_string())
}

/// Whether the leader of the process's group or session has ended. A group or session that also
/// contains `parent` does not count.
fn has_lost_leader(pid: u32, parent: u32) -> bool {
    let (Some(of), Some(of_parent)) = (sockets::group(pid), sockets::group(parent)) else {
        return false;
    };
    let is_lost = |leader, other| leader != other && !sockets::is_running(leader).unwrap_or(true);
    is_lost(of.group, of_parent.group) || is_lost(of.session, of_parent.session)
}

/// Finds out repeatedly who listens on the ports of a wait.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) expected: Expected,
    /// The result of the last search, if the search found a stranger (a process that is not
    /// expected): the inodes of the listeners, the index of the stranger's port, and the time. A
    /// search can read every process, which is slow. So the result stays valid for
    /// [`OWNERS_EVERY`], unless the listeners change.
    strangers: Option<(Vec<Option<Inode>>, usize, Instant)>,
}

impl Watch {
    pub(crate) fn new(expected: Expected) -> Watch {
        Watch {
            expected,
            strangers: None,
        }
    }

    /// Notes that the expected process has ended. From now on, an unexpected listener may count as
    /// the listener of a daemon that the process left. So this call drops the result of the last
    /// search.
    pub(crate) fn note_end(&mut self, succeeded: Option<bool>) {
        self.expected.note_end(succeeded);
        self.strangers = None;
    }

    /// Finds the first port without a [`Listener::Expected`]. Returns the index of this port, and
    /// whether an unexpected process listens there, or no process. Returns `None` if every port has
    /// a `Listener::Expected`.
    pub(crate) fn first_missing(
        &mut self,
        ports: &[Port],
    ) -> io::Result<Option<(usize, Listener)>> {
        let mut rows = Vec::new();
        let tables = tables_of(ports);
        let read =
            tables.and_then(|tables| listeners_up_to_a_silent_port(&tables, ports, &mut rows));
        let silent = match read {
            Ok(silent) => silent.map(|at| (at, Listener::Nobody)),
            // Without a socket table, only a connection can find a listener.
            Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                for (at, port) in ports.iter().enumerate() {
                    if !is_listening(*port)? {
                        return Ok(Some((at, Listener::Nobody)));
                    }
                }
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        let inodes: Vec<_> = rows.iter().flatten().map(|row| row.inode).collect();
        if let Some((strangers, at, found)) = &self.strangers
            && *strangers == inodes
            && found.elapsed() < OWNERS_EVERY
        {
            return Ok(Some((*at, Listener::Stranger)));
        }
        match self.first_unmet(&rows)? {
            Some((at, listener)) => {
                let is_stranger = listener == Listener::Stranger;
                self.strangers = is_stranger.then(|| (inodes, at, Instant::now()));
                Ok(Some((at, listener)))
            }
            None => Ok(silent),
        }
    }

    /// The index of the first port on which only strangers listen: processes that do not count as
    /// the expected process. Unlike [`first_missing`](Self::first_missing), the search does not
    /// stop at a port without a listener. `None` if there is no such port, or if the sockets cannot
    /// be read.
    pub(crate) fn first_stranger(&self, ports: &[Port]) -> Option<usize> {
        let tables = tables_of(ports).ok()?;
        let listeners = |(at, port)| Some((at, listeners_on(&tables, port).ok()?));
        let each = ports.iter().copied().enumerate().filter_map(listeners);
        let (positions, rows): (Vec<usize>, Vec<Vec<Row>>) =
            each.filter(|(_, rows)| !rows.is_empty()).unzip();
        match self.first_unmet(&rows) {
            Ok(Some((at, Listener::Stranger))) => Some(positions[at]),
            _ => None,
        }
    }

    /// `rows` has one group of listeners for each port. Finds the first group without a
    /// [`Listener::Expected`]. Returns the index of this group, and who listens there.
    fn first_unmet(&self, rows: &[Vec<Row>]) -> io::Result<Option<(usize, Listener)>> {
        let mut has = self.expected.judge();
        let mut is_met = |of: &OwnedRows| of.holders.iter().any(&mut has);
        // This search ends when it has found an owner of each listener. It reads the newest
        // processes early, and the expected process is often one of them.
        let first = sockets::owners_of_each(rows.to_vec(), ScanDepth::FirstHit)?;
        let mut unmet: Vec<usize> = (0..rows.len()).collect();
        unmet.retain(|at| !is_met(&first[*at]));
        let rows = unmet.iter().map(|at| rows[*at].clone()).collect();
        let complete = sockets::owners_of_each(rows, ScanDepth::Complete)?;
        for (at, owned) in unmet.into_iter().zip(complete) {
            let listener = who_of(&owned.holders, &mut has);
            if listener != Listener::Expected {
                return Ok(Some((at, listener)));
            }
        }
        Ok(None)
    }
}

fn tables_of(ports: &[Port]) -> io::Result<PortTables> {
    PortTables::of(ports.iter().map(|port| Some(port.protocol)))
}

/// Adds the listeners of each port to `rows`, up to the first port that has none. Returns the
/// position of that port, or `None` if every port has a listener.
fn listeners_up_to_a_silent_port(
    tables: &PortTables,
    ports: &[Port],
    rows: &mut Vec<Vec<Row>>,
) -> io::Result<Option<usize>> {
    for (at, port) in ports.iter().enumerate() {
        let listeners = listeners_on(tables, *port)?;
        if listeners.is_empty() {
            return Ok(Some(at));
        }
        rows.push(listeners);
    }
    Ok(None)
}

/// The listeners that a client of the port reaches.
fn listeners_on(tables: &PortTables, port: Port) -> io::Result<Vec<Row>> {
    let mut listeners = tables.listening(port.number, port.protocol)?;
    listeners.retain(|row| row.is_reachable_at(port.ip, port.scope_id));
    // A client of this address reaches only the listeners whose address is closest to it.
    // `localhost` has two addresses with different closest listeners, so all listeners stay.
    if let Some(ip) = port.ip.filter(|ip| *ip != LOCALHOST) {
        let closest = listeners.iter().map(|row| row.closeness(ip)).max();
        listeners.retain(|row| Some(row.closeness(ip)) == closest);
    }
    Ok(listeners)
}

fn who_of(holders: &[Holder], has: &mut impl FnMut(&Holder) -> bool) -> Listener {
    if holders.is_empty() {
        // The listeners were closed during the search for their owners.
        Listener::Nobody
    } else if holders.iter().any(|holder| holder.hidden || has(holder)) {
        Listener::Expected
    } else {
        Listener::Stranger
    }
}

/// The listeners of the expected process on ports that the call does not name. A report shows them,
/// because the server may have taken another number.
#[derive(Debug, Default)]
pub(crate) struct OwnListeners(Vec<(Holder, Vec<Reserver>)>);

/// The pid of a process that reserved a port, or for which a port was reserved.
type Reserver = u32;

impl OwnListeners {
    /// Reads the listeners of the expected process on the ports that are not in `asked`. Reads only
    /// the protocols that occur in `asked`. The list is empty if the expected process is the
    /// calling process, which may run any number of servers.
    pub(crate) fn of(expected: &Expected, asked: &[Port]) -> io::Result<OwnListeners> {
        if expected.pid == Some(std::process::id()) {
            return Ok(OwnListeners::default());
        }
        let mut rows = Vec::new();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            if asked.iter().any(|port| port.protocol == protocol) {
                rows.extend(sockets::listening_between(1, u16::MAX, protocol)?);
            }
        }
        let asked: HashSet<_> = asked.iter().map(|of| (of.number, of.protocol)).collect();
        rows.retain(|row| !asked.contains(&(row.local.port(), row.protocol)));
        let mut holders = sockets::owners(rows, ScanDepth::Complete)?.holders;
        let mut has = expected.judge();
        holders.retain(|holder| holder.is_server() && has(holder));
        let with_reservers = |holder: Holder| {
            let reservers = reservers(holder.local.port());
            (holder, reservers)
        };
        Ok(OwnListeners(
            holders.into_iter().map(with_reservers).collect(),
        ))
    }

    /// The listeners that the expected process may have opened on a wrong port, instead of on
    /// `port`. The list omits a listener if one process reserved both `port` and the listener's
    /// port. A process that reserves two ports usually means them for two servers.
    pub(crate) fn beside(&self, port: Port) -> Vec<Holder> {
        let own = reservers(port.number);
        let is_instead = |(holder, reservers): &&(Holder, Vec<Reserver>)| {
            holder.protocol == port.protocol
                && holder.local.port() != port.number
                && !reservers.iter().any(|of| own.contains(of))
        };
        let instead = self.0.iter().filter(is_instead);
        instead.map(|(holder, _)| holder.clone()).collect()
    }
}

/// Who reserved the number, for TCP or UDP.
fn reservers(number: u16) -> Vec<Reserver> {
    let leases = lease::of_number(number, &[Protocol::Tcp, Protocol::Udp]);
    let reserver = |lease: &Lease| lease.on_behalf_of().or(lease.pid());
    leases.iter().filter_map(reserver).collect()
}

/// Whether the socket answers: it is a TCP socket that listens, or a UDP socket without a peer. A
/// TCP claim (the bound socket of a reservation) does not listen, so it does not answer.
pub(crate) fn answers(socket: &Holder) -> bool {
    match socket.protocol {
        Protocol::Tcp => socket.state == State::Listen,
        Protocol::Udp | Protocol::UdpLite => socket.state == State::Bound,
    }
}

/// Whether the addresses of the two sockets overlap: they are equal, or one of them is a wildcard
/// that contains the other. An IPv4-mapped address is equal to the IPv4 address. Both sockets must
/// have the same port.
pub(crate) fn overlap(one: &Holder, other: &Holder) -> bool {
    let address = |socket: &Holder| match socket.local {
        SocketAddr::V4(local) => (IpAddr::V4(*local.ip()), 0),
        SocketAddr::V6(local) => (local.ip().to_canonical(), local.scope_id()),
    };
    let contains = |wildcard: &Holder, other: &Holder| {
        let (ip, of) = (address(wildcard).0, address(other).0);
        ip.is_unspecified() && (ip.is_ipv4() == of.is_ipv4() || wildcard.dual_stack)
    };
    one.protocol == other.protocol
        && (address(one) == address(other) || contains(one, other) || contains(other, one))
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn an_orphan_that_is_older_than_this_process_is_no_daemon_of_its_child() {
        let own = sockets::started(std::process::id()).unwrap().unwrap();
        let orphan = |started: u64| Process {
            ticks: NonZeroU64::new(started),
            ..Process::unknown(u32::MAX, "daemon".to_owned())
        };
        let mut reaped = Expected::new(u32::MAX);
        reaped.note_end(Some(true));
        assert!(!reaped.left_behind(&orphan(own.get() - 1)));
        assert!(reaped.left_behind(&orphan(own.get() + 1)));
        // Now neither the exit status nor the start of `reaped` is known. So `left_behind` accepts
        // only orphans in the process group or session of `reaped`, and this orphan is in neither.
        reaped.note_end(None);
        assert!(!reaped.left_behind(&orphan(own.get() + 1)));
    }
}
