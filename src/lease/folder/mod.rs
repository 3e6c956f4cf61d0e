//! The lock folder, and in it the folder with the lock files of this thread's scope.
//!
//! A scope is a set of processes that share port numbers: on Linux a network namespace, on other
//! systems the machine.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Unusable;
use crate::namespace::PerNamespace;
use crate::os_error::is_out_of_descriptors;
use crate::retry::Sweep;

#[cfg(unix)]
pub(super) mod unix;
#[cfg(windows)]
pub(super) mod windows;

#[cfg(unix)]
pub(super) use unix as system;
#[cfg(windows)]
pub(super) use windows as system;

/// How to open a file of the folder. `Read` and `Write` fail if the file is missing. `New` creates
/// the file, and fails if the file exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    New,
}

/// The folder with the lock files of one scope (on Linux a network namespace). On Unix it stays
/// open, so that this process keeps using it after another process renames the lock folder, or
/// after this process calls chroot(2).
#[derive(Debug)]
pub(super) struct LockFolder {
    path: PathBuf,
    /// The lock folder itself, which contains the folders of all scopes.
    outer: system::Folder,
    folder: system::Folder,
}

/// A folder of records has the name of its scope with this suffix. A record is the text that says
/// which process has a lease.
const RECORDS: &str = ".records";

/// The folder of each scope that this process has opened. If opening fails, the next call tries
/// again.
static OPENED: PerNamespace<LockFolder> = PerNamespace::new();

impl LockFolder {
    /// The folder of this thread's scope (on Linux its network namespace). If the folder is
    /// missing, the call creates it.
    pub(super) fn get() -> Result<Arc<LockFolder>, Unusable> {
        if let Some(known) = Self::known() {
            return Ok(known);
        }
        let made = first_usable(|root| {
            let outer = system::Folder::make(root).map_err(|e| Unusable::new(root.into(), e))?;
            let scope = system::scope();
            let path = root.join(&scope);
            match outer.make_within(&scope, system::SHARED) {
                Ok(folder) => Ok(LockFolder {
                    path,
                    outer,
                    folder,
                }),
                Err(cause) => Err(Unusable::new(path, cause)),
            }
        });
        Ok(OPENED.set(made?))
    }

    /// The folder of this thread's scope (on Linux its network namespace). If the folder is
    /// missing, the call returns `None` and does not create it.
    pub(super) fn existing() -> Result<Option<Arc<LockFolder>>, Unusable> {
        if let Some(known) = Self::known() {
            return Ok(Some(known));
        }
        let opened = first_usable(|root| {
            let scope = system::scope();
            let path = root.join(&scope);
            // Opens the two folders one after the other, because neither open may follow a planted
            // symbolic link.
            let opened = system::Folder::open(root).and_then(|outer| {
                let folder = outer.open_within(&scope)?;
                Ok((outer, folder))
            });
            match none_if_missing(opened) {
                Ok(opened) => Ok(opened.map(|(outer, folder)| LockFolder {
                    path,
                    outer,
                    folder,
                })),
                Err(cause) => Err(Unusable::new(path, cause)),
            }
        });
        Ok(opened?.map(|folder| OPENED.set(folder)))
    }

    /// Fails if a lock folder that other processes may use cannot be read. Also fails if
    /// [`check_scope`](system::check_scope) fails: this process then uses the folder `net-unknown`,
    /// while other processes usually use another folder.
    pub(super) fn check_readable() -> Result<(), Unusable> {
        let scope = system::scope();
        for root in roots()? {
            let opened = system::Folder::open(&root).and_then(|outer| outer.open_within(&scope));
            none_if_missing(opened).map_err(|cause| Unusable::new(root.clone(), cause))?;
            system::check_scope().map_err(|cause| Unusable::new(root, cause))?;
        }
        Ok(())
    }

    /// The folder of this thread's scope, if this process has opened it before. On Unix, `None` if
    /// another process has deleted or replaced the folder since, or if other code of this process
    /// has closed it.
    fn known() -> Option<Arc<LockFolder>> {
        let known = OPENED.get()?;
        if known.outer.has_folder(&known.scope(), &known.folder) {
            return Some(known);
        }
        Self::forget(&known);
        None
    }

    /// Makes the next call of [`get`](Self::get) or [`existing`](Self::existing) open the folder
    /// again. Call this after another process has deleted the folder.
    pub(super) fn forget(deleted: &Arc<LockFolder>) {
        OPENED.forget(deleted);
    }

    /// The folders of other scopes and their folders of records (`net-….records`), each with its
    /// name. Such a scope may be a network namespace that has ended.
    pub(super) fn other_scopes(&self) -> io::Result<Vec<(String, system::Folder)>> {
        let own = self.scope();
        let is_other = |name: &str| {
            let scope = name.strip_suffix(RECORDS).unwrap_or(name);
            let other = name.starts_with(system::SCOPE_PREFIX) && scope != &*own;
            other.then(|| name.to_owned())
        };
        let names = self.outer.names(Sweep::FILES_LISTED, is_other)?;
        let open = |name: String| Some((name.clone(), self.outer.open_within(&name).ok()?));
        Ok(names.into_iter().filter_map(open).collect())
    }

    /// Removes the folder of another scope (on Linux of another network namespace), if the folder
    /// is empty.
    pub(super) fn remove_scope(&self, name: &str) -> io::Result<()> {
        self.outer.remove_folder(name)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn folder(&self) -> &system::Folder {
        &self.folder
    }

    /// The folder with the records of `user`, or `None` if it does not exist. A record is in this
    /// folder, and not in the lock file, if the lock file belongs to another user. On Windows all
    /// records are in such a folder.
    pub(super) fn records(&self, user: u32) -> io::Result<Option<system::Folder>> {
        let all_users = self.outer.open_within(self.records_name());
        none_if_missing(all_users.and_then(|all| all.open_within(user.to_string())))
    }

    /// Opens the folder that [`records`](Self::records) returns, and creates it if it is missing.
    /// On Unix only `user` can write to it. All users share the folder that contains it.
    pub(super) fn make_records(&self, user: u32) -> io::Result<system::Folder> {
        let all_users = self
            .outer
            .make_within(self.records_name(), system::SHARED)?;
        all_users.make_within(user.to_string(), system::OWN)
    }

    /// The users that have a folder of records.
    pub(super) fn record_users(&self) -> io::Result<Vec<u32>> {
        match none_if_missing(self.outer.open_within(self.records_name()))? {
            Some(folder) => folder.names(usize::MAX, |name| name.parse().ok()),
            None => Ok(Vec::new()),
        }
    }

    fn records_name(&self) -> String {
        format!("{}{RECORDS}", self.scope())
    }

    /// The name of the folder of this scope within the lock folder.
    fn scope(&self) -> Cow<'_, str> {
        self.path.file_name().unwrap_or_default().to_string_lossy()
    }

    /// Calls `parse` with the names in this scope's folder, which contains locked and unlocked
    /// lock files. Returns at most `limit` of the values that `parse` returned.
    pub(super) fn entries<T>(
        &self,
        limit: usize,
        parse: impl Fn(&str) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        self.folder.names(limit, parse)
    }
}

fn none_if_missing<T>(opened: io::Result<T>) -> io::Result<Option<T>> {
    match opened {
        Ok(folder) => Ok(Some(folder)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Calls `open` for each possible lock folder until a call succeeds, and returns the last result. A
/// sandbox, for example, may forbid the first folder.
///
/// Does not try the next folder if descriptors, memory or disk space are used up. Processes without
/// that problem use the first folder, and all processes must use the same folder.
fn first_usable<T>(mut open: impl FnMut(&Path) -> Result<T, Unusable>) -> Result<T, Unusable> {
    let mut roots = roots()?.into_iter().peekable();
    let may_pass = |cause: &io::Error| {
        let kinds = [io::ErrorKind::StorageFull, io::ErrorKind::OutOfMemory];
        is_out_of_descriptors(cause) || kinds.contains(&cause.kind())
    };
    loop {
        let root = roots.next().unwrap_or_default();
        match open(&root) {
            Err(failed) if roots.peek().is_some() && !may_pass(&failed.cause) => {}
            outcome => return outcome,
        }
    }
}

/// The possible paths of the lock folder, in the order in which to try them: `PORTLEASE_DIR` alone,
/// or the defaults of this system.
fn roots() -> Result<Vec<PathBuf>, Unusable> {
    let Some(text) = std::env::var_os("PORTLEASE_DIR") else {
        return Ok(system::default_roots());
    };
    let path = PathBuf::from(text);
    // A relative path would lead processes with different working directories to different folders.
    let checked = if !path.is_absolute() {
        Err(io::ErrorKind::InvalidInput.into())
    } else if system::is_trusted_link(&path) {
        // Follows this link, because this user or root created it. A link of another user is
        // refused later.
        path.canonicalize()
    } else {
        return Ok(vec![path]);
    };
    checked.map(|path| vec![path]).map_err(|cause| Unusable {
        path,
        cause,
        misconfigured: true,
    })
}
