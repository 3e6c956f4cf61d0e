//! The socket table: which sockets are on a port, and which processes own them.
//!
//! One function per question, with one signature on every system. Reading the sockets is cheap and
//! touches no process. Searching for their processes is the expensive half, and a question of its
//! own.

use std::io;
use std::net::Ipv4Addr;
use std::num::NonZeroU64;

use crate::model::endpoint::Protocol;
use crate::model::port::Port;
use crate::model::state::State;

mod command_line;
pub(crate) mod decode;
mod owners;
mod row;

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

pub(crate) use owners::owners;
pub(crate) use row::{Inode, Row, ScanDepth, ScanResult, Table};

/// Whether a forked child shares its parent's sockets until it calls exec.
pub(crate) const CHILDREN_SHARE: bool = cfg!(unix);

/// Whether reading the listeners is one question to the system. On macOS it is a walk over every
/// process; on systems without a table a connection has to answer.
#[cfg(feature = "tokio")]
pub(crate) const IS_QUICK: bool = cfg!(any(target_os = "linux", windows));

/// Every socket with this local port, of one protocol or of all.
///
/// # Errors
///
/// If no table of sockets can be read at all; `Unsupported` on systems without one.
pub(crate) fn sockets(port: u16, protocol: Option<Protocol>) -> io::Result<Table> {
    let mut table = system::sockets(port, protocol)?;
    row::label_clients(&mut table.rows);
    Ok(table)
}

/// The sockets that would answer on this port: TCP sockets that listen, UDP sockets without a peer.
/// Cheap enough to be called every millisecond.
pub(crate) fn listening(port: u16, protocol: Protocol) -> io::Result<Vec<Row>> {
    system::listening(port, protocol)
}

/// The sockets that matter most on this port: those of [`listening`], or all of them if there are
/// none. As cheap as `listening` if there are some, else as expensive as [`sockets`].
pub(crate) fn listening_or_all(port: u16, protocol: Protocol) -> io::Result<Table> {
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

/// The abstract Unix socket of this name, as a row on the port that it names; `None` if there is
/// none, or on a system without such names.
pub(crate) fn named(name: &str, port: Port) -> io::Result<Option<Row>> {
    let inode = system::abstract_socket(name)?;
    Ok(inode.map(|inode| by_inode(inode, port)))
}

/// A socket that is known by its inode, as a row on its port.
pub(crate) fn by_inode(inode: Inode, port: Port) -> Row {
    Row {
        protocol: port.protocol,
        local: (Ipv4Addr::UNSPECIFIED, port.number).into(),
        remote: None,
        state: State::Bound,
        uid: None,
        inode: Some(inode),
        dual_stack: false,
        client: false,
    }
}

/// Every TCP socket that listens, on any port.
pub(crate) fn all_listeners() -> io::Result<Vec<Row>> {
    system::listening(0, Protocol::Tcp)
}

/// The start of a process in the system's own unit, which distinguishes it from a later process
/// with the same pid.
pub(crate) fn started(pid: u32) -> Option<NonZeroU64> {
    system::started(pid)
}

/// The parent of a process; `None` if the process has ended or cannot be read.
pub(crate) fn parent(pid: u32) -> Option<u32> {
    system::parent(pid)
}

/// A process group and a session, each by the pid of the process that started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) group: u32,
    pub(crate) session: u32,
}

/// Those of a process; `None` if the process has ended or cannot be read, and on systems other than
/// Linux.
pub(crate) fn group(pid: u32) -> Option<Group> {
    system::group(pid)
}

/// The effective user of a process; `None` if the process has ended or cannot be read, and on
/// systems that do not report it.
pub(crate) fn user_of(pid: u32) -> Option<u32> {
    system::user_of(pid)
}

/// The pid of a process in its own pid namespace, the innermost that it has a pid in. On systems
/// without such namespaces it is the same pid.
pub(crate) fn innermost_pid(pid: u32) -> Option<u32> {
    #[cfg(target_os = "linux")]
    return linux::innermost_pid(pid);
    #[cfg(not(target_os = "linux"))]
    return Some(pid);
}

/// Whether a process runs. A zombie does not.
pub(crate) fn is_running(pid: u32) -> io::Result<bool> {
    system::is_running(pid)
}
