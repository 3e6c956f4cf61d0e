//! Occupies, in this process, the descriptor numbers that the sockets of a command get in the
//! child.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::{Errno, fcntl_dupfd_cloexec};

use super::ffi::{file_at, id_of};
use super::passed::{FileId, Passed, PassedSocket};
use crate::retry::NUMBER_TRIES;

/// A socket to add to a command.
#[derive(Debug)]
pub(super) struct NewSocket {
    pub(super) socket: OwnedFd,
    pub(super) fd: i32,
    pub(super) name: Option<String>,
}

impl Passed {
    /// Adds these sockets.
    ///
    /// # Errors
    ///
    /// If a number belongs to another socket of the command, if it is not below the limit of open
    /// files, or if the process is out of file descriptors.
    pub(super) fn add(&mut self, sockets: Vec<NewSocket>) -> io::Result<()> {
        let mut numbers: Vec<i32> = self.sockets.iter().map(|passed| passed.fd).collect();
        for NewSocket { fd, .. } in &sockets {
            if numbers.contains(fd) {
                let message = format!(
                    "the command passes another socket as descriptor {fd}: give pass_to_fd another \
                     number"
                );
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
            }
            numbers.push(*fd);
        }
        let mut sources = Vec::new();
        for new in sockets {
            // The new socket may itself be at one of the numbers. It is closed here, before the
            // numbers are occupied.
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

    /// Moves the sources to numbers that no socket gets in the child. One hook duplicates all
    /// sockets in turn, and its dup2(2) must not replace a source that comes later.
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

/// Duplicates the socket to a number that is none of these.
fn duplicate_beside(socket: BorrowedFd<'_>, numbers: &[i32]) -> io::Result<OwnedFd> {
    // Above the standard streams, which the child replaces first.
    let mut at_least = 3;
    loop {
        let fd = match fcntl_dupfd_cloexec(socket, at_least) {
            // Every number below the limit was tried.
            Err(Errno::INVAL) => return Err(Errno::MFILE.into()),
            duplicated => duplicated?,
        };
        if !numbers.contains(&fd.as_raw_fd()) {
            return Ok(fd);
        }
        at_least = fd.as_raw_fd() + 1;
    }
}

/// Opens the number if it is free, so that nothing else gets it. Otherwise returns what is open
/// there.
fn occupy(socket: BorrowedFd<'_>, fd: i32) -> io::Result<(Option<OwnedFd>, Option<FileId>)> {
    for _ in 0..NUMBER_TRIES {
        match fcntl_dupfd_cloexec(socket, fd) {
            Ok(placeholder) if placeholder.as_raw_fd() == fd => {
                return Ok((Some(placeholder), None));
            }
            // The number is in use, and with MFILE every number above it too.
            Ok(_) | Err(Errno::MFILE) => {}
            Err(Errno::INVAL) => {
                let message =
                    format!("descriptor {fd} is not below the limit of open files (ulimit -n)");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
            Err(e) => return Err(e.into()),
        }
        if let Some(open) = file_at(fd)? {
            return Ok((None, Some(open)));
        }
    }
    Ok((None, None))
}
