//! Unix: passes the inherited signal state on to children, and ends this process by a signal.

use std::io;
use std::process::{Child, Command};

use nix::sys::signal::{SigSet, Signal, raise};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::exit;
use crate::ffi::unix as ffi;

/// Returns `true` if the parent started this process with the signal ignored. Such a signal must
/// stay ignored in this process and in its children.
pub(crate) fn starts_ignored(signal: i32) -> bool {
    ffi::is_ignored_at_start(signal)
}

/// Starts the command with the signal mask of the calling thread. The command ignores each signal
/// that was ignored when this process started.
pub(crate) fn spawn_with_inherited_signals(command: &mut Command) -> io::Result<Child> {
    // Ignored signals stay ignored across exec, with two exceptions. exec(3) resets SIGCHLD,
    // because this process has a handler for it. The standard library resets SIGPIPE in each child.
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

/// Unblocks the signals in this thread, because the parent may have started this process with these
/// signals blocked.
pub(crate) fn unblock(signals: impl IntoIterator<Item = i32>) -> io::Result<()> {
    let mut set = SigSet::empty();
    for signal in signals {
        set.add(Signal::try_from(signal)?);
    }
    Ok(set.thread_unblock()?)
}

/// Ends this process by the signal, not with an exit code. So the parent learns of the signal: for
/// example, a shell script stops after Ctrl-C.
///
/// Returns an exit code if the signal does not end this process. For example, the kernel protects
/// the first process of a pid namespace.
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
