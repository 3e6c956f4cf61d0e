//! Supervises a command until it ends: passes signals on, waits for its listeners, and reaps.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgid, getpgrp};
use portlease::{Diagnosis, Remedy, State};
use rustix::process::{WaitOptions, wait};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::origin::{Origin, WithOrigin};
use signal_hook::low_level::siginfo::Cause;

use crate::failure::{self, Failure};
use crate::limits::{GROUP_SIGNAL_DELAY, LISTEN_REPORT, sleep};
use crate::output::console::Console;
use crate::output::report;
use crate::process_tree::end_tree;
use crate::signals::{End, spawn_with_inherited_signals, starts_ignored, unblock};
use crate::watcher::Watcher;

/// Signals that are passed on to the command.
const FORWARDED: [i32; 6] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];

/// The channel to a thread that waits until the command listens on all ports.
#[derive(Debug)]
pub(crate) struct ListenWait {
    pub(crate) limit: Duration,
    /// The elapsed time, or why the command does not listen.
    pub(crate) listened: Receiver<Result<Duration, Failure>>,
}

/// The signal handlers and the watcher process. Both exist before the command starts, so that no
/// signal is lost.
#[derive(Debug)]
pub(crate) struct Supervisor {
    signals: SignalsInfo<WithOrigin>,
    watcher: Option<Watcher>,
}

impl Supervisor {
    pub(crate) fn new(console: &Console) -> io::Result<Supervisor> {
        let watcher = Watcher::start();
        if let Err(e) = &watcher {
            console.detail(format_args!(
                "cannot start the watcher process: {e}; the command may get a signal to the \
                 process group twice, and continues if portlease is killed"
            ));
        }
        let handled = FORWARDED
            .into_iter()
            .filter(|signal| !starts_ignored(*signal));
        Ok(Supervisor {
            signals: SignalsInfo::new(handled.chain([SIGCHLD]))?,
            watcher: watcher.ok(),
        })
    }

    /// Starts the command. The caller must not reap it, because [`Supervised::until_end`] does.
    pub(crate) fn start(&mut self, command: &mut Command) -> io::Result<Supervised<'_>> {
        if let Some(watcher) = &self.watcher {
            watcher.guard(command)?;
        }
        let child = spawn_with_inherited_signals(command)?;
        // If the parent started this process with SIGCHLD blocked, the end of the command would
        // stay unnoticed.
        unblock(FORWARDED.into_iter().chain([SIGCHLD]))?;
        let Supervisor { signals, watcher } = self;
        Ok(Supervised {
            pid: child.id(),
            signals,
            watcher,
        })
    }
}

#[derive(Debug)]
pub(crate) struct Supervised<'a> {
    pub(crate) pid: u32,
    signals: &'a mut SignalsInfo<WithOrigin>,
    watcher: &'a mut Option<Watcher>,
}

impl Supervised<'_> {
    /// Passes signals on to the command until it ends. If the wait for its listeners fails, ends
    /// the command and the processes that it started.
    pub(crate) fn until_end(
        mut self,
        console: &Console,
        mut listening: Option<ListenWait>,
    ) -> Result<End, Failure> {
        let cannot = |e: io::Error| Failure::system("wait for the command", &e);
        loop {
            let received: Vec<Origin> = self.signals.wait().collect();
            self.pass_on(received);
            if let Some(status) = self.reap().map_err(cannot)? {
                return after_end(console, status, listening);
            }
            match listening.as_ref().map(|wait| wait.listened.try_recv()) {
                Some(Ok(Ok(after))) => {
                    console.note(format_args!(
                        "the command started to listen after {:.1} s",
                        after.as_secs_f64()
                    ));
                    listening = None;
                }
                Some(Ok(Err(error))) => {
                    end_tree(self.pid).map_err(cannot)?;
                    let limit = listening.map(|wait| wait.limit).unwrap_or_default();
                    return Err(not_in_time(limit, &error));
                }
                Some(Err(TryRecvError::Disconnected)) => listening = None,
                Some(Err(TryRecvError::Empty)) | None => {}
            }
        }
    }

    /// Sends each received signal to the command once. Skips a signal that the command already got
    /// as a member of the process group.
    fn pass_on(&mut self, mut received: Vec<Origin>) {
        received.retain(|origin| origin.signal != SIGCHLD);
        if received.is_empty() {
            return;
        }
        if received.iter().any(|origin| !is_from_terminal(origin)) {
            sleep(GROUP_SIGNAL_DELAY);
            let repeated = self.signals.pending();
            received.extend(repeated.filter(|origin| origin.signal != SIGCHLD));
        }
        received.sort_by_key(|origin| (origin.signal, !is_from_terminal(origin)));
        received.dedup_by_key(|origin| origin.signal);
        let pid = Pid::from_raw(self.pid.cast_signed());
        // getpgid(2) and getpgrp(2) return 0 for a group from outside this PID namespace.
        let group = getpgid(Some(pid)).unwrap_or(getpgrp());
        let in_own_group = group == getpgrp();
        for origin in received {
            let got = |watcher: &Watcher| watcher.got(origin.signal);
            let Ok(signal) = Signal::try_from(origin.signal) else {
                continue;
            };
            // kill(2) and killpg(2) fail if the command has ended, or if this process may not
            // signal the user of the command. Nothing more can then be done.
            let _sent = match is_from_terminal(&origin) {
                // A terminal signals one process group. So the command has already got the signal,
                // if it is still in this group. timeout(1) and setsid(1) make a group of their own.
                true if in_own_group => Ok(()),
                true => killpg(group, signal),
                false if in_own_group && self.watcher.as_ref().is_some_and(got) => Ok(()),
                false => kill(pid, signal),
            };
        }
        if let Some(watcher) = self.watcher
            && watcher.discard_pending().is_err()
        {
            *self.watcher = None;
        }
    }

    /// Reaps every child that has ended. A process can have other children than those it started:
    /// the kernel gives orphans to pid 1 of a PID namespace. Returns the status of the command if
    /// the command has ended.
    fn reap(&mut self) -> io::Result<Option<ExitStatus>> {
        let mut ended = None;
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let pid = pid.as_raw_nonzero().get().cast_unsigned();
                    if pid == self.pid {
                        ended = Some(ExitStatus::from_raw(status.as_raw()));
                    }
                    if self.watcher.as_ref().is_some_and(|w| w.pid() == pid) {
                        self.watcher.take().into_iter().for_each(Watcher::forget);
                    }
                }
                Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(ended),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Whether the kernel sent the signal, as it does for Ctrl-C. The whole process group of the
/// terminal then got the signal.
fn is_from_terminal(origin: &Origin) -> bool {
    matches!(origin.cause, Cause::Kernel)
}

/// If the command ended before it listened, reports this. Exit code 0 of the command then becomes a
/// failure of `run`.
fn after_end(
    console: &Console,
    status: ExitStatus,
    listening: Option<ListenWait>,
) -> Result<End, Failure> {
    let result = listening.map(|wait| wait.listened.recv_timeout(LISTEN_REPORT));
    let Some(Ok(Err(failure))) = result else {
        return Ok(status.into());
    };
    let text = ended_first(status, &failure);
    if status.success() {
        return Err(Failure::new(text));
    }
    console.note(text);
    Ok(status.into())
}

/// The report on the port of a failed wait. `None` if the failure has no report on a port.
fn report_of(failure: &Failure) -> Option<&Diagnosis> {
    match failure.cause() {
        failure::Cause::Library(error) => error.diagnosis(),
        failure::Cause::Text(_) => None,
    }
}

fn ended_first(status: ExitStatus, failure: &Failure) -> String {
    let found = report_of(failure).and_then(|report| Some((report, report.endpoint()?)));
    let Some((diagnosis, endpoint)) = found else {
        return report::failure(failure);
    };
    let mut text = format!("the command ended ({status}) before it listened on port {endpoint}");
    let mut sockets = diagnosis.holders().into_iter().flatten();
    let is_redirected = diagnosis.remedies().contains(&Remedy::ListPacketFilter);
    if is_redirected || sockets.any(|socket| socket.state == State::Listen) {
        text += &format!(": {}", diagnosis.cause());
    }
    match report::help(diagnosis, true) {
        Some(help) => format!("{text}\nhelp: {help}"),
        None => text,
    }
}

fn not_in_time(limit: Duration, failure: &Failure) -> Failure {
    let text = match report_of(failure) {
        Some(diagnosis) => report::headline_and_help(diagnosis, true),
        None => report::failure(failure),
    };
    let limit = humantime::format_duration(limit);
    Failure::new(format!("stopped the command after {limit}: {text}"))
}
