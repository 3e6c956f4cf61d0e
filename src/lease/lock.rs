//! One lock file: locks it, writes its record, checks whether another process has it locked (a
//! peek), and removes it once it is unused (a sweep).

use std::fs::{File, TryLockError};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::folder::{Access, LockFolder, system};
use crate::model::endpoint::Protocol;
use crate::model::lease_info::Record;
use crate::model::port::Port;
use crate::os_error::is_out_of_descriptors;
use crate::process_id::ProcessId;
use crate::retry::{LOCK_REOPENS, RECORD_READS, Sweep};

/// The file name of a port's lock.
pub(super) fn name(port: Port) -> String {
    format!("{}.{}", port.number, port.protocol)
}

pub(super) fn parse_name(name: &str) -> Option<Port> {
    let (number, protocol) = name.split_once('.')?;
    let protocol = Protocol::ALL.into_iter().find(|p| p.as_str() == protocol)?;
    let number = number.parse().ok().filter(|number| *number > 0)?;
    Some(Port::new(number, protocol))
}

/// The outcome of one attempt to lock.
#[derive(Debug)]
pub(super) enum Attempt {
    Locked(LeaseLock),
    Taken,
    /// Another process has it locked for a peek, or sweeps it. Both take microseconds.
    BeingPeeked,
    Planted(PathBuf, io::Error),
    /// Another process deleted the folder.
    FolderGone,
    Failed(io::Error),
}

/// A locked file, and the place of its record.
#[derive(Debug)]
pub(crate) struct LeaseLock {
    file: File,
    owner: u32,
    /// `None` until a record is written.
    record: Option<RecordLocation>,
    folder: Arc<LockFolder>,
    name: String,
    /// The process that locked the file. A forked child has a copy of this value, and must not
    /// unlock.
    process: ProcessId,
}

#[derive(Debug)]
enum RecordLocation {
    /// In the lock file, if that file belongs to this user. Not on Windows, where no process can
    /// read a locked file.
    Within,
    /// In a file of its own beside the lock file.
    Beside(File),
}

pub(super) fn attempt(folder: &Arc<LockFolder>, port: Port) -> Attempt {
    let name = name(port);
    for _ in 0..LOCK_REOPENS {
        let (file, owner) = match open(folder, &name) {
            Ok(Some(opened)) => opened,
            Ok(None) => match folder.folder().open_file(&name, Access::New) {
                Ok(opened) => opened,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Attempt::FolderGone,
                Err(e) => return Attempt::Failed(e),
            },
            Err(e) if is_out_of_descriptors(&e) => return Attempt::Failed(e),
            Err(e) => return Attempt::Planted(folder.path().join(name), e),
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
        match system::is_linked(&file) {
            Ok(true) => {
                return Attempt::Locked(LeaseLock {
                    file,
                    owner,
                    record: None,
                    folder: folder.clone(),
                    name,
                    process: ProcessId::current(),
                });
            }
            // Another process swept the file between the open and the lock.
            Ok(false) => {}
            Err(e) => return Attempt::Failed(e),
        }
    }
    Attempt::BeingPeeked
}

/// Whether no process has the file locked exclusively.
///
/// The check takes a shared lock, which no reservation mistakes for a lease. It unlocks the file
/// explicitly: a child that is forked meanwhile has the file open too, and would keep the lock past
/// the close.
fn is_shared(file: &File) -> io::Result<bool> {
    match file.try_lock_shared() {
        Ok(()) => {
            // If the unlock fails, the close of the file ends the lock.
            let _unlocked = file.unlock();
            Ok(true)
        }
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

/// The existing file and its owner. The file is writable if this user may write it. `None` if the
/// file does not exist.
fn open(folder: &LockFolder, name: &str) -> io::Result<Option<(File, u32)>> {
    let opened = match folder.folder().open_file(name, Access::Write) {
        // The file belongs to another user. Read access is enough to lock it.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
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
    /// Whether the record could be written.
    pub(crate) fn is_recorded(&self) -> bool {
        self.record.is_some()
    }

    /// Writes the record, whole and in place. `user` is this process's user for the file system, if
    /// the caller knows it.
    pub(crate) fn publish(&mut self, record: &Record, user: Option<u32>) -> io::Result<()> {
        let bytes = record.encode();
        let user = user.map_or_else(system::user, Ok)?;
        if system::records_within(self.owner, user) {
            system::write(&self.file, &bytes)?;
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
            // If the file has no name, another process swept it between the open and the lock.
            if system::is_linked(&file)? {
                system::write(&file, &bytes)?;
                self.record = Some(RecordLocation::Beside(file));
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
        // A failure here loses nothing: the record is a note, and closing the file unlocks it too.
        // If a forked child also has the file open, the lock ends when that child calls exec.
        match &self.record {
            Some(RecordLocation::Within) => {
                let _note = system::write(&self.file, Record::ENDED);
            }
            Some(RecordLocation::Beside(file)) => {
                let _note = system::write(file, Record::ENDED);
                let _unlocked = file.unlock();
            }
            None => {}
        }
        let _unlocked = self.file.unlock();
    }
}

/// What a peek at a lock file found.
#[derive(Debug)]
pub(super) enum Peek {
    /// A process has the file locked. The value is the record and the user that owns the record's
    /// file, or `None` if the record cannot be read.
    Live(Option<(Record, u32)>),
    Free,
}

pub(super) fn peek(folder: &LockFolder, port: Port) -> io::Result<Peek> {
    let name = name(port);
    let (file, owner) = match folder.folder().open_file(&name, Access::Read) {
        Ok(opened) => opened,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Peek::Free),
        // Only the owner of the file can open it. A process of the owner may have it locked, so it
        // counts as a lease.
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
        Ok(Peek::Live(read_record(folder, &name, &file, owner)))
    }
}

/// The record of the process that has the lock. A record beside the lock file counts first, if a
/// live process keeps it locked; then the record in the lock file counts. The times of the records
/// do not decide, because clocks step.
fn read_record(folder: &LockFolder, name: &str, lock: &File, owner: u32) -> Option<(Record, u32)> {
    // Records are notes: one that cannot be read counts as missing.
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
    // Several records are locked only if another process keeps a stale one locked.
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

/// Removes those of `files` that no process has locked, and that no process has used for
/// `unused_for`. It removes the files of `user`, and as root those of every user. It does nothing
/// while another process sweeps the folder.
///
/// Only one process sweeps at a time, because two of them could both find a file unlocked. The
/// slower one would then remove the name of the file that a new reservation made in between.
pub(super) fn sweep(
    folder: &system::Folder,
    files: impl IntoIterator<Item = Port>,
    unused_for: Duration,
    user: u32,
) -> io::Result<()> {
    let Some(_sole) = folder.lock_for_sweep() else {
        return Ok(());
    };
    folder.sweep_staged()?;
    for port in files {
        let name = name(port);
        let Ok((file, owner)) = folder.open_file(&name, Access::Read) else {
            continue;
        };
        // In a sticky folder only root and the owner of a file can remove it.
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

/// Removes this user's records that no live process keeps.
pub(super) fn sweep_records(folder: &LockFolder, user: u32) -> io::Result<()> {
    match folder.records(user)? {
        Some(records) => {
            let files = records.names(usize::MAX, parse_name)?;
            sweep(&records, files, Duration::ZERO, user)
        }
        None => Ok(()),
    }
}

/// Removes the unused files of network namespaces that have ended, and their folders. A namespace
/// that still exists loses nothing: its files in use are locked, and a process makes its folder
/// again.
pub(super) fn sweep_other_scopes(folder: &LockFolder, user: u32) -> io::Result<()> {
    for (name, scope) in folder.other_scopes()? {
        if scope.idle_for()? < Sweep::SCOPE_UNUSED_FOR {
            continue;
        }
        // In a folder of records (`net-….records`) each user has a folder.
        for owner in scope.names(Sweep::FILES_LISTED, |name| name.parse::<u32>().ok())? {
            let owner = owner.to_string();
            if let Ok(records) = scope.open_within(&owner) {
                sweep_all(&records, user)?;
                let _removed = scope.remove_folder(&owner);
            }
        }
        sweep_all(&scope, user)?;
        // This fails while a file is left, or if the folder belongs to another user. A later sweep
        // tries again.
        let _removed = folder.remove_scope(&name);
    }
    Ok(())
}

fn sweep_all(folder: &system::Folder, user: u32) -> io::Result<()> {
    let files = folder.names(Sweep::FILES_LISTED, parse_name)?;
    sweep(folder, files, Sweep::SCOPE_UNUSED_FOR, user)
}
