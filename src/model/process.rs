//! [`Process`]: a process that owns a socket.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::SystemTime;

/// A process that owns a socket, as it was when the socket was read.
///
/// The command line is not a field, because it can contain secrets:
/// [`command_line`](Process::command_line) reads it on request.
///
/// ```
/// # if cfg!(target_os = "linux") {
/// let p = portlease::reserve_port();
/// let server = p.listen()?;
/// let holders = portlease::who_holds(&p)?;
/// let listener = holders.iter().find(|holder| holder.state == portlease::State::Listen).unwrap();
/// let process = &listener.processes[0];
/// assert_eq!(process.pid, std::process::id());
/// println!("{}, {:?}", process.name, process.program);
/// # drop(server);
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Process {
    /// The process id.
    pub pid: u32,
    /// The id of the parent: the process that started it, or the one that adopted it as an orphan.
    pub parent: Option<u32>,
    /// The name by which the kernel knows the process. On Linux it has at most 15 bytes, and the
    /// process can change it.
    ///
    /// It can contain any character. The reports of this crate escape it.
    pub name: String,
    /// The path of the program; `None` if this user may not read it.
    pub program: Option<PathBuf>,
    /// The user it runs as; `None` on Windows.
    pub uid: Option<u32>,
    /// That user's name. It is read from `/etc/passwd`, and from no other source.
    pub user: Option<String>,
    /// When it started. On Linux it is `None` without `/proc/uptime` (mount option `subset=pid`).
    pub started: Option<SystemTime>,
    /// The start in the system's own unit. It distinguishes the process from a later one with the
    /// same pid. `None` if the system does not report it.
    pub(crate) ticks: Option<NonZeroU64>,
    /// A forked child that has not called exec, or is in the middle of that call.
    pub(crate) forked: bool,
}
