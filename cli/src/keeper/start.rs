//! Starts a keeper (the process that holds the ports), for `portlease reserve`.

use std::io::{self, BufRead, Write};
use std::time::Duration;

use crate::args::PortSelection;
use crate::failure::Failure;
use crate::keeper::link::KeeperLink;
use crate::keeper::messages::{Answer, KEEPER_ARG, PRINTED, Request, send};
use crate::output::json::ReservedRow;
use crate::process::{ProcessHandle, has_ended_text, watch_failure};

/// A keeper that holds the ports. The keeper exits if this value is dropped without
/// [`confirm`](KeeperHandle::confirm).
#[derive(Debug)]
pub(crate) struct KeeperHandle {
    /// `None` if the keeper ends at once. Usual cause: the port server of `PORTSERVER_ADDRESS`
    /// holds all the ports, so the keeper holds none.
    pub(crate) pid: Option<u32>,
    pub(crate) rows: Vec<ReservedRow>,
    link: KeeperLink,
    /// A handle of the process that the ports are held for. While the handle is open, Windows gives
    /// the pid of that process to no other process. So the keeper, which opens its own handle by
    /// the pid, gets the same process.
    _process: Option<ProcessHandle>,
}

/// Starts a keeper, and returns when the keeper holds the ports. The keeper releases the ports when
/// the process `pid` has ended or the time `hold_for` is over.
pub(crate) fn start_keeper(
    selection: &PortSelection,
    pid: Option<u32>,
    hold_for: Option<Duration>,
) -> Result<KeeperHandle, Failure> {
    let cannot =
        |e: io::Error| Failure::system("start a keeper, the process that holds the ports", &e);
    let process = pid.map(open).transpose()?;
    let mut link = KeeperLink::start(KEEPER_ARG, process.as_ref()).map_err(cannot)?;
    let request = Request {
        selection: selection.clone(),
        pid,
        hold_for,
    };
    send(&mut link.writer, &request).map_err(cannot)?;
    let mut line = String::new();
    link.reader.read_line(&mut line).map_err(cannot)?;
    match serde_json::from_str(&line) {
        Ok(Answer::Holds { rows, stays }) => Ok(KeeperHandle {
            pid: stays.then_some(link.pid),
            rows,
            link,
            _process: process,
        }),
        Ok(Answer::Failed(text)) => Err(Failure::new(text)),
        Err(_) => Err(Failure::new(
            "cannot start a keeper, the process that holds the ports: it ended without an answer",
        )),
    }
}

fn open(pid: u32) -> Result<ProcessHandle, Failure> {
    let process = ProcessHandle::open(pid).map_err(|e| watch_failure(pid, &e))?;
    let process = process
        .ok_or_else(|| Failure::new(format!("cannot reserve for pid {pid}: no such process")))?;
    check_not_ended(pid, &process)?;
    Ok(process)
}

/// Fails if the process has ended, because it no longer needs the ports. A zombie (a process whose
/// parent has not read its exit status yet) counts as ended.
pub(super) fn check_not_ended(pid: u32, process: &ProcessHandle) -> Result<(), Failure> {
    if process.has_ended().map_err(|e| watch_failure(pid, &e))? {
        return Err(ended(pid));
    }
    Ok(())
}

pub(super) fn ended(pid: u32) -> Failure {
    Failure::new(format!(
        "cannot reserve for pid {pid}: {}",
        has_ended_text(pid)
    ))
}

impl KeeperHandle {
    /// Confirms to the keeper that the numbers are printed. Without the confirmation, the keeper
    /// exits when this process exits.
    pub(crate) fn confirm(mut self) -> Result<(), Failure> {
        let sent = self.link.writer.write_all(PRINTED.as_bytes());
        sent.map_err(|e| {
            Failure::system(
                format_args!(
                    "confirm the reservation to pid {}, the process that holds the ports",
                    self.link.pid
                ),
                &e,
            )
        })
    }
}
