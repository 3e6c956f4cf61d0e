//! Linux: reads the sockets from `sock_diag(7)`, or from `/proc/net` if sock_diag is missing or
//! fails. Reads the processes from `/proc/PID`.

use std::collections::HashSet;
use std::io;
use std::ops::RangeInclusive;

use super::decode::sock_diag;
use super::{Row, Table};
use crate::model::endpoint::Protocol;
use crate::model::incompleteness::{Incompleteness, UnseenBound};
use crate::os_error::is_exhaustion;

mod ffi;
mod freezer;
mod netlink;
mod proc_folder;
mod proc_net;
mod process;
mod scan;

pub(super) use ffi::adopts_orphans;
pub(super) use proc_net::{abstract_socket, tcp_at_most};
#[cfg(not(feature = "tokio"))]
pub(super) use process::has_event_loop;
pub(super) use process::{
    command_line, describe, group, halt, has_locked, innermost_pid, is_running, is_unmapped,
    leaves, parent, pids, process_of_thread, program, script_of, started, unit_and_container,
    user_of, users, working_directory,
};
pub(super) use scan::processes;

pub(super) fn sockets(port: u16, protocol: Option<Protocol>) -> io::Result<Table> {
    let diag = match netlink::SockDiag::open() {
        // Descriptors or memory are used up, so a read of `/proc/net` would fail too.
        Err(error) if is_exhaustion(&error) => return Err(error),
        // Some sandboxes and emulators lack sock_diag. Without it `read` uses `/proc/net`.
        opened => opened.ok(),
    };
    read_protocols(diag, port, protocol)
}

fn read_protocols(
    mut diag: Option<netlink::SockDiag>,
    port: u16,
    protocol: Option<Protocol>,
) -> io::Result<Table> {
    let mut table = Table::default();
    let mut failures = Vec::new();
    let requested = Protocol::requested(&protocol);
    for &protocol in requested {
        if let Err(error) = read(&mut diag, protocol, port, &mut table) {
            if is_exhaustion(&error) {
                return Err(error);
            }
            table.unseen.push(Incompleteness::Sockets(protocol));
            failures.push(error);
        }
    }
    // If a socket changes its state during the dump, the kernel can report it twice.
    let mut known = HashSet::new();
    table
        .rows
        .retain(|row| row.inode.is_none_or(|inode| known.insert(inode)));
    match failures.pop() {
        Some(error) if failures.len() + 1 == requested.len() => Err(error),
        _ => Ok(table),
    }
}

/// Appends the sockets of one protocol to the table. If sock_diag is missing or fails, reads them
/// from `/proc/net`. If descriptors or memory are used up, the call fails instead.
fn read(
    diag: &mut Option<netlink::SockDiag>,
    protocol: Protocol,
    port: u16,
    table: &mut Table,
) -> io::Result<()> {
    let dumped = diag
        .as_mut()
        .map(|diag| diag.dump(protocol, sock_diag::ALL, &range(port), &mut table.rows));
    match dumped {
        Some(Ok(consistent)) => {
            if !consistent {
                table.unseen.push(Incompleteness::Changed(protocol));
            }
            if protocol == Protocol::Tcp && !netlink::shows_bound()? {
                let reason = UnseenBound::OldKernel;
                table.unseen.push(Incompleteness::Bound(reason));
            }
            return Ok(());
        }
        Some(Err(error)) if is_exhaustion(&error) => return Err(error),
        Some(Err(_)) | None => {}
    }
    proc_net::sockets(protocol, port, &mut table.rows)?;
    if protocol == Protocol::Tcp {
        let reason = UnseenBound::NoSockDiag;
        table.unseen.push(Incompleteness::Bound(reason));
    }
    Ok(())
}

pub(super) fn listening(port: u16, protocol: Protocol) -> io::Result<Vec<Row>> {
    listening_between(&range(port), protocol)
}

/// The sockets that [`listening`] returns, on each of these ports.
pub(super) fn listening_between(
    ports: &RangeInclusive<u16>,
    protocol: Protocol,
) -> io::Result<Vec<Row>> {
    let states = if protocol == Protocol::Tcp {
        sock_diag::LISTEN
    } else {
        sock_diag::UNCONNECTED
    };
    let mut rows = Vec::new();
    let dumped = netlink::SockDiag::open()
        .and_then(|mut diag| diag.dump(protocol, states, ports, &mut rows));
    match dumped {
        Ok(_) => {}
        Err(error) if is_exhaustion(&error) => return Err(error),
        Err(_) => {
            proc_net::listening(protocol, 0, &mut rows)?;
            rows.retain(|row| ports.contains(&row.local.port()));
        }
    }
    Ok(rows)
}

/// The ports that a request for this port selects. A request for port 0 selects every port.
fn range(port: u16) -> RangeInclusive<u16> {
    if port == 0 {
        sock_diag::ANY_PORT
    } else {
        port..=port
    }
}

#[cfg(test)]
pub(super) fn has_sock_diag() -> bool {
    let dump = netlink::SockDiag::open().and_then(|mut diag| {
        diag.dump(
            Protocol::Tcp,
            sock_diag::LISTEN,
            &sock_diag::ANY_PORT,
            &mut Vec::new(),
        )
    });
    dump.is_ok()
}

/// Returns `true` if the kernel shows a bound socket of this process that does not listen.
#[cfg(test)]
pub(super) fn shows_bound() -> bool {
    netlink::shows_own_bound().unwrap_or(false)
}

/// Returns what [`sockets`] returns on a system without sock_diag.
#[cfg(test)]
pub(super) fn sockets_from_proc_net(port: u16, protocol: Option<Protocol>) -> io::Result<Table> {
    read_protocols(None, port, protocol)
}
