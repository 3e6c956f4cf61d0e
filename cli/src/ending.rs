//! [`end_all`]: ends processes with SIGTERM, and with SIGKILL those that have not ended in time.

use std::io;
use std::time::{Duration, Instant};

use portlease::{Process, ProcessState};
use rustix::process::Signal;

use crate::limits::KILL_GRACE;
use crate::process::ProcessHandle;

/// A process to end. The handle refers to it even if its pid belongs to another process later.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) process: Process,
    pub(crate) handle: ProcessHandle,
    /// The addresses on which the process listens.
    pub(crate) listens: Vec<String>,
}

/// How an attempt to end a process went.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The process ended after SIGTERM.
    Terminated,
    /// The process ended after SIGKILL.
    Killed,
    /// The process had ended before it got a signal.
    Ended,
    /// The process has not ended after SIGKILL.
    Survived,
    /// The process cannot be signalled or watched.
    Failed(io::Error),
}

/// Ends all targets at the same time, and waits for them. The timeout is that of SIGTERM.
pub(crate) fn end_all(targets: Vec<Target>, timeout: Duration) -> Vec<(Target, Ending)> {
    let sent = Instant::now();
    let mut all: Vec<(Target, io::Result<bool>)> = Vec::with_capacity(targets.len());
    for target in targets {
        let is_sent = terminate(&target);
        all.push((target, is_sent));
    }
    let ended = |(target, is_sent): (Target, io::Result<bool>)| {
        let ending = match is_sent {
            Ok(true) => await_end(&target.handle, sent, timeout).unwrap_or_else(Ending::Failed),
            Ok(false) => Ending::Ended,
            Err(cause) => Ending::Failed(cause),
        };
        (target, ending)
    };
    all.into_iter().map(ended).collect()
}

/// Sends SIGTERM. Returns `false` if the process has ended. A suspended process handles the signal
/// only after SIGCONT.
fn terminate(target: &Target) -> io::Result<bool> {
    let is_running = target.handle.signal(Signal::TERM)?;
    if is_running && target.process.state == ProcessState::Suspended {
        return target.handle.signal(Signal::CONT);
    }
    Ok(is_running)
}

fn await_end(handle: &ProcessHandle, sent: Instant, timeout: Duration) -> io::Result<Ending> {
    if ends_before(handle, sent, timeout)? {
        return Ok(Ending::Terminated);
    }
    handle.signal(Signal::KILL)?;
    Ok(match ends_before(handle, Instant::now(), KILL_GRACE)? {
        true => Ending::Killed,
        false => Ending::Survived,
    })
}

fn ends_before(handle: &ProcessHandle, started: Instant, timeout: Duration) -> io::Result<bool> {
    loop {
        let left = timeout.saturating_sub(started.elapsed());
        // A signal interrupts the wait.
        if handle.ended_within(left)? {
            return Ok(true);
        }
        if started.elapsed() >= timeout {
            return Ok(false);
        }
    }
}
