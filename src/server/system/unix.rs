//! On Unix, every server leads a process group of its own.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};

use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open};

use super::{Signal, ffi};
use crate::sockets;

/// Makes each later child of this command the leader of a process group of its own.
pub(crate) fn prepare(command: &mut Command) {
    command.process_group(0);
}

/// How the child ended; `None` while it runs. The call does not reap the child. It fails if the
/// child was reaped before ([`is_reaped`](crate::os_error::is_reaped)).
pub(crate) fn exit(
    pid: u32,
    _try_wait: impl FnOnce() -> io::Result<Option<ExitStatus>>,
) -> io::Result<Option<ExitStatus>> {
    ffi::exit_status(pid as libc::id_t)
}

/// Sends the signal to the child and to the other processes of its group. The child must not have
/// been reaped, because another group could then have its pid.
pub(crate) fn signal(
    pid: u32,
    signal: Signal,
    _kill: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let number = match signal {
        Signal::Terminate => libc::SIGTERM,
        Signal::Kill => libc::SIGKILL,
    };
    ffi::signal_group(pid as libc::pid_t, number)
}

/// Returns `true` if another process of the child's group still runs. Always `false` without
/// `/proc`, and on systems other than Linux, where this crate does not list the processes of a
/// group.
pub(crate) fn others_run(child: u32) -> bool {
    if !cfg!(target_os = "linux") {
        return false;
    }
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.any(|pid| {
        let is_member = || sockets::group(pid).is_some_and(|group| group.group == child);
        pid != child && is_member() && sockets::is_running(pid).unwrap_or(false)
    })
}

/// Whether the pipe of this reading end is full, so that a write to it blocks. Always `false`
/// without `/proc`, and on systems other than Linux.
pub(crate) fn is_full(pipe: &impl AsFd) -> bool {
    if !cfg!(target_os = "linux") {
        return false;
    }
    // Only the writing end shows whether the pipe is full. The number of bytes in the pipe does not
    // show it: a write that does not fit into the last page begins a new page.
    let path = format!("/proc/self/fd/{}", pipe.as_fd().as_raw_fd());
    let writing = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let end = open(path, writing, Mode::empty());
    end.is_ok_and(|end| ffi::is_writable(&end).is_ok_and(|is_writable| !is_writable))
}

/// The reading end of a pipe.
pub(crate) type Pipe = OwnedFd;

/// Reads what the pipe still contains. A process that left the group may have the writing end open,
/// so the call does not wait until that end is closed.
pub(crate) fn read_rest(pipe: Pipe) -> Vec<u8> {
    let mut bytes = Vec::new();
    let unblocked =
        fcntl_getfl(&pipe).and_then(|flags| fcntl_setfl(&pipe, flags | OFlags::NONBLOCK));
    if unblocked.is_ok() {
        // WouldBlock or another error ends the read. `bytes` keeps what was read before.
        let _end = std::fs::File::from(pipe).read_to_end(&mut bytes);
    }
    bytes
}
