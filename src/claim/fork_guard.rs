//! A probe binds a port and closes the socket at once. A child that is forked between the bind and
//! the close has a copy of the socket. So the child occupies the port until it calls exec or exits.
//! [`wait_for_forked_copies`] waits until no child has a copy.

use std::io;

use crate::retry::RetryBudget;

/// Runs `probe`, which binds and closes a socket, and waits until no forked child has a copy of
/// that socket. Fails with `AddrInUse` if a child still has a copy when the budget is used up.
///
/// A pipe shows whether a child has a copy of the socket. This function opens the pipe before the
/// socket. So a child with a copy of the socket also has a copy of the pipe's writing end.
#[cfg(all(unix, not(target_vendor = "apple")))]
pub(super) fn wait_for_forked_copies(
    probe: impl FnOnce() -> io::Result<()>,
    budget: &mut RetryBudget,
) -> io::Result<()> {
    use std::io::Read as _;

    use crate::retry::ResidualOwner;

    let (mut reader, writer) = io::pipe()?;
    probe()?;
    drop(writer);
    rustix::io::ioctl_fionbio(&reader, true)?;
    loop {
        match reader.read(&mut [0]) {
            // End of file: no process has the writing end open.
            Ok(_) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                if !budget.pause(|| ResidualOwner::ForkedChild) {
                    return Err(io::ErrorKind::AddrInUse.into());
                }
            }
            Err(e) => return Err(e),
        }
    }
}

/// On Windows and Apple systems the probe does not wait. Windows has no forked children.
///
/// macOS has no pipe2(2), so a new pipe is inheritable for a moment. A child that is forked in that
/// moment keeps the pipe after its exec, until the child exits. A wait for that child would use up
/// the budget.
#[cfg(not(all(unix, not(target_vendor = "apple"))))]
pub(super) fn wait_for_forked_copies(
    probe: impl FnOnce() -> io::Result<()>,
    _budget: &mut RetryBudget,
) -> io::Result<()> {
    probe()
}
