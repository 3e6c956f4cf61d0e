//! A lock folder in which no lock file can be created, locked or written.

use std::time::{Duration, Instant};

use crate::support::ports::non_ephemeral_port;
use crate::support::reserver::Reserver;
use crate::support::{Folder, capability, is_root, need, set_mode};

#[test]
fn a_folder_in_place_of_a_lock_file_is_named_and_skipped() {
    let folder = Folder::new();
    let mut reserver = Reserver::new(&folder.locks());
    let port = reserver.reserve("").held().port();
    reserver.release(port);
    std::fs::remove_file(folder.lock_file(port)).unwrap();
    std::fs::create_dir(folder.lock_file(port)).unwrap();
    let message = reserver.reserve(&format!("port={port}")).refused("Lease");
    assert!(
        message.starts_with("cannot lock ") && message.contains(&format!("{port}.tcp")),
        "{message}"
    );
    reserver.reserve("many=20").held();
}

#[test]
fn a_lock_folder_that_cannot_be_used_is_an_error_where_nothing_else_keeps_the_port() {
    let folder = Folder::new();
    std::fs::write(folder.locks(), "a file").unwrap();
    let mut reserver = Reserver::new(&folder.locks());
    let message = reserver.reserve("udp=").refused("Lease");
    let named = format!("{:?}", folder.locks());
    assert!(
        message.contains(&named) && message.contains("PORTLEASE_DIR"),
        "{message}"
    );
    if cfg!(target_os = "linux") {
        let held = reserver.reserve("").held();
        assert_eq!((held.guarantee.as_str(), held.leased), ("Kernel", false));
    } else {
        reserver.reserve("").refused("Lease");
    }
}

/// Checks that `reserver` reserves without a lease, by the kernel's guarantee alone, and that no
/// other process can reserve the same port.
#[track_caller]
fn assert_reserves_without_a_lease(mut reserver: Reserver, what: &str) {
    let folder = Folder::new();
    let begun = Instant::now();
    let held = reserver.reserve("").held();
    assert_eq!(
        (held.guarantee.as_str(), held.leased),
        ("Kernel", false),
        "{what}"
    );
    let number = non_ephemeral_port();
    let exact = reserver.reserve(&format!("port={number}")).held();
    assert_eq!(
        (exact.guarantee.as_str(), exact.leased),
        ("Kernel", false),
        "{what}"
    );
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{what}: {:?}",
        begun.elapsed()
    );
    let mut other = Reserver::new(&folder.locks());
    for port in [held.port(), number] {
        other.reserve(&format!("port={port}")).refused("InUse");
    }
    reserver.release("all");
    other.reserve(&format!("port={number}")).held();
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "without a lease only the kernel of Linux keeps a port"
)]
fn a_lock_folder_that_is_read_only_leaves_the_kernels_guarantee() {
    // Root may write despite the mode.
    if is_root() {
        need!(capability::nobody());
    }
    let folder = Folder::new();
    std::fs::create_dir(folder.locks()).unwrap();
    set_mode(&folder.locks(), 0o555);
    let launch = Reserver::launch(&folder.locks());
    assert_reserves_without_a_lease(
        Reserver::start(if is_root() {
            launch.run_as_nobody()
        } else {
            launch
        }),
        "mode 0555",
    );
}

#[test]
fn a_lock_folder_on_a_read_only_file_system_leaves_the_kernels_guarantee() {
    need!(capability::mount_namespace());
    let folder = Folder::new();
    let mount = format!("mount -t tmpfs -o ro none '{}'", folder.path().display());
    assert_reserves_without_a_lease(
        Reserver::start(Reserver::launch(&folder.locks()).in_mounts(mount)),
        "read-only",
    );
}

/// Such a folder stays behind when a file system is mounted read-only after its use.
#[test]
fn an_old_lock_file_in_a_read_only_folder_refuses_no_port() {
    need!(capability::mount_namespace());
    let folder = Folder::new();
    let mut writer = Reserver::new(&folder.locks());
    let port = writer.reserve("udp=").held().port();
    let path = folder.path().display();
    let read_only = format!("mount --bind '{path}' '{path}' && mount -o remount,ro,bind '{path}'");
    let mut reader = Reserver::start(Reserver::launch(&folder.locks()).in_mounts(read_only));
    let exactly = format!("port={port} udp=");
    // The control: the lock on the file is seen through both mounts.
    reader.reserve(&exactly).refused("InUse");
    writer.release("all");
    assert!(reader.reserve(&exactly).held().leased);
    let error = reader.command(&format!("lease-error={port}"));
    assert!(error.contains("read-only file system"), "{error}");
    writer.reserve(&exactly).refused("InUse");
    reader.release("all");
    assert!(writer.reserve(&exactly).held().leased);
}

#[test]
fn a_lock_folder_without_room_for_a_file_leaves_the_kernels_guarantee() {
    need!(capability::mount_namespace());
    // The root of the file system takes one inode. With 1 no folder fits, and with 3 only the
    // folders.
    for inodes in [1, 3] {
        let folder = Folder::new();
        let mount = format!(
            "mount -t tmpfs -o mode=1777,nr_inodes={inodes} none '{}'",
            folder.path().display()
        );
        let reserver = Reserver::start(Reserver::launch(&folder.locks()).in_mounts(mount));
        assert_reserves_without_a_lease(reserver, &format!("{inodes} inodes"));
    }
}

#[test]
fn a_lock_folder_without_room_for_a_record_keeps_the_lease() {
    need!(capability::mount_namespace());
    let folder = Folder::new();
    let path = folder.path().display();
    let full = format!(
        "mount -t tmpfs -o mode=1777,size=16k none '{path}' && {{ \
         cat /dev/zero > '{path}/ballast' 2>/dev/null; test -s '{path}/ballast'; }}"
    );
    let mut reserver = Reserver::start(Reserver::launch(&folder.locks()).in_mounts(full));
    let held = reserver.reserve("").held();
    assert_eq!((held.guarantee.as_str(), held.leased), ("Kernel", true));
    let error = reserver.command(&format!("lease-error={}", held.port()));
    assert!(error.contains("no space left on device"), "{error}");
    reserver.release("all");
    reserver.reserve(&format!("port={}", held.port())).held();
}

/// strace injects the error that such a file system returns.
#[test]
fn a_file_system_without_locks_leaves_the_kernels_guarantee_and_nothing_else() {
    need!(capability::strace());
    for error in ["ENOLCK", "EOPNOTSUPP"] {
        let folder = Folder::new();
        let inject = format!("inject=flock:error={error}");
        let without =
            ["-f", "-o", "/dev/null", "-e", "trace=flock", "-e", &inject].map(String::from);
        let launch = || Reserver::launch(&folder.locks()).traced(without.clone());
        assert_reserves_without_a_lease(Reserver::start(launch()), error);
        // A port that only cooperation keeps cannot be reserved.
        let message = Reserver::start(launch()).reserve("udp=1").refused("Lease");
        let scope = folder.scope().display().to_string();
        assert!(
            message.contains(&scope) && message.contains("PORTLEASE_DIR"),
            "{message}"
        );
    }
}
