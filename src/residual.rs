//! Who still holds what was released a moment ago: a forked child has a copy of every socket of its
//! parent until it calls exec.

use std::io;
use std::time::SystemTime;

use crate::claim::ExclusiveName;
use crate::lease;
use crate::model::holder::Holder;
use crate::model::port::Port;
use crate::model::process::Process;
use crate::model::state::State;
use crate::retry::{FORKED_CHILD_LIMIT, ResidualOwner};
use crate::sockets::{self, Row, ScanDepth, Table};

/// The owner of these sockets, which refused a bind.
///
/// Sockets that were closed since the bind do not count. If none is left, the owner is unknown, and
/// a retry succeeds.
pub(crate) fn owner_of_sockets(rows: Vec<Row>) -> ResidualOwner {
    owners_of(rows, |holders| weakest(holders.iter()))
}

/// The owner of the port's abstract name, which another reservation of the network namespace has.
pub(crate) fn owner_of_name(port: Port) -> ResidualOwner {
    match name(port) {
        Ok(row) => owner_of_sockets(row.into_iter().collect()),
        Err(_) => ResidualOwner::Process,
    }
}

/// The owner of one of these ports: of the port that is most worth a retry. One scan finds the
/// owners of all.
pub(crate) fn owner_of_any(ports: &[Port]) -> ResidualOwner {
    let [first, others @ ..] = ports else {
        return ResidualOwner::Process;
    };
    let number = if others.is_empty() { first.number } else { 0 };
    let Ok(Table { mut rows, .. }) = sockets::sockets(number, None) else {
        return ResidualOwner::Process;
    };
    let is_of = |port: &Port, protocol, number| port.number == number && port.protocol == protocol;
    rows.retain(|row| {
        let mut ports = ports.iter();
        ports.any(|port| is_of(port, row.protocol, row.local.port()))
    });
    for port in ports {
        rows.extend(name(*port).ok().flatten());
    }
    owners_of(rows, |holders| {
        let owner = |port: &Port| {
            let mine = |holder: &&Holder| is_of(port, holder.protocol, holder.local.port());
            weakest(holders.iter().filter(mine))
        };
        ports
            .iter()
            .map(owner)
            .max()
            .unwrap_or(ResidualOwner::Process)
    })
}

/// The socket that has the port's abstract name.
pub(crate) fn name(port: Port) -> io::Result<Option<Row>> {
    sockets::named(&ExclusiveName::text(port.protocol, port.number), port)
}

fn owners_of(rows: Vec<Row>, judge: impl FnOnce(&[Holder]) -> ResidualOwner) -> ResidualOwner {
    if !sockets::CHILDREN_SHARE {
        return ResidualOwner::Process;
    }
    match sockets::owners(rows, ScanDepth::Complete) {
        Ok(owned) => judge(&owned.holders),
        // A retry would not make the processes readable.
        Err(_) => ResidualOwner::Process,
    }
}

fn owner_of_socket(holder: &Holder) -> ResidualOwner {
    match holder.processes.as_slice() {
        // A socket without a connection lacks an inode only while the kernel closes it.
        [] if !holder.hidden && matches!(holder.state, State::Bound | State::Listen) => {
            ResidualOwner::Unknown
        }
        // No process can own it (TIME_WAIT, a closing connection): only time ends it.
        [] if !holder.hidden => ResidualOwner::Process,
        // A retry would not make the descriptors of another user's process visible.
        [] if is_of_another_user(holder) => ResidualOwner::Process,
        owners => owner_among(owners),
    }
}

/// Whether the socket is another user's and this process is not root, so that it cannot see the
/// owner's descriptors. The table shows no user for an abstract name.
fn is_of_another_user(holder: &Holder) -> bool {
    const ROOT: u32 = 0;
    let is_other = |uid| lease::user().is_ok_and(|user| user != ROOT && user != uid);
    holder.uid.is_some_and(is_other)
}

/// What kind of owner these processes are together. All of them own the same socket.
pub(crate) fn owner_among(owners: &[Process]) -> ResidualOwner {
    if owners.is_empty() {
        ResidualOwner::Unknown
    } else if owners.iter().all(is_about_to_exec) {
        ResidualOwner::ForkedChild
    } else {
        ResidualOwner::Process
    }
}

/// Whether the process is a copy of its parent that may still call exec. A daemon is not: its
/// parent has ended, or it is older than the limit.
fn is_about_to_exec(process: &Process) -> bool {
    const INIT: u32 = 1;
    let age = process
        .started
        .and_then(|started| SystemTime::now().duration_since(started).ok());
    // In a container this process itself can have pid 1.
    let is_orphan = process.parent == Some(INIT) && std::process::id() != INIT;
    process.forked && !is_orphan && age.is_none_or(|age| age < FORKED_CHILD_LIMIT)
}

/// Of several owners the one that ends the retries first. Without any, the owner is unknown.
fn weakest<'a>(holders: impl Iterator<Item = &'a Holder>) -> ResidualOwner {
    let owners = holders.map(owner_of_socket);
    owners.min().unwrap_or(ResidualOwner::Unknown)
}
