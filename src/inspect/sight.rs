//! What this process can see: which owners of a socket may be hidden, and whether a connection is
//! an outgoing one.

use std::net::SocketAddr;

use once_cell::unsync::Lazy;

use crate::lease;
use crate::model::endpoint::Protocol;
use crate::model::holder::{Holder, UnseenOwner};
use crate::model::incompleteness::Incompleteness;
use crate::model::state::State;
use crate::ports::EphemeralRange;
use crate::sockets;

/// Whether this process runs as root. Always `true` on Windows, where [`lease::user`] is 0 for
/// every user.
pub(super) fn is_root() -> bool {
    lease::user() == 0
}

/// Records in each holder which kinds of hidden process may own its socket.
///
/// If this process is outside of the first pid namespace, a hidden process of another namespace may
/// own any socket that has an inode. If a holder has an inode, the function then adds
/// [`Incompleteness::PidNamespace`] to `unseen`.
pub(super) fn note_unseen(holders: &mut [Holder], unseen: &mut Vec<Incompleteness>) {
    let lacks_proc = unseen.iter().any(|reason| reason.is_of_proc());
    let owner = UnseenOwner {
        is_denied: lacks_proc || unseen.contains(&Incompleteness::Processes),
        lacks_proc,
        is_outside: !sockets::shows_every_process(),
        as_root: is_root(),
        in_flight: unseen
            .iter()
            .filter_map(Incompleteness::in_flight)
            .collect(),
    };
    for holder in holders.iter_mut() {
        holder.unseen_owner = owner.clone();
    }
    if owner.is_outside && holders.iter().any(|holder| holder.inode != 0) {
        unseen.push(Incompleteness::PidNamespace);
    }
}

/// Corrects which TCP connections count as outgoing. A connection without a listener may have been
/// accepted by a listener that was closed since. It counts as outgoing only in these cases:
/// - The connection is in SYN_SENT.
/// - A socket of this machine listens at the other end.
/// - The local port is ephemeral, and the peer's port is not.
/// - The socket is connected to itself.
///
/// Also sets `may_be_client` of each UDP and UDP-Lite socket without a peer.
pub(super) fn note_direction<'a>(holders: impl Iterator<Item = &'a mut Holder>) {
    let is_doubtful = |holder: &Holder| {
        holder.client && holder.protocol == Protocol::Tcp && holder.state != State::SynSent
    };
    let is_unconnected =
        |holder: &Holder| holder.protocol != Protocol::Tcp && holder.state == State::Bound;
    // If the ephemeral range cannot be read, no number counts as ephemeral.
    let range = Lazy::new(EphemeralRange::read);
    let is_assigned = |port: u16| {
        range
            .as_ref()
            .is_ok_and(|range| !range.is_non_ephemeral(port))
    };
    for holder in holders {
        let local = holder.local;
        if is_unconnected(holder) {
            holder.may_be_client = local.ip().is_unspecified() && is_assigned(local.port());
        } else if is_doubtful(holder) {
            holder.client = holder.remote.is_some_and(|remote| {
                let is_chosen = is_assigned(local.port()) && !is_assigned(remote.port());
                local == remote || is_chosen || is_served(local, remote)
            });
        }
    }
}

/// Whether a socket of this machine listens at the remote end of a connection. The remote end is
/// taken to be on this machine if its address is a loopback address or equals the local address.
fn is_served(local: SocketAddr, remote: SocketAddr) -> bool {
    let ip = remote.ip().to_canonical();
    let is_here = ip.is_loopback() || ip == local.ip().to_canonical();
    let listeners = sockets::listening(remote.port(), Protocol::Tcp);
    is_here && listeners.is_ok_and(|rows| rows.iter().any(|row| row.matches_addr(Some(ip), 0)))
}
