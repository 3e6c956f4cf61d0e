//! Puts the sockets that a child process inherits at their descriptor numbers, between fork(2) and
//! exec.
#![expect(
    unsafe_code,
    reason = "pre_exec is unsafe, and so is naming a descriptor by its number"
)]

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};
use rustix::io::{Errno, FdFlags, dup2, fcntl_getfd};
use socket2::SockRef;

use super::passed::{FileId, OpenFile, Passed, PassedSocket};

/// Makes each child of this command inherit the sockets of `passed` from the index `first` on, each
/// at its descriptor number. From this call on the command owns the sockets.
pub(super) fn inherit(command: &mut Command, passed: Arc<Passed>, first: usize) {
    let hook = move || {
        let sockets = passed.sockets.iter().skip(first);
        sockets.clone().try_for_each(duplicate_to_number)?;
        sockets.clone().try_for_each(check_number)
    };
    // SAFETY: between fork and exec the hook makes system calls only: dup2(2), fcntl(2), fstat(2)
    // and getsockname(2), which signal-safety(7) lists. It allocates nothing and takes no lock.
    unsafe { command.pre_exec(hook) };
}

/// Duplicates the socket to its descriptor number in the child, where it stays open at exec. Runs
/// between fork and exec.
fn duplicate_to_number(passed: &PassedSocket) -> io::Result<()> {
    if is_spawn_pipe(passed) || is_given(passed) {
        return Err(Errno::BUSY.into());
    }
    // SAFETY: `ManuallyDrop` never closes the descriptor. The number may be closed, or belong to
    // any open file. This process is a child between fork and exec, and dup2(2) replaces the file
    // only in the child.
    let target = unsafe { OwnedFd::from_raw_fd(passed.fd) };
    let mut target = ManuallyDrop::new(target);
    Ok(dup2(&passed.source, &mut target)?)
}

/// Whether the descriptor number may belong to the pipe through which the child reports a failed
/// exec to `spawn`. If the hook replaced the pipe, `spawn` would report a missing program as
/// started. On Linux `spawn` can use a Unix socket instead of a pipe.
///
/// `spawn` opens its pipe only after the caller has added the socket to the command. So a file that
/// already had the descriptor number when the socket was added is not the pipe.
fn is_spawn_pipe(passed: &PassedSocket) -> bool {
    let fd = borrow(passed.fd);
    let Ok(stat) = fstat(fd) else {
        return false;
    };
    let can_be = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo => {
            fcntl_getfl(fd).is_ok_and(|flags| flags & OFlags::ACCMODE != OFlags::RDONLY)
        }
        FileType::Socket => SockRef::from(&fd)
            .local_addr()
            .is_ok_and(|addr| addr.is_unix()),
        _ => false,
    };
    can_be
        && fcntl_getfd(fd).is_ok_and(|flags| flags.contains(FdFlags::CLOEXEC))
        && passed.replaced.map(|replaced| replaced.id) != Some(stat.st_ino)
}

/// Whether an earlier hook of the same command has already put a socket at the descriptor number.
/// Such a socket has two signs. It stays open on exec, because dup2(2) clears FD_CLOEXEC. It also
/// differs from the file that the parent had at the number.
///
/// Two hooks of a command can have the same descriptor number: the caller passes a socket, calls
/// `env_clear`, and passes another socket. This crate marks the command with an environment
/// variable, and `env_clear` removes the variable. So the second call that passes a socket does not
/// find the socket of the first call.
fn is_given(passed: &PassedSocket) -> bool {
    // std puts the standard streams at the numbers 0 to 2 before the hooks run. So a new file at
    // such a number is no sign of an earlier hook.
    const LAST_STREAM: i32 = 2;
    let open = open_at(passed.fd).ok().flatten();
    let stays_open = open.filter(|open| !open.closes_on_exec);
    passed.fd > LAST_STREAM && stays_open.is_some() && stays_open != passed.replaced
}

/// Checks that the descriptor number now has the socket. The check fails if other code of the
/// parent closed `source` and then opened another file, which got the number of `source`.
fn check_number(passed: &PassedSocket) -> io::Result<()> {
    if open_at(passed.fd)?.map(|open| open.id) == Some(passed.id) {
        Ok(())
    } else {
        Err(Errno::BADF.into())
    }
}

/// The file that is open at this descriptor number; `None` if the number is free.
pub(super) fn open_at(fd: i32) -> io::Result<Option<OpenFile>> {
    match fstat(borrow(fd)) {
        Ok(stat) => Ok(Some(OpenFile {
            id: stat.st_ino,
            closes_on_exec: fcntl_getfd(borrow(fd))?.contains(FdFlags::CLOEXEC),
        })),
        Err(Errno::BADF) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

pub(super) fn id_of(socket: impl AsFd) -> io::Result<FileId> {
    Ok(fstat(socket)?.st_ino)
}

fn borrow(fd: i32) -> BorrowedFd<'static> {
    // SAFETY: the number is not negative. The callers of this function only read the state of the
    // descriptor. If the number is closed, their system calls fail with EBADF. If it belongs to
    // another file by then, they report that file.
    unsafe { BorrowedFd::borrow_raw(fd) }
}
