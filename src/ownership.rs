//! Decides which reservations count as the caller's own. All other reservations of a port block the
//! port for the caller.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};

use once_cell::sync::Lazy;
use parking_lot::Mutex;

use crate::model::endpoint::Protocol;
use crate::model::lease_info::Lease;
use crate::model::port::Port;
use crate::model::record::Beneficiary;
use crate::model::to_endpoint::ToEndpoint;
use crate::namespace::Namespace;
use crate::retry::GENERATIONS;
use crate::sockets;

type Key = (u16, Protocol);

/// This process's reservations of one port, the oldest first. There are several if threads reserved
/// the port in different network namespaces.
type OfNumber = Vec<(Namespace, ProcessReservation)>;

// parking_lot's mutex is not poisoned if a thread of a test panics while it has the table locked.
static TABLE: Lazy<Mutex<HashMap<Key, OfNumber>>> = Lazy::new(Mutex::default);

/// This process's newest reservation of the port in the network namespace of the calling thread. A
/// namespace whose inode is unknown matches every namespace. The inode is unknown, for example,
/// after chroot(2) to a root without `/proc`.
fn own(key: Key) -> Option<ProcessReservation> {
    let current = Namespace::current();
    let may_be_current = |namespace: Namespace| {
        namespace == current || namespace.inode().is_none() || current.inode().is_none()
    };
    let table = TABLE.lock();
    let mut all = table.get(&key)?.iter().rev();
    let found = all.find(|(namespace, _)| may_be_current(*namespace));
    found.map(|(_, own)| *own)
}

/// One of this process's reservations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProcessReservation {
    pub(crate) id: u64,
    /// The inode of the reservation's claim (a bound socket). `None` without a claim, or if the
    /// inode is unknown.
    pub(crate) claim: Option<NonZeroU64>,
}

/// Keeps a reservation in this process's table until the guard is dropped.
#[derive(Debug)]
pub(crate) struct Guard {
    key: Key,
    reservation: ProcessReservation,
}

impl Guard {
    pub(crate) fn new(port: Port, claim: Option<NonZeroU64>) -> Guard {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let key = (port.number, port.protocol);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let reservation = ProcessReservation { id, claim };
        let namespace = Namespace::current();
        let mut table = TABLE.lock();
        table.entry(key).or_default().push((namespace, reservation));
        Guard { key, reservation }
    }

    pub(crate) fn id(&self) -> u64 {
        self.reservation.id
    }

    /// Makes this guard's port a part of the reservation of `other`.
    pub(crate) fn join(&mut self, other: &Guard) {
        let id = self.reservation.id;
        self.reservation.id = other.reservation.id;
        let mut table = TABLE.lock();
        let mut all = table.get_mut(&self.key).into_iter().flatten();
        if let Some((_, own)) = all.find(|(_, own)| own.id == id) {
            *own = self.reservation;
        }
    }

    pub(crate) fn claim(&self) -> Option<NonZeroU64> {
        self.reservation.claim
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut table = TABLE.lock();
        if let Some(all) = table.get_mut(&self.key) {
            all.retain(|(_, own)| own.id != self.reservation.id);
            if all.is_empty() {
                table.remove(&self.key);
            }
        }
    }
}

/// Who asks about a port. The asker's own reservations do not block the port for the asker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// This process. Its own reservations are:
    ///
    /// - reservations that this process or an ancestor made
    /// - reservations that another process made on behalf of this process or an ancestor
    Process,
    /// The reservation with this id. No other reservation counts as the asker's own.
    Reservation(u64),
    /// A reservation that is being made. Every existing reservation blocks the port.
    NewReservation,
}

impl Asker {
    pub(crate) fn of(operand: &impl ToEndpoint) -> Asker {
        operand
            .reservation()
            .map_or(Asker::Process, Asker::Reservation)
    }

    /// The asker's reservation of the port; `None` if none is found. `lease` is the live lease of
    /// the port, if the caller has read it. A reservation that another process made is found only
    /// through `lease`.
    pub(crate) fn owned(self, port: Port, lease: Option<&Lease>) -> Option<Owned> {
        let own = own((port.number, port.protocol));
        let owned = |claim| Some(Owned { claim });
        match (self, own) {
            (Asker::NewReservation, _) => None,
            (Asker::Reservation(id), own) => own
                .filter(|own| own.id == id)
                .and_then(|own| owned(own.claim)),
            (Asker::Process, Some(own)) => owned(own.claim),
            (Asker::Process, None) => lease
                .filter(|lease| is_kept_for_this_process(lease))
                .and_then(Lease::record)
                .and_then(|record| owned(record.socket)),
        }
    }

    /// The inode of the asker's claim (a bound socket). `None` if there is no claim, or if the
    /// inode is unknown. Also `None` if another process made the reservation, because this function
    /// does not read the lease.
    pub(crate) fn claim(self, port: Port) -> Option<NonZeroU64> {
        self.owned(port, None)?.claim
    }
}

/// The asker's own reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owned {
    /// The inode of the reservation's claim (a bound socket). `None` without a claim, or if the
    /// inode is unknown.
    pub(crate) claim: Option<NonZeroU64>,
}

/// Whether the lease belongs to an ancestor of this process, or is held on behalf of this process
/// or of an ancestor.
///
/// The record of the lease names the process by its pid and start time. The record counts only if
/// root or the user of the named process wrote it, or if the writer is unknown. So a record of
/// another user cannot make this process treat the reservation of another process as its own.
fn is_kept_for_this_process(lease: &Lease) -> bool {
    let Some(record) = lease.record() else {
        return false;
    };
    let is = |pid, started| {
        sockets::started(pid).is_ok_and(|now| now == started)
            && lease.speaks_for(sockets::user_of(pid))
    };
    let ancestors = lineage(std::process::id()).skip(1);
    let is_ancestor = |pid| ancestors.clone().any(|ancestor| ancestor == pid);
    let is_beneficiary = |process: Beneficiary| {
        let is_ours = process.pid == std::process::id() || is_ancestor(process.pid);
        is_ours && is(process.pid, process.started)
    };
    is_ancestor(record.pid) && is(record.pid, record.started)
        || record.on_behalf_of.is_some_and(is_beneficiary)
}

/// Whether `pid` is `ancestor` or one of its descendants.
pub(crate) fn is_descendant(pid: u32, ancestor: u32) -> bool {
    lineage(pid).any(|pid| pid == ancestor)
}

/// The process, its parent, its grandparent and so on, up to a limit.
pub(crate) fn lineage(pid: u32) -> impl Iterator<Item = u32> + Clone {
    std::iter::successors(Some(pid), |pid| sockets::parent(*pid)).take(GENERATIONS)
}
