//! [`Passed`]: the sockets that a command passes to its children, each under its number.

use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The inode of an open file, as fstat(2) reports it.
pub(super) type FileId = u64;

/// A socket that a command passes to its children.
#[derive(Clone, Debug)]
pub(super) struct PassedSocket {
    /// The socket that the child duplicates to its number.
    pub(super) source: Arc<OwnedFd>,
    pub(super) id: FileId,
    /// The descriptor number in the child.
    pub(super) fd: i32,
    /// Occupies that number in this process, if it was free. Otherwise the pipe by which `spawn`
    /// learns of a failed exec could get it, and the child would replace that pipe.
    pub(super) _placeholder: Option<Arc<OwnedFd>>,
    /// The file that was open at that number when the caller chose it.
    pub(super) replaced: Option<FileId>,
    /// The name of the socket in `LISTEN_FDNAMES`; `None` if the caller chose the number.
    pub(super) name: Option<String>,
}

/// How the child learns of the sockets whose numbers the caller did not choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// There are no such sockets.
    Chosen,
    /// From a shell. `variables` is the number of variables that it gets as operands.
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

impl Passed {
    /// The value of `LISTEN_FDNAMES`, and that of `LISTEN_FDS`.
    pub(super) fn names(&self) -> (String, usize) {
        let names = self.sockets.iter().filter_map(|s| s.name.as_deref());
        let names: Vec<&str> = names.collect();
        (names.join(":"), names.len())
    }
}
