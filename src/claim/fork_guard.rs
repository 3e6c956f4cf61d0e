//! Looks of which no copy is left: a child that is forked during one shares its socket, and so has the number bound,
//! until its exec.

use std::io;

/// Makes, binds and closes a socket in `look`, and waits until no child has a copy of it. `AddrInUse` if one keeps it.
///
/// The witness is a pipe that is there for longer than the socket: whoever shares the socket shares its writing end.
#[cfg(all(unix, not(target_vendor = "apple")))]
pub(super) fn wait_for_forked_copies(look: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    use std::io::Read as _;

    use crate::retry::{ResidualOwner, RetryBudget};

    let (mut reader, writer) = io::pipe()?;
    look()?;
    drop(writer);
    rustix::io::ioctl_fionbio(&reader, true)?;
    let mut budget = RetryBudget::new();
    loop {
        match reader.read(&mut [0]) {
            // Nobody has the writing end.
            Ok(_) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                if !budget.pause_while(|| ResidualOwner::Copies) {
                    return Err(io::ErrorKind::AddrInUse.into());
                }
            }
            Err(e) => return Err(e),
        }
    }
}

/// Windows has no forked children. macOS has no pipe2(2): a pipe is inheritable for a moment there, and a child that took
/// it along would be waited for in vain.
#[cfg(not(all(unix, not(target_vendor = "apple"))))]
pub(super) fn wait_for_forked_copies(look: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    look()
}
