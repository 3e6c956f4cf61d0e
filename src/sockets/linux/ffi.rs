//! Opens and polls pidfds (descriptors that stand for processes), sends signal 0, and asks whether
//! this process is a subreaper. rustix has these calls only with its features `process` and
//! `event`, which this crate does not enable.
#![expect(
    unsafe_code,
    reason = "pidfd_open(2), poll(2), kill(2) and prctl(2) have no safe form in std"
)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Opens a descriptor of the process. Linux has this call since 5.3.
pub(super) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    // SAFETY: pidfd_open(2) takes a pid and flags, both by value.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened this descriptor, so nothing else owns it. A descriptor is
    // an `int`, so the conversion loses nothing.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Returns `true` if the process has ended. A zombie counts as ended.
pub(super) fn has_ended(pidfd: &OwnedFd) -> io::Result<bool> {
    let mut poll = libc::pollfd {
        fd: pidfd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: `poll` is one valid entry, and poll(2) with a timeout of 0 returns at once.
    match unsafe { libc::poll(&raw mut poll, 1, 0) } {
        0 => Ok(false),
        1.. => Ok(true),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Checks with signal 0 (kill(2)) whether a process with this pid exists. A zombie exists too.
pub(super) fn exists(pid: u32) -> bool {
    let Ok(pid @ 1..) = libc::pid_t::try_from(pid) else {
        return false;
    };
    // SAFETY: kill(2) takes a pid and a signal, both by value. Signal 0 is not delivered.
    let sent = unsafe { libc::kill(pid, 0) };
    sent == 0 || io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

/// Returns `true` if the calling process adopts the descendants whose own parents have ended.
pub(in super::super) fn adopts_orphans() -> bool {
    let mut is_subreaper: libc::c_int = 0;
    // SAFETY: PR_GET_CHILD_SUBREAPER writes one `int` to the address, which is that of a local
    // variable.
    let asked = unsafe { libc::prctl(libc::PR_GET_CHILD_SUBREAPER, &raw mut is_subreaper) };
    asked == 0 && is_subreaper != 0
}
