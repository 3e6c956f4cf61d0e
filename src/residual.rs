//! Finds out what kind of process still holds a socket, or an abstract Unix socket name, that was
//! released a moment ago. For example, a forked child holds copies of its parent's sockets until
//! the child calls exec.

use std::io;
use std::time::SystemTime;

use crate::claim::ExclusiveName;
use crate::lease;
use crate::model::holder::Holder;
use crate::model::port::Port;
use crate::model::process::Process;
use crate::model::state::State;
use crate::retry::{FORKED_CHILD_LIMIT, ResidualOwner};
use crate::sockets::{self, PortTables, Row, ScanDepth};

/// Returns the kind of owner of these sockets. If the sockets have several owners, the one with the
/// shortest retry limit counts.
///
/// Sockets that were closed since the caller read the socket table do not count. If all sockets
/// were closed, the result is `Unknown`, so that the caller retries. On Windows, and if the search
/// for the owners fails, the result is always `Process`.
pub(crate) fn owner_of_sockets(rows: Vec<Row>) -> ResidualOwner {
    let owners = owner_of_each(&[rows]);
    owners.first().copied().unwrap_or(ResidualOwner::Process)
}

/// Returns the result of [`owner_of_sockets`] for each port. `ports` has the sockets of each port.
/// Each scan of the processes covers all ports.
pub(crate) fn owner_of_each(ports: &[Vec<Row>]) -> Vec<ResidualOwner> {
    let first = owner_of_each_at(ports, ScanDepth::FirstHit);
    if !first.contains(&ResidualOwner::ForkedChild) {
        return first;
    }
    // A socket of a forked child may have another owner, which the first scan did not reach. So the
    // second scan reads every process.
    owner_of_each_at(ports, ScanDepth::Complete)
}

fn owner_of_each_at(ports: &[Vec<Row>], depth: ScanDepth) -> Vec<ResidualOwner> {
    let without_owners = || vec![ResidualOwner::Process; ports.len()];
    if !sockets::CHILDREN_SHARE {
        return without_owners();
    }
    match sockets::owners_of_each(ports.to_vec(), depth) {
        Ok(owned) => owned.iter().map(|of| shortest_retry(&of.holders)).collect(),
        // On Linux this error means that descriptors or memory are used up. Nothing then shows that
        // a retry can help.
        Err(_) => without_owners(),
    }
}

/// Returns who owns the server sockets on the port. These are the TCP sockets that listen, or the
/// bound UDP sockets without a peer. Returns `Unknown` if the socket table cannot be read, and
/// always on Windows.
pub(crate) fn owner_of_servers(port: Port) -> ResidualOwner {
    if !sockets::CHILDREN_SHARE {
        return ResidualOwner::Unknown;
    }
    match sockets::listening(port.number, port.protocol) {
        Ok(rows) => owner_of_sockets(rows),
        Err(_) => ResidualOwner::Unknown,
    }
}

/// The owner of the port's abstract Unix socket name. Returns `Process`, which ends the retries, if
/// the Unix sockets cannot be read.
pub(crate) fn owner_of_name(port: Port) -> ResidualOwner {
    match name(port) {
        Ok(row) => owner_of_sockets(row.into_iter().collect()),
        Err(_) => ResidualOwner::Process,
    }
}

/// Returns the owner with the longest retry limit among the owners of these ports. The caller needs
/// only one port, so a retry can help if one owner may soon release its port. Each scan of the
/// processes covers all ports. Returns `Process` if the sockets cannot be read.
pub(crate) fn owner_of_any(ports: &[Port]) -> ResidualOwner {
    let Ok(tables) = PortTables::of(ports.iter().map(|port| Some(port.protocol))) else {
        return ResidualOwner::Process;
    };
    let rows = |port: &Port| {
        let table = tables.sockets(port.number, Some(port.protocol)).ok()?;
        let mut rows = table.rows;
        // Leaves out connections of an earlier server, because an attempt at
        // `RetryLevel::WithTable` can reserve the number despite these connections.
        rows.retain(|row| !row.is_leftover());
        rows.extend(name(*port).ok().flatten());
        Some(rows)
    };
    let Some(rows) = ports.iter().map(rows).collect::<Option<Vec<_>>>() else {
        return ResidualOwner::Process;
    };
    let owners = owner_of_each(&rows).into_iter();
    owners.max().unwrap_or(ResidualOwner::Process)
}

/// Returns `true` if a process has the abstract Unix socket name of the port. If the lock folder
/// shows no lease, the process usually uses another lock folder or none. The process can also be a
/// forked child that still has the name of a released reservation.
pub(crate) fn is_named(port: Port) -> bool {
    // If the names cannot be read, the caller goes on as if no process had the name.
    ExclusiveName::is_taken(port.protocol, port.number).unwrap_or(false)
}

/// The abstract Unix socket that has the port's name; `None` if no socket has it.
pub(crate) fn name(port: Port) -> io::Result<Option<Row>> {
    sockets::named(&ExclusiveName::text(port.protocol, port.number), port)
}

fn owner_of_socket(holder: &Holder) -> ResidualOwner {
    match holder.processes.as_slice() {
        // This socket has no visible process and is not `hidden`, so it lacks an inode. If it is
        // bound or listens, the kernel is closing it, so a retry can help.
        [] if !holder.hidden && matches!(holder.state, State::Bound | State::Listen) => {
            ResidualOwner::Unknown
        }
        // The socket is in TIME_WAIT, or is a closing connection without a process. Such a socket
        // usually outlasts the retries.
        [] if !holder.hidden => ResidualOwner::Process,
        // A retry would not make the descriptors of another user's process visible.
        [] if is_of_another_user(holder) => ResidualOwner::Process,
        owners => owner_among(owners),
    }
}

/// Returns `true` if the socket belongs to another user and this process is not root. This process
/// then usually cannot see which process has the socket. Returns `false` for an abstract name,
/// because the socket table shows no user for the name.
fn is_of_another_user(holder: &Holder) -> bool {
    const ROOT: u32 = 0;
    let user = lease::user();
    user != ROOT && holder.uid.is_some_and(|uid| uid != user)
}

/// Returns the kind of owner of a released socket that belongs to the processes `owners`.
pub(crate) fn owner_among(owners: &[Process]) -> ResidualOwner {
    if owners.is_empty() {
        ResidualOwner::Unknown
    } else if owners.iter().all(is_about_to_exec) {
        ResidualOwner::ForkedChild
    } else {
        ResidualOwner::Process
    }
}

/// Returns `true` if the process is a forked child that may still call exec. Returns `false` for an
/// orphan (a child of pid 1), and for a child whose age is at least [`FORKED_CHILD_LIMIT`]. Such
/// processes are probably daemons, which never call exec.
fn is_about_to_exec(process: &Process) -> bool {
    const INIT: u32 = 1;
    let age = process
        .started
        .and_then(|started| SystemTime::now().duration_since(started).ok());
    // In a container this process itself can have pid 1. Its children then have the same parent as
    // orphans, so none of them counts as an orphan.
    let is_orphan = process.parent == Some(INIT) && std::process::id() != INIT;
    process.forked && !is_orphan && age.is_none_or(|age| age < FORKED_CHILD_LIMIT)
}

/// The owner of these sockets that has the shortest retry limit. `Unknown` if there are no sockets.
fn shortest_retry(holders: &[Holder]) -> ResidualOwner {
    let owners = holders.iter().map(owner_of_socket);
    owners.min().unwrap_or(ResidualOwner::Unknown)
}
