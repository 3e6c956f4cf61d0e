//! The lock folder: where it is, which scope of it is this process's, and what it holds.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::RwLock;

use super::{Unusable, lockfile};
use crate::endpoint::Protocol;

/// The folder of one scope, held open: whoever renames or deletes it cannot redirect this process.
#[derive(Debug)]
pub(super) struct Registry {
    path: PathBuf,
    folder: system::Folder,
    leases: AtomicU32,
}

/// Kept once it was opened. A failure is not kept: the folder may be mended.
static OPENED: RwLock<Option<Arc<Registry>>> = RwLock::new(None);

impl Registry {
    /// The folder, made if need be.
    pub(super) fn get() -> Result<Arc<Registry>, Unusable> {
        if let Some(registry) = OPENED.read().as_ref() {
            return Ok(registry.clone());
        }
        let root = root()?;
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |cause| Unusable { path, cause, misconfigured: false }
        };
        system::make_shared_folder(&root).map_err(fail(&root))?;
        let path = root.join(system::scope());
        system::make_shared_folder(&path).map_err(fail(&path))?;
        let registry = Arc::new(Registry::open(&root, path)?);
        Ok(OPENED.write().get_or_insert(registry).clone())
    }

    /// The folder, where there is one: what a look uses, since looking makes nothing.
    pub(super) fn existing() -> Result<Option<Arc<Registry>>, Unusable> {
        if let Some(registry) = OPENED.read().as_ref() {
            return Ok(Some(registry.clone()));
        }
        let root = root()?;
        let path = root.join(system::scope());
        match Registry::open(&root, path) {
            Ok(registry) => Ok(Some(OPENED.write().get_or_insert(Arc::new(registry)).clone())),
            Err(unusable) if unusable.cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(unusable) => Err(unusable),
        }
    }

    /// Opens it anew next time: it was deleted under us.
    pub(super) fn forget(gone: &Arc<Registry>) {
        let mut opened = OPENED.write();
        if opened.as_ref().is_some_and(|registry| Arc::ptr_eq(registry, gone)) {
            *opened = None;
        }
    }

    fn open(root: &Path, path: PathBuf) -> Result<Registry, Unusable> {
        let fail = |path: &Path, cause| Unusable { path: path.to_owned(), cause, misconfigured: false };
        // The root first: a link planted there must not be followed either.
        let outer = system::Folder::open(root).map_err(|cause| fail(root, cause))?;
        let folder = outer.open_within(&path).map_err(|cause| fail(&path, cause))?;
        Ok(Registry { path, folder, leases: AtomicU32::new(0) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn folder(&self) -> &system::Folder {
        &self.folder
    }

    /// Where this user's records go for lock files that are another user's. `None` where nobody made it yet.
    pub(super) fn records(&self, user: u32) -> io::Result<Option<system::Folder>> {
        match system::Folder::open(&self.records_path().join(user.to_string())) {
            Ok(folder) => Ok(Some(folder)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The same, made if need be: a folder for all users, and in it one of this user's own.
    pub(super) fn make_records(&self, user: u32) -> io::Result<system::Folder> {
        let shared = self.records_path();
        system::make_shared_folder(&shared)?;
        let own = shared.join(user.to_string());
        system::make_own_folder(&own)?;
        system::Folder::open(&own)
    }

    /// The users who have such records.
    pub(super) fn record_users(&self) -> io::Result<Vec<u32>> {
        match system::Folder::open(&self.records_path()) {
            Ok(folder) => folder.names(usize::MAX, |name| name.parse().ok()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }

    fn records_path(&self) -> PathBuf {
        self.path.with_extension("records")
    }

    /// The ports that have a lock file, live or not; at most so many.
    pub(super) fn entries(&self, most: usize) -> io::Result<Vec<(Protocol, u16)>> {
        self.folder.names(most, lockfile::parse_name)
    }

    /// Every so many leases, the first of a process among them, sweeps some files that no live process has locked
    /// and that have not been used for a while. A file just let go is kept: making it anew costs more than all else.
    pub(super) fn sweep_now_and_then(self: &Arc<Self>) {
        const EVERY: u32 = 256;
        const AT_MOST: usize = 64;
        const LISTED_AT_MOST: usize = 1024;
        const UNUSED_FOR: Duration = Duration::from_secs(60);
        if !self.leases.fetch_add(1, Ordering::Relaxed).is_multiple_of(EVERY) {
            return;
        }
        // Sweeping is a courtesy: a folder that cannot be listed now will be by somebody else.
        let mut files = self.entries(LISTED_AT_MOST).unwrap_or_default();
        // Not always the same ones: they may be another user's, and stay.
        let from = fastrand::usize(0..=files.len());
        files.rotate_left(from);
        for (protocol, port) in files.into_iter().take(AT_MOST) {
            if lockfile::sweep(self, protocol, port, UNUSED_FOR).is_err() {
                return;
            }
        }
    }
}

/// `PORTLEASE_DIR`, else one place that every process of the machine agrees on.
fn root() -> Result<PathBuf, Unusable> {
    let Some(text) = std::env::var_os("PORTLEASE_DIR") else { return Ok(system::default_root()) };
    let path = PathBuf::from(text);
    if path.is_absolute() {
        return Ok(path);
    }
    // Processes that must meet have different working directories.
    Err(Unusable { path, cause: io::ErrorKind::InvalidInput.into(), misconfigured: true })
}

#[cfg(unix)]
pub(super) mod system {
    use std::ffi::CStr;
    use std::fs::{File, Permissions};
    use std::io;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::{Path, PathBuf};

    use rustix::fd::OwnedFd;
    use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, unlinkat};
    use rustix::io::Errno;

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

    /// A folder in which every user makes files, and nobody but the owner removes one.
    pub(super) fn make_shared_folder(path: &Path) -> io::Result<()> {
        make_folder(path, 0o1777)
    }

    pub(super) fn make_own_folder(path: &Path) -> io::Result<()> {
        make_folder(path, 0o755)
    }

    fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
        if path.symlink_metadata().is_ok() {
            return Ok(());
        }
        let parent = path.parent().unwrap_or(path);
        std::fs::create_dir_all(parent)?;
        // Made aside and moved into place: nobody meets it before it has its mode.
        let aside = tempfile::Builder::new().prefix(".portlease-").tempdir_in(parent)?;
        std::fs::set_permissions(aside.path(), Permissions::from_mode(mode))?;
        match std::fs::rename(aside.path(), path) {
            Ok(()) => {
                // Moved away: there is nothing left to remove.
                let _moved = aside.keep();
                Ok(())
            }
            Err(_) if path.symlink_metadata().is_ok() => Ok(()),
            Err(e) => Err(e),
        }
    }

    #[derive(Debug)]
    pub(crate) struct Folder(OwnedFd);

    impl Folder {
        const FLAGS: OFlags =
            OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

        pub(super) fn open(path: &Path) -> io::Result<Folder> {
            Ok(Folder(openat(CWD, path, Self::FLAGS, Mode::empty())?))
        }

        /// The folder of that name in this one.
        pub(super) fn open_within(&self, path: &Path) -> io::Result<Folder> {
            Ok(Folder(openat(&self.0, path.file_name().unwrap_or_default(), Self::FLAGS, Mode::empty())?))
        }

        /// The regular file of that name, and its owner.
        pub(crate) fn open_file(&self, name: &str, access: Access) -> io::Result<(File, u32)> {
            // Of these, NONBLOCK keeps a planted fifo from blocking the open.
            let safe = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
            let (flags, mode) = match access {
                Access::Read => (OFlags::RDONLY, Mode::empty()),
                Access::Write => (OFlags::RDWR, Mode::empty()),
                Access::New => (OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, Mode::from_raw_mode(0o644)),
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

        pub(crate) fn remove_file(&self, name: &str) -> io::Result<()> {
            match unlinkat(&self.0, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(e) => Err(e.into()),
            }
        }

        /// The names in the folder that mean something, at most so many.
        pub(super) fn names<T>(&self, most: usize, parse: impl Fn(&str) -> Option<T>) -> io::Result<Vec<T>> {
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

    fn utf8(name: &CStr) -> Option<&str> {
        name.to_str().ok()
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Access {
        Read,
        Write,
        New,
    }

    /// Who this process is to the file system.
    pub(crate) fn user() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    /// Whether an open file still has its name.
    pub(crate) fn is_linked(file: &File) -> io::Result<bool> {
        Ok(fstat(file)?.st_nlink > 0)
    }
}
