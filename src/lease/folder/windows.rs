//! Windows: folders are paths, by default below the user's temporary directory.
//!
//! Every process opens lock files without FILE_SHARE_DELETE, so Windows does not delete an open
//! file. An open file therefore always has its name. If a file can be deleted, no process has it
//! open, so none is about to lock it. A lock also keeps other processes from reading the file, so
//! records have files of their own.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Access;
use crate::retry::retry_open;

/// Processes of one user agree on this folder. Processes of two users do not exclude each other.
pub(super) fn default_root() -> PathBuf {
    std::env::temp_dir().join("portlease")
}

/// On Windows ports belong to the machine.
pub(super) fn scope() -> String {
    "machine".to_owned()
}

/// The permissions of a new folder: on Windows, those that it inherits from its parent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mode;

/// How the folder name of a network namespace starts. Windows has no namespaces, so no folder has
/// this name.
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
        // Does not follow a planted link.
        if std::fs::symlink_metadata(path)?.is_dir() {
            Ok(Folder(path.to_owned()))
        } else {
            Err(io::ErrorKind::NotADirectory.into())
        }
    }

    /// The lock folder, created if it is missing, with the folders above it.
    pub(super) fn make(path: &Path) -> io::Result<Folder> {
        match Folder::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            opened => return opened,
        }
        std::fs::create_dir_all(path)?;
        Folder::open(path)
    }

    /// The folder of this name in this one.
    pub(crate) fn open_within(&self, name: impl AsRef<OsStr>) -> io::Result<Folder> {
        Folder::open(&self.0.join(name.as_ref()))
    }

    /// The folder of this name in this one, created if it is missing.
    pub(super) fn make_within(&self, name: impl AsRef<OsStr>, _mode: Mode) -> io::Result<Folder> {
        let name = name.as_ref();
        match std::fs::create_dir(self.0.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            _ => self.open_within(name),
        }
    }

    /// Always true: every call resolves the path again, so it also finds a folder that was created
    /// again.
    pub(super) fn is_linked(&self) -> bool {
        true
    }

    /// The regular file of this name, and its owner, which is always [`USER`].
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
            // Windows also denies the open if the name is a folder. No retry helps then.
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

    /// Does nothing. Windows needs no staged files, because a new file inherits its access rights.
    pub(crate) fn sweep_staged(&self) -> io::Result<()> {
        Ok(())
    }

    /// Windows does not delete an open file, so sweepers need not exclude each other.
    pub(crate) fn lock_for_sweep(&self) -> Option<SweepLock> {
        Some(SweepLock)
    }

    /// Removes an unused file, unless another process has opened it since.
    pub(crate) fn remove_unused(&self, name: &str, file: File) -> io::Result<()> {
        drop(file);
        match std::fs::remove_file(self.0.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound && !is_transient(&e) => Err(e),
            _ => Ok(()),
        }
    }

    /// Removes an empty folder.
    pub(crate) fn remove_folder(&self, name: &str) -> io::Result<()> {
        std::fs::remove_dir(self.0.join(name))
    }

    /// The time since an entry of the folder was added or removed.
    pub(crate) fn idle_for(&self) -> io::Result<Duration> {
        let modified = std::fs::metadata(&self.0)?.modified()?;
        Ok(modified.elapsed().unwrap_or_default())
    }

    /// At most `limit` names in the folder that `parse` accepts.
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

/// See [`Folder::lock_for_sweep`].
#[derive(Debug)]
pub(crate) struct SweepLock;

/// Whether a retry can succeed. Windows refuses to open a file that is being deleted, or a new file
/// that a virus scanner reads.
fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(ERROR_ACCESS_DENIED | ERROR_SHARING_VIOLATION)
    )
}

/// One number for every user, because each user has a separate lock folder.
const USER: u32 = 0;

/// Links are not followed on Windows.
pub(super) fn is_trusted_link(_path: &Path) -> bool {
    false
}

/// The user of this process for the file system.
pub(crate) fn user() -> io::Result<u32> {
    Ok(USER)
}

/// Whether an open file still has a name. Always true: Windows does not delete an open file.
pub(crate) fn is_linked(_file: &File) -> io::Result<bool> {
    Ok(true)
}

/// Whether a record goes into the lock file itself. Always false: on Windows no process can read a
/// locked file.
pub(crate) fn records_within(_owner: u32, _user: u32) -> bool {
    false
}

/// Does nothing: no process could read a locked record, and the folder has no records of other
/// users.
pub(crate) fn lock_record(_file: &File) -> io::Result<()> {
    Ok(())
}

pub(crate) fn is_locked_record(_file: &File) -> io::Result<bool> {
    Ok(true)
}

/// A process that uses a file has it open, and Windows does not delete an open file.
pub(crate) fn lock_unused(_file: &File) -> bool {
    true
}

/// One read from the start of the file; returns the number of bytes.
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
