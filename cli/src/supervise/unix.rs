//! Unix: the supervisor waits for signals, and passes them on to the command.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgid, getpgrp};
use rustix::process::{WaitOptions, wait};
use signal_hook::consts::{
    SIGABRT, SIGALRM, SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2,
};

use crate::command_end::End;
use crate::failure::Failure;
use crate::limits::{GROUP_SIGNAL_DELAY, sleep};
use crate::listen_wait::{ListenWait, after_end};
use crate::output::console::Console;
use crate::received_signals::{Received, ReceivedSignals};
use crate::signals::{spawn_with_inherited_signals, starts_ignored, unblock};
use crate::watcher::{PendingSignals, Watcher};

/// Signals that this process passes on to the command. Exception: a signal that was ignored when
/// this process started stays ignored.
const FORWARDED: [i32; 8] = [
    SIGABRT, SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2,
];

/// The signal handlers and the watcher process. [`Supervisor::new`] makes them before the command
/// starts, so that no signal is lost.
#[derive(Debug)]
pub(crate) struct Supervisor {
    signals: ReceivedSignals,
    watcher: Option<Watcher>,
}

impl Supervisor {
    pub(crate) fn new(console: &Console) -> io::Result<Supervisor> {
        let watcher = Watcher::start();
        if let Err(e) = &watcher {
            console.detail(format_args!(
                "cannot start the watcher process: {e}; a signal to the process group may reach \
                 the command twice, and the command continues if portlease is killed"
            ));
        }
        let handled = FORWARDED
            .into_iter()
            .filter(|signal| !starts_ignored(*signal));
        Ok(Supervisor {
            signals: ReceivedSignals::new(handled.chain([SIGCHLD]))?,
            watcher: watcher.ok(),
        })
    }

    /// Starts the command. Only [`Supervised::until_end`] may reap the command.
    pub(crate) fn start(&mut self, command: &mut Command) -> io::Result<Supervised<'_>> {
        if let Some(watcher) = &self.watcher {
            watcher.guard(command)?;
        }
        let child = spawn_with_inherited_signals(command)?;
        // This process needs these signals to notice the end of the command, and to pass signals
        // on. Its parent may have started this process with the signals blocked.
        unblock(FORWARDED.into_iter().chain([SIGCHLD]))?;
        let Supervisor { signals, watcher } = self;
        Ok(Supervised {
            pid: child.id(),
            was_signalled: false,
            signals,
            watcher,
        })
    }
}

#[derive(Debug)]
pub(crate) struct Supervised<'a> {
    pub(crate) pid: u32,
    /// Whether this process got a signal that usually ends a command, such as that of Ctrl-C.
    pub(crate) was_signalled: bool,
    signals: &'a mut ReceivedSignals,
    watcher: &'a mut Option<Watcher>,
}

impl Supervised<'_> {
    /// Passes signals on to the command until it ends. If the command does not listen or answer in
    /// time, [`ListenWait::poll`] ends it and the processes that it started.
    pub(crate) fn until_end(
        &mut self,
        console: &Console,
        mut listening: Option<ListenWait>,
    ) -> Result<End, Failure> {
        let cannot = |e: io::Error| Failure::system("wait for the command", &e);
        loop {
            let received = self.signals.wait();
            self.pass_on(console, received);
            if let Some(status) = self.reap().map_err(cannot)? {
                return after_end(console, status, listening, self.was_signalled);
            }
            if let Some(wait) = listening.take() {
                listening = wait.poll(console, self.pid)?;
            }
        }
    }

    /// Passes each received signal on to the command once. Skips a signal that the command already
    /// got as a member of this process's group. The watcher process shows which signals that group
    /// got. Without a watcher, the command can get a signal twice.
    fn pass_on(&mut self, console: &Console, mut received: Vec<Received>) {
        received.retain(|received| received.signal != SIGCHLD);
        if received.is_empty() {
            return;
        }
        let is_end = |received: &Received| ![SIGUSR1, SIGUSR2].contains(&received.signal);
        self.was_signalled |= received.iter().any(is_end);
        // The kernel can send SIGHUP to the session leader alone. If this process is the leader,
        // the command may not have got the signal. So this function handles SIGHUP like a signal
        // that another process sent.
        for received in &mut received {
            received.is_from_terminal &= received.signal != SIGHUP;
        }
        if received.iter().any(|received| !received.is_from_terminal) {
            sleep(GROUP_SIGNAL_DELAY);
            let repeated = self.signals.pending().into_iter();
            received.extend(repeated.filter(|received| received.signal != SIGCHLD));
        }
        received.sort_by_key(|received| (received.signal, !received.is_from_terminal));
        received.dedup_by_key(|received| received.signal);
        let pid = Pid::from_raw(self.pid.cast_signed());
        // getpgid(2) and getpgrp(2) return 0 for a process group outside this pid namespace. If
        // both return 0, both groups are outside. setpgid(2) cannot move the command to another
        // group outside the namespace, so the command is still in the group of this process.
        let group = getpgid(Some(pid)).unwrap_or(getpgrp());
        let in_own_group = group == getpgrp();
        let group_got = match self.watcher.as_mut().map(Watcher::take_pending) {
            Some(Ok(pending)) => pending,
            Some(Err(_)) => {
                *self.watcher = None;
                PendingSignals::default()
            }
            None => PendingSignals::default(),
        };
        for received in received {
            let Ok(signal) = Signal::try_from(received.signal) else {
                continue;
            };
            let sent = match received.is_from_terminal {
                // The terminal has signalled the process group of this process, which usually
                // contains the command. A command with a group of its own, as under timeout(1) or
                // setsid(1), gets the signal from this process.
                true if in_own_group => Ok(()),
                true => killpg(group, signal),
                false if in_own_group && group_got.contains(received.signal) => Ok(()),
                false => kill(pid, signal),
            };
            // An error of kill(2) or killpg(2) other than EPERM means that the command has ended.
            if sent == Err(Errno::EPERM) {
                console.note(format_args!(
                    "cannot pass {signal} on to pid {}, which this user may not signal",
                    self.pid
                ));
            }
        }
    }

    /// Reaps every child that has ended. Returns the status of the command if the command has
    /// ended. If this process is pid 1 of a pid namespace, or with `--leaks`, orphans are children
    /// of this process too.
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

/// Raises SIGCHLD in this process. [`Supervised::until_end`] waits for signals, so it wakes and
/// checks its [`ListenWait`].
pub(crate) fn wake() {
    let _woken = signal_hook::low_level::raise(SIGCHLD);
}
