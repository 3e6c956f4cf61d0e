//! Gives a child process the sockets that it inherits, between fork(2) and exec.
#![expect(
    unsafe_code,
    reason = "pre_exec is unsafe, and so is naming a descriptor by its number"
)]

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use rustix::io::{FdFlags, dup2, fcntl_setfd};

use super::system::PassedSocket;

/// Each child of this command gets the sockets under their numbers. The command owns them from here
/// on.
pub(super) fn inherit(command: &mut Command, sockets: Arc<Vec<PassedSocket>>) {
    let hook = move || {
        for passed in sockets.iter() {
            duplicate_to(&passed.socket, passed.fd)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the hook makes system calls only: dup2(2) and fcntl(2), which
    // signal-safety(7) lists. It allocates nothing and takes no lock.
    unsafe { command.pre_exec(hook) };
}

/// Makes `fd` a descriptor of the socket that stays open at exec. Runs between fork and exec.
fn duplicate_to(socket: &OwnedFd, fd: i32) -> io::Result<()> {
    if socket.as_raw_fd() == fd {
        return Ok(fcntl_setfd(socket, FdFlags::empty())?);
    }
    // SAFETY: `ManuallyDrop` never closes the descriptor. The number may be closed, or open as
    // anything: dup2(2) replaces it, and only in this process, which is about to exec.
    let target = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut target = ManuallyDrop::new(target);
    Ok(dup2(socket, &mut target)?)
}
