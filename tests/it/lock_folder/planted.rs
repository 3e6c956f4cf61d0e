//! Files, links and folders that another user plants in the lock folder.

use std::fs::{File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::users::{NOBODY, User, record_path};
use crate::support::ports::non_ephemeral_port;
use crate::support::{Folder, capability, need};

/// What a user can plant at a path that the crate uses.
const SHAPES: [&str; 7] = [
    "link",
    "dangling link",
    "fifo",
    "folder",
    "file",
    "unreadable file",
    "closed folder",
];

/// Plants a file, link or folder of this shape at `path`, with `planter` as its owner. Returns the
/// folder `victim`, into which a planted link leads.
fn plant(shape: &str, path: &Path, planter: User, folder: &Folder) -> PathBuf {
    let victim = folder.path().join("victim");
    std::fs::create_dir_all(&victim).unwrap();
    std::fs::set_permissions(&victim, Permissions::from_mode(0o777)).unwrap();
    std::fs::write(victim.join("letter"), "dear\n").unwrap();
    std::fs::set_permissions(victim.join("letter"), Permissions::from_mode(0o666)).unwrap();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mode = |mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    match shape {
        // A link to a file where the crate expects a file, else to a folder.
        "link" if path.extension().is_some() => symlink(victim.join("letter"), path).unwrap(),
        "link" => symlink(&victim, path).unwrap(),
        "dangling link" => symlink(victim.join("new"), path).unwrap(),
        "fifo" => {
            assert!(
                Command::new("mkfifo")
                    .args(["-m", "666"])
                    .arg(path)
                    .status()
                    .unwrap()
                    .success()
            );
        }
        "folder" => {
            std::fs::create_dir(path).unwrap();
            mode(0o755);
        }
        "closed folder" => {
            std::fs::create_dir(path).unwrap();
            mode(0o700);
        }
        "file" => {
            File::create(path).unwrap();
            mode(0o644);
        }
        "unreadable file" => {
            File::create(path).unwrap();
            mode(0);
        }
        other => panic!("{other}"),
    }
    planter.own(path);
    victim
}

fn untouched(victim: &Path, at: &str) {
    let names: Vec<_> = std::fs::read_dir(victim)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["letter"], "{at}: the link was followed");
    assert_eq!(
        std::fs::read_to_string(victim.join("letter")).unwrap(),
        "dear\n",
        "{at}: the file behind the link was written"
    );
    let mode = std::fs::metadata(victim).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode, 0o777, "{at}: the mode of the folder was changed");
    let mode = std::fs::metadata(victim.join("letter"))
        .unwrap()
        .permissions()
        .mode()
        & 0o7777;
    assert_eq!(mode, 0o666, "{at}: the mode of its file was changed");
}

/// Longer than a reservation takes beside any planted file: opening a fifo must not block it.
const BOUND: Duration = Duration::from_secs(20);

#[test]
fn a_planted_lock_folder_neither_blocks_nor_is_followed() {
    need!(capability::nobody());
    for planter in [User::Nobody, User::Root] {
        for shape in SHAPES {
            for place in ["root", "scope"] {
                let at = format!("{shape} of {planter:?} as {place}");
                // `PORTLEASE_DIR` may be a link of root or of this user: the tests in `environment`
                // and `users` cover such links.
                if place == "root" && shape.ends_with("link") && planter == User::Root {
                    continue;
                }
                let folder = Folder::new();
                let path = if place == "root" {
                    folder.locks()
                } else {
                    folder.scope()
                };
                let victim = plant(shape, &path, planter, &folder);
                if place == "scope" {
                    std::fs::set_permissions(folder.locks(), Permissions::from_mode(0o1777))
                        .unwrap();
                }
                let mut reserver = planter.other().reserver(&folder.locks());
                let begun = Instant::now();
                let held = reserver.reserve("").held();
                assert_eq!(held.guarantee, "Kernel", "{at}");
                let exact = reserver
                    .reserve(&format!("port={}", non_ephemeral_port()))
                    .held();
                assert_eq!(exact.guarantee, "Kernel", "{at}");
                reserver.release("all");
                assert!(begun.elapsed() < BOUND, "{at}: {:?}", begun.elapsed());
                // Root can use a folder of nobody. Nobody cannot create a file in a folder of root.
                let usable = shape.ends_with("folder") && planter == User::Nobody;
                assert_eq!(held.leased, usable, "{at}");
                untouched(&victim, &at);
            }
        }
    }
}

#[test]
fn a_planted_lock_file_is_skipped_and_an_exact_port_names_it() {
    need!(capability::nobody());
    for planter in [User::Nobody, User::Root] {
        for shape in SHAPES {
            let at = format!("{shape} of {planter:?}");
            let folder = Folder::new();
            let mut reserver = planter.other().reserver(&folder.locks());
            // Makes the crate create its folders.
            reserver.reserve("").held();
            let port = non_ephemeral_port();
            let path = folder.lock_file(port);
            let victim = plant(shape, &path, planter, &folder);
            let begun = Instant::now();
            let answer = reserver.reserve(&format!("port={port}"));
            // A file that the process can read serves as its lock file, and root reads every file.
            let usable = shape == "file" || shape == "unreadable file" && planter == User::Nobody;
            if usable {
                assert!(answer.held().leased, "{at}");
                reserver.release(port);
            } else {
                let message = answer.refused("Lease");
                assert!(message.contains(path.to_str().unwrap()), "{at}: {message}");
                // Waiting does not help, so the call does not wait. Any other port can be reserved.
                reserver
                    .reserve(&format!("port={port} wait=60000"))
                    .refused("Lease");
                let held = reserver.reserve(&format!("prefer={port}")).held();
                assert!(held.leased && held.port() != port, "{at}: {held:?}");
                let message = reserver
                    .reserve(&format!("range={port}-{port}"))
                    .refused("NoFreePort");
                assert!(message.contains(path.to_str().unwrap()), "{at}: {message}");
            }
            assert!(begun.elapsed() < BOUND, "{at}: {:?}", begun.elapsed());
            untouched(&victim, &at);
        }
    }
}

#[test]
fn a_record_planted_by_another_user_is_not_read_as_the_holders() {
    need!(capability::nobody());
    let folder = Folder::new();
    let (mut root, mut nobody) = (
        User::Root.reserver(&folder.locks()),
        User::Nobody.reserver(&folder.locks()),
    );
    root.reserve("").held();
    let port = non_ephemeral_port();
    let path = folder.lock_file(port);
    File::create(&path).unwrap();
    chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
    let held = root.reserve(&format!("port={port} label=true-one")).held();
    assert!(held.leased);
    let message = nobody.reserve(&format!("port={port}")).refused("InUse");
    assert!(message.contains("true-one"), "{message}");
    let lease = nobody.command(&format!("lease={port}"));
    assert!(lease.contains("true-one"), "{lease}");
    // The owner of the lock file cannot change the record, which belongs to root.
    let record = record_path(&folder, port, "true-one");
    let about = std::fs::metadata(&record).unwrap();
    assert_eq!(about.uid(), 0, "{record:?}");
}

#[test]
fn a_planted_record_folder_is_not_followed_and_only_the_record_is_lost() {
    need!(capability::nobody());
    // Each refusal takes 100 ms of retries, so all shapes are tried at the same time.
    std::thread::scope(|scope| {
        for planter in [User::Nobody, User::Root] {
            for shape in SHAPES {
                scope.spawn(move || {
                    for place in ["of all", "of its own"] {
                        reserve_beside_planted_records(planter, shape, place);
                    }
                });
            }
        }
    });
}

fn reserve_beside_planted_records(planter: User, shape: &str, place: &str) {
    let at = format!("{shape} of {planter:?} as the folder of records {place}");
    let folder = Folder::new();
    let mut reserver = planter.other().reserver(&folder.locks());
    reserver.reserve("").held();
    // If the lock file belongs to another user, the crate writes the record to a folder beside it.
    let port = non_ephemeral_port();
    let lock = folder.lock_file(port);
    File::create(&lock).unwrap();
    std::fs::set_permissions(&lock, Permissions::from_mode(0o644)).unwrap();
    planter.own(&lock);
    let records = folder.scope().with_extension("records");
    let user = if planter == User::Root { NOBODY } else { 0 };
    let path = if place == "of all" {
        records.clone()
    } else {
        records.join(user.to_string())
    };
    // `plant` takes every path with an extension for the path of a file. `records` is a folder with
    // an extension, so the shape is planted under another name and renamed.
    let aside = folder.path().join("planted");
    let victim = plant(shape, &aside, planter, &folder);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    if place == "of its own" {
        std::fs::set_permissions(&records, Permissions::from_mode(0o1777)).unwrap();
    }
    std::fs::rename(&aside, &path).unwrap();

    let begun = Instant::now();
    let held = reserver.reserve(&format!("port={port}")).held();
    assert_eq!(
        (held.guarantee.as_str(), held.leased),
        ("Kernel", true),
        "{at}"
    );
    let mut other = planter.reserver(&folder.locks());
    other.reserve(&format!("port={port}")).refused("InUse");
    assert!(
        other
            .command(&format!("lease={port}"))
            .contains("is reserved by"),
        "{at}"
    );
    reserver.release("all");
    assert!(begun.elapsed() < BOUND, "{at}: {:?}", begun.elapsed());
    untouched(&victim, &at);
}
