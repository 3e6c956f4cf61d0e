//! What is left when every process has ended. It must be nothing but the empty lock folder.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::checker::binds_plainly;
use crate::clock::{SECOND, now};
use crate::place::{Place, is_alone};
use crate::processes::{User, command};

/// Runs a process that lists reservations. The list sweeps the files that its user left, and
/// creates none.
pub(crate) fn sweep() {
    let live = portlease::reservations().unwrap();
    assert!(live.is_empty(), "still reserved: {live:?}");
}

/// How long the last children may take to end, and the kernel to close their sockets.
const TIMEOUT: u64 = 20 * SECOND;

pub(crate) fn find(place: &Place) -> Vec<String> {
    let mut found = Vec::new();
    wait_until_none(&mut found, "processes are left", || processes(place.path()));
    if is_alone() {
        wait_until_none(&mut found, "sockets are left", sockets);
        wait_until_none(&mut found, "names are left", names);
    }
    found.extend(lock_files(place));
    found
}

fn wait_until_none(found: &mut Vec<String>, what: &str, find: impl Fn() -> Vec<String>) {
    let until = now() + TIMEOUT;
    loop {
        let left = find();
        if left.is_empty() {
            return;
        }
        if now() >= until {
            found.push(format!("{what}: {}", left[..left.len().min(10)].join(", ")));
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// The processes that run a program in the soak's folder.
fn processes(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let runs_program = |path: &PathBuf| {
        std::fs::read_link(path.join("exe")).is_ok_and(|exe| exe.starts_with(folder))
    };
    entries
        .map(|entry| entry.path())
        .filter(runs_program)
        .map(|path| path.display().to_string())
        .collect()
}

/// The sockets and unusable ports of the namespace, with the state of each socket as the kernel
/// numbers it. TIME_WAIT does not count.
fn sockets() -> Vec<String> {
    let mut left = Vec::new();
    let mut waiting = Vec::new();
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        let text = std::fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let port = words
                .get(1)
                .and_then(|local| u16::from_str_radix(local.rsplit(':').next()?, 16).ok());
            // 06 is TIME_WAIT.
            match (words.get(3), port) {
                (Some(&"06"), Some(port)) => waiting.push(port),
                (state, port) => left.push(format!("{table} {port:?} in state {state:?}")),
            }
        }
    }
    waiting.sort_unstable();
    left.extend(
        (1024..=u16::MAX)
            .filter(|port| waiting.binary_search(port).is_err() && !binds_plainly(*port))
            .map(|port| port.to_string()),
    );
    left
}

fn names() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once("@portlease/"))
        .map(|(_, name)| name.to_owned())
        .collect()
}

/// Lock files that are still locked, and files that no user's sweep deletes.
fn lock_files(place: &Place) -> Vec<String> {
    let mut found = Vec::new();
    let locks = place.locks();
    // The second user may have planted something in place of the folder.
    for path in [locks.clone()].into_iter().chain(files(&locks)) {
        let about = std::fs::symlink_metadata(&path);
        let is_planted = about
            .as_ref()
            .is_ok_and(|about| Some(about.uid()) == User::Hostile.id());
        if is_planted || about.is_err() {
            remove(&path);
        } else if path != locks
            && std::fs::File::open(&path).is_ok_and(|file| file.try_lock().is_err())
        {
            found.push(format!("{} is still locked", path.display()));
        }
    }
    for user in [User::Nobody, User::Own] {
        let swept = command(place, user).arg("sweep").output();
        match swept {
            Ok(output) if output.status.success() => {}
            other => found.push(format!("a sweep by {user:?} failed: {other:?}")),
        }
    }
    found.extend(
        files(&locks)
            .into_iter()
            .map(|path| format!("{} is left", path.display())),
    );
    found
}

fn remove(path: &Path) {
    let _gone = std::fs::remove_dir_all(path).or_else(|_| std::fs::remove_file(path));
}

/// Everything in the lock folder, at any depth, that is not one of the crate's folders.
fn files(locks: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![locks.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_crates = entry.file_type().is_ok_and(|kind| kind.is_dir())
                && (name.starts_with("net-") || name.parse::<u32>().is_ok());
            if is_crates {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files
}
