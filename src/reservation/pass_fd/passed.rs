//! [`Passed`]: the sockets that a command passes to its children, each under its number.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::Command;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use super::ffi::{file_at, id_of, inherit};
use crate::retry::NUMBER_TRIES;

/// The number of an open file, as fstat(2) reports it.
pub(super) type FileId = u64;

/// A socket that a command passes to its children.
#[derive(Clone, Debug)]
pub(super) struct PassedSocket {
    /// At a number that no socket of the command goes to.
    pub(super) source: Arc<OwnedFd>,
    pub(super) id: FileId,
    /// The descriptor number in the child.
    pub(super) fd: i32,
    /// Occupies that number in this process, if it was free. Otherwise the pipe by which `spawn`
    /// learns of a failed exec could get it, and the child would replace that pipe.
    _placeholder: Option<Arc<OwnedFd>>,
    /// What was open at that number already.
    pub(super) replaced: Option<FileId>,
    /// Its name in `LISTEN_FDNAMES`; `None` if the caller chose the number.
    pub(super) name: Option<String>,
}

/// How the child learns of the sockets that have no chosen number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// There are none.
    Chosen,
    /// From a shell, which was given this number of variables as operands.
    Shell { variables: usize },
    /// From the variables of the command.
    Wrapper,
}

/// The sockets that a command passes to its children.
#[derive(Debug)]
pub(super) struct Passed {
    pub(super) style: Style,
    pub(super) sockets: Vec<PassedSocket>,
}

/// The sockets of each command, by its token: a further call for the command adds to them.
static PASSED: Mutex<Vec<(u64, Weak<Passed>)>> = Mutex::new(Vec::new());

/// How a variable starts that the command removes from the environment of its children. Its name
/// ends with the token of the command. No child sees it, but `Command::get_envs` shows it.
const TOKEN_PREFIX: &str = "PORTLEASE_PASSED_";

impl Passed {
    /// What earlier calls pass to the children of this command.
    pub(super) fn by(command: &Command) -> Option<Arc<Passed>> {
        let passed = PASSED.lock();
        let sockets_of = |(name, value): (&OsStr, Option<&OsStr>)| {
            let token = token_in(name).filter(|_| value.is_none())?;
            let (_, sockets) = passed.iter().find(|(known, _)| *known == token)?;
            sockets.upgrade()
        };
        command.get_envs().find_map(sockets_of)
    }

    /// Makes each child of the command inherit the sockets from the index `first` on.
    pub(super) fn inherit(self, command: &mut Command, first: usize) {
        let known = command.get_envs().find_map(|(name, _)| token_in(name));
        let token = known.unwrap_or_else(|| fastrand::u64(..));
        let this = Arc::new(self);
        let mut passed = PASSED.lock();
        passed.retain(|(other, sockets)| *other != token && sockets.strong_count() > 0);
        passed.push((token, Arc::downgrade(&this)));
        drop(passed);
        command.env_remove(format!("{TOKEN_PREFIX}{token}"));
        inherit(command, this, first);
    }

    /// Adds these sockets.
    ///
    /// # Errors
    ///
    /// If a number belongs to another socket of the command, or is not below the limit of open
    /// files; if there is no further descriptor.
    pub(super) fn add(&mut self, sockets: Vec<NewSocket>) -> io::Result<()> {
        let mut numbers: Vec<i32> = self.sockets.iter().map(|passed| passed.fd).collect();
        for NewSocket { fd, .. } in &sockets {
            if numbers.contains(fd) {
                let message = format!("the command passes another socket as descriptor {fd}");
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
            }
            numbers.push(*fd);
        }
        let mut sources = Vec::new();
        for new in sockets {
            // The socket itself may be at one of the numbers: it is closed before they are
            // occupied.
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

    /// Moves the sources to numbers that no socket of the command goes to, for a child that gets
    /// all of them at once: a dup2(2) must not replace a source that is yet to be duplicated.
    pub(super) fn move_sources(&mut self) -> io::Result<()> {
        let numbers: Vec<i32> = self.sockets.iter().map(|passed| passed.fd).collect();
        for passed in &mut self.sockets {
            if numbers.contains(&passed.source.as_raw_fd()) {
                passed.source = Arc::new(duplicate_beside(passed.source.as_fd(), &numbers)?);
            }
        }
        Ok(())
    }

    /// The value of `LISTEN_FDNAMES`, and that of `LISTEN_FDS`.
    pub(super) fn names(&self) -> (String, usize) {
        let names = self.sockets.iter().filter_map(|s| s.name.as_deref());
        let names: Vec<&str> = names.collect();
        (names.join(":"), names.len())
    }
}

/// A socket to add to a command.
#[derive(Debug)]
pub(super) struct NewSocket {
    pub(super) socket: OwnedFd,
    pub(super) fd: i32,
    pub(super) name: Option<String>,
}

/// The settings of a command's environment, without those of this module.
pub(super) fn variables(command: &Command) -> impl Iterator<Item = (OsString, Option<OsString>)> {
    command
        .get_envs()
        .filter(|(name, _)| token_in(name).is_none())
        .map(|(name, value)| (name.to_owned(), value.map(OsStr::to_owned)))
}

fn token_in(variable: &OsStr) -> Option<u64> {
    variable.to_str()?.strip_prefix(TOKEN_PREFIX)?.parse().ok()
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
