//! Unix: folders stay open, and every name is resolved within an open folder by openat(2).

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, statat, unlinkat};
use rustix::io::Errno;

mod staged;

use staged::is_lost_race;

use super::Access;
use crate::kept_fd::KeptFd;
use crate::namespace::Namespace;
use crate::retry::{FOLDER_TRIES, RECORD_LOCK_PAUSE, RECORD_LOCKS, block_for};

/// Not `TMPDIR`: it differs between processes that must exclude each other.
pub(super) fn default_root() -> PathBuf {
    PathBuf::from("/tmp/portlease")
}

/// How the folder name of a network namespace starts.
pub(super) const SCOPE_PREFIX: &str = "net-";

/// The scope of this thread. Ports belong to a network namespace, but files do not: with one folder
/// for all, a reservation would block the same number in other namespaces.
pub(super) fn scope() -> String {
    if cfg!(target_os = "linux") {
        match Namespace::current().inode() {
            Some(inode) => format!("{SCOPE_PREFIX}{inode}"),
            None => format!("{SCOPE_PREFIX}unknown"),
        }
    } else {
        "machine".to_owned()
    }
}

/// The mode of a folder in which every user creates files, and only a file's owner removes it.
pub(super) const SHARED: Mode = Mode::from_raw_mode(0o1777);

/// The mode of a folder that every user reads and only its owner changes.
pub(super) const OWN: Mode = Mode::from_raw_mode(0o755);

/// The mode of a lock file, and of a record beside one: every user reads it, its owner writes it.
const FILE: Mode = Mode::from_raw_mode(0o644);

/// NONBLOCK, because without it the open of a planted fifo would block.
const SAFE_OPEN: OFlags = OFlags::NOFOLLOW
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOCTTY);

#[derive(Debug)]
pub(crate) struct Folder(KeptFd<OwnedFd>);

impl Folder {
    const FLAGS: OFlags = OFlags::RDONLY
        .union(OFlags::DIRECTORY)
        .union(OFlags::NOFOLLOW)
        .union(OFlags::CLOEXEC);

    fn of(folder: OwnedFd) -> io::Result<Folder> {
        Ok(Folder(KeptFd::new(folder)?))
    }

    pub(super) fn open(path: &Path) -> io::Result<Folder> {
        Folder::of(openat(CWD, path, Self::FLAGS, Mode::empty())?)
    }

    /// The lock folder, created if it is missing, with the folders above it.
    pub(super) fn make(path: &Path) -> io::Result<Folder> {
        match Folder::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            opened => return opened,
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        std::fs::create_dir_all(parent)?;
        // The folders above belong to the system, and may be links, as /tmp is on some systems.
        let parent = Folder::of(openat(
            CWD,
            parent,
            Self::FLAGS - OFlags::NOFOLLOW,
            Mode::empty(),
        )?)?;
        parent.make_within(name, SHARED)
    }

    /// The folder of this name in this one.
    pub(crate) fn open_within(&self, name: impl AsRef<OsStr>) -> io::Result<Folder> {
        Folder::of(self.open_fd(name.as_ref())?)
    }

    fn open_fd(&self, name: &OsStr) -> rustix::io::Result<OwnedFd> {
        openat(&self.0, name, Self::FLAGS, Mode::empty())
    }

    /// The folder of this name in this one, created if it is missing.
    pub(super) fn make_within(&self, name: impl AsRef<OsStr>, mode: Mode) -> io::Result<Folder> {
        let name = name.as_ref();
        for attempt in 0..FOLDER_TRIES {
            match self.open_within(name) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                opened => return opened,
            }
            if attempt == 0 {
                self.sweep_staged()?;
            }
            match self.make_staged_folder(name, mode) {
                // Another process created it first, or swept ours before we locked it.
                Err(e) if is_lost_race(&e) => {}
                outcome => outcome?,
            }
        }
        self.open_within(name)
    }

    /// Whether the descriptor still belongs to this folder, and the folder still has a name.
    pub(super) fn is_linked(&self) -> bool {
        let folder = self.0.intact();
        folder.is_some_and(|folder| fstat(folder).map_or(true, |stat| stat.st_nlink > 0))
    }

    /// Makes this process the only one that sweeps the folder, until the value is dropped. `None`
    /// while another process sweeps it, and on a file system without locks.
    pub(crate) fn lock_for_sweep(&self) -> Option<SweepLock> {
        // Opens the folder again, because a lock belongs to an open file description (flock(2)).
        let folder = File::from(self.open_fd(OsStr::new(".")).ok()?);
        folder.try_lock().ok()?;
        Some(SweepLock { folder })
    }

    /// Removes the name of an unused file, if the name still leads to this file. The caller has
    /// locked the file, and the folder [for a sweep](Self::lock_for_sweep), so no other process
    /// removes a name meanwhile. A process that has the file open finds by [`is_linked`] that its
    /// name is gone.
    pub(crate) fn remove_unused(&self, name: &str, file: File) -> io::Result<()> {
        let removed = self.remove_if_same(name, &file);
        // If the name was not removed, a child that was forked meanwhile would otherwise keep the
        // lock.
        file.unlock()?;
        removed
    }

    fn remove_if_same(&self, name: &str, file: &File) -> io::Result<()> {
        let named = match statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let open = fstat(file)?;
        if (named.st_dev, named.st_ino) == (open.st_dev, open.st_ino) {
            unlinkat(&self.0, name, AtFlags::empty())?;
        }
        Ok(())
    }

    /// Removes an empty folder. It fails if the folder is not empty, or belongs to another user.
    pub(crate) fn remove_folder(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(&self.0, name, AtFlags::REMOVEDIR)?)
    }

    /// The time since an entry of the folder was added or removed.
    pub(crate) fn idle_for(&self) -> io::Result<Duration> {
        let folder = File::from(self.open_fd(OsStr::new("."))?);
        Ok(folder.metadata()?.modified()?.elapsed().unwrap_or_default())
    }

    /// The regular file of this name, and its owner.
    pub(crate) fn open_file(&self, name: &str, access: Access) -> io::Result<(File, u32)> {
        let file = match access {
            Access::Read => File::from(openat(&self.0, name, SAFE_OPEN, Mode::empty())?),
            Access::Write => {
                let flags = OFlags::RDWR | SAFE_OPEN;
                File::from(openat(&self.0, name, flags, Mode::empty())?)
            }
            Access::New => self.make_staged_file(name)?,
        };
        let stat = fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("not a regular file"));
        }
        Ok((file, stat.st_uid))
    }

    pub(crate) fn has_regular_file(&self, name: &str) -> bool {
        statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
    }

    /// At most `limit` names in the folder that `parse` accepts.
    pub(crate) fn names<T>(
        &self,
        limit: usize,
        parse: impl Fn(&str) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            let entry = entry?;
            names.extend(entry.file_name().to_str().ok().and_then(&parse));
            if names.len() >= limit {
                break;
            }
        }
        Ok(names)
    }
}

/// See [`Folder::lock_for_sweep`].
#[derive(Debug)]
pub(crate) struct SweepLock {
    folder: File,
}

impl Drop for SweepLock {
    fn drop(&mut self) {
        // Without the unlock, a child that was forked meanwhile would keep the lock past the close.
        let _unlocked = self.folder.unlock();
    }
}

/// The user of this process for the file system: it owns the pipes that the process creates
/// (pipe(3p)). rustix's `geteuid` would add a second to the build.
pub(crate) fn user() -> io::Result<u32> {
    let (pipe, _) = io::pipe()?;
    Ok(fstat(pipe)?.st_uid)
}

/// Whether the path is a symbolic link of this user or of root. Another user's link may be planted.
pub(super) fn is_trusted_link(path: &Path) -> bool {
    const ROOT: u32 = 0;
    let link = std::fs::symlink_metadata(path).ok();
    let link = link.filter(|link| link.file_type().is_symlink());
    let owner = link.map(|link| link.uid());
    owner.is_some_and(|owner| owner == ROOT || user().is_ok_and(|user| owner == user))
}

/// Whether an open file still has a name.
pub(crate) fn is_linked(file: &File) -> io::Result<bool> {
    Ok(fstat(file)?.st_nlink > 0)
}

/// Whether this user's record goes into the lock file itself. If another user owns the lock file,
/// that user could change the record.
pub(crate) fn records_within(owner: u32, user: u32) -> bool {
    owner == user
}

/// Locks a record in a file of its own. The kernel releases the lock when this process ends, so a
/// record that a killed process left is not locked.
pub(crate) fn lock_record(file: &File) -> io::Result<()> {
    for _ in 1..RECORD_LOCKS {
        match file.try_lock() {
            // Another process is in `is_locked_record`, which takes microseconds.
            Err(TryLockError::WouldBlock) => block_for(RECORD_LOCK_PAUSE),
            outcome => return Ok(outcome?),
        }
    }
    Ok(file.try_lock()?)
}

/// Whether a process keeps this record.
pub(crate) fn is_locked_record(file: &File) -> io::Result<bool> {
    match file.try_lock_shared() {
        Ok(()) => {
            // Without the unlock, a child that is forked meanwhile would keep the lock past the
            // close.
            file.unlock()?;
            Ok(false)
        }
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

/// Locks an unused file until it is closed, so that no process takes a lease with it. `false` if a
/// process has it locked.
pub(crate) fn lock_unused(file: &File) -> bool {
    file.try_lock_shared().is_ok()
}

/// One read from the start of the file; returns the number of bytes.
pub(crate) fn read(file: &File, bytes: &mut [u8]) -> io::Result<usize> {
    file.read_at(bytes, 0)
}

/// Writes all bytes at the start of the file.
pub(crate) fn write(file: &File, bytes: &[u8]) -> io::Result<()> {
    file.write_all_at(bytes, 0)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::{Access, Folder, SHARED, lock_unused, user};

    #[test]
    fn the_user_for_the_file_system_is_the_effective_user() {
        assert_eq!(user().unwrap(), rustix::process::geteuid().as_raw());
    }

    /// A clone stands for a forked child: both share the open file description.
    #[test]
    fn a_sweep_leaves_no_lock_to_a_child_that_was_forked_meanwhile() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        let sole = folder.lock_for_sweep().unwrap();
        assert!(folder.lock_for_sweep().is_none(), "the control");
        let _child = sole.folder.try_clone().unwrap();
        drop(sole);
        assert!(folder.lock_for_sweep().is_some());

        let (file, _) = folder.open_file("1.tcp", Access::New).unwrap();
        assert!(lock_unused(&file));
        let _child = file.try_clone().unwrap();
        // No file has this name, so none is removed. The lock must end all the same.
        folder.remove_unused("2.tcp", file).unwrap();
        let (file, _) = folder.open_file("1.tcp", Access::Write).unwrap();
        file.try_lock().unwrap();
    }

    /// A lock in a folder that lost its name would exclude no other process.
    #[test]
    fn makers_of_one_folder_at_the_same_time_all_get_the_folder_that_keeps_the_name() {
        const MAKERS: usize = 16;
        let root = tempfile::tempdir().unwrap();
        for round in 0..50 {
            let (name, start) = (format!("scope-{round}"), Barrier::new(MAKERS));
            let make = |maker: usize| {
                let outer = Folder::open(root.path()).unwrap();
                start.wait();
                let folder = outer.make_within(&name, SHARED).unwrap();
                folder.open_file(&maker.to_string(), Access::New).unwrap();
            };
            std::thread::scope(|scope| {
                for maker in 0..MAKERS {
                    let make = &make;
                    scope.spawn(move || make(maker));
                }
            });
            assert_eq!(root.path().join(&name).read_dir().unwrap().count(), MAKERS);
        }
        let left = root.path().read_dir().unwrap().count();
        assert_eq!(left, 50, "no staged folder is left");
    }
}
