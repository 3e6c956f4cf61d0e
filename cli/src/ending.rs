//! [`end_all`]: ends processes with SIGTERM (some with SIGINT). A process that does not end in time
//! gets SIGKILL. Windows has no SIGTERM, so each process ends at once there.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use portlease::{Holder, Process, ProcessState, Remedy};

use crate::failure::Failure;
use crate::interruption::is_interrupted;
use crate::limits::{KILL_GRACE, TERMINATE_POLL};
use crate::process::{ProcessHandle, watch_failure};

/// A process to end. The handle refers to this process, even if another process gets the pid later.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) process: Process,
    pub(crate) signal: StopSignal,
    pub(crate) handle: ProcessHandle,
    /// Whether the process is a [master](Process::master). The workers of a master listen, and the
    /// master does not.
    pub(crate) is_master: bool,
    /// Whether a process that this user may not inspect probably owns one of the sockets too.
    pub(crate) shares_with_hidden: bool,
    /// The addresses on which the process listens.
    pub(crate) listens: Vec<String>,
}

/// The signal that makes a server end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StopSignal {
    Term,
    Int,
}

impl StopSignal {
    /// The signal that the remedies name for the process; SIGTERM if they name none.
    pub(crate) fn of(pid: u32, remedies: &[Remedy]) -> StopSignal {
        let interrupts = |remedy: &Remedy| match remedy {
            Remedy::InterruptProcess { pid: of, .. } => *of == pid,
            _ => false,
        };
        match remedies.iter().any(interrupts) {
            true => StopSignal::Int,
            false => StopSignal::Term,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            StopSignal::Term => "SIGTERM",
            StopSignal::Int => "SIGINT",
        }
    }
}

/// Handles, by pid, of the processes that a first scan of the sockets found. Later scans select the
/// processes to end. A process that only a later scan finds has no handle, and is not ended.
#[derive(Debug)]
pub(crate) struct Handles(BTreeMap<u32, ProcessHandle>);

impl Handles {
    /// Opens a handle of each process that owns one of the sockets, and of its master. Skips a
    /// process that no longer exists.
    pub(crate) fn open(servers: &[Holder]) -> Result<Handles, Failure> {
        let mut handles = BTreeMap::new();
        for pid in owners(servers).map(|process| process.pid) {
            if handles.contains_key(&pid) {
                continue;
            }
            if let Some(handle) = ProcessHandle::open(pid).map_err(|e| watch_failure(pid, &e))? {
                handles.insert(pid, handle);
            }
        }
        Ok(Handles(handles))
    }

    /// Takes the handle for a pid that a later scan of the sockets found. Returns `None` if there
    /// is no handle for the pid, or if the process of the handle has ended. In the second case the
    /// scan may have found another process with the same pid.
    pub(crate) fn take(&mut self, pid: u32) -> Result<Option<ProcessHandle>, Failure> {
        let Some(handle) = self.0.remove(&pid) else {
            return Ok(None);
        };
        let ended = handle
            .ended_within(Duration::ZERO)
            .map_err(|e| watch_failure(pid, &e))?;
        Ok((!ended).then_some(handle))
    }
}

fn owners(servers: &[Holder]) -> impl Iterator<Item = &Process> {
    let owners = servers.iter().map(|holder| &holder.processes);
    owners.flat_map(|owners| with_masters(owners))
}

/// The processes, and the master of each. A master can be listed several times.
pub(crate) fn with_masters(owners: &[Process]) -> impl Iterator<Item = &Process> {
    owners
        .iter()
        .chain(owners.iter().filter_map(Process::master))
}

/// The result of an attempt to end a process.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The process ended after SIGTERM or SIGINT.
    Terminated,
    /// The process ended after SIGKILL.
    Killed,
    /// The process had ended before it got a signal.
    Ended,
    /// The process has not ended after SIGKILL.
    Survived,
    /// A system call to signal or watch the process failed.
    Failed(io::Error),
}

impl Ending {
    /// The value of `outcome` in the JSON output.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Ending::Terminated => "terminated",
            Ending::Killed => "killed",
            Ending::Ended => "ended",
            Ending::Survived => "survived",
            Ending::Failed(_) => "failed",
        }
    }
}

/// Sends each target its signal, and then waits for each of them. A target gets SIGKILL if it has
/// not ended after `timeout`, or as soon as a signal interrupts `run`.
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

/// Sends the signal of the target. Returns `false` if the process had already ended. A suspended
/// process also gets SIGCONT, because it does not handle the signal while it is suspended.
fn terminate(target: &Target) -> io::Result<bool> {
    let is_running = match target.signal {
        StopSignal::Term => target.handle.terminate()?,
        StopSignal::Int => target.handle.interrupt()?,
    };
    if is_running && target.process.state == ProcessState::Suspended {
        // The process may end by the signal before this call.
        let _resumed = target.handle.resume()?;
    }
    Ok(is_running)
}

fn await_end(handle: &ProcessHandle, sent: Instant, timeout: Duration) -> io::Result<Ending> {
    if ends_before(handle, sent, timeout, is_interrupted)? {
        return Ok(Ending::Terminated);
    }
    handle.kill()?;
    Ok(
        match ends_before(handle, Instant::now(), KILL_GRACE, || false)? {
            true => Ending::Killed,
            false => Ending::Survived,
        },
    )
}

/// Returns whether the process ends before the timeout, and before `is_cut` returns `true`.
fn ends_before(
    handle: &ProcessHandle,
    started: Instant,
    timeout: Duration,
    is_cut: fn() -> bool,
) -> io::Result<bool> {
    loop {
        let left = timeout.saturating_sub(started.elapsed());
        // The wait is short, so that the loop notices a signal that another thread got.
        if handle.ended_within(left.min(TERMINATE_POLL))? {
            return Ok(true);
        }
        if started.elapsed() >= timeout || is_cut() {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handle_of_a_process_that_has_ended_is_not_returned() {
        let (program, arg) = match cfg!(windows) {
            // cmd waits for input, which the pipe never delivers.
            true => ("cmd", "/k"),
            false => ("sleep", "600"),
        };
        let mut child = std::process::Command::new(program)
            .arg(arg)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let pid = child.id();
        let open = || {
            Handles(BTreeMap::from([(
                pid,
                ProcessHandle::open(pid).unwrap().unwrap(),
            )]))
        };
        let (mut of_running, mut of_ended) = (open(), open());
        assert!(of_running.take(pid).unwrap().is_some());
        assert!(of_running.take(pid).unwrap().is_none(), "it is taken once");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(of_ended.take(pid).unwrap().is_none());
    }
}
