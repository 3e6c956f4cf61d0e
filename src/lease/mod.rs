//! A lease is a locked file for one port of one protocol. While the file is locked, no other
//! process that uses this crate and the same lock folder reserves the port.

mod folder;
mod lock;
mod record;
pub(crate) mod self_test_mark;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use folder::LockFolder;
pub(crate) use folder::system::user;
use lock::{Attempt, Peek};
pub(crate) use lock::{LeaseLock, name as lock_file_name};
pub(crate) use record::as_recorded;

use crate::model::endpoint::Protocol;
use crate::model::lease_info::Lease;
use crate::model::port::Port;
use crate::os_error::is_out_of_descriptors;
use crate::retry::{ResidualOwner, RetryBudget, Sweep};

/// Why a lease was refused.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Another reservation has the lease. Or the retry budget was spent while other processes
    /// checked or removed the lock file.
    Taken,
    /// The name of this port's lock file leads to a link, a fifo, a folder, or a file that this
    /// process may not read. Another user may have planted it there. Other ports are not affected.
    Planted { path: PathBuf, cause: io::Error },
    /// The lock folder cannot be used. For example it is read-only or full, its file system has no
    /// locks, or its path leads to no folder.
    Unusable(Unusable),
    /// The process or the system is out of file descriptors.
    OutOfDescriptors(io::Error),
}

/// A lock folder that cannot be used, and why.
#[derive(Debug)]
pub(crate) struct Unusable {
    pub(crate) path: PathBuf,
    pub(crate) cause: io::Error,
    /// `PORTLEASE_DIR` is not an absolute path, or is a link that leads nowhere. Then every
    /// reservation fails, even one that the kernel could guarantee without a lease.
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

/// Locks the lock file of this port. The call never waits for another reservation to end. It
/// retries in two cases:
///
/// - while another process checks the file (a peek), or removes it as unused (a sweep)
/// - once, if another process has deleted the lock folder
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

/// Removes some unused lock files, in one of [`Sweep::ONE_IN`] calls at random. If the removal
/// fails, a later call removes the files.
///
/// The choice is random, because most processes take one or two leases and exit. A counter in each
/// process would rarely reach its limit.
fn sweep_sometimes(folder: &LockFolder) {
    if fastrand::u32(..Sweep::ONE_IN) != 0 {
        return;
    }
    let user = user();
    let listed = folder.entries(Sweep::FILES_LISTED, lock::parse_name);
    let files = listed.unwrap_or_default();
    // Starts at a random file. The first files of the list may belong to another user, and this
    // process may be unable to remove the files of that user.
    let (last, first) = files.split_at(fastrand::usize(0..=files.len()));
    let some = first.iter().chain(last).copied().take(Sweep::FILES);
    let _swept = lock::sweep(folder.folder(), some, Sweep::UNUSED_FOR, user);
    if fastrand::u32(..Sweep::OTHER_SCOPES_ONE_IN) == 0 {
        let _swept = lock::sweep_other_scopes(folder, user);
    }
}

/// The live lease on this port, if there is one. A lock file that this user may not open counts as
/// a live lease. The call creates no file and no folder, and does not make a reservation of another
/// process fail.
pub(crate) fn peek(port: Port) -> Result<Option<Lease>, Unusable> {
    let Some(folder) = LockFolder::existing()? else {
        return Ok(None);
    };
    match lock::peek(&folder, port) {
        Ok(peeked) => Ok(lease(port, peeked)),
        Err(cause) => Err(Unusable::new(folder.path().join(lock::name(port)), cause)),
    }
}

/// Why this process cannot use its lock folder; `None` if it can, or if the folder is missing.
pub(crate) fn unusable() -> Option<Unusable> {
    LockFolder::existing().err()
}

/// Whether the port has a live lease with a readable record.
pub(crate) fn is_recorded(port: Port) -> bool {
    peek(port).is_ok_and(|lease| lease.is_some_and(|lease| lease.record().is_some()))
}

fn lease(port: Port, peeked: Peek) -> Option<Lease> {
    match peeked {
        Peek::Live(Some(found)) => {
            let (record, owner) = *found;
            let lease = Lease::new(port.protocol, port.number, Some(record));
            Some(lease.recorded_by(owner))
        }
        Peek::Live(None) => Some(Lease::new(port.protocol, port.number, None)),
        Peek::Free => None,
    }
}

/// The live leases of this scope (on Linux the network namespace), sorted by port. The call also
/// removes the lock files of ended leases, if it can. If a lock folder cannot be read or the scope
/// is unknown, the call returns an error instead of an empty list, which could be wrong.
pub(crate) fn live() -> Result<Vec<Lease>, Unusable> {
    let leases = match LockFolder::existing()? {
        Some(folder) => live_in(&folder)?,
        None => Vec::new(),
    };
    if leases.is_empty() {
        LockFolder::check_readable()?;
    }
    Ok(leases)
}

fn live_in(folder: &LockFolder) -> Result<Vec<Lease>, Unusable> {
    let fail = |cause| Unusable::new(folder.path().to_owned(), cause);
    let mut leases = Vec::new();
    let mut dead = Vec::new();
    for port in folder.entries(usize::MAX, lock::parse_name).map_err(fail)? {
        match lock::peek(folder, port) {
            Ok(Peek::Free) => dead.push(port),
            Ok(peeked) => leases.extend(lease(port, peeked)),
            Err(cause)
                if is_out_of_descriptors(&cause) || cause.kind() == io::ErrorKind::OutOfMemory =>
            {
                return Err(fail(cause));
            }
            // Skips a folder, a link and a fifo, which are no leases. On a file system without
            // locks, skips every file: no file there can be a lease.
            Err(_) => {}
        }
    }
    let user = user();
    let _swept = lock::sweep(folder.folder(), dead, Duration::ZERO, user);
    // Each of the next three sweeps can read a whole folder. That is acceptable here, because this
    // function reads a whole folder in any case.
    let _swept = folder.folder().sweep_staged();
    let _swept = lock::sweep_records(folder, user);
    let _swept = lock::sweep_other_scopes(folder, user);
    leases.sort_unstable_by_key(|lease| (lease.port(), lease.protocol()));
    Ok(leases)
}

/// The live leases on this number for these protocols.
pub(crate) fn of_number(number: u16, protocols: &[Protocol]) -> Vec<Lease> {
    // A lock folder that cannot be read counts as empty, because only reports use the result.
    let lease = |protocol: &Protocol| peek(Port::new(number, *protocol)).ok().flatten();
    protocols.iter().filter_map(lease).collect()
}
