//! Creates a folder or file under a temporary name (staged), sets its mode, and then renames it. So
//! other processes never see a wrong mode under the final name. This holds under any umask, and
//! even if the creating process is killed. Exception: if the system or the file system cannot
//! rename without replacing, this module creates a file under its final name.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fd::OwnedFd;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, fchmod, fstat, mkdirat, openat, renameat, unlinkat,
};
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
use rustix::fs::{RenameFlags, renameat_with};
use rustix::io::Errno;

use super::{FILE, Folder, SAFE_OPEN};

/// The start of the temporary names.
const PREFIX: &str = ".portlease-";

impl Folder {
    pub(super) fn make_staged_folder(&self, name: &OsStr, mode: Mode) -> io::Result<()> {
        let make = |staged: &str| mkdirat(&self.0, staged, mode);
        let (staged, ()) = with_temporary_name(make)?;
        let prepare = |folder: OwnedFd| {
            // Locks the folder, so that no sweep of another process removes it. A sweep removes the
            // unlocked temporary folders that killed processes have left. If a sweep removes this
            // folder before the lock, the caller retries.
            let folder = File::from(folder);
            let _locked = folder.try_lock();
            fchmod(&folder, mode)?;
            match self.rename_if_absent(&staged, name) {
                // Without RENAME_NOREPLACE, rename(2) replaces an empty folder that other processes
                // may have open. These processes notice that their folder was unlinked, and open
                // the new one.
                Err(e) if is_unsupported(e) => renameat(&self.0, &staged, &self.0, name),
                moved => moved,
            }
        };
        let moved = self.open_fd(OsStr::new(&staged)).and_then(prepare);
        if moved.is_err() {
            self.remove_staged(&staged, AtFlags::REMOVEDIR);
        }
        Ok(moved?)
    }

    /// Creates the file, or fails if the name exists. Returns the file, its owner, and `true` if
    /// this process locked the file before the name was visible. The `bool` is `false` in three
    /// cases:
    ///
    /// - The system or the file system cannot rename without replacing.
    /// - The file system has no locks.
    /// - A [`sweep_staged`](Self::sweep_staged) locked the file first.
    pub(super) fn make_staged_file(&self, name: &str) -> io::Result<(File, u32, bool)> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | SAFE_OPEN;
        let make = |staged: &str| openat(&self.0, staged, flags, FILE);
        let (staged, file) = with_temporary_name(make)?;
        let file = File::from(file);
        // Locks the file, so that no sweep of another process removes it. A sweep removes the
        // unlocked temporary files that killed processes have left.
        let is_locked = file.try_lock().is_ok();
        let prepare = || {
            let stat = fstat(&file)?;
            // The umask may have removed permissions.
            if Mode::from_raw_mode(stat.st_mode) != FILE {
                fchmod(&file, FILE)?;
            }
            self.rename_if_absent(&staged, name.as_ref())?;
            Ok(stat.st_uid)
        };
        let e = match prepare() {
            Ok(owner) => return Ok((file, owner, is_locked)),
            Err(e) => e,
        };
        self.remove_staged(&staged, AtFlags::empty());
        match e {
            // Another process removed the staged file before this process locked it. With this
            // error the caller tries again, as if another process had created the name first.
            Errno::NOENT => Err(io::ErrorKind::AlreadyExists.into()),
            e if is_unsupported(e) => {
                // Creates the file under its final name, because this system cannot rename without
                // replacing. Under a restrictive umask other users cannot open the file until its
                // mode is set.
                let file = File::from(openat(&self.0, name, flags, FILE)?);
                fchmod(&file, FILE)?;
                let owner = fstat(&file)?.st_uid;
                Ok((file, owner, false))
            }
            e => Err(e.into()),
        }
    }

    /// Renames `staged`, or fails if `name` exists. Always fails with ENOSYS on systems that cannot
    /// rename without replacing.
    fn rename_if_absent(&self, staged: &str, name: &OsStr) -> rustix::io::Result<()> {
        #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
        return renameat_with(&self.0, staged, &self.0, name, RenameFlags::NOREPLACE);
        #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
        {
            let (_, _) = (staged, name);
            Err(Errno::NOSYS)
        }
    }

    /// If the removal fails, a later [`sweep_staged`](Self::sweep_staged) removes the entry.
    fn remove_staged(&self, staged: &str, flags: AtFlags) {
        let _removed = unlinkat(&self.0, staged, flags);
    }

    /// Removes the folders and files with temporary names that no process has locked. Usually a
    /// killed process left them behind.
    pub(crate) fn sweep_staged(&self) -> io::Result<()> {
        let is_staged = |name: &str| name.starts_with(PREFIX).then(|| name.to_owned());
        for name in self.names(usize::MAX, is_staged)? {
            let Ok(staged) = openat(&self.0, name.as_str(), SAFE_OPEN, Mode::empty()) else {
                continue;
            };
            let staged = File::from(staged);
            // The lock is shared, because the file may get its final name meanwhile. A reservation
            // retries if it meets a shared lock, but would mistake an exclusive lock for a lease.
            if staged.try_lock_shared().is_err() {
                continue;
            }
            let is_folder = fstat(&staged)
                .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
            // The removal fails if this user may not remove the entry, or if it is a folder that is
            // not empty.
            let flags = if is_folder {
                AtFlags::REMOVEDIR
            } else {
                AtFlags::empty()
            };
            self.remove_staged(&name, flags);
            // The file may have its final name by now, so the lock must end here. A close alone
            // does not end the lock if a child was forked meanwhile: the child has a copy of the
            // open file.
            staged.unlock()?;
        }
        Ok(())
    }
}

/// Returns `true` if the error means that another process created the name first, or removed the
/// staged folder before this process locked it.
pub(super) fn is_lost_race(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound
    )
}

/// Returns `true` if the error means that the kernel or the file system cannot rename without
/// replacing (RENAME_NOREPLACE of renameat2(2)).
fn is_unsupported(error: Errno) -> bool {
    matches!(error, Errno::INVAL | Errno::NOSYS | Errno::NOTSUP)
}

/// Calls `make` with new names until one of them does not exist.
fn with_temporary_name<T>(make: impl Fn(&str) -> rustix::io::Result<T>) -> io::Result<(String, T)> {
    // The crate tempfile only generates the name. For a relative folder, tempfile would look up the
    // working directory, so it gets the folder `/`. `make` ignores `/`, and resolves the name in
    // the open folder.
    let make = |path: &Path| {
        let name = path.file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        let made = make(&name)?;
        Ok((name, made))
    };
    let made = tempfile::Builder::new().prefix(PREFIX).make_in("/", make)?;
    let (made, _) = made.keep().map_err(|e| e.error)?;
    Ok(made)
}
