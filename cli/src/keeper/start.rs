//! Starts a keeper.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use crate::args::Wanted;
use crate::failure::Failure;
use crate::keeper::messages::{Answer, PRINTED, Request, WORD, send};
use crate::output::json::ReservedRow;
use crate::process::Watched;

/// A keeper as `reserve` sees it. Dropped before [`confirm`](Started::confirm), it ends.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: u32,
    pub(crate) rows: Vec<ReservedRow>,
    socket: UnixStream,
}

/// Starts one, and returns once it holds what is wanted.
pub(crate) fn start(wanted: &Wanted, pid: u32) -> Result<Started, Failure> {
    let cannot = |e: io::Error| Failure::system("start a keeper", &e);
    let process = Watched::open(pid).map_err(|e| crate::process::cannot_watch(pid, &e))?;
    let process = process
        .ok_or_else(|| Failure::new(format!("cannot hold for pid {pid}: no such process")))?;
    let (mut socket, its) = UnixStream::pair().map_err(cannot)?;
    let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
    command.arg(WORD);
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
        wanted: wanted.clone(),
        pid,
    };
    send(&mut socket, &request).map_err(cannot)?;
    let mut line = String::new();
    BufReader::new(&socket)
        .read_line(&mut line)
        .map_err(cannot)?;
    match serde_json::from_str(&line) {
        Ok(Answer::Holds(rows)) => Ok(Started {
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

impl Started {
    /// From now on it holds them by itself.
    pub(crate) fn confirm(mut self) -> Result<(), Failure> {
        let told = self.socket.write_all(PRINTED.as_bytes());
        told.map_err(|e| {
            Failure::system(format_args!("leave the ports to keeper {}", self.pid), &e)
        })
    }
}
