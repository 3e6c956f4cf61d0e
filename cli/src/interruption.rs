//! Remembers a signal that interrupts `run` after its command has ended. The signal cuts most of
//! the remaining waits of `run` short, and `run` dies by the signal.

use std::io;

use crate::command_end::End;

#[cfg(unix)]
mod unix;

/// Makes this process remember the signals that interrupt it. Without this call a signal would have
/// no effect: the handlers that passed signals on to the command are still installed after the
/// command has ended. Always succeeds on Windows, which has no signals.
pub(crate) fn watch() -> io::Result<()> {
    #[cfg(unix)]
    unix::watch()?;
    Ok(())
}

/// How `run` must end because of the signal. `None` if there was no signal.
pub(crate) fn end() -> Option<End> {
    #[cfg(unix)]
    return unix::received().map(End::Signal);
    #[cfg(not(unix))]
    None
}

/// Whether a signal has interrupted this process since [`watch`].
pub(crate) fn is_interrupted() -> bool {
    end().is_some()
}
