//! Reads how full the ephemeral range is.

use crate::model::endpoint::Protocol;
use crate::model::ephemeral_usage::EphemeralUsage;
use crate::ports::EphemeralRange;
use crate::sockets;

/// How full the ephemeral range is, if at least half of it is known to be in use. Otherwise `None`.
/// Also `None` if `protocols` does not contain TCP, or if [`read`] returns `None`.
///
/// Reading many TCP sockets takes milliseconds. So the function first reads a cheap upper limit of
/// their number, and returns `None` if the limit is below half of the range. If the limit is
/// unknown, as on systems other than Linux, the result is `None` too.
pub(crate) fn if_crowded(protocols: &[Protocol]) -> Option<EphemeralUsage> {
    if !protocols.contains(&Protocol::Tcp) {
        return None;
    }
    let range = EphemeralRange::cached().ok()?.range();
    if sockets::tcp_at_most()? * 2 < range.len() {
        return None;
    }
    read().filter(EphemeralUsage::is_crowded)
}

/// How full the ephemeral range is. `None` if the system does not report its range, or if the range
/// cannot be read now.
pub(crate) fn read() -> Option<EphemeralUsage> {
    let ephemeral = EphemeralRange::refreshed().ok()?;
    if !ephemeral.is_reported() {
        return None;
    }
    let range = ephemeral.range();
    let is_ephemeral = |port| !ephemeral.is_non_ephemeral(port);
    Some(match sockets::sockets(0, Some(Protocol::Tcp)) {
        Ok(table) => {
            let sockets = table.rows.iter().map(|row| (row.local.port(), row.state));
            EphemeralUsage::new(range, is_ephemeral, sockets, table.unseen)
        }
        Err(_) => EphemeralUsage::unread(range, is_ephemeral),
    })
}
