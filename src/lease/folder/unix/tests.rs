//! Tests of the lock folder on Unix.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Access, Folder, SHARED, lock_unused, user};
use crate::lease::lock::sweep;
use crate::model::endpoint::Protocol;
use crate::model::port::Port;

#[test]
fn a_new_file_belongs_to_the_user() {
    let file = tempfile::tempfile().unwrap();
    assert_eq!(rustix::fs::fstat(file).unwrap().st_uid, user());
}

/// In this test, a clone of a file stands for the copy that a forked child inherits. The file and
/// its clone share one open file description, and so one lock.
#[test]
fn a_sweep_leaves_no_lock_to_a_child_that_was_forked_meanwhile() {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::open(root.path()).unwrap();
    let sole = folder.lock_for_sweep().unwrap();
    assert!(
        folder.lock_for_sweep().is_none(),
        "a second sweep must be refused"
    );
    let _child = sole.folder.try_clone().unwrap();
    drop(sole);
    assert!(folder.lock_for_sweep().is_some());

    let (file, _) = folder.open_file("1.tcp", Access::New).unwrap();
    assert!(lock_unused(&file));
    let _child = file.try_clone().unwrap();
    // No file is named `2.tcp`, so the call removes nothing. But the call must still unlock `file`.
    folder.remove_unused("2.tcp", file).unwrap();
    let (file, _) = folder.open_file("1.tcp", Access::Write).unwrap();
    file.try_lock().unwrap();
}

/// On gVisor a removed file can keep its link count. The hard link imitates this: the count of the
/// file is still 1 after its first name is removed.
#[test]
fn a_name_that_is_gone_or_leads_elsewhere_is_noticed_whatever_the_link_count_is() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    let folder = Folder::open(root.path()).unwrap();
    let (file, _) = folder.open_file("1.tcp", Access::New).unwrap();
    assert!(folder.has_file("1.tcp", &file).unwrap());
    std::fs::hard_link(path("1.tcp"), path("second")).unwrap();
    std::fs::remove_file(path("1.tcp")).unwrap();
    assert!(!folder.has_file("1.tcp", &file).unwrap());
    folder.open_file("1.tcp", Access::New).unwrap();
    assert!(!folder.has_file("1.tcp", &file).unwrap());

    let inner = folder.make_within("scope", SHARED).unwrap();
    assert!(folder.has_folder("scope", &inner));
    std::fs::rename(path("scope"), path("moved")).unwrap();
    assert!(!folder.has_folder("scope", &inner));
    folder.make_within("scope", SHARED).unwrap();
    assert!(!folder.has_folder("scope", &inner));
}

/// Several processes may create the folder at once, and only one of the new folders keeps the name.
/// A process that used a different folder would lock files that no other process finds.
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
    assert_eq!(left, 50, "a folder with a temporary name is left");
}

/// Two threads sweep: they remove unlocked temporary files, and the lock file whenever it is
/// unlocked. Meanwhile a third thread creates the lock file again and again, each time already
/// locked.
#[test]
fn no_sweep_removes_a_file_that_was_locked_before_its_name_was_visible() {
    const FILES: usize = 50;
    let root = tempfile::tempdir().unwrap();
    let quiet = Folder::open(root.path()).unwrap();
    if !quiet.create_locked("quiet").unwrap().2 {
        println!("skipped (locking before the rename): no locks, or no RENAME_NOREPLACE here");
        return;
    }
    let port = Port::new(60315, Protocol::Tcp);
    let name = crate::lease::lock::name(port);
    let is_over = AtomicBool::new(false);
    let sweep_until_over = || {
        let folder = Folder::open(root.path()).unwrap();
        while !is_over.load(Ordering::Relaxed) {
            folder.sweep_staged().unwrap();
            sweep(&folder, [port], Duration::ZERO, user()).unwrap();
        }
    };
    let make = || {
        let folder = Folder::open(root.path()).unwrap();
        let until = Instant::now() + Duration::from_secs(120);
        let mut locked = 0;
        // `create_locked` fails while the name exists. The name disappears when a sweep removes the
        // unlocked file of the previous round. So each success after the first shows that the
        // sweeps work.
        while locked < FILES {
            assert!(Instant::now() < until, "only {locked} files were locked");
            let Ok((file, _, is_locked)) = folder.create_locked(&name) else {
                continue;
            };
            if is_locked {
                locked += 1;
                let (other, _) = folder.open_file(&name, Access::Read).unwrap();
                assert!(!lock_unused(&other), "the file is not locked");
                assert!(folder.has_file(&name, &file).unwrap(), "the name is gone");
                file.unlock().unwrap();
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(sweep_until_over);
        scope.spawn(sweep_until_over);
        let made = scope.spawn(make).join();
        is_over.store(true, Ordering::Relaxed);
        made.unwrap();
    });
}

/// Another user can plant a file, plant a symbolic link to a file of this user (on some machines
/// also a hard link), and write to a file that every user may write to.
#[test]
#[cfg(target_os = "linux")]
fn only_a_file_that_no_other_user_can_have_written_is_read_as_own() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    let folder = Folder::open(root.path()).unwrap();
    let user = user();
    let is_read = |name: &str, user| match folder.read_own(name, user) {
        Ok(text) => {
            assert_eq!(text, b"passed");
            true
        }
        Err(_) => false,
    };
    let allow = |mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path("file"), mode).unwrap();
    };
    std::fs::write(path("file"), "passed").unwrap();
    allow(0o644);
    assert!(is_read("file", user));
    assert!(!is_read("file", user + 1), "the file of another user");
    for shared in [0o666, 0o664, 0o646] {
        allow(shared);
        assert!(!is_read("file", user), "{shared:o}");
    }
    allow(0o644);
    symlink(path("file"), path("link")).unwrap();
    assert!(!is_read("link", user));
    std::fs::hard_link(path("file"), path("second")).unwrap();
    assert!(!is_read("file", user) && !is_read("second", user));
    std::fs::create_dir(path("folder")).unwrap();
    assert!(!is_read("folder", user));
}
