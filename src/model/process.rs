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
    /// That user's name in `/etc/passwd`. `None` if the user is not listed there, and on macOS and
    /// Windows.
    pub user: Option<String>,
    /// When the process started. On Linux it is `None` if `/proc/uptime` is missing, as with the
    /// mount option `subset=pid` of proc(5).
    pub started: Option<SystemTime>,
    /// When the process started, in the system's own unit; `None` if the system does not report
    /// it. The value distinguishes the process from a later one with the same pid.
    pub(crate) ticks: Option<NonZeroU64>,
    /// Whether the process is a forked child that has not finished a call of exec.
    pub(crate) forked: bool,
}
