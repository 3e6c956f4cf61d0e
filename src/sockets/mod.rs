//! The socket table: which sockets are on a port, and which processes own them.
//!
//! Each system has a module with the same functions. The module of Linux has further functions.
//!
//! Reading the sockets is cheap, except on macOS, where this crate reads every process. The search
//! for the processes that own the sockets is usually expensive, so a separate function does it:
//! `owners`.

use std::ffi::OsString;
use std::io;
use std::net::Ipv4Addr;
use std::num::NonZeroU64;
use std::path::PathBuf;

use crate::model::endpoint::Protocol;
use crate::model::port::Port;
use crate::model::process::{Halt, Process};
use crate::model::state::State;

mod command_line;
pub(crate) mod decode;
mod owners;
mod port_tables;
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

pub(crate) use owners::{owners, owners_of_each};
pub(crate) use port_tables::PortTables;
pub(crate) use row::{Inode, OwnedRows, Queue, Row, ScanDepth, ScanResult, Table};

/// Whether a forked child shares the sockets of its parent until the child calls exec.
pub(crate) const CHILDREN_SHARE: bool = cfg!(unix);

/// Whether [`listening`] is cheap enough for a thread that must not block. `false` on macOS, where
/// the call reads every process. Also `false` on systems whose socket table this crate cannot read,
/// because only a connection can find a listener there.
#[cfg(feature = "tokio")]
pub(crate) const IS_QUICK: bool = cfg!(any(target_os = "linux", windows));

/// Every socket with this local port. The port 0 stands for every port, and `None` for every
/// protocol.
///
/// # Errors
///
/// - Descriptors or memory are used up.
/// - No table can be read. The error is `Unsupported` on a system without a socket table that this
///   crate can read.
/// - On Windows: one table cannot be read, and the other tables have no socket on the port.
pub(crate) fn sockets(port: u16, protocol: Option<Protocol>) -> io::Result<Table> {
    let mut table = system::sockets(port, protocol)?;
    row::label_clients(&mut table.rows);
    Ok(table)
}

/// The sockets that would answer on this port (0: any): TCP sockets that listen, and UDP sockets
/// without a peer. On Linux and Windows the call is cheap enough to repeat each millisecond.
pub(crate) fn listening(port: u16, protocol: Protocol) -> io::Result<Vec<Row>> {
    system::listening(port, protocol)
}

/// The sockets that [`listening`] returns for the ports from `lowest` to `highest`. One read of the
/// table serves all these ports.
pub(crate) fn listening_between(
    lowest: u16,
    highest: u16,
    protocol: Protocol,
) -> io::Result<Vec<Row>> {
    #[cfg(target_os = "linux")]
    return linux::listening_between(&(lowest..=highest), protocol);
    #[cfg(not(target_os = "linux"))]
    {
        let mut rows = system::listening(0, protocol)?;
        rows.retain(|row| (lowest..=highest).contains(&row.local.port()));
        Ok(rows)
    }
}

/// Returns what [`listening`] returns. If the port has no listener, returns what [`sockets`]
/// returns. For a port with a listener, this call costs less than [`sockets`], except on macOS.
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

/// Searches for the abstract Unix socket `name` of a reservation, and returns it as a row on
/// `port`. Returns `None` if no such socket exists, and always on systems without abstract Unix
/// sockets.
pub(crate) fn named(name: &str, port: Port) -> io::Result<Option<Row>> {
    let inode = system::abstract_socket(name)?;
    Ok(inode.map(|inode| by_inode(inode, port)))
}

/// A row for a socket about which only the inode and the port are known.
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
        interface: None,
        queue: None,
    }
}

/// Every TCP socket that listens, on any port.
pub(crate) fn all_listeners() -> io::Result<Vec<Row>> {
    system::listening(0, Protocol::Tcp)
}

/// An upper limit of the number of TCP sockets in this network namespace. Connection requests
/// (SYN_RECV) do not count. The call reads one short file. `None` if that file is missing or lacks
/// the counts, and always on systems other than Linux.
pub(crate) fn tcp_at_most() -> Option<usize> {
    #[cfg(target_os = "linux")]
    return linux::tcp_at_most();
    #[cfg(not(target_os = "linux"))]
    return None;
}

/// When a process started, in the system's own unit. The value distinguishes the process from a
/// later one with the same pid. Returns `None` if there is no such process, or if it cannot be
/// read. On Linux a lack of descriptors or memory is an error, because the process may still run.
pub(crate) fn started(pid: u32) -> io::Result<Option<NonZeroU64>> {
    system::started(pid)
}

/// The parent of a process. Returns `None` if the process has no parent in this pid namespace, or
/// if the process cannot be read.
pub(crate) fn parent(pid: u32) -> Option<u32> {
    system::parent(pid)
}

/// The process group and the session of a process. The id of each is the pid of its leader, which
/// may have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) group: u32,
    pub(crate) session: u32,
}

/// Reads the process group and the session of a process. Returns `None` if the process cannot be
/// read, and always on systems other than Linux.
pub(crate) fn group(pid: u32) -> Option<Group> {
    system::group(pid)
}

/// Whether the calling process is a subreaper (`PR_SET_CHILD_SUBREAPER` of prctl(2)): it adopts the
/// descendants whose own parents have ended. Always `false` on systems other than Linux.
pub(crate) fn adopts_orphans() -> bool {
    #[cfg(target_os = "linux")]
    return linux::adopts_orphans();
    #[cfg(not(target_os = "linux"))]
    return false;
}

/// The name of the service and the id of the container that a process runs in. Windows shows no
/// containers. Systems other than Linux and Windows always return `None` for both.
pub(crate) fn unit_and_container(pid: u32) -> (Option<String>, Option<String>) {
    system::unit_and_container(pid)
}

/// The program that a process runs.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// The name that the kernel has for the process (`comm`).
    pub(crate) name: String,
    /// `None` if the process has no parent in this pid namespace.
    pub(crate) parent: Option<u32>,
    /// Empty if the arguments cannot be read.
    pub(crate) arguments: Vec<OsString>,
}

/// The working directory of a process. Returns `None` if it cannot be read, and always on systems
/// other than Linux.
pub(crate) fn working_directory(pid: u32) -> Option<PathBuf> {
    #[cfg(target_os = "linux")]
    return linux::working_directory(pid);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = pid;
        None
    }
}

/// The first [`SCRIPT_BYTES`](crate::retry::SCRIPT_BYTES) bytes of a script that the process runs.
/// The script is the file at `path`. If `path` is `None`, the script is the stdin of the process.
/// An absolute path starts at the root of the process, and a relative path at its working
/// directory. Exception: an absolute symbolic link in `path` starts at the root of the calling
/// process. Returns `None` if the file cannot be read or is no regular file, and always on systems
/// other than Linux.
pub(crate) fn script_of(pid: u32, path: Option<&str>) -> Option<String> {
    #[cfg(target_os = "linux")]
    return linux::script_of(pid, path);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (pid, path);
        None
    }
}

/// Reads which program a process runs. Returns `None` if the process cannot be read, and always on
/// systems other than Linux.
pub(crate) fn program(pid: u32) -> Option<Program> {
    #[cfg(target_os = "linux")]
    return linux::program(pid);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = pid;
        None
    }
}

/// Whether `/proc` can show every process of this machine, because this process is in the first pid
/// namespace. In a container with its own pid namespace, `/proc` shows only the processes of the
/// container. Also `true` if the namespace is unknown, as on systems other than Linux.
pub(crate) fn shows_every_process() -> bool {
    #[cfg(target_os = "linux")]
    {
        /// The kernel gives the first pid namespace a fixed inode (PROC_PID_INIT_INO).
        const FIRST: u64 = 0xeffffffc;
        crate::process_id::ProcessId::current()
            .namespace()
            .is_none_or(|inode| inode.get() == FIRST)
    }
    #[cfg(not(target_os = "linux"))]
    return true;
}

/// Reads the facts that a report shows about the owner of a socket, except the name of the user.
/// Returns `None` if the process cannot be read, and always on systems other than Linux.
pub(crate) fn describe(pid: u32) -> Option<Process> {
    #[cfg(target_os = "linux")]
    return linux::describe(pid);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = pid;
        None
    }
}

/// The effective user of a process. Returns `None` if the process cannot be read, and on systems
/// that do not report the user.
pub(crate) fn user_of(pid: u32) -> Option<u32> {
    system::user_of(pid)
}

/// Returns `true` if the uid stands for all users that the user namespace of this process does not
/// map. Such a uid identifies no user. Always `false` on systems other than Linux.
fn is_unmapped(uid: u32) -> bool {
    #[cfg(target_os = "linux")]
    return linux::is_unmapped(uid);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = uid;
        false
    }
}

/// The pid of the process that has a thread with this id. Returns `None` if `id` is itself a pid,
/// and always on systems other than Linux.
pub(crate) fn process_of_thread(id: u32) -> Option<u32> {
    #[cfg(target_os = "linux")]
    return linux::process_of_thread(id);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = id;
        None
    }
}

/// The pid that a process has in its own pid namespace. Returns `None` if the process cannot be
/// read. On systems other than Linux the result is `pid` itself.
pub(crate) fn innermost_pid(pid: u32) -> Option<u32> {
    #[cfg(target_os = "linux")]
    return linux::innermost_pid(pid);
    #[cfg(not(target_os = "linux"))]
    return Some(pid);
}

/// Whether the process itself has locked an open file with this name (flock(2)). A forked child
/// that shares the lock of its parent does not count. `false` if the descriptors of the process
/// cannot be read, and always on systems other than Linux.
pub(crate) fn has_locked(pid: u32, file_name: &str) -> bool {
    #[cfg(target_os = "linux")]
    return linux::has_locked(pid, file_name);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (pid, file_name);
        false
    }
}

/// Whether this process has a descriptor of epoll(7). Most async runtimes open such a descriptor
/// for their event loop. Always `false` on systems other than Linux.
#[cfg(not(feature = "tokio"))]
pub(crate) fn has_event_loop() -> bool {
    #[cfg(target_os = "linux")]
    return linux::has_event_loop();
    #[cfg(not(target_os = "linux"))]
    return false;
}

/// The running descendants of the process that have no running children of their own. If there are
/// none, or if the system does not show the children, the result is the process itself. On systems
/// other than Linux, the result is always the process itself.
pub(crate) fn leaves(pid: u32) -> Vec<u32> {
    #[cfg(target_os = "linux")]
    return linux::leaves(pid);
    #[cfg(not(target_os = "linux"))]
    vec![pid]
}

/// The ids of all processes that `/proc` shows. Empty if `/proc` cannot be read, and always on
/// systems other than Linux.
pub(crate) fn pids() -> Vec<u32> {
    #[cfg(target_os = "linux")]
    return linux::pids();
    #[cfg(not(target_os = "linux"))]
    Vec::new()
}

/// What keeps the process from running: a stop signal, a debugger or a frozen control group. `None`
/// if there is no such cause, or if the process cannot be read. Always `None` on systems other than
/// Linux.
pub(crate) fn halt(pid: u32) -> Option<Halt> {
    #[cfg(target_os = "linux")]
    return linux::halt(pid);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = pid;
        None
    }
}

/// Whether a process still runs. A zombie counts as ended.
pub(crate) fn is_running(pid: u32) -> io::Result<bool> {
    system::is_running(pid)
}
