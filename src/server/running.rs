//! [`Running`]: a child process that is killed when the value is dropped, on Unix with its group.

use std::fmt;
use std::io;
use std::num::NonZeroU64;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use super::system::{self, Pipe, Signal};
use crate::model::error::{Error, Result};
use crate::model::error_kind::ErrorKind;
use crate::os_error::is_reaped;
use crate::retry::{ENDING_PAUSE, KILL_LIMIT, STDERR_LINES, TERMINATE_GRACE, block_for};
use crate::sockets;
use crate::wait::ExitInfo;

/// A child process of the standard library or of tokio.
pub(crate) trait ChildProcess {
    /// The pid. A child of tokio reports `None` once it is reaped.
    fn pid(&self) -> Option<u32>;
    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>>;
    fn start_kill(&mut self) -> io::Result<()>;
    /// Which stream of the child, stdout or stderr, has a full pipe. Does not see a pipe that the
    /// caller has taken.
    fn full_pipe(&self) -> Option<&'static str>;
    /// The reading end of the child's stderr, if stderr is piped and the caller has not taken it.
    fn take_stderr(&mut self) -> Option<Pipe>;
}

impl ChildProcess for Child {
    fn pid(&self) -> Option<u32> {
        Some(self.id())
    }

    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        Child::try_wait(self)
    }

    fn start_kill(&mut self) -> io::Result<()> {
        self.kill()
    }

    fn full_pipe(&self) -> Option<&'static str> {
        match (&self.stdout, &self.stderr) {
            (Some(pipe), _) if system::is_full(pipe) => Some("stdout"),
            (_, Some(pipe)) if system::is_full(pipe) => Some("stderr"),
            _ => None,
        }
    }

    fn take_stderr(&mut self) -> Option<Pipe> {
        self.stderr.take().map(Pipe::from)
    }
}

/// A child process, on Unix with the group that it leads. Dropping the value kills the child and
/// its group.
pub(crate) struct Running<C: ChildProcess> {
    pub(crate) child: C,
    pid: u32,
    /// When the child started, in the system's own unit. `None` if the system does not report it.
    started: Option<NonZeroU64>,
    /// `true` once this value has reaped the child, or has found that other code did. Another
    /// process can then have the child's pid, so this value sends no more signals to that pid.
    is_over: bool,
}

enum State {
    Runs,
    /// The child has ended but is not reaped, so no other process or group can have its pid.
    Ended(ExitStatus),
    /// The child was reaped, so another process or group may have its pid.
    Reaped,
}

/// The last signal that was sent to end a child, and when.
#[derive(Debug)]
pub(crate) struct Ending {
    signal: Signal,
    sent: Instant,
}

impl<C: ChildProcess> Running<C> {
    pub(crate) fn new(child: C) -> Self {
        Running {
            pid: child.pid().unwrap_or_default(),
            started: child
                .pid()
                .and_then(|pid| sockets::started(pid).ok().flatten()),
            child,
            is_over: false,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    fn state(&mut self) -> io::Result<State> {
        // A different start time means that the child was reaped, and that another process has its
        // pid. A child that is not reaped keeps its start time, even as a zombie.
        if let (Some(started), Ok(Some(now))) = (self.started, sockets::started(self.pid))
            && started != now
        {
            return Ok(State::Reaped);
        }
        match system::exit(self.pid, || self.child.try_wait()) {
            Ok(None) => Ok(State::Runs),
            Ok(Some(status)) => Ok(State::Ended(status)),
            Err(e) if is_reaped(&e) => Ok(State::Reaped),
            Err(e) => Err(e),
        }
    }

    /// How the child ended; `None` while it runs.
    pub(crate) fn exit_info(&mut self) -> io::Result<Option<ExitInfo>> {
        Ok(match self.state()? {
            State::Runs => None,
            State::Ended(status) => Some(status.into()),
            State::Reaped => Some(self.child.try_wait().ok().flatten().into()),
        })
    }

    /// Sends the signal to the child and its group. The caller then calls
    /// [`poll_end`](Self::poll_end) until that function returns `None`.
    pub(crate) fn begin_end(&mut self, signal: Signal) -> Result<Ending> {
        if !self.is_over {
            self.signal(signal)?;
        }
        Ok(Ending {
            signal,
            sent: Instant::now(),
        })
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        match self.state() {
            Ok(State::Reaped) => return Ok(()),
            Ok(State::Runs | State::Ended(_)) => {}
            Err(e) => return Err(self.cannot_stop(e)),
        }
        let sent = system::signal(self.pid, signal, || self.child.start_kill());
        match (sent, self.state()) {
            // On macOS kill(2) fails if the group has only zombies, so an error is ignored if the
            // child has ended.
            (Ok(()), _) | (_, Ok(State::Ended(_))) => Ok(()),
            (Err(e), _) => Err(self.cannot_stop(e)),
        }
    }

    fn cannot_stop(&self, cause: io::Error) -> Error {
        Error::of_system("stop", &format!("process {}", self.pid), cause)
    }

    /// Returns `true` if the child itself has ended. Other processes of its group may still run.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        if self.is_over {
            return Ok(true);
        }
        match self.state() {
            Ok(State::Runs) => Ok(false),
            Ok(State::Ended(_)) => Ok(true),
            Ok(State::Reaped) => {
                self.finish();
                Ok(true)
            }
            Err(e) => Err(self.cannot_stop(e)),
        }
    }

    /// Returns the pause before the next call of this function, or `None` once the child and its
    /// group have ended.
    ///
    /// - If the child or its group still runs [`TERMINATE_GRACE`] after SIGTERM, the call sends
    ///   SIGKILL.
    /// - If the child still runs [`KILL_LIMIT`] after SIGKILL, the call fails. If only other
    ///   processes of the group still run at that time, the call returns `None`.
    /// - If other code has reaped the child, the call returns `None`, because another process or
    ///   group may now have its pid.
    ///
    /// `others_run` gets the pid of the child. It returns `true` if other processes of the child's
    /// group run.
    pub(crate) fn poll_end(
        &mut self,
        ending: &mut Ending,
        others_run: impl FnOnce(u32) -> bool,
    ) -> Result<Option<Duration>> {
        let has_ended = self.has_ended()?;
        if self.is_over {
            return Ok(None);
        }
        if has_ended && !others_run(self.pid) {
            // Without `/proc`, and on systems other than Linux, `others_run` returns `false` even
            // if other processes of the group run. On Unix, this signal kills those processes.
            self.signal(Signal::Kill)?;
            return Ok(self.finish());
        }
        let waited = ending.sent.elapsed();
        match ending.signal {
            Signal::Terminate if waited >= TERMINATE_GRACE => {
                *ending = self.begin_end(Signal::Kill)?;
            }
            // A process that survives SIGKILL is usually in a system call that cannot be
            // interrupted. If the child has ended, the call no longer waits for the other processes
            // of the group.
            Signal::Kill if waited >= KILL_LIMIT && has_ended => return Ok(self.finish()),
            Signal::Kill if waited >= KILL_LIMIT => return Err(Error::not_ended(self.pid, waited)),
            _ => {}
        }
        Ok(Some(ENDING_PAUSE))
    }

    /// Reaps the child. From now on its pid can belong to another process.
    fn finish(&mut self) -> Option<Duration> {
        self.is_over = true;
        // An error means that other code has already reaped the child.
        let _reaped = self.child.try_wait();
        None
    }

    /// Ends the child and its group, and blocks the thread meanwhile. [`poll_end`](Self::poll_end)
    /// describes the time limits.
    pub(crate) fn end(&mut self, signal: Signal) -> Result<()> {
        let mut ending = self.begin_end(signal)?;
        while let Some(pause) = self.poll_end(&mut ending, system::others_run)? {
            block_for(pause);
        }
        Ok(())
    }

    /// Puts the error of a wait into the past tense. Adds the last lines of the child's stderr. If
    /// the wait timed out, also adds which pipe of the child is full. Call this once the child and
    /// its group have ended.
    pub(crate) fn explain(&mut self, error: Error) -> Error {
        let error = error.after_end(|pid| sockets::is_running(pid).is_ok_and(|runs| !runs));
        // A pipe stays full after the end of its writer.
        let full = self.child.full_pipe();
        let error = match full.filter(|_| error.kind() == ErrorKind::TimedOut) {
            Some(stream) => error.with_full_pipe(stream),
            None => error,
        };
        error.with_stderr(&self.last_lines())
    }

    /// The last lines that the child wrote to its stderr; empty if stderr is not piped. Call this
    /// once the child and its group have ended.
    fn last_lines(&mut self) -> Vec<String> {
        let Some(pipe) = self.child.take_stderr() else {
            return Vec::new();
        };
        let bytes = system::read_rest(pipe);
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        let last = lines.len().saturating_sub(STDERR_LINES);
        lines[last..].iter().map(|line| line.to_string()).collect()
    }
}

/// Kills the child and its group, and waits until they have ended, for [`KILL_LIMIT`] at most.
impl<C: ChildProcess> Drop for Running<C> {
    fn drop(&mut self) {
        let _ended = self.end(Signal::Kill);
    }
}

impl<C: ChildProcess> fmt::Debug for Running<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pid.fmt(f)
    }
}
