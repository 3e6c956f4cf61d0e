//! Linux: `sock_diag(7)` for the sockets, `/proc/net` where that is missing, `/proc/PID` for the processes.

use std::collections::HashSet;
use std::io;

use rustix::io::Errno;

use super::decode::sock_diag;
use super::{Row, Table};
use crate::model::endpoint::Protocol;
use crate::model::incompleteness::Incompleteness;

mod netlink;
mod proc_folder;
mod proc_net;
mod process;
mod scan;

pub(super) use proc_net::abstract_socket;
pub(super) use process::{command_line, is_running, parent, started, users};
pub(super) use scan::processes;

pub(super) fn sockets(port: u16, protocol: Option<Protocol>) -> io::Result<Table> {
    let diag = match netlink::Diag::open() {
        Err(error) if out_of_descriptors(&error) => return Err(error),
        // Sandboxes and emulators have none: /proc answers then.
        opened => opened.ok(),
    };
    gather(diag, port, protocol)
}

fn gather(
    mut diag: Option<netlink::Diag>,
    port: u16,
    protocol: Option<Protocol>,
) -> io::Result<Table> {
    let mut table = Table::default();
    let mut failed = None;
    let requested = Protocol::requested(&protocol);
    for &protocol in requested {
        if let Err(error) = read(&mut diag, protocol, port, &mut table) {
            if out_of_descriptors(&error) {
                return Err(error);
            }
            table.unseen.push(Incompleteness::Sockets(protocol));
            failed = Some(error);
        }
    }
    // A socket that moved while it was read can be there twice.
    let mut known = HashSet::new();
    table
        .rows
        .retain(|row| row.inode.is_none_or(|inode| known.insert(inode)));
    match failed {
        Some(error) if table.unseen.len() >= requested.len() && table.rows.is_empty() => Err(error),
        _ => Ok(table),
    }
}

/// The sockets of one protocol, by whichever way answers.
fn read(
    diag: &mut Option<netlink::Diag>,
    protocol: Protocol,
    port: u16,
    table: &mut Table,
) -> io::Result<()> {
    let answer = diag
        .as_mut()
        .map(|diag| diag.ask(protocol, sock_diag::ALL, port, &mut table.rows));
    match answer {
        Some(Ok(answer)) => {
            if !answer.steady {
                table.unseen.push(Incompleteness::Changed(protocol));
            }
            if protocol == Protocol::Tcp && !answer.saw_bound && !netlink::shows_bound() {
                table.unseen.push(Incompleteness::Bound);
            }
            return Ok(());
        }
        Some(Err(error)) if out_of_descriptors(&error) => return Err(error),
        Some(Err(_)) | None => {}
    }
    proc_net::sockets(protocol, port, &mut table.rows)?;
    if protocol == Protocol::Tcp {
        table.unseen.push(Incompleteness::Bound);
    }
    Ok(())
}

pub(super) fn listening(port: u16, protocol: Protocol) -> io::Result<Vec<Row>> {
    let states = if protocol == Protocol::Tcp {
        sock_diag::LISTEN
    } else {
        sock_diag::UNCONNECTED
    };
    let mut rows = Vec::new();
    let answer =
        netlink::Diag::open().and_then(|mut diag| diag.ask(protocol, states, port, &mut rows));
    match answer {
        Ok(_) => {}
        Err(error) if out_of_descriptors(&error) => return Err(error),
        Err(_) => proc_net::listening(protocol, port, &mut rows)?,
    }
    Ok(rows)
}

/// No other way to look would fare better.
fn out_of_descriptors(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno == Some(Errno::MFILE) || errno == Some(Errno::NFILE) || errno == Some(Errno::NOMEM)
}

#[cfg(test)]
pub(super) fn has_sock_diag() -> bool {
    netlink::Diag::open().is_ok()
}

/// As [`sockets`] where there is no `sock_diag`.
#[cfg(test)]
pub(super) fn fall_back(port: u16, protocol: Option<Protocol>) -> io::Result<Table> {
    gather(None, port, protocol)
}
