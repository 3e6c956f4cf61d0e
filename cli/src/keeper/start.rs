//! Starts a keeper (the process that holds the ports), for `portlease reserve`.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::args::PortSelection;
use crate::failure::Failure;
use crate::keeper::messages::{Answer, KEEPER_ARG, PRINTED, Request, send};
use crate::output::json::ReservedRow;
use crate::process::{ProcessHandle, watch_failure};

/// A keeper that holds the ports. The keeper exits if this value is dropped without
/// [`confirm`](KeeperHandle::confirm).
#[derive(Debug)]
pub(crate) struct KeeperHandle {
    pub(crate) pid: u32,
    pub(crate) rows: Vec<ReservedRow>,
    socket: UnixStream,
}

/// Starts a keeper for the process `pid`, for the time `hold_for`, or for the shorter of the two.
/// Returns when the keeper holds the ports.
pub(crate) fn start_keeper(
    selection: &PortSelection,
    pid: Option<u32>,
    hold_for: Option<Duration>,
) -> Result<KeeperHandle, Failure> {
    let cannot =
        |e: io::Error| Failure::system("start a keeper, the process that holds the ports", &e);
    let process = match pid {
        Some(pid) => Stdio::from(OwnedFd::from(open(pid)?)),
        None => Stdio::null(),
    };
    let (mut socket, keeper_socket) = UnixStream::pair().map_err(cannot)?;
    let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
    command.arg(KEEPER_ARG);
    command
        .stdin(process)
        .stdout(OwnedFd::from(keeper_socket))
        .stderr(Stdio::null());
    // The keeper can outlive the caller of `reserve`, and must not inherit the caller's open files.
    // A file that the caller locked with flock(2) would stay locked.
    close_fds::set_fds_cloexec(3, &[]);
    let keeper = command.spawn().map_err(cannot)?;
    // `command` contains a copy of the keeper's end of the socket. While this process has the copy,
    // a read from the socket would not end when the keeper dies.
    drop(command);
    let request = Request {
        selection: selection.clone(),
        pid,
        hold_for,
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
            "cannot start a keeper, the process that holds the ports: it ended without an answer",
        )),
    }
}

fn open(pid: u32) -> Result<ProcessHandle, Failure> {
    let process = ProcessHandle::open(pid).map_err(|e| watch_failure(pid, &e))?;
    process.ok_or_else(|| Failure::new(format!("cannot reserve for pid {pid}: no such process")))
}

impl KeeperHandle {
    /// Confirms to the keeper that the numbers are printed. Without the confirmation the keeper
    /// exits when this process does.
    pub(crate) fn confirm(mut self) -> Result<(), Failure> {
        let sent = self.socket.write_all(PRINTED.as_bytes());
        sent.map_err(|e| {
            Failure::system(
                format_args!(
                    "confirm the reservation to pid {}, the process that holds the ports",
                    self.pid
                ),
                &e,
            )
        })
    }
}
