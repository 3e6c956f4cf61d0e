//! Searches for the processes that own sockets, and adds them to the rows.

use std::collections::{HashMap, HashSet};
use std::io;

use super::row::{Inode, OwnedRows, Row, ScanDepth, ScanResult, Table};
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
    let wanted: Vec<(Inode, Option<u32>)> = rows
        .iter()
        .filter_map(|row| Some((row.inode?, row.uid)))
        .collect();
    let scan = if wanted.is_empty() {
        ScanResult::default()
    } else {
        system::processes(&wanted, depth)?
    };
    let rows = without_closed(rows, &scan.found);
    let has_users = rows.iter().any(|row| row.uid.is_some()) || !scan.found.is_empty();
    let users = if has_users {
        system::users()
    } else {
        Vec::new()
    };
    Ok(OwnedRows {
        holders: join(rows, scan.found, &users),
        unseen: scan.unseen,
    })
}

/// Removes the sockets that were closed during the search. Otherwise they would be reported as
/// hidden, because no process owns them.
fn without_closed(mut rows: Vec<Row>, found: &Found) -> Vec<Row> {
    let mut known = HashSet::<Inode>::new();
    for (_, inodes) in found {
        known.extend(inodes);
    }
    let is_lost = |row: &Row| row.inode.is_some_and(|inode| !known.contains(&inode));
    let mut lost = rows.iter().filter(|row| is_lost(row));
    let Some(first) = lost.next() else {
        return rows;
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
        rows.retain(|row| {
            !is_lost(row) || present.contains(&row.inode) || may_lack_socket(row.protocol, &table)
        });
    }
    rows
}

/// Whether the second reading of the table may lack a socket that still exists.
fn may_lack_socket(protocol: Protocol, table: &Table) -> bool {
    let unread = [
        Incompleteness::Sockets(protocol),
        Incompleteness::Changed(protocol),
    ];
    table.unseen.iter().any(|reason| unread.contains(reason))
}

/// Adds to each row the processes that own the socket. The oldest process comes first, so that a
/// server comes before its workers.
fn join(rows: Vec<Row>, mut found: Found, users: &[(u32, String)]) -> Vec<Holder> {
    for (process, _) in &mut found {
        process.user = name_of(process.uid, users);
    }
    let age = |process: &Process| (process.ticks, process.pid);
    let mut by_inode: HashMap<Inode, Vec<&Process>> = HashMap::new();
    for (process, inodes) in &found {
        for inode in inodes {
            let processes = by_inode.entry(*inode).or_default();
            let at = processes.partition_point(|older| age(older) < age(process));
            // A process can have two descriptors of one socket.
            if processes
                .get(at)
                .is_none_or(|same| age(same) != age(process))
            {
                processes.insert(at, process);
            }
        }
    }
    let listens = |row: &&Row| row.state == State::Listen;
    let listeners: Vec<Row> = rows.iter().filter(listens).cloned().collect();
    let holder = |mut row: Row| {
        let mut inode = row.inode;
        if row.waits_for_accept() {
            // A listener on the exact address gets a connection before a wildcard listener, as in
            // the kernel.
            let acceptor = listeners
                .iter()
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
