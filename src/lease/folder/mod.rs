//! The lock folder: where it is, which scope of it is this process's, and what it holds.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;

use super::Unusable;

#[cfg(unix)]
pub(super) mod unix;
#[cfg(windows)]
pub(super) mod windows;

#[cfg(unix)]
pub(super) use unix as system;
#[cfg(windows)]
pub(super) use windows as system;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    New,
}

/// The folder of one scope, held open: whoever renames or deletes it cannot redirect this process.
#[derive(Debug)]
pub(super) struct LockFolder {
    path: PathBuf,
    /// The lock folder itself, of all scopes.
    outer: system::Folder,
    folder: system::Folder,
}

/// Kept once it was opened. A failure is not kept: the folder may be mended.
static OPENED: RwLock<Option<Arc<LockFolder>>> = RwLock::new(None);

impl LockFolder {
    /// The folder, made if need be.
    pub(super) fn get() -> Result<Arc<LockFolder>, Unusable> {
        if let Some(lock_folder) = OPENED.read().as_ref() {
            return Ok(lock_folder.clone());
        }
        let root = root()?;
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |cause| Unusable {
                path,
                cause,
                misconfigured: false,
            }
        };
        let outer = system::Folder::make(&root).map_err(fail(&root))?;
        let scope = system::scope();
        let path = root.join(&scope);
        let folder = outer
            .make_within(&scope, system::SHARED)
            .map_err(fail(&path))?;
        let lock_folder = Arc::new(LockFolder {
            path,
            outer,
            folder,
        });
        Ok(OPENED.write().get_or_insert(lock_folder).clone())
    }

    /// The folder, where there is one: what a look uses, since looking makes nothing.
    pub(super) fn existing() -> Result<Option<Arc<LockFolder>>, Unusable> {
        let opened = OPENED.read().clone();
        match opened {
            Some(lock_folder) if lock_folder.folder.is_there() => return Ok(Some(lock_folder)),
            // Made again by others since, and they meet in the new one. Who takes a lease finds out by itself.
            Some(gone) => LockFolder::forget(&gone),
            None => {}
        }
        let root = root()?;
        let scope = system::scope();
        let path = root.join(&scope);
        // One after the other: a link planted at either must not be followed.
        let opened = system::Folder::open(&root).and_then(|outer| {
            let folder = outer.open_within(&scope)?;
            Ok((outer, folder))
        });
        match opened {
            Ok((outer, folder)) => {
                let lock_folder = Arc::new(LockFolder {
                    path,
                    outer,
                    folder,
                });
                Ok(Some(OPENED.write().get_or_insert(lock_folder).clone()))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(Unusable {
                path,
                cause,
                misconfigured: false,
            }),
        }
    }

    /// Opens it anew next time: it was deleted under us.
    pub(super) fn forget(gone: &Arc<LockFolder>) {
        let mut opened = OPENED.write();
        if opened
            .as_ref()
            .is_some_and(|lock_folder| Arc::ptr_eq(lock_folder, gone))
        {
            *opened = None;
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn folder(&self) -> &system::Folder {
        &self.folder
    }

    /// Where this user's records go for lock files that are another user's. `None` where nobody made it yet.
    pub(super) fn records(&self, user: u32) -> io::Result<Option<system::Folder>> {
        existing(
            self.outer
                .open_within(&self.records_name())
                .and_then(|all| all.open_within(&user.to_string())),
        )
    }

    /// The same, made if need be: a folder for all users, and in it one of this user's own.
    pub(super) fn make_records(&self, user: u32) -> io::Result<system::Folder> {
        let all = self
            .outer
            .make_within(&self.records_name(), system::SHARED)?;
        all.make_within(&user.to_string(), system::OWN)
    }

    /// The users who have such records.
    pub(super) fn record_users(&self) -> io::Result<Vec<u32>> {
        match existing(self.outer.open_within(&self.records_name()))? {
            Some(folder) => folder.names(usize::MAX, |name| name.parse().ok()),
            None => Ok(Vec::new()),
        }
    }

    fn records_name(&self) -> String {
        let scope = self.path.file_name().unwrap_or_default();
        format!("{}.records", scope.to_string_lossy())
    }

    /// The names of lock files, live or not, that mean something; at most so many.
    pub(super) fn entries<T>(
        &self,
        most: usize,
        parse: impl Fn(&str) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        self.folder.names(most, parse)
    }
}

fn existing(opened: io::Result<system::Folder>) -> io::Result<Option<system::Folder>> {
    match opened {
        Ok(folder) => Ok(Some(folder)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// `PORTLEASE_DIR`, else one place that every process of the machine agrees on.
fn root() -> Result<PathBuf, Unusable> {
    let Some(text) = std::env::var_os("PORTLEASE_DIR") else {
        return Ok(system::default_root());
    };
    let path = PathBuf::from(text);
    if path.is_absolute() {
        return Ok(path);
    }
    // Processes that must meet have different working directories.
    Err(Unusable {
        path,
        cause: io::ErrorKind::InvalidInput.into(),
        misconfigured: true,
    })
}
