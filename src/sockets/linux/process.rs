//! Reads what `/proc/PID` shows about a process, such as its name, parent, program and user.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::buffer::spare_capacity;
use rustix::fs::{CWD, Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;

use super::super::decode::cgroup;
use super::super::decode::procfs;
use super::super::{Group, Program};
use super::proc_folder::{numbers, open};
use super::{ffi, freezer};
use crate::model::process::{Halt, Process, ProcessState};
use crate::os_error::is_exhaustion;
use crate::proc_fs;
use crate::retry::SCRIPT_BYTES;

/// Converts ticks since boot to wall-clock time.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    boot: Option<SystemTime>,
}

impl Clock {
    /// Computes the time of the boot from `/proc/uptime`. If this file is missing, as with the
    /// mount option `subset=pid`, reports show no start times.
    pub(super) fn now(proc: BorrowedFd<'_>) -> io::Result<Self> {
        let uptime = match read(proc, "uptime") {
            Err(error) if is_exhaustion(&error) => return Err(error),
            text => text.ok().and_then(|text| procfs::uptime(&text)),
        };
        Ok(Clock {
            boot: uptime.and_then(|uptime| SystemTime::now().checked_sub(uptime)),
        })
    }

    /// Describes the process whose folder in `/proc` is `folder/process_path`. A zombie (a process
    /// that has ended and is not reaped) is described too. Returns `None` if the process was
    /// reaped, or if its `stat` cannot be read. Fails if the read of `stat` lacks descriptors or
    /// memory. If another file cannot be read, only the facts from that file are missing.
    pub(super) fn describe(
        &self,
        pid: u32,
        folder: BorrowedFd<'_>,
        process_path: &str,
    ) -> io::Result<Option<Process>> {
        let stat = match read(folder, &format!("{process_path}/stat")) {
            Ok(text) => procfs::stat(&text),
            Err(error) if is_exhaustion(&error) => return Err(error),
            Err(_) => None,
        };
        let Some(stat) = stat else {
            return Ok(None);
        };
        let running = running_thread(folder, process_path, pid, &stat);
        let process_path = running.as_deref().unwrap_or(process_path);
        // `forked` means that the process has not completed exec. During exec a process has no
        // arguments for a moment, because the new program's memory is not set up yet. So a process
        // without arguments counts as forked.
        let is_in_exec =
            || read(folder, &format!("{process_path}/cmdline")).is_ok_and(|line| line.is_empty());
        let forked = stat.forked || is_in_exec();
        let status = read(folder, &format!("{process_path}/status")).unwrap_or_default();
        let state = if procfs::dumps_core(&status) {
            ProcessState::DumpingCore
        } else {
            state(folder, process_path, &stat)
        };
        let groups = read(folder, &format!("{process_path}/cgroup")).unwrap_or_default();
        let thaw = freezer::thaw_command(&groups);
        let state = match state {
            ProcessState::Running if thaw.is_some() => ProcessState::Frozen,
            state => state,
        };
        let groups = cgroup::membership(&groups);
        let link = |name: &str| {
            let path = readlinkat(folder, format!("{process_path}/{name}"), Vec::new()).ok()?;
            Some(PathBuf::from(OsString::from_vec(path.into_bytes())))
        };
        // USER_HZ is 100 on every architecture that Rust's std supports, so a tick is 10 ms.
        let age = Duration::from_millis(stat.started.saturating_mul(10));
        Ok(Some(Process {
            parent: Some(stat.parent).filter(|parent| *parent != 0),
            program: link("exe"),
            uid: procfs::effective_uid(&status).filter(|uid| !is_unmapped(*uid)),
            started: self.boot.and_then(|boot| boot.checked_add(age)),
            state,
            thaw,
            ignores_sigterm: ignores_sigterm(&status, folder, process_path),
            is_init_elsewhere: procfs::is_init_elsewhere(&status),
            working_directory: link("cwd"),
            unit: groups.unit,
            container_unit: groups.container_unit,
            user_manager: groups.user_manager,
            manager: groups.manager,
            handles_sigterm: procfs::has_sigterm(&status, "SigCgt:"),
            container: groups.container,
            ticks: NonZeroU64::new(stat.started),
            forked,
            ..Process::unknown(pid, stat.name)
        }))
    }
}

fn read(at: BorrowedFd<'_>, path: &str) -> io::Result<Vec<u8>> {
    let file = openat(at, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::with_capacity(2048);
    // `read_to_end` would make two more system calls, to find out the size of the file. Files in
    // `/proc` report no size.
    loop {
        match rustix::io::read(&file, spare_capacity(&mut bytes)) {
            Ok(0) => return Ok(bytes),
            Ok(_) => bytes.reserve(1024),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether SIGTERM has no effect on the process with this `/proc/PID/status`.
fn ignores_sigterm(status: &[u8], folder: BorrowedFd<'_>, process_path: &str) -> bool {
    let has_sigterm = |set| procfs::has_sigterm(status, set);
    // A server with a handler for SIGTERM, such as PostgreSQL, can block SIGTERM for a moment. So a
    // process with a handler never counts as ignoring SIGTERM, even while SIGTERM is blocked.
    has_sigterm("SigIgn:")
        || !has_sigterm("SigCgt:")
            && match has_sigterm("SigBlk:") {
                // The kernel queues a blocked SIGTERM, even for the first process of a pid
                // namespace. A thread or a signalfd(2) of the process may receive the signal later.
                true => blocks_sigterm(folder, process_path),
                // The kernel discards an unblocked SIGTERM to the first process of a pid namespace
                // if the process has no handler.
                false => procfs::is_init_elsewhere(status),
            }
}

/// Returns `true` if every thread blocks SIGTERM and the process has no signalfd(2) for SIGTERM.
///
/// While a thread waits for SIGTERM in sigwait(3) or ppoll(2), the kernel does not show SIGTERM as
/// blocked, so the result is `false`. The result is also `false` if the threads or the descriptors
/// cannot be read.
fn blocks_sigterm(folder: BorrowedFd<'_>, path: &str) -> bool {
    let blocks = |thread: u32| {
        let status = read(folder, &format!("{path}/task/{thread}/status"));
        status.is_ok_and(|status| procfs::has_sigterm(&status, "SigBlk:"))
    };
    let receives = |descriptor: u32| {
        let link = readlinkat(folder, format!("{path}/fd/{descriptor}"), Vec::new());
        // A descriptor that cannot be read may be a signalfd(2), so it counts as one.
        link.map_or(true, |link| link.to_bytes() == b"anon_inode:[signalfd]")
            && read(folder, &format!("{path}/fdinfo/{descriptor}"))
                .map_or(true, |info| procfs::has_sigterm(&info, "sigmask:"))
    };
    let list = |name: &str| {
        let folder = open(folder, &format!("{path}/{name}")).ok()?;
        numbers(folder.as_fd()).ok()
    };
    let all_block = list("task").is_some_and(|threads| threads.into_iter().all(blocks));
    all_block && list("fd").is_some_and(|all| !all.into_iter().any(receives))
}

/// The path of another thread's folder, if the first thread of the process has ended.
///
/// Every thread shows the same program and arguments, and usually the same working directory. A
/// thread that has ended shows none of them.
fn running_thread(
    folder: BorrowedFd<'_>,
    process_path: &str,
    pid: u32,
    stat: &procfs::Stat,
) -> Option<String> {
    if !stat.first_thread_ended {
        return None;
    }
    let path = format!("{process_path}/task");
    let threads = numbers(open(folder, &path).ok()?.as_fd()).ok()?;
    let other = threads.into_iter().find(|thread| *thread != pid)?;
    Some(format!("{path}/{other}"))
}

/// The state of the process. If its first thread has ended, the result is the state of the thread
/// whose folder is `path`.
fn state(folder: BorrowedFd<'_>, path: &str, process: &procfs::Stat) -> ProcessState {
    let thread = process
        .first_thread_ended
        .then(|| procfs::stat(&read(folder, &format!("{path}/stat")).ok()?))
        .flatten();
    thread.map_or(process.state, |thread| thread.state)
}

/// Reads a file of a process. Fails with ENOENT if `/proc` does not show the processes of this pid
/// namespace, as if there were no `/proc`.
fn read_of(pid: u32, file: &str) -> io::Result<Vec<u8>> {
    if !proc_fs::shows_own_processes() {
        return Err(Errno::NOENT.into());
    }
    read(CWD, &format!("/proc/{pid}/{file}"))
}

/// Opens the folder of a process. Fails as [`read_of`] does.
fn open_folder(pid: u32) -> rustix::io::Result<OwnedFd> {
    if !proc_fs::shows_own_processes() {
        return Err(Errno::NOENT);
    }
    open(CWD, &format!("/proc/{pid}"))
}

/// Reads the `stat` of a process. Returns `None` if no process has this pid, or if its `stat`
/// cannot be read. A lack of descriptors or memory is an error.
fn try_stat(pid: u32) -> io::Result<Option<procfs::Stat>> {
    let text = if pid == std::process::id() {
        own_stat(pid)
    } else {
        read_of(pid, "stat")
    };
    match text {
        Err(error) if is_exhaustion(&error) => Err(error),
        text => Ok(text.ok().and_then(|text| procfs::stat(&text))),
    }
}

/// Reads the `stat` of this process. Fails as [`read_of`] does.
///
/// If a process opens its own `stat` by the full path, the emulator qemu-user makes up the content,
/// with a wrong start time. A read through the open folder shows the real content.
fn own_stat(pid: u32) -> io::Result<Vec<u8>> {
    let folder = open(CWD, "/proc/self")?;
    let text = read(folder.as_fd(), "stat")?;
    // `/proc` may belong to another pid namespace, in which this process has another pid.
    match procfs::pid(&text) == Some(pid) {
        true => Ok(text),
        false => Err(Errno::NOENT.into()),
    }
}

fn stat(pid: u32) -> Option<procfs::Stat> {
    try_stat(pid).ok().flatten()
}

pub(in super::super) fn started(pid: u32) -> io::Result<Option<NonZeroU64>> {
    Ok(try_stat(pid)?.and_then(|stat| NonZeroU64::new(stat.started)))
}

pub(in super::super) fn parent(pid: u32) -> Option<u32> {
    stat(pid)
        .map(|stat| stat.parent)
        .filter(|parent| *parent != 0)
}

/// The child processes of all threads of the process: those that it started, and orphans that the
/// kernel gave to it. The list is empty if it cannot be read, and on a kernel without the option
/// `PROC_CHILDREN`.
pub(super) fn children(pid: u32) -> Vec<u32> {
    let Ok(folder) = open(CWD, &format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let children = |thread: u32| {
        let text = read(folder.as_fd(), &format!("{thread}/children")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let pids = text.split_ascii_whitespace().map(str::parse);
        pids.filter_map(Result::ok).collect::<Vec<u32>>()
    };
    let threads = numbers(folder.as_fd()).unwrap_or_default();
    threads.into_iter().flat_map(children).collect()
}

pub(in super::super) fn leaves(pid: u32) -> Vec<u32> {
    let mut leaves = Vec::new();
    let mut open = vec![pid];
    let mut known = HashSet::from([pid]);
    while let Some(pid) = open.pop() {
        let mut children = children(pid);
        children.retain(|child| known.insert(*child) && is_running(*child).unwrap_or(false));
        if children.is_empty() {
            leaves.push(pid);
        }
        open.extend(children);
    }
    leaves
}

pub(in super::super) fn pids() -> Vec<u32> {
    let folder = open(CWD, "/proc");
    folder
        .and_then(|folder| numbers(folder.as_fd()))
        .unwrap_or_default()
}

pub(in super::super) fn halt(pid: u32) -> Option<Halt> {
    let folder = open_folder(pid).ok()?;
    let folder = folder.as_fd();
    let stat = procfs::stat(&read(folder, "stat").ok()?)?;
    let running = running_thread(folder, ".", pid, &stat);
    match state(folder, running.as_deref().unwrap_or("."), &stat) {
        ProcessState::Suspended if stat.in_background => Some(Halt::SuspendedInBackground),
        ProcessState::Suspended => Some(Halt::Suspended),
        ProcessState::Traced => Some(Halt::Traced),
        ProcessState::Running => {
            let groups = read(folder, "cgroup").ok()?;
            freezer::thaw_command(&groups).map(Halt::Frozen)
        }
        _ => None,
    }
}

pub(in super::super) fn group(pid: u32) -> Option<Group> {
    let stat = stat(pid)?;
    Some(Group {
        group: stat.group,
        session: stat.session,
    })
}

pub(in super::super) fn unit_and_container(pid: u32) -> (Option<String>, Option<String>) {
    let groups = read_of(pid, "cgroup").unwrap_or_default();
    let groups = cgroup::membership(&groups);
    (groups.unit, groups.container)
}

pub(in super::super) fn program(pid: u32) -> Option<Program> {
    let folder = open_folder(pid).ok()?;
    let stat = procfs::stat(&read(folder.as_fd(), "stat").ok()?)?;
    let line = read_cmdline(folder.as_fd(), pid, &stat).unwrap_or_default();
    Some(Program {
        name: stat.name,
        parent: Some(stat.parent).filter(|parent| *parent != 0),
        arguments: arguments(&line),
    })
}

pub(in super::super) fn describe(pid: u32) -> Option<Process> {
    let folder = open_folder(pid).ok()?;
    let clock = Clock::now(open(CWD, "/proc").ok()?.as_fd()).ok()?;
    clock.describe(pid, folder.as_fd(), ".").ok()?
}

pub(in super::super) fn working_directory(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

pub(in super::super) fn script_of(pid: u32, path: Option<&str>) -> Option<String> {
    let Some(path) = path else {
        return script_text(&format!("/proc/{pid}/fd/0"));
    };
    // The links `root` and `cwd` lead to the folders of the process, even if the process is in
    // another mount namespace.
    let folder = if path.starts_with('/') { "root" } else { "cwd" };
    // The relative path of a script names another file if the script has changed its working
    // directory. So the script that the shell keeps open comes first: dash has it open as the first
    // free descriptor from 10, and bash as 255.
    let is_script = |link: &String| {
        fs::read_link(link).is_ok_and(|file| file.file_name() == Path::new(path).file_name())
    };
    let mut descriptors = (10..32)
        .chain([255])
        .map(|fd| format!("/proc/{pid}/fd/{fd}"));
    let by_path = format!("/proc/{pid}/{folder}/{path}");
    script_text(&descriptors.find(is_script).unwrap_or(by_path))
}

/// The start of a file. `None` if the path leads to no regular file.
fn script_text(path: &str) -> Option<String> {
    // Opening a pipe or a device could block.
    if !fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).ok()?;
    file.take(SCRIPT_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns `true` if the uid stands for all users that the user namespace of this process does not
/// map. The kernel reports one uid for all of them (`/proc/sys/kernel/overflowuid`), and this
/// function assumes the default, 65534. If the namespace maps 65534, the uid stands for a single
/// user.
pub(in super::super) fn is_unmapped(uid: u32) -> bool {
    const OVERFLOW: u32 = 65534;
    uid == OVERFLOW
        && read(CWD, "/proc/self/uid_map").is_ok_and(|map| !procfs::maps_user(&map, uid))
}

pub(in super::super) fn user_of(pid: u32) -> Option<u32> {
    procfs::effective_uid(&read_of(pid, "status").ok()?)
}

pub(in super::super) fn process_of_thread(id: u32) -> Option<u32> {
    let pid = procfs::thread_group(&read_of(id, "status").ok()?)?;
    (pid != id).then_some(pid)
}

pub(in super::super) fn innermost_pid(pid: u32) -> Option<u32> {
    procfs::innermost_pid(&read_of(pid, "status").ok()?)
}

pub(in super::super) fn has_locked(pid: u32, file_name: &str) -> bool {
    let is_locked = |entry: fs::DirEntry| {
        let is_named = fs::read_link(entry.path()).is_ok_and(|path| path.ends_with(file_name));
        let info = format!("fdinfo/{}", entry.file_name().to_string_lossy());
        is_named && read_of(pid, &info).is_ok_and(|info| procfs::locker(&info) == Some(pid))
    };
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
    descriptors.is_ok_and(|mut all| all.any(|entry| entry.is_ok_and(is_locked)))
}

#[cfg(not(feature = "tokio"))]
pub(in super::super) fn has_event_loop() -> bool {
    let is_epoll = |entry: fs::DirEntry| {
        fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str() == "anon_inode:[eventpoll]")
    };
    let descriptors = fs::read_dir("/proc/self/fd");
    descriptors.is_ok_and(|mut all| all.any(|entry| entry.is_ok_and(is_epoll)))
}

/// Returns `true` if the process runs. A zombie counts as ended. If `/proc` does not show the
/// process, a pidfd (pidfd_open(2)) shows whether it runs. Without a pidfd, kill(2) shows whether
/// the process exists, and a zombie counts as running.
///
/// # Errors
///
/// If descriptors or memory are used up. `Unsupported` if there is neither a usable `/proc` nor
/// pidfd_open(2).
pub(in super::super) fn is_running(pid: u32) -> io::Result<bool> {
    match read_of(pid, "stat") {
        Ok(text) => {
            return Ok(procfs::stat(&text).is_some_and(|stat| stat.state != ProcessState::Zombie));
        }
        Err(error) if is_exhaustion(&error) => return Err(error),
        Err(_) => {}
    }
    match ffi::pidfd_open(pid) {
        Ok(pidfd) => Ok(!ffi::has_ended(&pidfd)?),
        Err(error) if is_exhaustion(&error) => Err(error),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => Ok(false),
        // The kernel lacks pidfd_open(2), or a sandbox refuses the call. `/proc` shows no such
        // process, but with the mount option `hidepid` it hides processes of other users. So a
        // kill(2) without a signal tests whether the process exists. A zombie then counts as
        // running.
        Err(_) if proc_fs::shows_own_processes() => Ok(ffi::exists(pid)),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "/proc is missing or belongs to another pid namespace, and pidfd_open(2) fails",
        )),
    }
}

/// The users in `/etc/passwd`. `getpwuid(3)` knows more users, but can query the network. If the
/// file cannot be read, reports show users by their numbers.
pub(in super::super) fn users() -> Vec<(u32, String)> {
    fs::read("/etc/passwd")
        .map(|text| procfs::users(&text))
        .unwrap_or_default()
}

pub(in super::super) fn command_line(
    pid: u32,
    ticks: Option<NonZeroU64>,
) -> io::Result<Vec<OsString>> {
    let ended = || io::Error::new(io::ErrorKind::NotFound, "the process has ended");
    // The open folder keeps referring to this process, even if another process gets the pid.
    let folder = open_folder(pid).map_err(|error| match error {
        Errno::NOENT | Errno::SRCH => ended(),
        other => other.into(),
    })?;
    let stat = read(folder.as_fd(), "stat")
        .ok()
        .and_then(|text| procfs::stat(&text))
        .ok_or_else(ended)?;
    if NonZeroU64::new(stat.started) != ticks {
        return Err(ended());
    }
    Ok(arguments(&read_cmdline(folder.as_fd(), pid, &stat)?))
}

/// Reads the arguments of the process whose folder is open.
fn read_cmdline(folder: BorrowedFd<'_>, pid: u32, stat: &procfs::Stat) -> io::Result<Vec<u8>> {
    let running = running_thread(folder, ".", pid, stat);
    let path = running.as_deref().unwrap_or(".");
    read(folder, &format!("{path}/cmdline"))
}

fn arguments(line: &[u8]) -> Vec<OsString> {
    procfs::arguments(line)
        .map(|argument| OsStr::from_bytes(argument).to_owned())
        .collect()
}
