//! Windows: folders are paths, below the user's own temporary directory unless told otherwise.
//!
//! Whoever has a lock file open denies its deletion, and deleting it takes that nobody has: a file that is open has its
//! name, and what is swept nobody is about to lock. A lock keeps others from reading too, so records stand beside.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::Access;
use crate::retry::retry_open;

/// The user's own: every process of one user agrees on it, those of two users do not meet.
pub(super) fn default_root() -> PathBuf {
    std::env::temp_dir().join("portlease")
}

/// Ports belong to the machine.
pub(super) fn scope() -> String {
    "machine".to_owned()
}

/// Who may do what in a folder, which here is what its parent says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mode;

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
        // A planted link is not followed.
        match std::fs::symlink_metadata(path)?.is_dir() {
            true => Ok(Folder(path.to_owned())),
            false => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    /// The lock folder, made if need be, and the folders above it.
    pub(super) fn make(path: &Path) -> io::Result<Folder> {
        match Folder::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            opened => return opened,
        }
        std::fs::create_dir_all(path)?;
        Folder::open(path)
    }

    /// The folder of that name in this one.
    pub(super) fn open_within(&self, name: &str) -> io::Result<Folder> {
        Folder::open(&self.0.join(name))
    }

    /// The same, made if need be.
    pub(super) fn make_within(&self, name: &str, _mode: Mode) -> io::Result<Folder> {
        match std::fs::create_dir(self.0.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            _ => self.open_within(name),
        }
    }

    /// Every name in it is looked up by its path, whichever folder that is now.
    pub(super) fn is_there(&self) -> bool {
        true
    }

    /// The regular file of that name, and its owner, whom nobody asks for here.
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
            // A folder in the place of the file is denied too, and stays.
            |e| is_passing(e) && !path.is_dir(),
        )?;
        if !file.metadata()?.file_type().is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        Ok((file, USER))
    }

    /// Removes a lock file that was found unlocked. Whoever has opened it since keeps it.
    pub(crate) fn remove_unused(&self, name: &str, locked: File) -> io::Result<()> {
        drop(locked);
        self.remove_file(name)
    }

    /// What somebody has open stays.
    pub(crate) fn remove_file(&self, name: &str) -> io::Result<()> {
        match std::fs::remove_file(self.0.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound && !is_passing(&e) => Err(e),
            _ => Ok(()),
        }
    }

    /// The names in the folder that mean something, at most so many.
    pub(crate) fn names<T>(
        &self,
        most: usize,
        parse: impl Fn(&str) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.0)? {
            names.extend(entry?.file_name().to_str().and_then(&parse));
            if names.len() >= most {
                break;
            }
        }
        Ok(names)
    }
}

/// While a file is being deleted, and while a scanner looks at a new one, it cannot be opened.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(ERROR_ACCESS_DENIED | ERROR_SHARING_VIOLATION)
    )
}

/// One and the same, since users have folders of their own.
const USER: u32 = 0;

/// Who this process is to the file system.
pub(crate) fn user() -> io::Result<u32> {
    Ok(USER)
}

/// Whether an open file still has its name: deleting it is denied while it is open.
pub(crate) fn is_linked(_file: &File) -> io::Result<bool> {
    Ok(true)
}

/// Nobody could read a record in a file that is locked.
pub(crate) fn records_within(_owner: u32, _user: u32) -> bool {
    false
}

/// Nobody could read it while it is locked, and there is no other user's to take it for.
pub(crate) fn lock_record(_file: &File) -> io::Result<()> {
    Ok(())
}

pub(crate) fn is_locked_record(_file: &File) -> bool {
    true
}

/// Reads from the start, as much as there is.
pub(crate) fn read(file: &File, bytes: &mut [u8]) -> io::Result<usize> {
    file.seek_read(bytes, 0)
}

/// Writes at the start, whole.
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
