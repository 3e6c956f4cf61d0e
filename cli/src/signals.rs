//! The state of signals that this process inherited and passes on, and the end by a signal.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};

use nix::sys::signal::{SigSet, Signal, raise};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::exit;
use crate::ffi;

/// Whether the parent started this process with the signal ignored. Such a signal must stay
/// ignored, here and in children.
pub(crate) fn starts_ignored(signal: i32) -> bool {
    ffi::is_ignored_at_start(signal)
}

/// Starts the command with the signal mask of the calling thread, and with the signals ignored that
/// were ignored when this process started.
pub(crate) fn spawn_with_inherited_signals(command: &mut Command) -> io::Result<Child> {
    // A signal with a handler has its default action after exec, and std resets SIGPIPE. Every
    // other ignored signal stays ignored anyway.
    let reset = [Signal::SIGPIPE, Signal::SIGCHLD].map(|signal| signal as i32);
    let ignored: Vec<i32> = reset.into_iter().filter(|s| starts_ignored(*s)).collect();
    if !ignored.is_empty() {
        ffi::ignore_in_child(command, ignored);
    }
    command.spawn()
}

/// Starts the command with every signal blocked.
pub(crate) fn spawn_with_blocked_signals(command: &mut Command) -> io::Result<Child> {
    let inherited = SigSet::thread_get_mask()?;
    SigSet::all().thread_set_mask()?;
    let spawned = command.spawn();
    inherited.thread_set_mask()?;
    spawned
}

/// Unblocks the signals in this thread, because the parent may have started this process with them
/// blocked.
pub(crate) fn unblock(signals: impl IntoIterator<Item = i32>) -> io::Result<()> {
    let mut set = SigSet::empty();
    for signal in signals {
        set.add(Signal::try_from(signal)?);
    }
    Ok(set.thread_unblock()?)
}

/// Ends this process by the signal, so that the parent learns that a signal ended it. A shell
/// script then stops after Ctrl-C. Returns an exit code if the signal does not end this process:
/// the kernel protects the first process of a PID namespace.
pub(crate) fn die_by(signal: i32) -> u8 {
    // A core dump of this process would say nothing about the command that the signal ended.
    let no_core = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _limited = setrlimit(Resource::Core, no_core);
    ffi::restore_default(signal);
    if let Ok(known) = Signal::try_from(signal)
        && unblock([signal]).is_ok()
    {
        let _failed = raise(known);
    }
    u8::try_from(128 + signal).unwrap_or(exit::RUN_FAILED)
}

/// How the command ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Code(u8),
    /// The signal that ended the command ends this process too.
    Signal(i32),
}

impl From<ExitStatus> for End {
    fn from(status: ExitStatus) -> Self {
        match status.signal() {
            Some(signal) => End::Signal(signal),
            None => {
                let code = status.code().and_then(|code| u8::try_from(code).ok());
                End::Code(code.unwrap_or(exit::RUN_FAILED))
            }
        }
    }
}

impl End {
    /// The exit code of this process, if a signal does not end it.
    pub(crate) fn exit(self) -> u8 {
        match self {
            End::Code(code) => code,
            End::Signal(signal) => die_by(signal),
        }
    }
}
