//! Reads how full the ephemeral range is.

use crate::model::endpoint::Protocol;
use crate::model::ephemeral_usage::EphemeralUsage;
use crate::ports::EphemeralRange;
use crate::sockets;

/// How full the ephemeral range is. `None` if less than half of it is known to be in use, if
/// `protocols` does not contain TCP, or if [`read`] returns `None`.
///
/// Reading all TCP sockets takes milliseconds if there are many. So the function first reads a
/// cheap upper limit of their number. If this limit is below half of the range, the function stops.
/// Without such a limit, as on systems other than Linux, the result is `None`.
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
