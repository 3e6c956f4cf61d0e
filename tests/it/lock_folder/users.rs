//! Two users with one lock folder.

use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::ports::non_ephemeral_port;
use crate::support::reserver::Reserver;
use crate::support::{Folder, capability, need, set_mode};

/// The user id of nobody, and its group id.
pub(super) const NOBODY: u32 = 65534;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum User {
    Root,
    Nobody,
}

impl User {
    pub(super) fn other(self) -> User {
        match self {
            User::Root => User::Nobody,
            User::Nobody => User::Root,
        }
    }

    pub(super) fn reserver(self, locks: &Path) -> Reserver {
        let launch = Reserver::launch(locks);
        Reserver::start(match self {
            User::Root => launch,
            User::Nobody => launch.run_as_nobody(),
        })
    }

    /// Makes this user the owner of what is at `path`.
    pub(super) fn own(self, path: &Path) {
        let id = if self == User::Root { 0 } else { NOBODY };
        lchown(path, Some(id), Some(id)).unwrap();
    }
}

/// The file with the record of a live lease, found as a person would find it: the lock file, or a
/// file in the user's folder beside it.
pub(super) fn record_path(folder: &Folder, port: u16, label: &str) -> PathBuf {
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
        let port = non_ephemeral_port();
        let (mut one, mut two) = (
            first.reserver(&folder.locks()),
            first.other().reserver(&folder.locks()),
        );
        let refused_by = |refused: &mut Reserver, holder: &Reserver, label: &str| {
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
            let path = record_path(&folder, port, label);
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
        one.release(port);
        // The lock file still belongs to the first user.
        let held = two
            .reserve(&format!("port={port} label=of-the-second"))
            .held();
        assert!(held.leased, "{first:?} first");
        refused_by(&mut one, &two, "of-the-second");
        two.release(port);
        one.reserve(&format!("port={port}")).held();
    }
}

/// The record is beside a lock file of another user, who deletes the lock file and does not know of
/// the record.
#[test]
fn a_record_without_its_lock_file_is_swept_when_its_user_lists_reservations() {
    need!(capability::nobody());
    let folder = Folder::new();
    let (mut root, mut nobody) = (
        User::Root.reserver(&folder.locks()),
        User::Nobody.reserver(&folder.locks()),
    );
    let [dead, live] = [(); 2].map(|()| {
        let port = root.reserve("").held().port();
        root.release(port);
        nobody
            .reserve(&format!("port={port} label=number-{port}"))
            .held();
        record_path(&folder, port, &format!("number-{port}"))
    });
    let [port, kept] =
        [&dead, &live].map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned());
    nobody.release(&port);
    std::fs::remove_file(folder.lock_file(port.parse().unwrap())).unwrap();
    assert!(dead.exists() && live.exists(), "the control");
    let lease = nobody.command(&format!("lease={kept}"));
    assert!(lease.contains(&format!("number-{kept}")), "{lease}");
    assert!(!dead.exists(), "{} is left", dead.display());
    assert!(live.exists(), "{} belongs to a live lease", live.display());
}

#[test]
fn a_umask_of_077_excludes_no_other_user() {
    need!(capability::nobody());
    let folder = Folder::new();
    let mut one = Reserver::start(Reserver::launch(&folder.locks()).setup("umask 077"));
    let mut two = User::Nobody.reserver(&folder.locks());
    let held = one.reserve("label=private").held();
    let message = two
        .reserve(&format!("port={}", held.port()))
        .refused("InUse");
    assert!(message.contains("private"), "{message}");
    one.release("all");
    let again = two.reserve(&format!("port={}", held.port())).held();
    assert!(again.leased);
}

/// strace kills the process at fchmod(2), which gives a new lock file its mode.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "strace")]
fn a_process_killed_while_it_creates_a_lock_file_leaves_none_that_others_cannot_open() {
    need!(capability::nobody());
    need!(capability::strace());
    let folder = Folder::new();
    let mut other = User::Nobody.reserver(&folder.locks());
    let port = non_ephemeral_port();
    // This creates the folders, so that the first fchmod of the killed process is for a file.
    other.reserve("").held();
    let kill = ["-f", "-qq", "-e", "signal=none", "-e", "trace=fchmod"];
    let inject = ["-e", "inject=fchmod:signal=SIGKILL"];
    let args = kill.into_iter().chain(inject).map(str::to_owned);
    let launch = Reserver::launch(&folder.locks()).setup("umask 077");
    let mut killed = Reserver::start(launch.traced(args));
    let request = format!("reserve port={port}");
    killed.process().send(&request);
    while killed.process().receive_or_end().is_some() {}
    let staged = || {
        let names = std::fs::read_dir(folder.scope()).unwrap().flatten();
        let mut names = names.map(|entry| entry.file_name().into_string().unwrap());
        names.any(|name| name.starts_with(".portlease-"))
    };
    assert!(
        staged(),
        "the control: it was killed while it created the file"
    );
    other.reserve(&format!("port={port}")).held();
    // A list sweeps what the killed process left.
    User::Root.reserver(&folder.locks()).command("lease=1");
    assert!(!staged());
}

/// A process of the file's owner may have locked it.
#[test]
fn a_lock_file_that_cannot_be_read_counts_as_a_reservation() {
    need!(capability::nobody());
    let folder = Folder::new();
    let mut root = User::Root.reserver(&folder.locks());
    let port = root.reserve("udp= label=secret").held().port();
    set_mode(&folder.lock_file(port).with_extension("udp"), 0o600);
    let mut nobody = User::Nobody.reserver(&folder.locks());
    let lease = nobody.command(&format!("lease={port}"));
    assert!(lease.starts_with(&port.to_string()), "{lease}");
    assert!(!lease.contains("secret"), "{lease}");
    let check = nobody.command(&format!("check={port}/udp"));
    assert!(
        check.contains("an unknown process: the reservation has no readable record"),
        "{check}"
    );
    let message = nobody
        .reserve(&format!("port={port} udp="))
        .refused("Lease");
    assert!(
        message.contains("expected a regular file that every user can open"),
        "{message}"
    );
}

#[test]
fn a_portlease_dir_that_is_a_link_is_followed_if_it_belongs_to_this_user_or_to_root() {
    need!(capability::nobody());
    for owner in [User::Root, User::Nobody] {
        for user in [User::Root, User::Nobody] {
            let folder = Folder::new();
            let link = folder.path().join("link");
            let mut direct = User::Root.reserver(&folder.locks());
            direct.reserve("").held();
            std::os::unix::fs::symlink(folder.locks(), &link).unwrap();
            owner.own(&link);
            let mut reserver = user.reserver(&link);
            let trusted = owner == User::Root || user == owner;
            let held = reserver.reserve("").held();
            assert_eq!(held.leased, trusted, "link of {owner:?}, used by {user:?}");
            if !trusted {
                reserver.reserve("udp=").refused("Lease");
            }
        }
    }
}

/// The folder of a network namespace is sticky: a file is deleted by its owner, by the owner of the
/// folder, and by root (unlink(2)).
#[test]
fn a_lock_file_is_deleted_only_by_its_owner_root_and_the_user_that_made_the_namespaces_folder() {
    need!(capability::nobody());
    let delete_as_nobody = |path: &Path| {
        let deleted = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .args(["rm", "-f"])
            .arg(path)
            .output();
        deleted.unwrap().status.success()
    };
    for first in [User::Root, User::Nobody] {
        let folder = Folder::new();
        // In both cases root made the lock folder.
        User::Root.reserver(&folder.locks()).reserve("").held();
        std::fs::remove_dir_all(folder.scope()).unwrap();
        first.reserver(&folder.locks()).reserve("").held();
        let mut root = User::Root.reserver(&folder.locks());
        let port = non_ephemeral_port();
        root.reserve(&format!("udp= port={port} label=of-root"))
            .held();
        let lock = folder.scope().join(format!("{port}.udp"));
        assert_eq!(delete_as_nobody(&lock), first == User::Nobody, "{first:?}");
        assert_eq!(lock.exists(), first == User::Root, "{first:?}");
        // The number stays reserved even without its lock file.
        let mut nobody = User::Nobody.reserver(&folder.locks());
        let again = format!("udp= port={port}");
        nobody.reserve(&again).refused("InUse");
        assert_eq!(nobody.command(&format!("free={port}/udp")), "false");
        root.release("all");
        nobody.reserve(&again).held();
    }
}

/// Rewrites the process that a record names in `field`, with this pid and start time.
fn name_process(path: &Path, field: &str, pid: u32, started: u64) {
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text
        .lines()
        .filter_map(|line| match line.split(' ').next() {
            Some("pid") if field == "pid" => Some(format!("pid {pid}")),
            Some("started") if field == "pid" => Some(format!("started {started}")),
            Some("pid") => Some(format!("for {pid} {started}\n{line}")),
            Some("for") => None,
            _ => Some(line.to_owned()),
        });
    let text = lines.collect::<Vec<_>>().join("\n");
    let padded = text.trim_end().to_owned() + &"\n".repeat(2048 - text.trim_end().len());
    std::fs::write(path, padded).unwrap();
}

/// The start time of a process as its record states it.
fn started(reserver: &mut Reserver, folder: &Folder) -> u64 {
    let port = reserver.reserve("label=of-its-own").held().port();
    let text = std::fs::read_to_string(folder.lock_file(port)).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("started "));
    line.unwrap().parse().unwrap()
}

#[test]
fn a_record_of_another_user_that_names_our_process_makes_nothing_free() {
    need!(capability::nobody());
    let folder = Folder::new();
    let (mut root, mut nobody) = (
        User::Root.reserver(&folder.locks()),
        User::Nobody.reserver(&folder.locks()),
    );
    let root_started = started(&mut root, &folder);
    for protocol in ["udp", "tcp"] {
        for field in ["pid", "for"] {
            let hostile = nobody
                .reserve(&format!("{protocol}= range=20000-29999"))
                .held();
            let file = format!("{}.{protocol}", hostile.port());
            let path = folder.scope().join(&file);
            let free = format!("free={}/{protocol}", hostile.port());
            for (pid, started) in [
                (1, 0),
                (std::process::id(), 0),
                (root.pid(), 0),
                (root.pid(), root_started),
            ] {
                name_process(&path, field, pid, started);
                let what = format!("{protocol}: {field} {pid} {started}");
                assert_eq!(root.command(&free), "false", "{what}");
                assert_eq!(root.command(&format!("child-{free}")), "false", "{what}");
            }
            nobody.release("all");
            // The control: the same values in a record of this user. Only the record can make this
            // reservation the child's own.
            let own = root
                .reserve(&format!("{protocol}= range=20000-29999"))
                .held();
            let path = folder.scope().join(format!("{}.{protocol}", own.port()));
            name_process(&path, field, root.pid(), root_started);
            let free = format!("child-free={}/{protocol}", own.port());
            assert_eq!(root.command(&free), "true", "{protocol}: {field}");
        }
    }
}
