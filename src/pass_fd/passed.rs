//! [`Passed`]: the sockets that a command passes to its children, each at its descriptor number.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use socket2::{SockRef, Type};

use crate::model::endpoint::Protocol;
use crate::model::port::Port;

/// The inode of an open file, as fstat(2) reports it.
pub(super) type FileId = u64;

/// A file that is open at a descriptor number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpenFile {
    pub(super) id: FileId,
    pub(super) closes_on_exec: bool,
}

/// A socket that a command passes to its children.
#[derive(Clone, Debug)]
pub(super) struct PassedSocket {
    /// The descriptor in this process that the child duplicates to `fd`.
    pub(super) source: Arc<OwnedFd>,
    pub(super) id: FileId,
    /// The descriptor number in the child.
    pub(super) fd: i32,
    /// Occupies the number `fd` in this process, so that `spawn` cannot open its own pipe there.
    /// The child would replace that pipe by the socket, and `spawn` would not learn of a failed
    /// exec. `None` if other code uses the number.
    pub(super) _placeholder: Option<Arc<OwnedFd>>,
    /// The file that was open at `fd` in this process when the socket was added to the command.
    pub(super) replaced: Option<OpenFile>,
    /// The name of the socket in `LISTEN_FDNAMES`; `None` if the caller chose the number.
    pub(super) name: Option<String>,
}

/// How the child learns which sockets it inherits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// The caller chose every number (`pass_to_fd`).
    Chosen,
    /// A shell sets `LISTEN_PID` and the other variables for the child (`pass_to`). `variables` is
    /// the number of [`CarriedVariables`](super::shell::CarriedVariables), which the shell gets as
    /// operands.
    Shell { variables: usize },
    /// The command's own environment has `LISTEN_FDS` and `LISTEN_FDNAMES` (`pass_to_wrapper`).
    Wrapper,
}

/// All sockets that a command passes to its children.
#[derive(Debug)]
pub(super) struct Passed {
    pub(super) style: Style,
    pub(super) sockets: Vec<PassedSocket>,
}

impl Passed {
    /// Whether one of the sockets has this port.
    pub(super) fn has(&self, port: Port) -> bool {
        let kind = match port.protocol {
            Protocol::Tcp => Type::STREAM,
            _ => Type::DGRAM,
        };
        self.sockets.iter().any(|passed| {
            let socket = SockRef::from(&*passed.source);
            let local = socket.local_addr().ok().and_then(|addr| addr.as_socket());
            local.is_some_and(|addr| addr.port() == port.number)
                && socket.r#type().is_ok_and(|found| found == kind)
        })
    }

    /// The values of `LISTEN_FDNAMES` and of `LISTEN_FDS`.
    pub(super) fn names(&self) -> (String, usize) {
        let names = self.sockets.iter().filter_map(|s| s.name.as_deref());
        let names: Vec<&str> = names.collect();
        (names.join(":"), names.len())
    }
}
