//! [`ProcessHandle`]: waits for a process to end, or ends it. A handle distinguishes the process
//! from a later one with the same id.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use portlease::Process;

use crate::failure::Failure;
use crate::process_stat::{ProcessStat, shows_processes};
use crate::text::{escape, os_message};

#[cfg(all(unix, not(target_os = "linux")))]
mod bsd;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(windows)]
mod windows;

#[cfg(all(unix, not(target_os = "linux")))]
use bsd as system;
#[cfg(target_os = "linux")]
use linux as system;
#[cfg(windows)]
use windows as system;

/// The process id of the first process of a system or a container.
pub(crate) const INIT: u32 = 1;

pub(crate) use system::{ProcessHandle, name, needs_sigkill, terminal_of_shell};

impl ProcessHandle {
    /// Whether the process has ended. A zombie counts as ended.
    pub(crate) fn has_ended(&self) -> io::Result<bool> {
        self.ended_within(Duration::ZERO)
    }
}

/// Returns `true` if the working directory of the process is `folder` or a folder below it. The
/// path `folder` must contain no symbolic links.
///
/// Returns `None` if the working directory cannot be read. Also returns `None` for a process in
/// another mount namespace, where the same path can name another folder.
pub(crate) fn works_below(process: &Process, folder: &Path) -> Option<bool> {
    let directory = process.working_directory.as_ref()?;
    // If the mount namespace of the process cannot be read, this function assumes that the process
    // is in the mount namespace of this command.
    if system::is_in_other_namespace(process.pid, "mnt").unwrap_or(false) {
        return None;
    }
    let is_below = directory.starts_with(folder)
        // The same folder can be mounted on several paths.
        || directory.ancestors().any(|ancestor| is_same_folder(ancestor, folder));
    Some(is_below)
}

/// Returns why the listeners of the process may not be visible here: it is in another network
/// namespace, or this user may not read its network namespace.
pub(crate) fn unseen_network(pid: u32) -> Option<String> {
    match system::is_in_other_namespace(pid, "net") {
        Some(true) => Some(format!(
            "pid {pid} is in another network namespace, whose listeners are not visible here; \
             nsenter --net=/proc/{pid}/ns/net enters it (rootless: nsenter --target {pid} --user \
             --preserve-credentials --net)"
        )),
        Some(false) => None,
        None => Some(format!(
            "the network namespace of pid {pid} cannot be read, so its listeners may not be \
             visible here; {}",
            unreadable_namespace()
        )),
    }
}

/// Whether the process at the other end of a socket is in another pid namespace, in which the ids
/// of processes differ. `peer` is the pid of that process, or 0 if it has no pid in the namespace
/// of this process. `false` if this user cannot find out.
pub(crate) fn is_in_other_pid_namespace(peer: u32) -> bool {
    peer == 0 || shows_processes() && system::is_in_other_namespace(peer, "pid").unwrap_or(false)
}

/// What to do if the kernel does not permit this process to read the namespace of another process.
/// If this process is root, no other user has more permission, so the text names the cause instead.
fn unreadable_namespace() -> &'static str {
    if !runs_as_root() {
        return "retry as root";
    }
    #[cfg(target_os = "linux")]
    if rustix::thread::capabilities(None).is_ok_and(|own| {
        !own.effective
            .contains(rustix::thread::CapabilitySet::SYS_PTRACE)
    }) {
        return "this process is root, but lacks the capability CAP_SYS_PTRACE";
    }
    "a security module, a sandbox or a user namespace denies the read even to root"
}

/// Returns `true` if this process is root. A retry with more permission cannot help root. Always
/// `false` on Windows.
pub(crate) fn runs_as_root() -> bool {
    #[cfg(unix)]
    return rustix::process::geteuid().is_root();
    #[cfg(not(unix))]
    return false;
}

/// The path of the folder of `--under` without symbolic links, because the kernel reports working
/// directories without symbolic links. Fails if the path leads to no folder, and on systems other
/// than Linux, where the library reads no working directories.
pub(crate) fn real_folder(folder: &Path) -> Result<PathBuf, Failure> {
    if cfg!(not(target_os = "linux")) {
        return Err(Failure::new(
            "cannot read the working directories of processes on this system, so --under does not \
             work",
        ));
    }
    let cannot = |e: &io::Error| Failure::system(format_args!("read {:?}", folder.display()), e);
    let real = folder.canonicalize().map_err(|e| cannot(&e))?;
    if !real.is_dir() {
        return Err(cannot(&io::ErrorKind::NotADirectory.into()));
    }
    Ok(real)
}

/// Fails as [`ProcessHandle::terminate`] does if this user may not end the process.
#[cfg(unix)]
pub(crate) fn check_permission(pid: u32) -> io::Result<()> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    match pid.map(rustix::process::test_kill_process) {
        Some(Err(e @ rustix::io::Errno::PERM)) => Err(e.into()),
        _ => Ok(()),
    }
}

/// Fails as [`ProcessHandle::terminate`] does if this user may not end the process.
#[cfg(windows)]
pub(crate) fn check_permission(pid: u32) -> io::Result<()> {
    match crate::ffi::windows::open_to_end(pid) {
        Err(e) if !crate::ffi::windows::is_no_such_process(&e) => Err(e),
        _ => Ok(()),
    }
}

#[cfg(unix)]
fn is_same_folder(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |path: &Path| path.metadata().ok().map(|found| (found.dev(), found.ino()));
    id(one).is_some_and(|one| id(other) == Some(one))
}

#[cfg(windows)]
fn is_same_folder(one: &Path, other: &Path) -> bool {
    one == other
}

/// Why no running process has this pid: the pid belongs to a thread, to no process, or to a process
/// that has ended. `None` if a process with this pid runs, or if this user cannot find out.
pub(crate) fn why_not_running(pid: u32) -> Option<String> {
    match ProcessHandle::open(pid) {
        Ok(None) => Some("no such process".to_owned()),
        Ok(Some(process)) => process.has_ended().ok()?.then(|| has_ended_text(pid)),
        Err(e) => match e.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported => None,
            _ => Some(os_message(&e)),
        },
    }
}

/// The text for a process that has ended. Names the parent if the process is a zombie.
pub(crate) fn has_ended_text(pid: u32) -> String {
    let mut text = "the process has ended".to_owned();
    // Windows has no zombies.
    if let Some(stat) = ProcessStat::of(pid).filter(|_| cfg!(unix)) {
        let (parent, name) = (stat.parent, escape(&name(stat.parent)));
        text += &format!(", and its parent {name} (pid {parent}) has not read its exit status");
    }
    text
}

pub(crate) fn watch_failure(pid: u32, cause: &io::Error) -> Failure {
    Failure::system(format_args!("wait for pid {pid} to end"), cause)
}
