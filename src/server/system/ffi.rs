//! Calls that the standard library lacks: a signal to a process group, the exit status of a child
//! that stays a zombie, and whether a pipe has room.
#![expect(unsafe_code, reason = "kill(2), waitid(2) and poll(2) are C functions")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// Sends a signal to every process of the group.
pub(super) fn signal_group(group: libc::pid_t, signal: libc::c_int) -> io::Result<()> {
    // SAFETY: kill(2) takes two numbers, and reads and writes no memory of this process.
    match unsafe { libc::kill(-group, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Returns `true` if a write to the descriptor would not block.
pub(super) fn is_writable(fd: &OwnedFd) -> io::Result<bool> {
    let mut polled = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: poll(2) writes to the one `pollfd` whose address it gets.
    match unsafe { libc::poll(&raw mut polled, 1, 0) } {
        -1 => Err(io::Error::last_os_error()),
        ready => Ok(ready > 0),
    }
}

/// How a child of this process ended; `None` while it runs. The call leaves an ended child as a
/// zombie, so that no other process and no other process group can get its pid.
///
/// Fails with ECHILD if the child was reaped before.
pub(super) fn exit_status(pid: libc::id_t) -> io::Result<Option<ExitStatus>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: waitid(2) writes at most one siginfo_t, and `info` has the size of one.
    let failed = unsafe { libc::waitid(libc::P_PID, pid, info.as_mut_ptr(), options) };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: every byte was set to zero above. Each field is a number or a pointer, and zero is a
    // valid value of both.
    let info = unsafe { info.assume_init() };
    // SAFETY: every field is initialized, as above. `si_pid` stays zero if no child has ended
    // (waitid(2), "WNOHANG").
    let ended_pid = unsafe { info.si_pid() };
    if ended_pid == 0 {
        return Ok(None);
    }
    // SAFETY: waitid(2) sets this field for every child that has ended.
    let status = unsafe { info.si_status() };
    // The status as wait(2) encodes it: the exit code in the second byte, or the signal in the
    // first.
    const CORE_DUMPED: libc::c_int = 0x80;
    Ok(Some(ExitStatus::from_raw(match info.si_code {
        libc::CLD_EXITED => (status & 0xff) << 8,
        libc::CLD_DUMPED => status | CORE_DUMPED,
        _ => status,
    })))
}
