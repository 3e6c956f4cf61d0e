//! The mark is a file in the lock folder. It says that the kernel passed the self-test of claims
//! (sockets that keep ports). All processes of a user read the same mark, so most of them skip the
//! test.
//!
//! Only Linux has marks. They are in the folder of a known network namespace, on a file system in
//! memory. A restart of the machine empties that file system. So a mark is always about the kernel
//! that runs now.
//!
//! A mark that another user made must not count. `Folder::read_own` ensures this.

pub(super) use system::remove_all;
pub(crate) use system::{exists, make};

#[cfg(any(target_os = "linux", target_os = "android"))]
mod system {
    use std::io;
    use std::path::Path;
    use std::sync::Arc;

    use super::super::folder::system::{Folder, user, write};
    use super::super::folder::{Access, LockFolder};
    use crate::namespace::Namespace;
    use crate::retry::Sweep;

    /// The start of the file name. The [`VERSION`] and the user ID follow.
    const PREFIX: &str = "self-test-passed-";

    /// The version of the self-test. It changes whenever the self-test tests more, so that a mark
    /// of an earlier version of this crate does not count.
    const VERSION: u32 = 1;

    /// Whether a process of this user has left a mark, which says that the kernel passed the
    /// self-test. The result is `false` if the mark cannot be read, or if [`is_true_for_all`] is
    /// `false`. The calling process then runs the self-test.
    pub(crate) fn exists() -> bool {
        let read = || {
            let folder = LockFolder::existing().ok()?.filter(can_have_mark)?;
            let user = own_user()?;
            folder.folder().read_own(&name(user), user).ok()
        };
        is_true_for_all() && read().is_some_and(|found| found == text().as_bytes())
    }

    /// Leaves a mark: a file that says that the kernel passed the self-test. Does nothing if
    /// [`is_true_for_all`] is `false`. Without a mark, the next process tests the kernel again.
    pub(crate) fn make() {
        let make = || -> io::Result<()> {
            let folder = LockFolder::get().ok().filter(can_have_mark);
            let folder = folder.ok_or(io::ErrorKind::Unsupported)?;
            let user = own_user().ok_or(io::ErrorKind::Unsupported)?;
            let read = folder.folder().read_own(&name(user), user);
            if read.is_ok_and(|found| found != text().as_bytes()) {
                // A process that was killed, or a full file system, left an incomplete mark.
                folder.folder().remove_file(&name(user))?;
            }
            let (file, _) = folder.folder().open_file(&name(user), Access::New)?;
            write(&file, text().as_bytes())
        };
        if is_true_for_all() {
            let _made = make();
        }
    }

    /// Removes the marks of all users (files of passed self-tests) from the folder of a network
    /// namespace that has probably ended. A mark that this user may not remove stays.
    pub(crate) fn remove_all(folder: &Folder) -> io::Result<()> {
        let is_mark = |name: &str| name.starts_with(PREFIX).then(|| name.to_owned());
        for mark in folder.names(Sweep::FILES_LISTED, is_mark)? {
            let _removed = folder.remove_file(&mark);
        }
        Ok(())
    }

    fn name(user: u32) -> String {
        format!("{PREFIX}{VERSION}.{user}")
    }

    /// The whole text of a mark.
    fn text() -> String {
        format!("portlease self-test {VERSION}: passed\n")
    }

    /// `None` for the user ID 65534. In a user namespace, every unmapped user has this ID
    /// (user_namespaces(7)), so a file of this ID could belong to another user.
    fn own_user() -> Option<u32> {
        const OVERFLOW: u32 = 65534;
        Some(user()).filter(|user| *user != OVERFLOW)
    }

    fn can_have_mark(folder: &Arc<LockFolder>) -> bool {
        folder.folder().is_in_memory()
    }

    /// Returns `false` if the answer of the self-test may be wrong for other processes:
    /// - A library that ld.so(8) preloads can replace bind(2) in this process.
    /// - If the network namespace is unknown, the kernel may be an emulator such as gVisor, which
    ///   can share its lock folder with other kernels.
    fn is_true_for_all() -> bool {
        let is_set = |name| std::env::var_os(name).is_some_and(|libraries| !libraries.is_empty());
        let may_preload =
            is_set("LD_PRELOAD") || is_set("LD_AUDIT") || Path::new("/etc/ld.so.preload").exists();
        Namespace::current().inode().is_some() && !may_preload
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod system {
    use super::super::folder::system::Folder;

    /// This system has no claims (sockets that keep ports), so there is no self-test to share.
    pub(crate) fn exists() -> bool {
        false
    }

    pub(crate) fn make() {}

    pub(crate) fn remove_all(_: &Folder) -> std::io::Result<()> {
        Ok(())
    }
}
