//! The lock folder on Unix. The folders stay open, and openat(2) resolves each name within an open
//! folder.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, statat, unlinkat};
use rustix::io::Errno;

mod ffi;
mod staged;

pub(crate) use ffi::user;
use staged::is_lost_race;

use super::Access;
use crate::kept_fd::KeptFd;
use crate::namespace::Namespace;
#[cfg(target_os = "linux")]
use crate::retry::MEMORY_OF_LOCK_FOLDER;
use crate::retry::{FOLDER_TRIES, RECORD_LOCK_PAUSE, RECORD_LOCKS, block_for};

/// The default lock folders, in the order in which to try them. They ignore `TMPDIR`, which can
/// differ between processes that must exclude each other.
///
/// On Linux the first root is in memory, if [`is_shared_memory`] accepts `/dev/shm`. On a disk, a
/// program that calls fsync(2) can delay every creation of a file by milliseconds.
pub(super) fn default_roots() -> Vec<PathBuf> {
    let memory = Path::new("/dev/shm");
    let parents = [
        is_shared_memory(memory).then_some(memory),
        Some(Path::new("/tmp")),
    ];
    let parents = parents.into_iter().flatten();
    parents.map(|parent| parent.join("portlease")).collect()
}

/// Returns `true` if the folder is a file system in memory (tmpfs(5)) that every user can write to,
/// and that is large enough for the lock files of all ports. The lock files could fill a smaller
/// file system. For example, Docker gives a container 64 MiB by default, and a browser under test
/// may need this space.
///
/// The function does not check the free space, which changes. So all processes that see the same
/// mount get the same answer.
#[cfg(target_os = "linux")]
fn is_shared_memory(folder: &Path) -> bool {
    const ST_RDONLY: i128 = 1;
    let (Ok(stat), Ok(mount)) = (rustix::fs::stat(folder), rustix::fs::statfs(folder)) else {
        return false;
    };
    let size = i128::from(mount.f_blocks) * i128::from(mount.f_bsize);
    Mode::from_raw_mode(stat.st_mode).contains(SHARED)
        && is_tmpfs(&mount)
        && i128::from(mount.f_flags) & ST_RDONLY == 0
        && size >= MEMORY_OF_LOCK_FOLDER
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn is_tmpfs(mount: &rustix::fs::StatFs) -> bool {
    const TMPFS_MAGIC: i128 = 0x0102_1994;
    i128::from(mount.f_type) == TMPFS_MAGIC
}

#[cfg(not(target_os = "linux"))]
fn is_shared_memory(_folder: &Path) -> bool {
    false
}

/// The start of the folder name of a network namespace.
pub(super) const SCOPE_PREFIX: &str = "net-";

/// The name of the folder for this thread's network namespace. Each namespace has its own ports, so
/// a reservation must not block its number in the other namespaces. On systems other than Linux
/// there is one folder.
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

/// On Linux, fails if the network namespace of this thread is unknown because `/proc` is missing.
/// Succeeds in gVisor, which has a `/proc` that never shows the inode of a namespace.
pub(super) fn check_scope() -> io::Result<()> {
    let is_unknown = cfg!(target_os = "linux")
        && Namespace::current().inode().is_none()
        && std::fs::symlink_metadata("/proc/self").is_err();
    match is_unknown {
        true => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "without /proc, the lock files of this network namespace cannot be found",
        )),
        false => Ok(()),
    }
}

/// The mode of a folder in which every user can create files. Because of its sticky bit, only the
/// owner of a file, the owner of the folder and root can remove the file.
pub(super) const SHARED: Mode = Mode::from_raw_mode(0o1777);

/// The mode of a folder that every user can read and only its owner can change.
pub(super) const OWN: Mode = Mode::from_raw_mode(0o755);

/// The mode of lock files and record files. Every user can read them, and only the owner of a file
/// can write to it.
const FILE: Mode = Mode::from_raw_mode(0o644);

/// Flags for a file that another user may have planted. NOFOLLOW refuses a link. Without NONBLOCK,
/// opening a fifo would block.
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

    /// Opens the lock folder. If it is missing, the call creates it and the folders above it.
    pub(super) fn make(path: &Path) -> io::Result<Folder> {
        match Folder::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            opened => return opened,
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        std::fs::create_dir_all(parent)?;
        // The parent may be a link: `/tmp` is one on some systems.
        let parent = Folder::of(openat(
            CWD,
            parent,
            Self::FLAGS - OFlags::NOFOLLOW,
            Mode::empty(),
        )?)?;
        parent.make_within(name, SHARED)
    }

    pub(crate) fn open_within(&self, name: impl AsRef<OsStr>) -> io::Result<Folder> {
        Folder::of(self.open_fd(name.as_ref())?)
    }

    fn open_fd(&self, name: &OsStr) -> rustix::io::Result<OwnedFd> {
        openat(&self.0, name, Self::FLAGS, Mode::empty())
    }

    /// Opens the subfolder of this name, and creates it if it is missing.
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
                Err(e) if is_lost_race(&e) => {}
                outcome => outcome?,
            }
        }
        self.open_within(name)
    }

    /// Whether `name` within this folder still leads to the open folder `inner`. `false` if the
    /// name does not exist, or if the descriptor of either folder is no longer
    /// [`intact`](KeptFd::intact). `true` if the name cannot be read for another reason.
    ///
    /// This function looks up the name, because the link count of `inner` does not always show that
    /// `inner` was deleted: on overlays and on gVisor, a deleted folder can keep its count.
    pub(super) fn has_folder(&self, name: &str, inner: &Folder) -> bool {
        let (Some(outer), Some(_)) = (self.0.intact(), inner.0.intact()) else {
            return false;
        };
        match statat(outer, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) => inner.0.is_described_by(&named),
            Err(error) => error != Errno::NOENT,
        }
    }

    /// Locks the folder, so that only the caller sweeps it (removes unused files) until the value
    /// is dropped. `None` while another process or thread sweeps the folder, or if the lock fails,
    /// as on a file system without locks.
    pub(crate) fn lock_for_sweep(&self) -> Option<SweepLock> {
        // A lock belongs to an open file description (flock(2)). The folder is opened again, so
        // that two threads have two descriptions and exclude each other.
        let folder = File::from(self.open_fd(OsStr::new(".")).ok()?);
        folder.try_lock().ok()?;
        Some(SweepLock { folder })
    }

    /// Removes `name`, if it still leads to this unused file. The caller must have locked the file,
    /// and the folder [for a sweep](Self::lock_for_sweep), so that no other process removes `name`
    /// meanwhile. A process that has the file open learns from [`has_file`](Self::has_file) that
    /// the name is gone.
    pub(crate) fn remove_unused(&self, name: &str, file: File) -> io::Result<()> {
        let removed = self.remove_if_same(name, &file);
        // Unlocks explicitly. If the removal failed, the file keeps its name, and a child that was
        // forked meanwhile would keep the file locked.
        file.unlock()?;
        removed
    }

    fn remove_if_same(&self, name: &str, file: &File) -> io::Result<()> {
        if self.has_file(name, file)? {
            unlinkat(&self.0, name, AtFlags::empty())?;
        }
        Ok(())
    }

    /// Whether the name still leads to this open file. Another process may have removed the name,
    /// and a further process may have created a new file of that name.
    ///
    /// The link count of the open file does not show whether the name was removed: on overlays and
    /// on gVisor, a removed file can keep its count.
    pub(crate) fn has_file(&self, name: &str, file: &File) -> io::Result<bool> {
        leads_to(&self.0, name, file)
    }

    /// Removes a folder. Fails if the folder is not empty, or if this user may not remove it.
    pub(crate) fn remove_folder(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(&self.0, name, AtFlags::REMOVEDIR)?)
    }

    /// The time since a process last added or removed an entry of the folder.
    pub(crate) fn idle_for(&self) -> io::Result<Duration> {
        let folder = File::from(self.open_fd(OsStr::new("."))?);
        Ok(folder.metadata()?.modified()?.elapsed().unwrap_or_default())
    }

    /// Opens the file of this name, or creates it with [`Access::New`]. Returns the file and its
    /// owner. Fails if the name leads to anything but a regular file.
    pub(crate) fn open_file(&self, name: &str, access: Access) -> io::Result<(File, u32)> {
        let file = match access {
            Access::Read => File::from(openat(&self.0, name, SAFE_OPEN, Mode::empty())?),
            Access::Write => {
                let flags = OFlags::RDWR | SAFE_OPEN;
                File::from(openat(&self.0, name, flags, Mode::empty())?)
            }
            Access::New => {
                let (file, owner, _) = self.make_staged_file(name)?;
                return Ok((file, owner));
            }
        };
        let stat = fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("not a regular file"));
        }
        Ok((file, stat.st_uid))
    }

    /// Creates the file, or fails if the name exists. Returns the file, its owner, and whether this
    /// process locked it before the name was visible.
    ///
    /// A sweep locks a file before it removes the name. So if this process locked the file, the
    /// name leads to this file while the lock lasts.
    pub(crate) fn create_locked(&self, name: &str) -> io::Result<(File, u32, bool)> {
        self.make_staged_file(name)
    }

    /// Reads the first bytes of a file. Fails if `user` does not own the file, if its mode is not
    /// [`FILE`] (which lets no other user write), or if the file has a second name.
    ///
    /// Another user can give a file of `user` this name by a hard link. If the first name of that
    /// file is then removed, the file has one name again, and the function accepts it. So the
    /// caller must compare the whole text.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(crate) fn read_own(&self, name: &str, user: u32) -> io::Result<Vec<u8>> {
        let file = File::from(openat(&self.0, name, SAFE_OPEN, Mode::empty())?);
        let stat = fstat(&file)?;
        let type_and_mode = FileType::RegularFile.as_raw_mode() | FILE.as_raw_mode();
        if stat.st_uid != user || stat.st_mode != type_and_mode || stat.st_nlink != 1 {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut bytes = [0; 64];
        let read = read(&file, &mut bytes)?;
        Ok(bytes[..read].to_vec())
    }

    /// Whether the folder is on a tmpfs(5).
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(crate) fn is_in_memory(&self) -> bool {
        rustix::fs::fstatfs(&self.0).is_ok_and(|mount| is_tmpfs(&mount))
    }

    /// Removes a file that is no lock file.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(crate) fn remove_file(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(&self.0, name, AtFlags::empty())?)
    }

    pub(crate) fn has_regular_file(&self, name: &str) -> bool {
        statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
    }

    /// Calls `parse` with the names in the folder. Returns at most `limit` of the values that
    /// `parse` returned.
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

/// The lock of [`Folder::lock_for_sweep`]. A drop releases it.
#[derive(Debug)]
pub(crate) struct SweepLock {
    folder: File,
}

impl Drop for SweepLock {
    fn drop(&mut self) {
        // Unlocks explicitly. A child that was forked meanwhile also has the folder open, and would
        // keep the lock after the close.
        let _unlocked = self.folder.unlock();
    }
}

/// Whether the path is a symbolic link of this user or of root. A link of another user is not
/// trusted, because it may be planted.
pub(super) fn is_trusted_link(path: &Path) -> bool {
    const ROOT: u32 = 0;
    let link = std::fs::symlink_metadata(path).ok();
    let link = link.filter(|link| link.file_type().is_symlink());
    let owner = link.map(|link| link.uid());
    owner.is_some_and(|owner| owner == ROOT || owner == user())
}

/// Whether the name within the folder leads to the open file.
fn leads_to(folder: impl AsFd, name: &str, open: impl AsFd) -> io::Result<bool> {
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(named) => {
            let open = fstat(open)?;
            Ok((named.st_dev, named.st_ino) == (open.st_dev, open.st_ino))
        }
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Returns `true` if the record goes into the lock file itself. The lock file must belong to this
/// user, because another owner could change the record.
pub(crate) fn records_within(owner: u32, user: u32) -> bool {
    owner == user
}

/// Locks a record file. When this process ends, the kernel releases the lock, and the record is
/// then ignored. Exception: a forked child that has the file open keeps the lock until the child
/// calls exec or exits.
pub(crate) fn lock_record(file: &File) -> io::Result<()> {
    for _ in 1..RECORD_LOCKS {
        match file.try_lock() {
            // In another process, `is_locked_record` may have the file locked for some
            // microseconds.
            Err(TryLockError::WouldBlock) => block_for(RECORD_LOCK_PAUSE),
            outcome => return Ok(outcome?),
        }
    }
    Ok(file.try_lock()?)
}

/// Whether a process has an exclusive lock on this record file, as [`lock_record`] takes it.
pub(crate) fn is_locked_record(file: &File) -> io::Result<bool> {
    match file.try_lock_shared() {
        Ok(()) => {
            // Unlocks explicitly. A child that is forked meanwhile also has the file open, and
            // would keep the lock after the close.
            file.unlock()?;
            Ok(false)
        }
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

/// Takes a shared lock. Until the file is unlocked or closed, no process can take a lease with the
/// file. Returns `false` if the lock fails, for example because a lease has the file locked.
pub(crate) fn lock_unused(file: &File) -> bool {
    file.try_lock_shared().is_ok()
}

/// Reads once from the start of the file, and returns the number of bytes.
pub(crate) fn read(file: &File, bytes: &mut [u8]) -> io::Result<usize> {
    file.read_at(bytes, 0)
}

/// Writes all bytes at the start of the file. Fails if they exceed the file size that this process
/// may write (ulimit -f). If the function wrote them, the kernel would end the process by SIGXFSZ.
pub(crate) fn write(file: &File, bytes: &[u8]) -> io::Result<()> {
    if !ffi::may_write(bytes.len()) {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    file.write_all_at(bytes, 0)
}

#[cfg(test)]
mod tests;
