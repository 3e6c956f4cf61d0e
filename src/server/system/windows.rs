//! Windows has no SIGTERM, and no process groups as Unix has them. So this module ends only the
//! child itself, at once.

use std::io::{self, Read};
use std::os::windows::io::OwnedHandle;
use std::process::{Command, ExitStatus};
use std::sync::mpsc::channel;
use std::time::Instant;

use super::Signal;
use crate::retry::PIPE_LIMIT;

pub(crate) fn prepare(_command: &mut Command) {}

/// How the child ended; `None` while it runs. The open handle of the child keeps its pid from being
/// reused.
pub(crate) fn exit(
    _pid: u32,
    try_wait: impl FnOnce() -> io::Result<Option<ExitStatus>>,
) -> io::Result<Option<ExitStatus>> {
    try_wait()
}

/// Ends the child (`TerminateProcess`).
pub(crate) fn signal(
    _pid: u32,
    _signal: Signal,
    kill: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    kill()
}

/// Always `false`: on Windows this crate does not track which processes the child has started.
pub(crate) fn others_run(_child: u32) -> bool {
    false
}

/// Always `false`: on Windows this crate does not check whether a pipe is full.
pub(crate) fn is_full<T>(_pipe: &T) -> bool {
    false
}

/// The reading end of a pipe.
pub(crate) type Pipe = OwnedHandle;

/// Reads what the pipe still contains. A process that the child started may have the writing end
/// open, and a read can then block forever. So a thread reads the pipe, and the call waits for that
/// thread for at most [`PIPE_LIMIT`].
pub(crate) fn read_rest(pipe: Pipe) -> Vec<u8> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut pipe = std::fs::File::from(pipe);
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = pipe.read(&mut bytes) {
            // The send fails once `read_rest` has returned. This thread then ends too.
            if sender.send(bytes[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    let (started, mut all) = (Instant::now(), Vec::new());
    while let Ok(bytes) = receiver.recv_timeout(PIPE_LIMIT.saturating_sub(started.elapsed())) {
        all.extend(bytes);
    }
    all
}
