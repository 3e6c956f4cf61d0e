//! Unix: folders are held open, and every name is looked up within one of them.

use std::ffi::CStr;
use std::fs::{File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, fchmod, fstat, mkdirat, openat, renameat, unlinkat,
};
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
use rustix::fs::{RenameFlags, renameat_with};
use rustix::io::Errno;

use super::Access;
use crate::retry::{FOLDER_TRIES, RECORD_LOCK_PAUSE, RECORD_LOCKS, block_for};

/// Not TMPDIR: it differs between processes that must meet.
pub(super) fn default_root() -> PathBuf {
    PathBuf::from("/tmp/portlease")
}

/// Ports belong to a network namespace, files do not: without this, namespaces would block each other.
pub(super) fn scope() -> String {
    if cfg!(target_os = "linux") {
        // Found once per process, and of the thread, should threads differ: it is the thread that binds.
        match std::fs::metadata("/proc/thread-self/ns/net") {
            Ok(namespace) => format!("net-{}", namespace.ino()),
            Err(_) => "net-unknown".to_owned(),
        }
    } else {
        "machine".to_owned()
    }
}

/// The mode of a folder in which every user makes files, and nobody but the owner removes one.
pub(super) const SHARED: Mode = Mode::from_raw_mode(0o1777);

/// The mode of a folder that everybody reads.
pub(super) const OWN: Mode = Mode::from_raw_mode(0o755);

/// What a folder is called until it has its mode.
const ASIDE: &str = ".portlease-";

#[derive(Debug)]
pub(crate) struct Folder(OwnedFd);

impl Folder {
    const FLAGS: OFlags = OFlags::RDONLY
        .union(OFlags::DIRECTORY)
        .union(OFlags::NOFOLLOW)
        .union(OFlags::CLOEXEC);

    pub(super) fn open(path: &Path) -> io::Result<Folder> {
        Ok(Folder(openat(CWD, path, Self::FLAGS, Mode::empty())?))
    }

    /// The lock folder, made if need be, and the folders above it.
    pub(super) fn make(path: &Path) -> io::Result<Folder> {
        match Folder::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            opened => return opened,
        }
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        std::fs::create_dir_all(above)?;
        // Those above are the machine's own, and may be links, as /tmp is on some systems.
        let above = Folder(openat(
            CWD,
            above,
            Self::FLAGS - OFlags::NOFOLLOW,
            Mode::empty(),
        )?);
        above.make_within(&name.to_string_lossy(), SHARED)
    }

    /// The folder of that name in this one.
    pub(super) fn open_within(&self, name: &str) -> io::Result<Folder> {
        Ok(Folder(openat(&self.0, name, Self::FLAGS, Mode::empty())?))
    }

    /// The same, made if need be: aside, and moved into place, so that nobody meets it before it has its mode.
    pub(super) fn make_within(&self, name: &str, mode: Mode) -> io::Result<Folder> {
        for tried in 0..FOLDER_TRIES {
            match self.open_within(name) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                opened => return opened,
            }
            if tried == 0 {
                self.sweep_aside()?;
            }
            match self.make_aside(name, mode) {
                // Made by somebody else meanwhile, or swept before it was locked.
                Err(e) if is_outrun(&e) => {}
                outcome => outcome?,
            }
        }
        self.open_within(name)
    }

    fn make_aside(&self, name: &str, mode: Mode) -> io::Result<()> {
        let make = |path: &Path| {
            let aside = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            mkdirat(&self.0, aside.as_str(), mode)?;
            Ok(aside)
        };
        // The names are looked for in this folder, whose path does not matter then.
        let aside = tempfile::Builder::new()
            .prefix(ASIDE)
            .make_in("", make)?
            .keep();
        let (aside, _) = aside.map_err(|e| e.error)?;
        let made = self.open_within(&aside).and_then(|Folder(folder)| {
            // While this lives, nobody sweeps it. A file system without locks leaves it to luck, and to the tries.
            let locked = File::from(folder);
            let _kept = locked.try_lock();
            fchmod(&locked, mode)?;
            Ok(self.move_into_place(&aside, name)?)
        });
        if made.is_err() {
            // Whoever makes the next one sweeps it otherwise.
            let _swept = unlinkat(&self.0, aside.as_str(), AtFlags::REMOVEDIR);
        }
        made
    }

    /// Never over a folder that is there: a plain rename replaces an empty one, which others have open already.
    fn move_into_place(&self, aside: &str, name: &str) -> rustix::io::Result<()> {
        #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
        match renameat_with(&self.0, aside, &self.0, name, RenameFlags::NOREPLACE) {
            // The file system cannot.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            moved => return moved,
        }
        renameat(&self.0, aside, &self.0, name)
    }

    /// Removes what killed processes left half made: what nobody has locked. Only what is empty can be removed, and
    /// only by its owner.
    fn sweep_aside(&self) -> io::Result<()> {
        for name in self.names(usize::MAX, |name| {
            name.starts_with(ASIDE).then(|| name.to_owned())
        })? {
            let Ok(Folder(aside)) = self.open_within(&name) else {
                continue;
            };
            let aside = File::from(aside);
            if aside.try_lock().is_ok() {
                let _others = unlinkat(&self.0, name.as_str(), AtFlags::REMOVEDIR);
            }
        }
        Ok(())
    }

    /// Whether it still has its name. What cannot be asked is taken to be there.
    pub(super) fn is_there(&self) -> bool {
        fstat(&self.0).map_or(true, |about| about.st_nlink > 0)
    }

    /// The regular file of that name, and its owner.
    pub(crate) fn open_file(&self, name: &str, access: Access) -> io::Result<(File, u32)> {
        // Of these, NONBLOCK keeps a planted fifo from blocking the open.
        let safe = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let (flags, mode) = match access {
            Access::Read => (OFlags::RDONLY, Mode::empty()),
            Access::Write => (OFlags::RDWR, Mode::empty()),
            Access::New => (
                OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
                Mode::from_raw_mode(0o644),
            ),
        };
        let file = File::from(openat(&self.0, name, flags | safe, mode)?);
        let about = fstat(&file)?;
        if FileType::from_raw_mode(about.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("not a regular file"));
        }
        // A umask of 077 would shut the other users out.
        if access == Access::New && about.st_mode & 0o777 != 0o644 {
            file.set_permissions(Permissions::from_mode(0o644))?;
        }
        Ok((file, about.st_uid))
    }

    /// Removes a lock file that was found unlocked, and is locked for a look since: whoever waits with it open finds
    /// out, once it has the lock, that the file has no name any more.
    pub(crate) fn remove_unused(&self, name: &str, _locked: File) -> io::Result<()> {
        self.remove_file(name)
    }

    pub(crate) fn remove_file(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// The names in the folder that mean something, at most so many.
    pub(crate) fn names<T>(
        &self,
        most: usize,
        parse: impl Fn(&str) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            let entry = entry?;
            names.extend(utf8(entry.file_name()).and_then(&parse));
            if names.len() >= most {
                break;
            }
        }
        Ok(names)
    }
}

fn is_outrun(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound
    )
}

fn utf8(name: &CStr) -> Option<&str> {
    name.to_str().ok()
}

/// Who this process is to the file system: whose a pipe is that it makes (`pipe(3p)`). rustix's `geteuid` comes with a
/// second of building.
pub(crate) fn user() -> io::Result<u32> {
    let (made, _) = io::pipe()?;
    Ok(fstat(made)?.st_uid)
}

/// Whether an open file still has its name.
pub(crate) fn is_linked(file: &File) -> io::Result<bool> {
    Ok(fstat(file)?.st_nlink > 0)
}

/// Whether this user's record is written into a lock file of this owner: in another user's, that user could change it.
pub(crate) fn records_within(owner: u32, user: u32) -> bool {
    owner == user
}

/// Keeps a record that stands beside its lock file, so that it is told from what a killed process left: the kernel
/// lets go of it with this process.
pub(crate) fn lock_record(file: &File) -> io::Result<()> {
    for _ in 1..RECORD_LOCKS {
        match file.try_lock() {
            // Another process asks whether it is locked.
            Err(TryLockError::WouldBlock) => block_for(RECORD_LOCK_PAUSE),
            locked => return Ok(locked?),
        }
    }
    Ok(file.try_lock()?)
}

pub(crate) fn is_locked_record(file: &File) -> bool {
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

/// Reads from the start, as much as there is.
pub(crate) fn read(file: &File, bytes: &mut [u8]) -> io::Result<usize> {
    file.read_at(bytes, 0)
}

/// Writes at the start, whole.
pub(crate) fn write(file: &File, bytes: &[u8]) -> io::Result<()> {
    file.write_all_at(bytes, 0)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::{Access, Folder, SHARED, user};

    #[test]
    fn who_this_process_is_to_files_is_its_effective_user() {
        assert_eq!(user().unwrap(), rustix::process::geteuid().as_raw());
    }

    /// Each maker must end up in the one folder that keeps the name: a lock in another one keeps nobody out.
    #[test]
    fn many_who_make_one_folder_at_once_all_get_the_same() {
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
        assert_eq!(left, 50, "nothing but the folders is left");
    }
}
