//! Searches for the processes that own sockets, and adds them to the rows.

use std::collections::{HashMap, HashSet};
use std::io;

use super::row::{self, Inode, OwnedRows, Row, ScanDepth, ScanResult, Table};
use super::{is_unmapped, system};
use crate::link_local;
use crate::model::endpoint::Protocol;
use crate::model::holder::{Holder, UnseenOwner};
use crate::model::incompleteness::Incompleteness;
use crate::model::process::Process;
use crate::model::state::State;

type Found = Vec<(Process, Vec<Inode>)>;

/// Searches for the processes that own these sockets. If no row has an inode, no process owns any
/// of the sockets, and the search is skipped.
pub(crate) fn owners(rows: Vec<Row>, depth: ScanDepth) -> io::Result<OwnedRows> {
    let mut parts = owners_of_each(vec![rows], depth)?;
    Ok(parts.pop().unwrap_or_default())
}

/// Does what [`owners`] does, for several parts. A part is, for example, the sockets of one port.
/// One search serves all parts.
pub(crate) fn owners_of_each(parts: Vec<Vec<Row>>, depth: ScanDepth) -> io::Result<Vec<OwnedRows>> {
    let wanted: Vec<(Inode, Option<u32>)> = parts
        .iter()
        .flatten()
        .filter_map(|row| Some((row.inode?, row.uid)))
        .collect();
    let mut scan = if wanted.is_empty() {
        ScanResult::default()
    } else {
        system::processes(&wanted, depth)?
    };
    let parts = without_closed(parts, &scan.found);
    let has_users = parts.iter().flatten().any(|row| row.uid.is_some()) || !scan.found.is_empty();
    let users = if has_users {
        system::users()
    } else {
        Vec::new()
    };
    for (process, _) in &mut scan.found {
        process.user = name_of(process.uid, &users);
    }
    let by_inode = by_inode(&scan.found);
    let owned = |rows: Vec<Row>| {
        let is_searched = rows.iter().any(|row| row.inode.is_some());
        let holders = join(rows, &by_inode, &users);
        let has_hidden = holders.iter().any(|holder| holder.hidden);
        let is_of_part = |reason: &Incompleteness| match reason {
            Incompleteness::InFlight(_) => has_hidden,
            _ => is_searched,
        };
        OwnedRows {
            holders,
            unseen: scan.unseen.iter().copied().filter(is_of_part).collect(),
        }
    };
    Ok(parts.into_iter().map(owned).collect())
}

/// Removes the sockets that were closed during the search. A report would call them hidden, because
/// no process owns them.
fn without_closed(mut parts: Vec<Vec<Row>>, found: &Found) -> Vec<Vec<Row>> {
    let mut known = HashSet::<Inode>::new();
    for (_, inodes) in found {
        known.extend(inodes);
    }
    let is_lost = |row: &Row| row.inode.is_some_and(|inode| !known.contains(&inode));
    let mut lost = parts.iter().flatten().filter(|row| is_lost(row));
    let Some(first) = lost.next() else {
        return parts;
    };
    let number = first.local.port();
    let port = if lost.all(|row| row.local.port() == number) {
        number
    } else {
        0
    };
    // If the table cannot be read again, every socket counts as still open.
    if let Ok(table) = system::sockets(port, None) {
        let present: HashSet<_> = table.rows.iter().map(|row| row.inode).collect();
        let is_open = |row: &Row| {
            !is_lost(row) || present.contains(&row.inode) || may_lack_socket(row.protocol, &table)
        };
        parts.iter_mut().for_each(|rows| rows.retain(is_open));
    }
    parts
}

/// `table` is a second read of the sockets. Returns `true` if the table may lack a socket that the
/// first read showed and that still exists.
fn may_lack_socket(protocol: Protocol, table: &Table) -> bool {
    let unread = [
        Incompleteness::Sockets(protocol),
        Incompleteness::Changed(protocol),
    ];
    table.unseen.iter().any(|reason| unread.contains(reason))
}

/// The processes that own each socket. The oldest process comes first, so that a server comes
/// before its workers.
fn by_inode(found: &Found) -> HashMap<Inode, Vec<&Process>> {
    let age = |process: &Process| (process.ticks, process.pid);
    let mut by_inode: HashMap<Inode, Vec<&Process>> = HashMap::new();
    for (process, inodes) in found {
        for inode in inodes {
            let processes = by_inode.entry(*inode).or_default();
            let at = processes.partition_point(|older| age(older) < age(process));
            // A process that has two descriptors of one socket is listed once.
            if processes
                .get(at)
                .is_none_or(|same| age(same) != age(process))
            {
                processes.insert(at, process);
            }
        }
    }
    by_inode
}

/// Adds to each row the processes that own the socket. A connection that no process has accepted
/// yet gets the owners of its listener.
fn join(
    rows: Vec<Row>,
    by_inode: &HashMap<Inode, Vec<&Process>>,
    users: &[(u32, String)],
) -> Vec<Holder> {
    let listeners = row::by_number(rows.iter().filter(|row| row.state == State::Listen));
    let holder = |mut row: Row| {
        let mut inode = row.inode;
        if row.waits_for_accept() {
            // The kernel gives a connection to a listener on the exact address rather than to a
            // wildcard listener.
            let of_number = listeners.get(&row.local.port()).into_iter().flatten();
            let acceptor = of_number
                .filter(|listener| listener.accepts(&row))
                .min_by_key(|listener| listener.local.ip().is_unspecified());
            if let Some(acceptor) = acceptor {
                (inode, row.uid) = (acceptor.inode, acceptor.uid);
            }
        }
        row.uid = row.uid.filter(|uid| !is_unmapped(*uid));
        let processes = inode.and_then(|inode| by_inode.get(&inode));
        let processes: Vec<Process> = processes
            .into_iter()
            .flatten()
            .map(|process| (*process).clone())
            .collect();
        Holder {
            protocol: row.protocol,
            local: row.local,
            remote: row.remote,
            state: row.state,
            uid: row.uid,
            user: name_of(row.uid, users),
            inode: row.inode.map_or(0, Inode::get),
            dual_stack: row.dual_stack,
            client: row.client,
            interface: row.interface.map(|it| link_local::interface_text(it.get())),
            shared: false,
            hidden: inode.is_some() && processes.is_empty(),
            processes,
            unseen_owner: UnseenOwner::default(),
            may_be_client: false,
            is_past: false,
        }
    };
    rows.into_iter().map(holder).collect()
}

fn name_of(uid: Option<u32>, users: &[(u32, String)]) -> Option<String> {
    let uid = uid?;
    let named = users.iter().find(|(known, _)| *known == uid);
    named.map(|(_, name)| name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::incompleteness::UnseenBound;

    /// Before Linux 6.8 the table lacks bound sockets, but still shows that a listener is gone.
    #[test]
    fn a_table_without_bound_sockets_shows_that_another_socket_was_closed() {
        let table = |reason| Table {
            rows: Vec::new(),
            unseen: vec![reason],
        };
        let bound = table(Incompleteness::Bound(UnseenBound::OldKernel));
        assert!(!may_lack_socket(Protocol::Tcp, &bound));
        let changed = table(Incompleteness::Changed(Protocol::Tcp));
        assert!(may_lack_socket(Protocol::Tcp, &changed));
        assert!(!may_lack_socket(Protocol::Udp, &changed));
    }
}
