//! Two users with one lock folder.

use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::ports::non_ephemeral_port;
use crate::support::reserver::Reserver;
use crate::support::{Folder, capability, need};

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
        // The lock file now belongs to the other user.
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
