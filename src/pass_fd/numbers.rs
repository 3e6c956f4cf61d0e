//! Each socket that a command passes gets a descriptor number in the child. This module occupies
//! the same numbers in the parent, so that `spawn` does not open its own files there.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::{Errno, fcntl_dupfd_cloexec};

use super::ffi::{id_of, open_at};
use super::passed::{OpenFile, Passed, PassedSocket};
use crate::retry::NUMBER_TRIES;

/// A socket to add to a command, which passes it as descriptor `fd`.
#[derive(Debug)]
pub(super) struct NewSocket {
    pub(super) socket: OwnedFd,
    pub(super) fd: i32,
    pub(super) name: Option<String>,
}

impl Passed {
    /// Adds these sockets to those that the command passes.
    ///
    /// # Errors
    ///
    /// If the command already passes another socket at one of the numbers, if a number is not below
    /// the limit of open files, or if the process is out of file descriptors.
    pub(super) fn add(&mut self, sockets: Vec<NewSocket>) -> io::Result<()> {
        let mut numbers: Vec<i32> = self.sockets.iter().map(|passed| passed.fd).collect();
        for NewSocket { fd, .. } in &sockets {
            if numbers.contains(fd) {
                let message = format!(
                    "the command already passes another socket as descriptor {fd}: call pass_to_fd \
                     with another number"
                );
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
            }
            numbers.push(*fd);
        }
        let mut sources = Vec::new();
        for new in sockets {
            // The descriptor of the original socket may have a number at which the child expects a
            // socket. This loop closes the original and keeps a duplicate at another number, so
            // `occupy` finds the number free.
            sources.push((
                duplicate_beside(new.socket.as_fd(), &numbers)?,
                new.fd,
                new.name,
            ));
        }
        for (source, fd, name) in sources {
            let (placeholder, replaced) = occupy(source.as_fd(), fd)?;
            self.sockets.push(PassedSocket {
                id: id_of(&source)?,
                source: Arc::new(source),
                fd,
                _placeholder: placeholder.map(Arc::new),
                replaced,
                name,
            });
        }
        Ok(())
    }

    /// Moves the sources (the descriptors in this process) away from the numbers that the child
    /// uses. In the child, a `pre_exec` hook duplicates the sources to these numbers one after
    /// another, and must not replace the source of a later socket.
    pub(super) fn move_sources(&mut self) -> io::Result<()> {
        let numbers: Vec<i32> = self.sockets.iter().map(|passed| passed.fd).collect();
        for passed in &mut self.sockets {
            if numbers.contains(&passed.source.as_raw_fd()) {
                passed.source = Arc::new(duplicate_beside(passed.source.as_fd(), &numbers)?);
            }
        }
        Ok(())
    }
}

/// Duplicates the socket to a descriptor number that is none of `numbers`.
fn duplicate_beside(socket: BorrowedFd<'_>, numbers: &[i32]) -> io::Result<OwnedFd> {
    // Starts above the standard streams, because the child replaces the descriptors of these
    // streams before the `pre_exec` hook runs.
    let mut at_least = 3;
    loop {
        let fd = match fcntl_dupfd_cloexec(socket, at_least) {
            // EINVAL: every number below the limit of open files was tried.
            Err(Errno::INVAL) => return Err(Errno::MFILE.into()),
            duplicated => duplicated?,
        };
        if !numbers.contains(&fd.as_raw_fd()) {
            return Ok(fd);
        }
        at_least = fd.as_raw_fd() + 1;
    }
}

/// If the descriptor number `fd` is free, occupies it with a copy of `socket`, so that no other
/// file gets the number. Otherwise returns the file that is open at `fd`. If other code keeps
/// opening and closing `fd`, the result has neither the copy nor a file.
fn occupy(socket: BorrowedFd<'_>, fd: i32) -> io::Result<(Option<OwnedFd>, Option<OpenFile>)> {
    for _ in 0..NUMBER_TRIES {
        match fcntl_dupfd_cloexec(socket, fd) {
            Ok(placeholder) if placeholder.as_raw_fd() == fd => {
                return Ok((Some(placeholder), None));
            }
            // The number is in use. EMFILE means that every higher number is in use too.
            Ok(_) | Err(Errno::MFILE) => {}
            Err(Errno::INVAL) => {
                let message = format!(
                    "descriptor {fd} is not below the limit of open files (ulimit -n): choose a \
                     smaller number or raise the limit"
                );
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
            Err(e) => return Err(e.into()),
        }
        if let Some(open) = open_at(fd)? {
            return Ok((None, Some(open)));
        }
    }
    Ok((None, None))
}
