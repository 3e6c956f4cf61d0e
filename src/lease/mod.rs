//! Leases: one locked file per protocol and port excludes every cooperating process from a number.

mod folder;
mod lock;
mod record;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use folder::LockFolder;
pub(crate) use folder::system::user;
pub(crate) use lock::LeaseLock;
use lock::{Attempt, Peek};

use crate::model::endpoint::Protocol;
use crate::model::lease_info::Lease;
use crate::model::port::Port;
use crate::os_error::is_out_of_descriptors;
use crate::retry::{ResidualOwner, RetryBudget, Sweep};

/// Why a lease was refused.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// A live process has the lease. [`peek`] returns its record.
    Taken,
    /// The name of this one lock file leads to a link, a fifo, a folder, or a file that this
    /// process may not read. Another user may have planted it.
    Planted { path: PathBuf, cause: io::Error },
    /// No lease is possible in this folder: it is read-only or full, its file system has no locks,
    /// or the path is no folder.
    Unusable(Unusable),
    /// The process or the system is out of file descriptors.
    OutOfDescriptors(io::Error),
}

/// A lock folder that cannot be used, and why.
#[derive(Debug)]
pub(crate) struct Unusable {
    pub(crate) path: PathBuf,
    pub(crate) cause: io::Error,
    /// `PORTLEASE_DIR` is not an absolute path, or is a link that leads nowhere. That is an error
    /// even for a reservation that needs no lease.
    pub(crate) misconfigured: bool,
}

impl Unusable {
    fn new(path: PathBuf, cause: io::Error) -> Self {
        Unusable {
            path,
            cause,
            misconfigured: false,
        }
    }
}

/// Locks the file of this port. It retries only while another process peeks at the file or sweeps
/// it, and never waits for another reservation.
pub(crate) fn acquire(port: Port, budget: &mut RetryBudget) -> Result<LeaseLock, Refusal> {
    let mut renewed = false;
    loop {
        let folder = LockFolder::get().map_err(refusal)?;
        let failed = |cause| refusal(Unusable::new(folder.path().to_owned(), cause));
        match lock::attempt(&folder, port) {
            Attempt::Locked(lock) => {
                sweep_sometimes(&folder);
                return Ok(lock);
            }
            Attempt::Taken => return Err(Refusal::Taken),
            Attempt::BeingPeeked => {
                if !budget.pause(|| ResidualOwner::Reader) {
                    return Err(Refusal::Taken);
                }
            }
            Attempt::Planted(path, cause) => return Err(Refusal::Planted { path, cause }),
            Attempt::FolderGone if !renewed => {
                renewed = true;
                LockFolder::forget(&folder);
            }
            Attempt::FolderGone => return Err(failed(io::ErrorKind::NotFound.into())),
            Attempt::Failed(cause) => return Err(failed(cause)),
        }
    }
}

fn refusal(unusable: Unusable) -> Refusal {
    if is_out_of_descriptors(&unusable.cause) {
        Refusal::OutOfDescriptors(unusable.cause)
    } else {
        Refusal::Unusable(unusable)
    }
}

/// Sweeps some lock files that no live process has locked and that were not used for a while.
///
/// Chance decides whether it sweeps: most processes take one or two leases and end, so none of them
/// would reach a fixed count. If the sweep fails, another process sweeps later.
fn sweep_sometimes(folder: &LockFolder) {
    if fastrand::u32(..Sweep::ONE_IN) != 0 {
        return;
    }
    let Ok(user) = user() else { return };
    let listed = folder.entries(Sweep::FILES_LISTED, lock::parse_name);
    let files = listed.unwrap_or_default();
    // Starts at a random file. The first files may belong to another user, and this process cannot
    // remove those.
    let (last, first) = files.split_at(fastrand::usize(0..=files.len()));
    let some = first.iter().chain(last).copied().take(Sweep::FILES);
    let _swept = lock::sweep(folder.folder(), some, Sweep::UNUSED_FOR, user);
    if fastrand::u32(..Sweep::OTHER_SCOPES_ONE_IN) == 0 {
        let _swept = lock::sweep_other_scopes(folder, user);
    }
}

/// The live lease on this port, if there is one. The check creates no file or folder, and makes no
/// reservation of another process fail.
pub(crate) fn peek(port: Port) -> Result<Option<Lease>, Unusable> {
    let Some(folder) = LockFolder::existing()? else {
        return Ok(None);
    };
    match lock::peek(&folder, port) {
        Ok(peeked) => Ok(lease(port, peeked)),
        Err(cause) => Err(Unusable::new(folder.path().join(lock::name(port)), cause)),
    }
}

fn lease(port: Port, peeked: Peek) -> Option<Lease> {
    match peeked {
        Peek::Live(Some((record, owner))) => {
            let lease = Lease::new(port.protocol, port.number, Some(record));
            Some(lease.recorded_by(owner))
        }
        Peek::Live(None) => Some(Lease::new(port.protocol, port.number, None)),
        Peek::Free => None,
    }
}

/// Every live lease of this scope (on Linux the network namespace), sorted by port. It also sweeps
/// the files of leases that have ended, if it can.
pub(crate) fn live() -> Result<Vec<Lease>, Unusable> {
    let Some(folder) = LockFolder::existing()? else {
        return Ok(Vec::new());
    };
    let fail = |cause| Unusable::new(folder.path().to_owned(), cause);
    let mut leases = Vec::new();
    let mut dead = Vec::new();
    for port in folder.entries(usize::MAX, lock::parse_name).map_err(fail)? {
        match lock::peek(&folder, port) {
            Ok(Peek::Free) => dead.push(port),
            Ok(peeked) => leases.extend(lease(port, peeked)),
            Err(cause) if is_out_of_descriptors(&cause) => return Err(fail(cause)),
            // A folder, a link or a fifo is no lease. On a file system without locks there is none.
            Err(_) => {}
        }
    }
    if let Ok(user) = user() {
        let _swept = lock::sweep(folder.folder(), dead, Duration::ZERO, user);
        let _swept = lock::sweep_records(&folder, user);
        let _swept = lock::sweep_other_scopes(&folder, user);
    }
    leases.sort_unstable_by_key(|lease| (lease.port(), lease.protocol()));
    Ok(leases)
}

/// The leases of these protocols on one number.
pub(crate) fn of_number(number: u16, protocols: &[Protocol]) -> Vec<Lease> {
    // If the folder cannot be read, the reports show no lease. No decision depends on it.
    let lease = |protocol: &Protocol| peek(Port::new(number, *protocol)).ok().flatten();
    protocols.iter().filter_map(lease).collect()
}
