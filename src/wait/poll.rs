//! A wait is a series of polls. Each poll reads the state of the ports, and says how long to pause
//! before the next poll. The caller pauses, so the same waits serve blocking and async callers.

use std::fmt;
use std::io;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use crate::inspect::availability::{QuickStatus, look, quick_status};
use crate::inspect::expected::Expected;
use crate::inspect::listening::is_listening;
use crate::inspect::watch::{Listener, Watch};
use crate::inspect::{diagnose, missing_listener};
use crate::model::diagnosis::Diagnosis;
use crate::model::diagnosis::verdict::Verdict;
use crate::model::error::{Error, Result};
use crate::model::holder::Holder;
use crate::model::port::Port;
use crate::model::server_kind::ServerKind;
use crate::os_error::is_reaped;
use crate::ownership::Asker;
use crate::retry::{DAEMON_GRACE, FREE_PAUSE, LISTENING_PAUSES, RetryBudget, block_for};
#[cfg(not(feature = "tokio"))]
use crate::sockets;

/// The outcome of one poll. After `Poll::Pause`, the caller makes the pause: it blocks the thread,
/// or uses a timer.
#[derive(Debug)]
pub(crate) enum Poll {
    Met,
    Pause(Duration),
    Failed(WaitError),
}

/// Why a wait failed. This value has no report yet, because a report reads every process, which is
/// slow. [`WaitError::into_error`] makes the report. An async runtime can run `into_error` on
/// another thread.
#[derive(Debug)]
pub(crate) enum WaitError {
    TimedOut(Duration, Unmet),
    EndedFirst(ExitInfo, Unmet),
    CannotTell(Port, Verdict),
    System(Port, io::Error),
}

/// The port that did not meet the condition of a wait.
#[derive(Debug)]
pub(crate) struct Unmet {
    pub(super) port: Port,
    pub(super) verdict: Verdict,
    /// The process that was expected to listen; `None` if any process may listen, and for a wait
    /// until ports are free.
    pub(super) expected: Option<Expected>,
    /// All ports of a wait for listeners. Empty for a wait until ports are free.
    pub(super) asked: Vec<Port>,
    /// The port's latest listener with a visible owner. If no owner was visible, the port's first
    /// listener. Only a wait for listeners that stay open sets this field.
    pub(super) last_listener: Option<Box<Holder>>,
}

impl Unmet {
    fn report(&self) -> Diagnosis {
        match &self.expected {
            Some(expected) => missing_listener::not_listening(
                self.port,
                self.verdict.clone(),
                expected,
                &self.asked,
            ),
            None => missing_listener::after_waiting_for_any(
                self.port,
                self.verdict.clone(),
                self.last_listener.as_deref().cloned(),
                &self.asked,
            ),
        }
    }
}

/// How the expected process ended.
#[derive(Clone, Debug)]
pub(crate) struct ExitInfo {
    /// `None` if the status is unknown. Only the parent of a process gets its exit status, so a
    /// wait by pid has none. The status is also unknown if other code of this process has reaped
    /// the child.
    status: Option<ExitStatus>,
    /// No process had the pid when the wait began.
    is_before_wait: bool,
}

impl From<ExitStatus> for ExitInfo {
    fn from(status: ExitStatus) -> Self {
        ExitInfo::from(Some(status))
    }
}

impl From<Option<ExitStatus>> for ExitInfo {
    fn from(status: Option<ExitStatus>) -> Self {
        ExitInfo {
            status,
            is_before_wait: false,
        }
    }
}

impl ExitInfo {
    /// `exit` is the result of `try_wait` on the child. `try_wait` fails if the child was already
    /// reaped, so this failure also shows that the child has ended. A thread that waits for every
    /// child can reap the child. The kernel reaps the child if this process ignores SIGCHLD.
    pub(crate) fn of(exit: io::Result<Option<ExitStatus>>) -> io::Result<Option<ExitInfo>> {
        match exit {
            Err(error) if is_reaped(&error) => Ok(Some(ExitInfo::from(None))),
            exit => Ok(exit?.map(ExitInfo::from)),
        }
    }

    pub(crate) fn before_wait() -> ExitInfo {
        ExitInfo {
            status: None,
            is_before_wait: true,
        }
    }

    fn succeeded(&self) -> Option<bool> {
        self.status.map(|status| status.success())
    }
}

impl fmt::Display for ExitInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(f, "ended ({status})"),
            None if self.is_before_wait => f.write_str("had ended (or never existed)"),
            None => f.write_str("ended"),
        }
    }
}

impl WaitError {
    /// `blocked_thread` is `true` if the wait blocked its thread. A server that is a task on that
    /// thread could not run meanwhile. So in an async runtime the error usually names the async
    /// form of the wait.
    pub(crate) fn into_error(self, blocked_thread: bool) -> Error {
        match self {
            WaitError::TimedOut(waited, unmet) => {
                let mut report = unmet.report();
                // The server of another process does not need this thread, so the error names no
                // async form.
                let expects_other = unmet.expected.as_ref().is_some_and(|expected| {
                    expected.pid().is_none_or(|pid| pid != std::process::id())
                });
                let async_form = match unmet.verdict {
                    // `portlease::tokio` has no wait by pid. So the error names
                    // `wait_until_listening` even after a wait by pid.
                    Verdict::NotListening => Some("wait_until_listening"),
                    // The wait saw a listener, so the blocked thread did not cause the timeout.
                    Verdict::Unsteady(_) | Verdict::NotHeldBy(_) => None,
                    _ => Some("wait_until_free"),
                };
                if let Some(call) = async_form
                    && blocked_thread
                    && !expects_other
                    && is_in_runtime()
                {
                    report = report.after_blocking_runtime(call);
                }
                Error::timed_out(waited, report.without_waits())
            }
            WaitError::EndedFirst(exit, unmet) => {
                let pid = unmet.expected.as_ref().and_then(Expected::pid);
                let expected = unmet.expected.as_ref();
                let daemons = expected.filter(|_| exit.succeeded() == Some(true));
                let daemons = daemons.map(Expected::running_daemons);
                let report = unmet.report().with_daemons(daemons.unwrap_or_default());
                Error::ended_first(pid, &exit.to_string(), unmet.port, report)
            }
            WaitError::CannotTell(port, verdict) => diagnose::report(port, verdict).into(),
            WaitError::System(port, cause) => Error::system("wait for", Some(port), cause),
        }
    }
}

#[derive(Debug)]
pub(super) struct Deadline {
    started: Instant,
    pub(super) at_most: Duration,
}

impl Deadline {
    pub(super) fn new(at_most: Duration) -> Self {
        Deadline {
            started: Instant::now(),
            at_most,
        }
    }

    /// The time until the deadline; `None` once the deadline has passed.
    pub(super) fn left(&self) -> Option<Duration> {
        let left = self.at_most.checked_sub(self.started.elapsed());
        left.filter(|left| !left.is_zero())
    }
}

/// A wait until something listens on each of the ports. It checks the ports in turn. If the wait
/// expects a process, three kinds of listeners count: those of the process, those of processes that
/// it started, and those without a visible owner.
#[derive(Debug)]
pub(crate) struct Listening {
    /// The ports that are left to check. Each poll removes ports from the start of the list, and
    /// stops at the first port without the required listener.
    ports: std::vec::IntoIter<Port>,
    asked: Vec<Port>,
    watch: Option<Watch>,
    deadline: Deadline,
    pauses: std::array::IntoIter<Duration, 3>,
    /// When a poll first found that the expected process had ended.
    ended: Option<Instant>,
}

impl Listening {
    pub(crate) fn new(ports: Vec<Port>, expected: Option<Expected>, at_most: Duration) -> Self {
        Listening {
            asked: ports.clone(),
            ports: ports.into_iter(),
            watch: expected.map(Watch::new),
            deadline: Deadline::new(at_most),
            pauses: LISTENING_PAUSES.into_iter(),
            ended: None,
        }
    }

    /// Calls `exit_info` before it reads the socket table. In the other order, a process could
    /// begin to listen and end between the two steps. The wait would then report that the process
    /// ended without a listener, although a descendant may still have the listener.
    pub(crate) fn poll(
        &mut self,
        exit_info: impl FnOnce() -> io::Result<Option<ExitInfo>>,
    ) -> Poll {
        let Some(&first) = self.ports.as_slice().first() else {
            return Poll::Met;
        };
        let exit = match exit_info() {
            Ok(exit) => exit,
            Err(e) => return Poll::Failed(WaitError::System(first, e)),
        };
        if let (Some(watch), Some(exit)) = (&mut self.watch, &exit) {
            watch.note_end(exit.succeeded());
        }
        let missing = match self.first_missing() {
            Ok(missing) => missing,
            Err(e) => return Poll::Failed(WaitError::System(first, e)),
        };
        let met = missing.map_or(self.ports.len(), |(at, _)| at);
        self.ports.by_ref().take(met).for_each(drop);
        match (self.ports.as_slice().first(), missing) {
            (Some(&port), Some((_, listener))) => self.not_yet(port, listener, exit),
            _ => Poll::Met,
        }
    }

    /// The position of the first port that still lacks the required listener. The [`Listener`] says
    /// whether an unexpected process listens there, or no process.
    fn first_missing(&mut self) -> io::Result<Option<(usize, Listener)>> {
        let ports = self.ports.as_slice();
        if let Some(watch) = &mut self.watch {
            return watch.first_missing(ports);
        }
        for (at, port) in ports.iter().enumerate() {
            if !is_listening(*port)? {
                return Ok(Some((at, Listener::Nobody)));
            }
        }
        Ok(None)
    }

    /// The first port on which only strangers listen: processes that are not expected.
    fn stranger(&self) -> Option<(Port, Listener)> {
        let ports = self.ports.as_slice();
        let at = self.watch.as_ref()?.first_stranger(ports)?;
        Some((ports[at], Listener::Stranger))
    }

    fn not_yet(&mut self, port: Port, listener: Listener, exit: Option<ExitInfo>) -> Poll {
        let left = self.deadline.left();
        // A process that has ended without a failure may have left a daemon. The daemon may begin
        // to listen a moment later.
        let may_leave_daemon = exit
            .as_ref()
            .is_some_and(|exit| exit.succeeded() != Some(false));
        let ended = *self.ended.get_or_insert_with(Instant::now);
        let has_grace = may_leave_daemon && ended.elapsed() < DAEMON_GRACE;
        if exit.is_none() {
            self.ended = None;
        }
        if let (Some(left), true) = (left, exit.is_none() || has_grace) {
            let [.., longest] = LISTENING_PAUSES;
            return Poll::Pause(self.pauses.next().unwrap_or(longest).min(left));
        }
        // If an unexpected process listens on a later port, that listener explains more than a port
        // without a listener.
        let (port, listener) = self.stranger().unwrap_or((port, listener));
        let expected = self.watch.as_ref().map(|watch| watch.expected.clone());
        let verdict = match (listener, &expected) {
            (Listener::Stranger, Some(expected)) => Verdict::NotHeldBy(expected.pid()),
            _ => Verdict::NotListening,
        };
        let unmet = Unmet {
            port,
            verdict,
            expected,
            asked: self.asked.clone(),
            last_listener: None,
        };
        Poll::Failed(match exit {
            Some(exit) => WaitError::EndedFirst(exit, unmet),
            None => WaitError::TimedOut(self.deadline.at_most, unmet),
        })
    }
}

/// A wait until each of the ports is free. It checks the ports in turn.
#[derive(Debug)]
pub(crate) struct Freeing {
    ports: std::vec::IntoIter<Port>,
    kind: ServerKind,
    asker: Asker,
    deadline: Deadline,
}

impl Freeing {
    pub(crate) fn new(ports: Vec<Port>, kind: ServerKind, asker: Asker, at_most: Duration) -> Self {
        Freeing {
            ports: ports.into_iter(),
            kind,
            asker,
            deadline: Deadline::new(at_most),
        }
    }

    pub(crate) fn poll(&mut self) -> Poll {
        while let Some(&port) = self.ports.as_slice().first() {
            match self.poll_port(port) {
                Poll::Met => self.ports.next(),
                poll => return poll,
            };
        }
        Poll::Met
    }

    fn poll_port(&self, port: Port) -> Poll {
        let [.., longest] = LISTENING_PAUSES;
        let check = || {
            look(
                port,
                self.kind,
                self.asker,
                &mut RetryBudget::of_poll(self.deadline.left().unwrap_or_default()),
            )
            .verdict
        };
        let pause = match quick_status(port, self.asker) {
            Ok(QuickStatus::Busy) => longest,
            Ok(QuickStatus::BusyExpensive) => FREE_PAUSE,
            Ok(QuickStatus::MaybeFree) => match check() {
                Verdict::Free => return Poll::Met,
                Verdict::InUse(_) => FREE_PAUSE,
                verdict => return Poll::Failed(WaitError::CannotTell(port, verdict)),
            },
            Err(e) => return Poll::Failed(WaitError::System(port, e)),
        };
        if let Some(left) = self.deadline.left() {
            return Poll::Pause(pause.min(left));
        }
        match check() {
            Verdict::Free => Poll::Met,
            verdict => {
                let unmet = Unmet {
                    port,
                    verdict,
                    expected: None,
                    asked: Vec::new(),
                    last_listener: None,
                };
                Poll::Failed(WaitError::TimedOut(self.deadline.at_most, unmet))
            }
        }
    }
}

/// Polls until the wait ends, and blocks the thread between two polls.
pub(crate) fn block_on(mut poll: impl FnMut() -> Poll) -> Result<()> {
    loop {
        match poll() {
            Poll::Met => return Ok(()),
            Poll::Pause(pause) => block_for(pause),
            Poll::Failed(error) => return Err(error.into_error(true)),
        }
    }
}

/// Whether an async runtime probably runs on this thread:
///
/// - With the feature `tokio`: whether the thread belongs to a tokio runtime.
/// - Without the feature, on Linux: whether this process has an epoll descriptor, as most async
///   runtimes have.
/// - Without the feature, on other systems: always `false`.
fn is_in_runtime() -> bool {
    #[cfg(feature = "tokio")]
    return ::tokio::runtime::Handle::try_current().is_ok();
    #[cfg(not(feature = "tokio"))]
    return sockets::has_event_loop();
}
