//! A guard for probes. A child that is forked during a probe has a copy of the probe's socket, and
//! so occupies the number until it calls exec.

use std::io;

use crate::retry::RetryBudget;

/// Runs `probe`, which makes, binds and closes a socket. Returns when no forked child has a copy of
/// that socket, or `AddrInUse` if a child keeps a copy for longer than the budget allows.
///
/// A pipe shows whether a child has a copy. The pipe is made before the socket, so a child that has
/// a copy of the socket has a copy of the pipe's writing end too.
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
            // No process has the writing end.
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

/// Windows has no forked children. macOS has no pipe2(2): a pipe is inheritable for a moment there,
/// and a child that inherited it would never release it.
#[cfg(not(all(unix, not(target_vendor = "apple"))))]
pub(super) fn wait_for_forked_copies(
    probe: impl FnOnce() -> io::Result<()>,
    _budget: &mut RetryBudget,
) -> io::Result<()> {
    probe()
}
