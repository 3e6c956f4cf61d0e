//! Linux: the handle of a process is a pidfd. If the kernel has no pidfds or a sandbox refuses
//! them, the handle is the pid with the start time of the process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use crate::limits::{PROCESS_POLL, sleep};
use crate::process_stat::{ProcessStat, shows_processes};

#[derive(Debug)]
pub(crate) enum ProcessHandle {
    Pidfd(OwnedFd),
    /// Used if the kernel has no pidfds (Linux before 5.3, and gVisor), or if a sandbox refuses
    /// pidfd_open(2). Before each signal, `started` is compared with the start time of the process
    /// that has the id. A signal can reach another process only if that process gets the id after
    /// the comparison.
    Start {
        pid: u32,
        started: u64,
    },
}

/// The error for a user who passed the id of a thread instead of a pid. `None` if the id is a pid,
/// or if `/proc` does not show the id.
fn thread_error(id: u32) -> Option<io::Error> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let pid = status
        .lines()
        .find_map(|line| line.strip_prefix("Tgid:"))?
        .trim();
    let is_thread = pid != id.to_string();
    is_thread.then(|| io::Error::other(format!("it is a thread of pid {pid}; pass {pid} instead")))
}

impl ProcessHandle {
    /// Opens a handle of the process. Returns `None` if the process does not exist.
    pub(crate) fn open(pid: u32) -> io::Result<Option<ProcessHandle>> {
        let Some(id) = pid_of(pid) else {
            return Ok(None);
        };
        match pidfd_open(id, PidfdFlags::empty()) {
            Ok(handle) => Ok(Some(ProcessHandle::Pidfd(handle))),
            Err(Errno::SRCH) => Ok(None),
            // ENOSYS: the kernel has no pidfds. EPERM: a sandbox does not know the call.
            Err(Errno::NOSYS | Errno::PERM) => match (ProcessStat::of(pid), thread_error(pid)) {
                (Some(_), Some(error)) => Err(error),
                (Some(ProcessStat { started, .. }), None) => {
                    Ok(Some(ProcessHandle::Start { pid, started }))
                }
                (None, _) => require_proc().map(|()| None),
            },
            Err(e) => Err(thread_error(pid).unwrap_or_else(|| e.into())),
        }
    }

    /// The stdin with which `reserve` starts the keeper (the process that holds the ports): the
    /// pidfd, or `/dev/null` without a pidfd.
    pub(crate) fn for_keeper(&self) -> io::Result<Stdio> {
        match self {
            ProcessHandle::Pidfd(handle) => Ok(handle.try_clone()?.into()),
            ProcessHandle::Start { .. } => Ok(Stdio::null()),
        }
    }

    /// The keeper (the process that holds the ports) calls this function to get a handle of the
    /// process `pid`. If the keeper's stdin is a pidfd, which `reserve` has passed, the pidfd
    /// becomes the handle. If stdin is `/dev/null`, this function opens the process by its pid.
    pub(crate) fn of_reserve(pid: u32) -> io::Result<Option<ProcessHandle>> {
        let stdin = io::stdin().as_fd().try_clone_to_owned()?;
        match FileType::from_raw_mode(fstat(&stdin)?.st_mode) {
            FileType::CharacterDevice => ProcessHandle::open(pid),
            _ => Ok(Some(ProcessHandle::Pidfd(stdin))),
        }
    }

    /// A descriptor that becomes readable when the process ends. `None` if the handle is no pidfd.
    pub(crate) fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            ProcessHandle::Pidfd(handle) => Some(handle.as_fd()),
            ProcessHandle::Start { .. } => None,
        }
    }

    /// When to check again whether the process has ended. `None` if the handle is a pidfd.
    pub(crate) fn poll_again(&self) -> Option<Instant> {
        match self {
            ProcessHandle::Pidfd(_) => None,
            ProcessHandle::Start { .. } => Some(Instant::now() + PROCESS_POLL),
        }
    }

    /// Waits up to `timeout` for the process to end. Returns `true` if the process has ended or is
    /// a zombie. Returns `false` early if a signal interrupts the wait on a pidfd.
    pub(crate) fn ended_within(&self, timeout: Duration) -> io::Result<bool> {
        match self {
            ProcessHandle::Pidfd(handle) => poll_end(handle, timeout),
            ProcessHandle::Start { pid, started } => {
                let begun = Instant::now();
                while !has_process_ended(*pid, *started)? {
                    let left = timeout.saturating_sub(begun.elapsed());
                    if left.is_zero() {
                        return Ok(false);
                    }
                    sleep(PROCESS_POLL.min(left));
                }
                Ok(true)
            }
        }
    }

    /// Sends SIGTERM. Returns `false` if the process has ended.
    pub(crate) fn terminate(&self) -> io::Result<bool> {
        self.signal(Signal::TERM)
    }

    /// Sends SIGINT. Returns `false` if the process has ended.
    pub(crate) fn interrupt(&self) -> io::Result<bool> {
        self.signal(Signal::INT)
    }

    /// Sends SIGCONT, because a suspended process does not handle SIGTERM. Returns `false` if the
    /// process has ended.
    pub(crate) fn resume(&self) -> io::Result<bool> {
        self.signal(Signal::CONT)
    }

    /// Sends SIGKILL. Returns `false` if the process has ended.
    pub(crate) fn kill(&self) -> io::Result<bool> {
        self.signal(Signal::KILL)
    }

    /// Returns `false` if the process has ended. Exception: a pidfd accepts signals for a zombie,
    /// so the result for a zombie is `true`.
    fn signal(&self, signal: Signal) -> io::Result<bool> {
        let sent = match self {
            ProcessHandle::Pidfd(handle) => pidfd_send_signal(handle, signal),
            ProcessHandle::Start { pid, started } => match pid_of(*pid) {
                Some(id) if !has_process_ended(*pid, *started)? => kill_process(id, signal),
                _ => Err(Errno::SRCH),
            },
        };
        match sent {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

fn pid_of(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

fn poll_end(handle: &OwnedFd, timeout: Duration) -> io::Result<bool> {
    let mut fds = [PollFd::new(handle, PollFlags::IN)];
    let timeout = Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    match poll(&mut fds, Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn has_process_ended(pid: u32, started: u64) -> io::Result<bool> {
    match ProcessStat::of(pid) {
        Some(stat) => Ok(stat.started != started || stat.is_zombie),
        None => require_proc().map(|()| true),
    }
}

/// Fails if `/proc` does not show the processes of this pid namespace. Then a missing entry does
/// not mean that the process has ended.
fn require_proc() -> io::Result<()> {
    if shows_processes() {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "pidfd_open(2) is not available, and /proc is missing or belongs to another pid namespace",
    ))
}

/// The name of the process, or `a process` if the name cannot be read.
pub(crate) fn name(pid: u32) -> String {
    let name = shows_processes().then(|| std::fs::read(format!("/proc/{pid}/comm")));
    match name {
        Some(Ok(name)) => String::from_utf8_lossy(name.trim_ascii_end()).into_owned(),
        // The process has ended, or `/proc` does not show it.
        Some(Err(_)) | None => "a process".to_owned(),
    }
}

/// Whether the process ignores SIGTERM, or a stop signal or a tracer has stopped it. `false` if
/// `/proc` does not show the process.
pub(crate) fn needs_sigkill(pid: u32) -> bool {
    let sigterm = 1 << (Signal::TERM.as_raw() - 1);
    let status = shows_processes().then(|| std::fs::read_to_string(format!("/proc/{pid}/status")));
    let status = status.and_then(Result::ok).unwrap_or_default();
    status.lines().any(|line| match line.split_once(":\t") {
        Some(("State", state)) => state.starts_with(['T', 't']),
        Some(("SigIgn", set)) => u64::from_str_radix(set, 16).is_ok_and(|set| set & sigterm != 0),
        _ => false,
    })
}

/// The terminal that an interactive shell reads. `None` for a shell that is not the first process
/// of its terminal, such as a shell that runs a script.
pub(crate) fn terminal_of_shell(pid: u32) -> Option<String> {
    let is_first = ProcessStat::of(pid).is_some_and(|shell| shell.leads_its_session());
    let stdin = std::fs::read_link(format!("/proc/{pid}/fd/0")).ok()?;
    let is_terminal = ["/dev/pts", "/dev/tty"].iter().any(|path| {
        stdin
            .as_os_str()
            .as_encoded_bytes()
            .starts_with(path.as_bytes())
    });
    (is_first && is_terminal).then(|| stdin.display().to_string())
}

/// Whether the process has another namespace of this kind (such as `mnt`) than this process.
/// `None` if this user may not read the namespace of the process. `Some(false)` if the process has
/// ended, or if `/proc` does not show it.
pub(crate) fn is_in_other_namespace(pid: u32, kind: &str) -> Option<bool> {
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/{kind}"));
    match namespace(&pid.to_string()) {
        Ok(other) => Some(namespace("self").ok() != Some(other)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
        Err(_) => Some(false),
    }
}
