//! The operations on a lock file: lock it, write its record, check whether a process has it locked
//! (a peek), and remove it if it is unused (a sweep).

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::folder::{Access, LockFolder, system};
use super::self_test_mark;
use crate::kept_fd::KeptFd;
use crate::model::endpoint::Protocol;
use crate::model::port::Port;
use crate::model::record::Record;
use crate::os_error::is_out_of_descriptors;
use crate::process_id::ProcessId;
use crate::retry::{LOCK_REOPENS, RECORD_READS, Sweep};

/// The name of a port's lock file, such as `60315.tcp`.
pub(crate) fn name(port: Port) -> String {
    format!("{}.{}", port.number, port.protocol)
}

pub(super) fn parse_name(name: &str) -> Option<Port> {
    let (number, protocol) = name.split_once('.')?;
    let protocol = Protocol::ALL.into_iter().find(|p| p.as_str() == protocol)?;
    let number = number.parse().ok().filter(|number| *number > 0)?;
    Some(Port::new(number, protocol))
}

#[derive(Debug)]
pub(super) enum Attempt {
    Locked(LeaseLock),
    Taken,
    /// Another process checks the file (a peek) or removes it as unused (a sweep). Both take
    /// microseconds, so a retry can succeed.
    BeingPeeked,
    Planted(PathBuf, io::Error),
    /// Another process deleted the lock folder.
    FolderGone,
    Failed(io::Error),
}

/// A lease: the locked lock file, and where its record is.
#[derive(Debug)]
pub(crate) struct LeaseLock {
    file: KeptFd<File>,
    owner: u32,
    /// `None` until a record is written.
    record: Option<RecordLocation>,
    folder: Arc<LockFolder>,
    name: String,
    /// The process that locked the file. A forked child inherits a copy of this value, and dropping
    /// that copy must not release the lease.
    process: ProcessId,
}

#[derive(Debug)]
enum RecordLocation {
    /// The record is in the lock file itself, which belongs to this user. This variant is not used
    /// on Windows, where no other process can read a locked file.
    Within,
    /// The record is in another file than the lock file, in this user's folder of records.
    Beside(KeptFd<File>),
}

pub(super) fn attempt(folder: &Arc<LockFolder>, port: Port) -> Attempt {
    let name = name(port);
    let locked = |file, owner| match KeptFd::sole(file) {
        Ok(file) => Attempt::Locked(LeaseLock {
            file,
            owner,
            record: None,
            folder: folder.clone(),
            name: name.clone(),
            process: ProcessId::current(),
        }),
        Err(e) => Attempt::Failed(e),
    };
    for _ in 0..LOCK_REOPENS {
        let (file, owner) = match open(folder, &name) {
            Ok(Some(opened)) => opened,
            Ok(None) => match folder.folder().create_locked(&name) {
                Ok((file, owner, true)) => return locked(file, owner),
                Ok((file, owner, false)) => (file, owner),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Attempt::FolderGone,
                Err(e) => return Attempt::Failed(e),
            },
            Err(e) if is_out_of_descriptors(&e) => return Attempt::Failed(e),
            Err(e) => return Attempt::Planted(folder.path().join(&name), e),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(e)) => return Attempt::Failed(e),
            Err(TryLockError::WouldBlock) => {
                return match is_shared(&file) {
                    Ok(true) => Attempt::BeingPeeked,
                    Ok(false) => Attempt::Taken,
                    Err(e) => Attempt::Failed(e),
                };
            }
        }
        match folder.folder().has_file(&name, &file) {
            Ok(true) => return locked(file, owner),
            // Another process removed the file between the open and the lock, so the loop opens it
            // again.
            Ok(false) => {}
            Err(e) => return Attempt::Failed(e),
        }
    }
    Attempt::BeingPeeked
}

/// Returns `true` if no process has an exclusive lock on the file, so no process has the lease.
/// Processes may have shared locks on the file.
///
/// This function itself takes a shared lock for a moment. A reservation that finds the file locked
/// calls this function, so it does not mistake the shared lock of another process for a lease. The
/// unlock is explicit, because a close would leave the lock to a child that was forked meanwhile.
fn is_shared(file: &File) -> io::Result<bool> {
    match file.try_lock_shared() {
        Ok(()) => {
            // If the unlock fails, the close of the file usually ends the lock.
            let _unlocked = file.unlock();
            Ok(true)
        }
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

/// Opens an existing file, and returns it with its owner. The file is open for writing if this user
/// may write to it, else for reading only. Returns `None` if the file does not exist.
fn open(folder: &LockFolder, name: &str) -> io::Result<Option<(File, u32)>> {
    let opened = match folder.folder().open_file(name, Access::Write) {
        // The file usually belongs to another user, or its file system is mounted read-only. Read
        // access is enough to lock it.
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            folder.folder().open_file(name, Access::Read)
        }
        opened => opened,
    };
    match opened {
        Ok(opened) => Ok(Some(opened)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

impl LeaseLock {
    /// The folder that has the lock file.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Whether [`publish`](Self::publish) has written a record.
    pub(crate) fn is_recorded(&self) -> bool {
        self.record.is_some()
    }

    /// Writes the whole record over the previous record. This function does not check whether other
    /// code has closed the lock file's descriptor. So only the public call that locked the file may
    /// use this function.
    pub(crate) fn publish(&mut self, record: &Record) -> io::Result<()> {
        let bytes = record.encode();
        let user = system::user();
        if system::records_within(self.owner, user) {
            let file = self.file.unchecked().ok_or(io::ErrorKind::Interrupted)?;
            if let Err(e) = system::write(file, &bytes) {
                // If the lock file is open for reading only, a second open for writing fails with
                // the reason.
                self.folder.folder().open_file(&self.name, Access::Write)?;
                return Err(e);
            }
            self.record = Some(RecordLocation::Within);
            return Ok(());
        }
        let folder = self.folder.make_records(user)?;
        for _ in 0..LOCK_REOPENS {
            let (file, _) = match folder.open_file(&self.name, Access::Write) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    match folder.open_file(&self.name, Access::New) {
                        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                        made => made?,
                    }
                }
                opened => opened?,
            };
            system::lock_record(&file)?;
            // If another process removed the file between the open and the lock, the loop opens it
            // again.
            if folder.has_file(&self.name, &file)? {
                system::write(&file, &bytes)?;
                self.record = Some(RecordLocation::Beside(KeptFd::sole(file)?));
                return Ok(());
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }
}

impl Drop for LeaseLock {
    fn drop(&mut self) {
        if ProcessId::current() != self.process {
            return;
        }
        // Failures are ignored, because closing a file also unlocks it, and the record of an
        // unlocked lock file does not count. Exception: after a failed unlock, a forked child that
        // has the file open keeps the lock until the child calls exec or exits.
        //
        // Nothing is written or unlocked if other code of this process has closed the descriptor:
        // its number may belong to another file.
        if let Some(RecordLocation::Beside(file)) = &mut self.record
            && let Some(file) = file.take()
        {
            let _note = system::write(&file, Record::ENDED);
            let _unlocked = file.unlock();
        }
        if let Some(file) = self.file.take() {
            if matches!(self.record, Some(RecordLocation::Within)) {
                let _note = system::write(&file, Record::ENDED);
            }
            let _unlocked = file.unlock();
        }
    }
}

/// What a peek (a check whether a process has a lock file locked) found.
#[derive(Debug)]
pub(super) enum Peek {
    /// A process has the file locked, or this user may not open the file. The value is the record
    /// and the user that owns the record's file. `None` if the record cannot be read.
    Live(Option<Box<(Record, u32)>>),
    Free,
}

pub(super) fn peek(folder: &LockFolder, port: Port) -> io::Result<Peek> {
    let name = name(port);
    let (file, owner) = match folder.folder().open_file(&name, Access::Read) {
        Ok(opened) => opened,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Peek::Free),
        // This user may not open the file. A process of the user that owns the file may have locked
        // it, so the file counts as a live lease.
        Err(e)
            if e.kind() == io::ErrorKind::PermissionDenied
                && folder.folder().has_regular_file(&name) =>
        {
            return Ok(Peek::Live(None));
        }
        Err(e) => return Err(e),
    };
    if is_shared(&file)? {
        Ok(Peek::Free)
    } else {
        let found = read_record(folder, &name, &file, owner);
        Ok(Peek::Live(found.map(Box::new)))
    }
}

/// The record of the process that has the lock file locked.
///
/// The record can be in the lock file itself, or in a file of the same name in a user's folder of
/// records ([`LockFolder::records`]). If such a file is locked, its record counts, because the
/// lock file may contain an old record of a killed process. The times in the two files do not
/// decide which file counts, because a clock can be set back.
fn read_record(folder: &LockFolder, name: &str, lock: &File, owner: u32) -> Option<(Record, u32)> {
    // A record that cannot be read counts as missing. The lease is valid without a record.
    let users = folder.record_users().unwrap_or_default();
    let beside = users.into_iter().filter_map(|user| {
        let records = folder.records(user).ok()??;
        let (file, owner) = records.open_file(name, Access::Read).ok()?;
        if owner == user && system::is_locked_record(&file).ok()? {
            Some((decode(&file)?, owner))
        } else {
            None
        }
    });
    // Usually at most one record is locked. But a forked child can keep an old record locked, so
    // the newest record counts.
    beside
        .max_by_key(|(record, _)| record.since)
        .or_else(|| Some((decode(lock)?, owner)))
}

fn decode(file: &File) -> Option<Record> {
    for _ in 0..RECORD_READS {
        let mut bytes = [0; Record::SIZE];
        let read = system::read(file, &mut bytes).ok()?;
        let record = Record::decode(&bytes[..read]);
        if record.is_some() {
            return record;
        }
        std::thread::yield_now();
    }
    None
}

/// Removes each of `files` that is unlocked and was last written to at least `unused_for` ago.
/// Skips the files of other users, unless `user` is root. On Unix the call does nothing while
/// another process or thread sweeps the folder.
///
/// Two sweeps at the same time could remove the file of a new lease. After both have found the same
/// unused file, one sweep removes the file. Then a reservation creates a new file of that name, and
/// the other sweep removes the new file. On Windows two sweeps may run at the same time, because
/// Windows does not delete an open file.
pub(super) fn sweep(
    folder: &system::Folder,
    files: impl IntoIterator<Item = Port>,
    unused_for: Duration,
    user: u32,
) -> io::Result<()> {
    let Some(_sole) = folder.lock_for_sweep() else {
        return Ok(());
    };
    for port in files {
        let name = name(port);
        let Ok((file, owner)) = folder.open_file(&name, Access::Read) else {
            continue;
        };
        // Skips a file of another user, because in a sticky folder the removal usually fails.
        if owner != user && user != 0 {
            continue;
        }
        let idle = file.metadata()?.modified()?.elapsed().unwrap_or_default();
        if idle >= unused_for && system::lock_unused(&file) {
            folder.remove_unused(&name, file)?;
        }
    }
    Ok(())
}

/// Removes this user's unused record files.
pub(super) fn sweep_records(folder: &LockFolder, user: u32) -> io::Result<()> {
    match folder.records(user)? {
        Some(records) => {
            let files = records.names(usize::MAX, parse_name)?;
            sweep(&records, files, Duration::ZERO, user)
        }
        None => Ok(()),
    }
}

/// Removes the unused files, and then the empty folders, of other network namespaces, which may
/// have ended. Skips a folder in which an entry was added or removed recently. A namespace that
/// still exists loses no lease, because the files of its leases are locked. The next process that
/// reserves a port in that namespace creates the folder again.
pub(super) fn sweep_other_scopes(folder: &LockFolder, user: u32) -> io::Result<()> {
    for (name, scope) in folder.other_scopes()? {
        if scope.idle_for()? < Sweep::SCOPE_UNUSED_FOR {
            continue;
        }
        // A folder of records (`net-….records`) contains a folder for each user.
        for owner in scope.names(Sweep::FILES_LISTED, |name| name.parse::<u32>().ok())? {
            let owner = owner.to_string();
            if let Ok(records) = scope.open_within(&owner) {
                sweep_all(&records, user)?;
                let _removed = scope.remove_folder(&owner);
            }
        }
        sweep_all(&scope, user)?;
        self_test_mark::remove_all(&scope)?;
        // The removal fails while the folder is not empty, or if this user may not remove it. A
        // later sweep tries again.
        let _removed = folder.remove_scope(&name);
    }
    Ok(())
}

fn sweep_all(folder: &system::Folder, user: u32) -> io::Result<()> {
    let files = folder.names(Sweep::FILES_LISTED, parse_name)?;
    sweep(folder, files, Sweep::SCOPE_UNUSED_FOR, user)
}
