//! Starts a keeper.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use crate::args::PortSelection;
use crate::failure::Failure;
use crate::keeper::messages::{Answer, KEEPER_ARG, PRINTED, Request, send};
use crate::output::json::ReservedRow;
use crate::process::ProcessHandle;

/// A keeper as `reserve` sees it. Dropped before [`confirm`](KeeperHandle::confirm), it ends.
#[derive(Debug)]
pub(crate) struct KeeperHandle {
    pub(crate) pid: u32,
    pub(crate) rows: Vec<ReservedRow>,
    socket: UnixStream,
}

/// Starts one, and returns once it holds what is wanted.
pub(crate) fn start_keeper(selection: &PortSelection, pid: u32) -> Result<KeeperHandle, Failure> {
    let cannot = |e: io::Error| Failure::system("start a keeper", &e);
    let process = ProcessHandle::open(pid).map_err(|e| crate::process::watch_failure(pid, &e))?;
    let process = process
        .ok_or_else(|| Failure::new(format!("cannot hold for pid {pid}: no such process")))?;
    let (mut socket, its) = UnixStream::pair().map_err(cannot)?;
    let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
    command.arg(KEEPER_ARG);
    command
        .stdin(OwnedFd::from(process))
        .stdout(OwnedFd::from(its))
        .stderr(Stdio::null());
    // Whatever the caller has open, a lock say, must not stay open in a process that it knows nothing of.
    close_fds::set_fds_cloexec(3, &[]);
    let keeper = command.spawn().map_err(cannot)?;
    // Its end of the socket must be its alone, so that its end is seen.
    drop(command);
    let request = Request {
        selection: selection.clone(),
        pid,
    };
    send(&mut socket, &request).map_err(cannot)?;
    let mut line = String::new();
    BufReader::new(&socket)
        .read_line(&mut line)
        .map_err(cannot)?;
    match serde_json::from_str(&line) {
        Ok(Answer::Holds(rows)) => Ok(KeeperHandle {
            pid: keeper.id(),
            rows,
            socket,
        }),
        Ok(Answer::Failed(text)) => Err(Failure::new(text)),
        Err(_) => Err(Failure::new(
            "cannot start a keeper: it ended without an answer",
        )),
    }
}

impl KeeperHandle {
    /// From now on it holds them by itself.
    pub(crate) fn confirm(mut self) -> Result<(), Failure> {
        let told = self.socket.write_all(PRINTED.as_bytes());
        told.map_err(|e| {
            Failure::system(format_args!("leave the ports to keeper {}", self.pid), &e)
        })
    }
}
