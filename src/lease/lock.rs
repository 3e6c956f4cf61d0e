//! One lock file: taken, held with its record, looked at, swept.

use std::fs::{File, TryLockError};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::folder::{Access, LockFolder, system};
use crate::model::endpoint::Protocol;
use crate::model::record::Record;

/// The file name of a port's lock.
pub(super) fn name(protocol: Protocol, port: u16) -> String {
    format!("{port}.{protocol}")
}

pub(super) fn parse_name(name: &str) -> Option<(Protocol, u16)> {
    let (port, protocol) = name.split_once('.')?;
    let protocol = Protocol::ALL.into_iter().find(|p| p.as_str() == protocol)?;
    port.parse()
        .ok()
        .filter(|port| *port > 0)
        .map(|port| (protocol, port))
}

/// What came of one attempt to lock.
#[derive(Debug)]
pub(super) enum Attempt {
    LeaseLock(LeaseLock),
    Taken,
    /// Only somebody who looks has it: gone in a moment.
    Looked,
    Planted(PathBuf, io::Error),
    /// The folder was deleted under us.
    FolderGone,
    Failed(io::Error),
}

/// A locked file, and where its record stands.
#[derive(Debug)]
pub(crate) struct LeaseLock {
    file: File,
    owner: u32,
    /// The record, where one is written: in the lock file if that is this user's own and can be read while it is
    /// locked, else beside it.
    record: Option<RecordLocation>,
    lock_folder: Arc<LockFolder>,
    name: String,
    /// A forked child has this value too, and must leave the lock alone.
    pid: u32,
}

#[derive(Debug)]
enum RecordLocation {
    Within,
    Beside(File),
}

/// How often a file that is swept under our hands is opened anew.
const REOPENED_AT_MOST: usize = 16;

pub(super) fn attempt(lock_folder: &Arc<LockFolder>, protocol: Protocol, port: u16) -> Attempt {
    let name = name(protocol, port);
    for _ in 0..REOPENED_AT_MOST {
        let (file, owner) = match open(lock_folder, &name) {
            Ok(Some(opened)) => opened,
            Ok(None) => match lock_folder.folder().open_file(&name, Access::New) {
                Ok(opened) => opened,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Attempt::FolderGone,
                Err(e) => return Attempt::Failed(e),
            },
            Err(e) if crate::model::error::is_out_of_descriptors(&e) => return Attempt::Failed(e),
            Err(e) => return Attempt::Planted(lock_folder.path().join(name), e),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(e)) => return Attempt::Failed(e),
            Err(TryLockError::WouldBlock) => {
                return match file.try_lock_shared() {
                    Ok(()) => Attempt::Looked,
                    Err(TryLockError::WouldBlock) => Attempt::Taken,
                    Err(TryLockError::Error(e)) => Attempt::Failed(e),
                };
            }
        }
        match system::is_linked(&file) {
            Ok(true) => {
                let lock_folder = lock_folder.clone();
                return Attempt::LeaseLock(LeaseLock {
                    file,
                    owner,
                    record: None,
                    lock_folder,
                    name,
                    pid: std::process::id(),
                });
            }
            // Swept between the open and the lock.
            Ok(false) => {}
            Err(e) => return Attempt::Failed(e),
        }
    }
    Attempt::Looked
}

/// The file as it is, writable if it is ours to write. `None` is no such file.
fn open(lock_folder: &LockFolder, name: &str) -> io::Result<Option<(File, u32)>> {
    let opened = match lock_folder.folder().open_file(name, Access::Write) {
        // Another user's: a lock needs no more than to read it.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            lock_folder.folder().open_file(name, Access::Read)
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

    /// Writes the record, whole and in place, as this user, where it is known who this process is.
    pub(crate) fn publish(&mut self, record: &Record, user: Option<u32>) -> io::Result<()> {
        let bytes = record.encode();
        let user = user.map_or_else(system::user, Ok)?;
        if system::records_within(self.owner, user) {
            system::write(&self.file, &bytes)?;
            self.record = Some(RecordLocation::Within);
            return Ok(());
        }
        let folder = self.lock_folder.make_records(user)?;
        for _ in 0..REOPENED_AT_MOST {
            let (file, _) = match folder.open_file(&self.name, Access::Write) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    folder.open_file(&self.name, Access::New)?
                }
                opened => opened?,
            };
            system::hold_record(&file)?;
            // Else swept between the open and the lock.
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
        if std::process::id() != self.pid {
            return;
        }
        // Neither failure loses anything: the record is a note, and closing the file unlocks it too, unless a child
        // forked at this moment has it, and then as soon as that child execs.
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

#[derive(Debug)]
pub(super) enum Look {
    Live(Option<Record>),
    Free,
}

/// By a shared lock, which no reservation mistakes for a lease.
pub(super) fn look(lock_folder: &LockFolder, protocol: Protocol, port: u16) -> io::Result<Look> {
    let name = name(protocol, port);
    let (file, _) = match lock_folder.folder().open_file(&name, Access::Read) {
        Ok(opened) => opened,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Look::Free),
        Err(e) => return Err(e),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Look::Free),
        Err(TryLockError::WouldBlock) => Ok(Look::Live(read_record(lock_folder, &name, &file))),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

/// The record of the lock's present holder: one beside the lock file that a live process keeps, else the lock file's
/// own. Which of them is the latest, clocks cannot tell: they step.
fn read_record(lock_folder: &LockFolder, name: &str, lock: &File) -> Option<Record> {
    // Records are notes: one that cannot be read is one that is not there.
    let beside = lock_folder
        .record_users()
        .unwrap_or_default()
        .into_iter()
        .filter_map(|user| {
            let (file, owner) = lock_folder
                .records(user)
                .ok()??
                .open_file(name, Access::Read)
                .ok()?;
            if owner == user && system::is_held_record(&file) {
                decode(&file)
            } else {
                None
            }
        });
    // More than one only where somebody keeps another's file locked.
    beside
        .max_by_key(|record| record.since)
        .or_else(|| decode(lock))
}

fn decode(file: &File) -> Option<Record> {
    // A record that is being written is whole a moment later.
    for _ in 0..3 {
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

/// Removes the file if no live process has it locked, if it has not been used for so long, and if it is this user's.
pub(super) fn sweep(
    lock_folder: &LockFolder,
    protocol: Protocol,
    port: u16,
    unused_for: Duration,
    user: u32,
) -> io::Result<()> {
    let name = name(protocol, port);
    let Ok((file, owner)) = lock_folder.folder().open_file(&name, Access::Read) else {
        return Ok(());
    };
    // What another user left, that user's processes sweep: the folder is sticky.
    if owner != user && user != 0 {
        return Ok(());
    }
    let idle = file.metadata()?.modified()?.elapsed().unwrap_or_default();
    if idle < unused_for || file.try_lock_shared().is_err() {
        return Ok(());
    }
    if let Some(records) = lock_folder.records(user)? {
        records.remove_file(&name)?;
    }
    lock_folder.folder().remove_unused(&name, file)
}

/// Removes those of this user's records that no live process keeps: their lock files are another user's, who sweeps
/// them without.
pub(super) fn sweep_records(lock_folder: &LockFolder, user: u32) -> io::Result<()> {
    let Some(records) = lock_folder.records(user)? else {
        return Ok(());
    };
    let to_name = |name: &str| parse_name(name).map(|_| name.to_owned());
    for name in records.names(usize::MAX, to_name)? {
        let Ok((file, _)) = records.open_file(&name, Access::Read) else {
            continue;
        };
        if !system::is_held_record(&file) {
            // Looked at by a shared lock, which it keeps until the name is gone.
            records.remove_unused(&name, file)?;
        }
    }
    Ok(())
}
