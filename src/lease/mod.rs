//! Leases: one locked file per protocol and port keeps a number from every cooperating process.

mod folder;
mod lock;

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use folder::LockFolder;
pub(crate) use folder::system::user;
pub(crate) use lock::LeaseLock;
use lock::{Attempt, Look};

use crate::model::endpoint::Protocol;
use crate::model::record::Lease;

/// Why a lease was not to be had.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// A live process has it: [`peek`] tells which.
    Taken,
    /// What lies where this one lock file belongs is not to be used: another user's link, fifo, folder, or a file
    /// that may not be read.
    Planted { path: PathBuf, cause: io::Error },
    /// No lease at all can be had in this folder: read-only, full, without locks, or not a folder.
    Unusable(Unusable),
    /// The process is out of descriptors.
    OutOfDescriptors(io::Error),
}

/// A lock folder that cannot be used, and why.
#[derive(Debug)]
pub(crate) struct Unusable {
    pub(crate) path: PathBuf,
    pub(crate) cause: io::Error,
    /// `PORTLEASE_DIR` does not say a folder at all: an error whatever else could be done.
    pub(crate) misconfigured: bool,
}

/// How long somebody who merely looks (a shared lock) is waited for.
const PATIENCE: Duration = Duration::from_millis(100);

/// Locks the file of this port. Never waits for another reservation.
pub(crate) fn acquire(protocol: Protocol, port: u16) -> Result<LeaseLock, Refusal> {
    let mut deadline = None;
    let mut renewed = false;
    loop {
        let lock_folder = LockFolder::get().map_err(unusable)?;
        match lock::attempt(&lock_folder, protocol, port) {
            Attempt::LeaseLock(held) => {
                sweep_now_and_then(&lock_folder);
                return Ok(held);
            }
            Attempt::Taken => return Err(Refusal::Taken),
            Attempt::Looked => {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
                if Instant::now() >= deadline {
                    return Err(Refusal::Taken);
                }
                // Two that look at each other must not go on in step.
                std::thread::sleep(Duration::from_micros(fastrand::u64(10..100)));
            }
            Attempt::Planted(path, cause) => return Err(Refusal::Planted { path, cause }),
            Attempt::FolderGone if !renewed => {
                renewed = true;
                LockFolder::forget(&lock_folder);
            }
            Attempt::FolderGone => {
                let path = lock_folder.path().to_owned();
                let cause = io::ErrorKind::NotFound.into();
                return Err(Refusal::Unusable(Unusable {
                    path,
                    cause,
                    misconfigured: false,
                }));
            }
            Attempt::Failed(cause) if crate::model::error::is_out_of_descriptors(&cause) => {
                return Err(Refusal::OutOfDescriptors(cause));
            }
            Attempt::Failed(cause) => {
                let path = lock_folder.path().to_owned();
                return Err(Refusal::Unusable(Unusable {
                    path,
                    cause,
                    misconfigured: false,
                }));
            }
        }
    }
}

/// Once in so many leases, by chance, sweeps some files that no live process has locked and that have not been used for
/// a while: many processes take a lease or two and end. A file just let go is kept: making it anew costs more than all else.
fn sweep_now_and_then(lock_folder: &LockFolder) {
    const ONCE_IN: u32 = 64;
    const AT_MOST: usize = 64;
    const LISTED_AT_MOST: usize = 1024;
    const UNUSED_FOR: Duration = Duration::from_secs(60);
    if fastrand::u32(..ONCE_IN) != 0 {
        return;
    }
    // Sweeping is a courtesy: a folder that cannot be listed now will be by somebody else.
    let files = lock_folder
        .entries(LISTED_AT_MOST, lock::parse_name)
        .unwrap_or_default();
    // Not always the same ones: they may be another user's, and stay.
    let (last, first) = files.split_at(fastrand::usize(0..=files.len()));
    let Ok(user) = user() else { return };
    for (protocol, port) in first.iter().chain(last).take(AT_MOST) {
        if lock::sweep(lock_folder, *protocol, *port, UNUSED_FOR, user).is_err() {
            return;
        }
    }
}

fn unusable(unusable: Unusable) -> Refusal {
    match crate::model::error::is_out_of_descriptors(&unusable.cause) {
        true => Refusal::OutOfDescriptors(unusable.cause),
        false => Refusal::Unusable(unusable),
    }
}

/// The live lease on this port, if there is one. Looking creates nothing, and makes no reservation fail.
pub(crate) fn peek(protocol: Protocol, port: u16) -> Result<Option<Lease>, Unusable> {
    let Some(lock_folder) = LockFolder::existing()? else {
        return Ok(None);
    };
    match lock::look(&lock_folder, protocol, port) {
        Ok(Look::Live(record)) => Ok(Some(Lease::new(protocol, port, record))),
        Ok(Look::Free) => Ok(None),
        Err(cause) => Err(Unusable {
            path: lock_folder.path().join(lock::name(protocol, port)),
            cause,
            misconfigured: false,
        }),
    }
}

/// Every live lease of this scope, by port. The files of dead ones are swept on the way.
pub(crate) fn live() -> Result<Vec<Lease>, Unusable> {
    let Some(lock_folder) = LockFolder::existing()? else {
        return Ok(Vec::new());
    };
    let fail = |cause| Unusable {
        path: lock_folder.path().to_owned(),
        cause,
        misconfigured: false,
    };
    let user = user().map_err(fail)?;
    let mut leases = Vec::new();
    for (protocol, port) in lock_folder
        .entries(usize::MAX, lock::parse_name)
        .map_err(fail)?
    {
        match lock::look(&lock_folder, protocol, port) {
            Ok(Look::Live(record)) => leases.push(Lease::new(protocol, port, record)),
            Ok(Look::Free) => {
                lock::sweep(&lock_folder, protocol, port, Duration::ZERO, user).map_err(fail)?
            }
            // Planted by another user: nobody's lease.
            Err(_) => {}
        }
    }
    // Without them nothing is amiss, and whoever looks next tries again.
    let _swept = lock::sweep_records(&lock_folder, user);
    leases.sort_unstable_by_key(|lease| (lease.port(), lease.protocol()));
    Ok(leases)
}
