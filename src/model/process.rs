//! [`Process`]: a process that owns a socket.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::SystemTime;

/// A process that has a socket, as it was when it was found.
///
/// Its command line is not here, for it carries secrets: [`command_line`](Process::command_line) reads it.
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
    /// Its number.
    pub pid: u32,
    /// The number of the process that started it, or that took it over.
    pub parent: Option<u32>,
    /// The name that the kernel has for it (on Linux at most 15 bytes, and the process can change it). It can hold
    /// any character; the reports of this crate escape it.
    pub name: String,
    /// The path of its program, where it may be seen.
    pub program: Option<PathBuf>,
    /// The user it runs as; `None` on Windows.
    pub uid: Option<u32>,
    /// That user's name, from `/etc/passwd` alone.
    pub user: Option<String>,
    /// When it started; on Linux unknown where there is no `/proc/uptime` (mount option `subset=pid`).
    pub started: Option<SystemTime>,
    /// Its start in the system's own unit, which distinguishes it from a later process with the same
    /// pid. `None` if the system does not say.
    pub(crate) ticks: Option<NonZeroU64>,
    /// A copy of its parent: it has not called exec since it was forked, or is in the middle of it.
    pub(crate) forked: bool,
}
