//! [`Origin`]: whether the calling process started the owners of some listeners.

use super::orphan::is_orphan;
use crate::model::holder::Holder;
use crate::model::process::Process;
use crate::ownership::{is_descendant, lineage};
use crate::sockets;

/// Who started the owners of the listeners that are left on the port of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The calling process, or a process that it started, owns a listener.
    Own,
    /// Every owner is visible, and the calling process started none of them.
    Unrelated,
    /// An owner is hidden, or may be a daemon that the calling process left.
    Unknown,
}

/// Who started the owners of these listeners.
pub(crate) fn origin(listeners: &[Holder]) -> Origin {
    let own = std::process::id();
    let started = |pid| sockets::started(pid).ok().flatten();
    let own_start = started(own);
    let group = |pid| sockets::group(pid).map(|of| of.group);
    let is_older = |pid| own_start.is_some_and(|own| started(pid).is_some_and(|of| of < own));
    // If this process is a subreaper, it adopts every daemon that it leaves. Its daemons are then
    // its descendants, and no other orphan is its daemon.
    let keeps_daemons = sockets::adopts_orphans();
    let of_process = |process: &Process| {
        if is_descendant(process.pid, own) {
            return Origin::Own;
        }
        for pid in lineage(process.pid) {
            if is_older(pid) || is_descendant(own, pid) {
                return Origin::Unrelated;
            }
            if !keeps_daemons && is_orphan(pid, sockets::parent(pid)) {
                let is_in_own_group = group(pid).is_some_and(|of| Some(of) == group(own));
                return match is_in_own_group {
                    true => Origin::Own,
                    false => Origin::Unknown,
                };
            }
        }
        Origin::Unknown
    };
    let owners = listeners.iter().flat_map(|listener| &listener.processes);
    let origins: Vec<Origin> = owners.map(of_process).collect();
    let is_hidden = |listener: &Holder| listener.hidden || listener.processes.is_empty();
    if origins.contains(&Origin::Own) {
        Origin::Own
    } else if origins.is_empty()
        || origins.contains(&Origin::Unknown)
        || listeners.iter().any(is_hidden)
    {
        Origin::Unknown
    } else {
        Origin::Unrelated
    }
}
