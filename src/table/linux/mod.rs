//! Linux: `sock_diag(7)` for the sockets, `/proc/net` where that is missing, `/proc/PID` for the processes.

use std::collections::HashSet;
use std::io;

use rustix::io::Errno;

use super::{Row, Table, message};
use crate::endpoint::Protocol;
use crate::holder::Unseen;

mod proc_net;
mod process;
mod procfs;
mod sock_diag;

pub(super) use proc_net::abstract_socket;
pub(super) use process::{command_line, is_running, parent, started, users};
pub(super) use procfs::processes;

pub(super) fn sockets(port: u16, protocol: Option<Protocol>) -> io::Result<Table> {
    let diag = match sock_diag::Diag::open() {
        Err(error) if out_of_descriptors(&error) => return Err(error),
        // Sandboxes and emulators have none: /proc answers then.
        opened => opened.ok(),
    };
    gather(diag, port, protocol)
}

fn gather(
    mut diag: Option<sock_diag::Diag>,
    port: u16,
    protocol: Option<Protocol>,
) -> io::Result<Table> {
    let mut table = Table::default();
    let mut failed = None;
    let asked = Protocol::asked(&protocol);
    for &protocol in asked {
        if let Err(error) = read(&mut diag, protocol, port, &mut table) {
            if out_of_descriptors(&error) {
                return Err(error);
            }
            table.unseen.push(Unseen::Sockets(protocol));
            failed = Some(error);
        }
    }
    // A socket that moved while it was read can be there twice.
    let mut known = HashSet::new();
    table
        .rows
        .retain(|row| row.inode == 0 || known.insert(row.inode));
    match failed {
        Some(error) if table.unseen.len() >= asked.len() && table.rows.is_empty() => Err(error),
        _ => Ok(table),
    }
}

/// The sockets of one protocol, by whichever way answers.
fn read(
    diag: &mut Option<sock_diag::Diag>,
    protocol: Protocol,
    port: u16,
    table: &mut Table,
) -> io::Result<()> {
    let answer = diag
        .as_mut()
        .map(|diag| diag.ask(protocol, message::ALL, port, &mut table.rows));
    match answer {
        Some(Ok(answer)) => {
            if !answer.steady {
                table.unseen.push(Unseen::Changed(protocol));
            }
            if protocol == Protocol::Tcp && !answer.saw_bound && !sock_diag::shows_bound() {
                table.unseen.push(Unseen::Bound);
            }
            return Ok(());
        }
        Some(Err(error)) if out_of_descriptors(&error) => return Err(error),
        Some(Err(_)) | None => {}
    }
    proc_net::sockets(protocol, port, &mut table.rows)?;
    if protocol == Protocol::Tcp {
        table.unseen.push(Unseen::Bound);
    }
    Ok(())
}

pub(super) fn listening(port: u16, protocol: Protocol) -> io::Result<Vec<Row>> {
    let states = if protocol == Protocol::Tcp {
        message::LISTEN
    } else {
        message::UNCONNECTED
    };
    let mut rows = Vec::new();
    let answer =
        sock_diag::Diag::open().and_then(|mut diag| diag.ask(protocol, states, port, &mut rows));
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
    sock_diag::Diag::open().is_ok()
}

/// As [`sockets`] where there is no `sock_diag`.
#[cfg(test)]
pub(super) fn fall_back(port: u16, protocol: Option<Protocol>) -> io::Result<Table> {
    gather(None, port, protocol)
}
