//! Where the lock folder is without `PORTLEASE_DIR`.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use crate::support::reserver::Reserver;
use crate::support::{Folder, capability, need};

/// The default lock folder in which a process with this mount at `/dev/shm` keeps a lease.
fn root_with(mount: &str) -> &'static str {
    let unused = Folder::new();
    let launch = Reserver::launch(&unused.locks()).in_mounts(format!("{mount} /dev/shm"));
    // Removes the variable, which every helper process gets.
    let launch = launch.innermost(["-u".to_owned(), "PORTLEASE_DIR".to_owned()]);
    let mut reserver = Reserver::start(launch);
    let held = reserver.reserve("").held();
    assert!(held.leased, "{mount}");
    // The files as this process sees them in its mount namespace.
    let seen = PathBuf::from(format!("/proc/{}/root", reserver.pid()));
    let scope = unused.scope();
    let file = Path::new(scope.file_name().unwrap()).join(format!("{}.tcp", held.port()));
    let roots = ["dev/shm/portlease", "tmp/portlease"];
    let found: Vec<_> = roots
        .into_iter()
        .filter(|root| is_locked(&seen.join(root).join(&file)))
        .collect();
    assert_eq!(found.len(), 1, "{mount}: {found:?}");
    found[0]
}

/// An earlier process may have left a file of this name in a default folder, without a lock.
fn is_locked(file: &Path) -> bool {
    File::open(file).is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

#[test]
fn the_lock_folder_is_in_memory_if_the_memory_holds_every_lock_file() {
    need!(capability::mount_namespace());
    assert_eq!(
        root_with("mount -t tmpfs -o size=1g,mode=1777 none"),
        "dev/shm/portlease"
    );
    for other in [
        // What Docker gives a container.
        "mount -t tmpfs -o size=64m,mode=1777 none",
        "mount -t tmpfs -o size=1g,mode=755 none",
        "mount -t tmpfs -o size=1g,mode=1777,ro none",
        "mount -t ramfs -o mode=1777 none",
    ] {
        assert_eq!(root_with(other), "tmp/portlease", "{other}");
    }
}

/// Some sandboxes show the file system in memory and forbid its use. Here a file in place of the
/// lock folder forbids it.
#[test]
fn a_process_that_may_not_use_the_folder_in_memory_uses_the_one_on_disk() {
    need!(capability::mount_namespace());
    let planted = "f() { mount -t tmpfs -o size=1g,mode=1777 none $1 && touch $1/portlease; }; f";
    assert_eq!(root_with(planted), "tmp/portlease");
}
