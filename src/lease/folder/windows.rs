//! The lock folder on Windows. A `Folder` is only a path, not an open handle. By default it is
//! below the user's temporary directory.
//!
//! This crate opens lock files without FILE_SHARE_DELETE, so Windows refuses to delete a lock file
//! that a process has open. An open file therefore keeps its name, and no sweep (removal of unused
//! files) deletes a file that a process is about to lock.
//!
//! While a process has a lock file locked, no other process can read the file. So records have
//! files of their own.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Access;
use crate::retry::retry_open;

/// Two users usually have different temporary directories, so they do not share a lock folder. A
/// lease of one user then does not keep the port from processes of the other user.
pub(super) fn default_roots() -> Vec<PathBuf> {
    vec![std::env::temp_dir().join("portlease")]
}

/// The name of the folder with the lock files. There is only one such folder, because Windows has
/// no network namespaces.
pub(super) fn scope() -> String {
    "machine".to_owned()
}

/// Always succeeds. On Linux this call fails if the network namespace is unknown.
pub(super) fn check_scope() -> io::Result<()> {
    Ok(())
}

/// Contains nothing, because on Windows a new folder inherits its permissions from its parent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mode;

/// The start of the folder name of a network namespace. Windows has no network namespaces, so no
/// folder has such a name.
pub(super) const SCOPE_PREFIX: &str = "net-";

pub(super) const SHARED: Mode = Mode;
pub(super) const OWN: Mode = Mode;

const FILE_SHARE_READ: u32 = 1;
const FILE_SHARE_WRITE: u32 = 2;
const FILE_FLAG_OPEN_REPARSE_POINT: u32 = 0x0020_0000;

const ERROR_ACCESS_DENIED: i32 = 5;
const ERROR_SHARING_VIOLATION: i32 = 32;

#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(super) fn open(path: &Path) -> io::Result<Folder> {
        // `symlink_metadata` does not follow a link, which another user may have planted.
        if std::fs::symlink_metadata(path)?.is_dir() {
            Ok(Folder(path.to_owned()))
        } else {
            Err(io::ErrorKind::NotADirectory.into())
        }
    }

    /// Opens the lock folder. If it is missing, the call creates it and the folders above it.
    pub(super) fn make(path: &Path) -> io::Result<Folder> {
        match Folder::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            opened => return opened,
        }
        std::fs::create_dir_all(path)?;
        Folder::open(path)
    }

    /// Opens the subfolder of this name.
    pub(crate) fn open_within(&self, name: impl AsRef<OsStr>) -> io::Result<Folder> {
        Folder::open(&self.0.join(name.as_ref()))
    }

    /// Opens the subfolder of this name, and creates it if it is missing.
    pub(super) fn make_within(&self, name: impl AsRef<OsStr>, _mode: Mode) -> io::Result<Folder> {
        let name = name.as_ref();
        match std::fs::create_dir(self.0.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            _ => self.open_within(name),
        }
    }

    /// Always `true`, because on Windows a `Folder` is only a path. If the folder is deleted and
    /// created again, the path leads to the new folder.
    pub(super) fn has_folder(&self, _name: &str, _inner: &Folder) -> bool {
        true
    }

    /// Always `true`: Windows does not delete an open file.
    pub(crate) fn has_file(&self, _name: &str, _file: &File) -> io::Result<bool> {
        Ok(true)
    }

    /// Creates the file, or fails if the name exists. Returns the file, its owner, and `false`,
    /// because the file is not locked yet.
    pub(crate) fn create_locked(&self, name: &str) -> io::Result<(File, u32, bool)> {
        let (file, owner) = self.open_file(name, Access::New)?;
        Ok((file, owner, false))
    }

    /// Opens the file of this name, or creates it with [`Access::New`]. Returns the file and its
    /// owner, which is always [`USER`]. Fails if the name leads to something other than a regular
    /// file.
    pub(crate) fn open_file(&self, name: &str, access: Access) -> io::Result<(File, u32)> {
        let path = self.0.join(name);
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(access != Access::Read)
            .create_new(access == Access::New);
        options
            .share_mode(FILE_SHARE_READ | FILE_SHARE_WRITE)
            .custom_flags(FILE_FLAG_OPEN_REPARSE_POINT);
        let file = retry_open(
            || options.open(&path),
            // If the name leads to a folder, Windows also denies access, but a retry cannot help.
            |e| is_transient(e) && !path.is_dir(),
        )?;
        if !file.metadata()?.file_type().is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        Ok((file, USER))
    }

    pub(crate) fn has_regular_file(&self, name: &str) -> bool {
        std::fs::symlink_metadata(self.0.join(name)).is_ok_and(|file| file.is_file())
    }

    /// Does nothing, because on Windows no file has a temporary name. A new file inherits its
    /// permissions, so it gets its final name at once. On Unix a new file usually has a temporary
    /// name until its permissions are set. A killed process can leave a file with such a name.
    pub(crate) fn sweep_staged(&self) -> io::Result<()> {
        Ok(())
    }

    /// Locks nothing. Concurrent sweeps (removals of unused files) do no harm, because Windows does
    /// not delete an open file.
    pub(crate) fn lock_for_sweep(&self) -> Option<SweepLock> {
        Some(SweepLock)
    }

    /// Closes an unused file and removes it. The file stays if another process has opened it
    /// meanwhile.
    pub(crate) fn remove_unused(&self, name: &str, file: File) -> io::Result<()> {
        drop(file);
        match std::fs::remove_file(self.0.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound && !is_transient(&e) => Err(e),
            _ => Ok(()),
        }
    }

    /// Removes a folder. Fails if the folder is not empty.
    pub(crate) fn remove_folder(&self, name: &str) -> io::Result<()> {
        std::fs::remove_dir(self.0.join(name))
    }

    /// The time since a process last added or removed an entry of the folder.
    pub(crate) fn idle_for(&self) -> io::Result<Duration> {
        let modified = std::fs::metadata(&self.0)?.modified()?;
        Ok(modified.elapsed().unwrap_or_default())
    }

    /// Calls `parse` with the names in the folder, and returns the values of `parse`. Stops after
    /// `limit` values.
    pub(crate) fn names<T>(
        &self,
        limit: usize,
        parse: impl Fn(&str) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.0)? {
            names.extend(entry?.file_name().to_str().and_then(&parse));
            if names.len() >= limit {
                break;
            }
        }
        Ok(names)
    }
}

/// What [`Folder::lock_for_sweep`] returns. On Windows the value locks nothing.
#[derive(Debug)]
pub(crate) struct SweepLock;

/// Whether a retry can succeed. Windows may refuse to open a file while the file is being deleted,
/// or while a virus scanner reads it.
fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(ERROR_ACCESS_DENIED | ERROR_SHARING_VIOLATION)
    )
}

/// The user ID of every user and every file owner. By default each user has a separate lock folder,
/// so these IDs need not differ.
const USER: u32 = 0;

/// Always `false`, so a lock folder that is a link is refused.
pub(super) fn is_trusted_link(_path: &Path) -> bool {
    false
}

/// Always [`USER`], the owner of every file.
pub(crate) fn user() -> u32 {
    USER
}

/// Whether a record goes into the lock file itself. Always `false`: on Windows no other process can
/// read a locked file.
pub(crate) fn records_within(_owner: u32, _user: u32) -> bool {
    false
}

/// Does nothing. On Unix the lock shows that the record is current. On Windows each port has only
/// one record file, and other processes could not read that file if it were locked.
pub(crate) fn lock_record(_file: &File) -> io::Result<()> {
    Ok(())
}

/// Always `true`: on Windows every record counts, because no process locks records.
pub(crate) fn is_locked_record(_file: &File) -> io::Result<bool> {
    Ok(true)
}

/// Always `true`, without a lock: Windows does not delete a file that a process has open.
pub(crate) fn lock_unused(_file: &File) -> bool {
    true
}

/// Reads once from the start of the file, and returns the number of bytes.
pub(crate) fn read(file: &File, bytes: &mut [u8]) -> io::Result<usize> {
    file.seek_read(bytes, 0)
}

/// Writes all bytes at the start of the file.
pub(crate) fn write(file: &File, mut bytes: &[u8]) -> io::Result<()> {
    let mut at = 0;
    while !bytes.is_empty() {
        match file.seek_write(bytes, at)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => {
                bytes = &bytes[written..];
                at += written as u64;
            }
        }
    }
    Ok(())
}
