//! Two users, two containers, and a hostile lock folder.

use std::fs::{File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::agent::Agent;
use crate::numbers::quiet_number;
use crate::support::{Folder, capability, need};

const NOBODY: u32 = 65534;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum User {
    Root,
    Nobody,
}

impl User {
    fn other(self) -> User {
        match self {
            User::Root => User::Nobody,
            User::Nobody => User::Root,
        }
    }

    fn agent(self, locks: &Path) -> Agent {
        let launch = Agent::launch(locks);
        Agent::of(match self {
            User::Root => launch,
            User::Nobody => launch.run_by_nobody(),
        })
    }

    /// Makes what lies at `path` this user's.
    fn own(self, path: &Path) {
        let id = if self == User::Root { 0 } else { NOBODY };
        lchown(path, Some(id), Some(id)).unwrap();
    }
}

/// The record of a live lease as a person finds it: in the lock file, or beside it in a folder of the user's.
fn record_text(folder: &Folder, port: u16, label: &str) -> PathBuf {
    let output = Command::new("grep")
        .args(["-rl", &format!("label {label}")])
        .arg(folder.locks())
        .output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let path = PathBuf::from(
        text.lines()
            .next()
            .unwrap_or_else(|| panic!("no record says {label}")),
    );
    assert_eq!(
        path.file_name().unwrap().to_str().unwrap(),
        format!("{port}.tcp")
    );
    path
}

#[test]
fn two_users_exclude_each_other_and_read_each_others_records() {
    need!(capability::nobody());
    for first in [User::Root, User::Nobody] {
        let folder = Folder::new();
        let port = quiet_number();
        let (mut one, mut two) = (
            first.agent(&folder.locks()),
            first.other().agent(&folder.locks()),
        );
        let refused_by = |refused: &mut Agent, holder: &Agent, label: &str| {
            let message = refused.reserve(&format!("port={port}")).refused("InUse");
            let expected = [
                format!("pid {}", holder.pid()),
                format!("labelled \"{label}\""),
            ];
            assert!(
                expected.iter().all(|part| message.contains(part)),
                "{first:?} first: {message}"
            );
            let lease = refused.command(&format!("lease={port}"));
            assert!(
                expected.iter().all(|part| lease.contains(part)),
                "{first:?} first: {lease}"
            );
            let path = record_text(&folder, port, label);
            assert_eq!(
                path.metadata().unwrap().permissions().mode() & 0o777,
                0o644,
                "{first:?} first"
            );
        };
        let held = one
            .reserve(&format!("port={port} label=of-the-first"))
            .held();
        assert!(held.leased, "{first:?} first");
        refused_by(&mut two, &one, "of-the-first");
        one.drop(port);
        // Now over a lock file that is the other's.
        let held = two
            .reserve(&format!("port={port} label=of-the-second"))
            .held();
        assert!(held.leased, "{first:?} first");
        refused_by(&mut one, &two, "of-the-second");
        two.drop(port);
        one.reserve(&format!("port={port}")).held();
    }
}

/// One beside a lock file of another user's, who removes that without knowing of the record.
#[test]
fn a_record_without_its_lock_file_is_swept_by_its_users_next_look() {
    need!(capability::nobody());
    let folder = Folder::new();
    let (mut root, mut nobody) = (
        User::Root.agent(&folder.locks()),
        User::Nobody.agent(&folder.locks()),
    );
    let [dead, live] = [(); 2].map(|()| {
        let port = root.reserve("").held().port();
        root.drop(port);
        nobody
            .reserve(&format!("port={port} label=number-{port}"))
            .held();
        record_text(&folder, port, &format!("number-{port}"))
    });
    let [port, kept] =
        [&dead, &live].map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned());
    nobody.drop(&port);
    std::fs::remove_file(folder.lock_file(port.parse().unwrap())).unwrap();
    assert!(dead.exists() && live.exists(), "the control");
    let lease = nobody.command(&format!("lease={kept}"));
    assert!(lease.contains(&format!("number-{kept}")), "{lease}");
    assert!(!dead.exists(), "{} is left", dead.display());
    assert!(live.exists(), "{} is a live one's", live.display());
}

#[test]
fn a_umask_of_077_shuts_no_other_user_out() {
    need!(capability::nobody());
    let folder = Folder::new();
    let mut one = Agent::of(Agent::launch(&folder.locks()).setup("umask 077"));
    let mut two = User::Nobody.agent(&folder.locks());
    let held = one.reserve("label=private").held();
    let message = two
        .reserve(&format!("port={}", held.port()))
        .refused("InUse");
    assert!(message.contains("private"), "{message}");
    one.drop("all");
    let again = two.reserve(&format!("port={}", held.port())).held();
    assert!(again.leased);
}

#[test]
fn two_containers_that_share_the_network_and_not_the_files_exclude_each_other() {
    need!(capability::mount_namespace());
    let folder = Folder::new();
    // As /tmp is in two containers: the same path, and different files.
    let of_its_own = || {
        let mount = format!(
            "mount -t tmpfs -o mode=1777 none '{}'",
            folder.path().display()
        );
        Agent::of(Agent::launch(&folder.locks()).in_mounts(mount))
    };
    let (mut one, mut two) = (of_its_own(), of_its_own());
    let held = one.reserve("").held();
    assert!(held.leased);
    let exactly = format!("port={}", held.port());
    two.reserve(&exactly).refused("InUse");
    assert_eq!(one.command(&format!("serve={}", held.port())), "serves");
    two.reserve(&exactly).refused("InUse");
    // The control: nothing but the claim stood in the way.
    let number = quiet_number();
    one.reserve(&format!("port={number}")).held();
    one.drop(number);
    two.reserve(&format!("port={number}")).held();
    assert!(
        std::fs::read_dir(folder.path()).unwrap().next().is_none(),
        "they shared files after all"
    );
}

/// What can be planted at a path where the crate expects something of its own.
const SHAPES: [&str; 7] = [
    "link",
    "dangling link",
    "fifo",
    "folder",
    "file",
    "unreadable file",
    "closed folder",
];

/// Plants it, and returns the victim that a link leads to.
fn plant(shape: &str, path: &Path, whose: User, folder: &Folder) -> PathBuf {
    let victim = folder.path().join("victim");
    std::fs::create_dir_all(&victim).unwrap();
    std::fs::set_permissions(&victim, Permissions::from_mode(0o777)).unwrap();
    std::fs::write(victim.join("letter"), "dear\n").unwrap();
    std::fs::set_permissions(victim.join("letter"), Permissions::from_mode(0o666)).unwrap();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mode = |mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    match shape {
        // To a file where a file is expected, and to a folder elsewhere.
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
    whose.own(path);
    victim
}

fn untouched(victim: &Path, at: &str) {
    let names: Vec<_> = std::fs::read_dir(victim)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["letter"], "{at}: followed");
    assert_eq!(
        std::fs::read_to_string(victim.join("letter")).unwrap(),
        "dear\n",
        "{at}: written through"
    );
    let mode = std::fs::metadata(victim).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode, 0o777, "{at}: its mode was changed");
    let mode = std::fs::metadata(victim.join("letter"))
        .unwrap()
        .permissions()
        .mode()
        & 0o7777;
    assert_eq!(mode, 0o666, "{at}: the letter's mode was changed");
}

/// None of what is planted may block anybody.
const BOUND: Duration = Duration::from_secs(20);

#[test]
fn a_planted_lock_folder_neither_blocks_nor_is_followed() {
    need!(capability::nobody());
    for whose in [User::Nobody, User::Root] {
        for shape in SHAPES {
            for place in ["root", "scope"] {
                let at = format!("{shape} of {whose:?} as {place}");
                let folder = Folder::new();
                let path = if place == "root" {
                    folder.locks()
                } else {
                    folder.scope()
                };
                let victim = plant(shape, &path, whose, &folder);
                if place == "scope" {
                    std::fs::set_permissions(folder.locks(), Permissions::from_mode(0o1777))
                        .unwrap();
                }
                let mut agent = whose.other().agent(&folder.locks());
                let begun = Instant::now();
                let held = agent.reserve("").held();
                assert_eq!(held.guarantee, "Kernel", "{at}");
                let exact = agent.reserve(&format!("port={}", quiet_number())).held();
                assert_eq!(exact.guarantee, "Kernel", "{at}");
                agent.drop("all");
                assert!(begun.elapsed() < BOUND, "{at}: {:?}", begun.elapsed());
                // Root can use what is another's; nobody cannot make a file there.
                let usable = shape.ends_with("folder") && whose == User::Nobody;
                assert_eq!(held.leased, usable, "{at}");
                untouched(&victim, &at);
            }
        }
    }
}

#[test]
fn a_planted_lock_file_is_skipped_and_an_exact_port_names_it() {
    need!(capability::nobody());
    for whose in [User::Nobody, User::Root] {
        for shape in SHAPES {
            let at = format!("{shape} of {whose:?}");
            let folder = Folder::new();
            let mut agent = whose.other().agent(&folder.locks());
            // The folders, as the crate makes them.
            agent.reserve("").held();
            let port = quiet_number();
            let path = folder.lock_file(port);
            let victim = plant(shape, &path, whose, &folder);
            let begun = Instant::now();
            let answer = agent.reserve(&format!("port={port}"));
            // Whoever plants a readable file has lent one; root reads all.
            let usable = shape == "file" || shape == "unreadable file" && whose == User::Nobody;
            if usable {
                assert!(answer.held().leased, "{at}");
                agent.drop(port);
            } else {
                let message = answer.refused("Lease");
                assert!(message.contains(path.to_str().unwrap()), "{at}: {message}");
                // Waiting mends nothing, and any other number will do.
                agent
                    .reserve(&format!("port={port} wait=60000"))
                    .refused("Lease");
                let held = agent.reserve(&format!("prefer={port}")).held();
                assert!(held.leased && held.port() != port, "{at}: {held:?}");
                let message = agent
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
fn a_record_planted_by_another_user_is_not_taken_for_the_holders() {
    need!(capability::nobody());
    let folder = Folder::new();
    let (mut root, mut nobody) = (
        User::Root.agent(&folder.locks()),
        User::Nobody.agent(&folder.locks()),
    );
    root.reserve("").held();
    let port = quiet_number();
    let path = folder.lock_file(port);
    File::create(&path).unwrap();
    chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
    let held = root.reserve(&format!("port={port} label=true-one")).held();
    assert!(held.leased);
    let message = nobody.reserve(&format!("port={port}")).refused("InUse");
    assert!(message.contains("true-one"), "{message}");
    let lease = nobody.command(&format!("lease={port}"));
    assert!(lease.contains("true-one"), "{lease}");
    // The owner of the lock file cannot reach the record, which is root's.
    let record = record_text(&folder, port, "true-one");
    let about = std::fs::metadata(&record).unwrap();
    assert_eq!(about.uid(), 0, "{record:?}");
}

#[test]
fn a_planted_folder_of_records_is_not_followed_and_costs_the_record_alone() {
    need!(capability::nobody());
    for whose in [User::Nobody, User::Root] {
        for shape in SHAPES {
            for place in ["of all", "of its own"] {
                let at = format!("{shape} of {whose:?} as the folder of records {place}");
                let folder = Folder::new();
                let mut agent = whose.other().agent(&folder.locks());
                agent.reserve("").held();
                // A record goes beside the lock file where that is another user's.
                let port = quiet_number();
                let lock = folder.lock_file(port);
                File::create(&lock).unwrap();
                std::fs::set_permissions(&lock, Permissions::from_mode(0o644)).unwrap();
                whose.own(&lock);
                let records = folder.scope().with_extension("records");
                let user = if whose == User::Root { NOBODY } else { 0 };
                let path = if place == "of all" {
                    records.clone()
                } else {
                    records.join(user.to_string())
                };
                // A name with an extension stands for a file where links are planted.
                let aside = folder.path().join("planted");
                let victim = plant(shape, &aside, whose, &folder);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                if place == "of its own" {
                    std::fs::set_permissions(&records, Permissions::from_mode(0o1777)).unwrap();
                }
                std::fs::rename(&aside, &path).unwrap();

                let begun = Instant::now();
                let held = agent.reserve(&format!("port={port}")).held();
                assert_eq!(
                    (held.guarantee.as_str(), held.leased),
                    ("Kernel", true),
                    "{at}"
                );
                let mut other = whose.agent(&folder.locks());
                other.reserve(&format!("port={port}")).refused("InUse");
                assert!(
                    other
                        .command(&format!("lease={port}"))
                        .contains("is reserved by"),
                    "{at}"
                );
                agent.drop("all");
                assert!(begun.elapsed() < BOUND, "{at}: {:?}", begun.elapsed());
                untouched(&victim, &at);
            }
        }
    }
}
