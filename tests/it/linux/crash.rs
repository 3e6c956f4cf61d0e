//! `kill -9` at every system call of reserving and of releasing.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use portlease::ReserveOptions;

use crate::support::args::Args;
use crate::support::helper::{self, Launch};
use crate::support::ports::non_ephemeral_port;
use crate::support::reserver::Reserver;
use crate::support::{Folder, capability, need, print_line, test_name, was_killed};

/// The helper process: reserves and releases a port between two replies, which the trace shows too.
pub(crate) fn reserve_and_release(args: &Args) {
    let options = ReserveOptions::new()
        .port(args.number("port").unwrap())
        .label("crash");
    // strace counts the calls of each thread separately, and kills when any thread reaches the
    // count. These calls raise the counts of this thread above those of libtest's own thread. So
    // this thread is the first to reach the count of any call between the two replies.
    for _ in 0..30 {
        let _comm = std::fs::read("/proc/self/comm").unwrap();
        let _about = std::fs::metadata("/proc/self/comm").unwrap();
    }
    helper::reply("begin");
    let reserved = options.reserve();
    drop(reserved.unwrap());
    helper::reply("end");
}

#[test]
fn a_port_can_be_reserved_at_once_wherever_its_holder_was_killed_in_a_fresh_folder() {
    need!(capability::strace());
    kill_everywhere(test_name!(), |_, _| {});
}

#[test]
fn a_port_can_be_reserved_at_once_wherever_its_holder_was_killed_in_a_used_folder() {
    need!(capability::strace());
    kill_everywhere(test_name!(), |folder, port| {
        let mut before = Reserver::new(&folder.locks());
        before.reserve(&format!("port={port}")).held();
        before.release("all");
    });
}

fn kill_everywhere(test: &str, prepare: impl Fn(&Folder, u16)) {
    let begun = Instant::now();
    let port = non_ephemeral_port();
    let calls = traced_calls(port, &prepare);
    let (mut killed, mut slowest) = (0usize, Duration::ZERO);
    for (name, nth) in &calls {
        let folder = Folder::new();
        prepare(&folder, port);
        let inject = format!("inject={name}:signal=KILL:when={nth}");
        let trace = [
            "-f",
            "-o",
            "/dev/null",
            "-e",
            &format!("trace={name}"),
            "-e",
            &inject,
        ]
        .map(String::from);
        let crashed = Launch::new("crash", &folder.locks())
            .args(format!("port={port}"))
            .traced(trace)
            .start();
        let (status, replies) = crashed.finish();
        // The allocator does not always make the same calls, so not every kill happens.
        killed += usize::from(was_killed(status) && replies == ["begin"]);

        let at = format!("killed at {name} number {nth}");
        let mut next = Reserver::new(&folder.locks());
        let begun = Instant::now();
        let held = next.reserve(&format!("port={port}")).held();
        slowest = slowest.max(begun.elapsed());
        assert_eq!(
            (held.guarantee.as_str(), held.leased),
            ("Kernel", true),
            "{at}"
        );
        next.release("all");
        assert_only_unlocked_files_are_left(&folder, &at);
        assert_eq!(next.command("lease=1"), "none");
        let left = std::fs::read_dir(folder.scope()).unwrap().count();
        assert_eq!(left, 0, "{at}: left by the sweep of a list");
    }
    print_line(&format!(
        "{test}: {} system calls, {killed} kills between them, then reserved within \
         {slowest:?}, in all {:?}",
        calls.len(),
        begun.elapsed()
    ));
    // The number of calls varies more on a busy machine than on an idle one.
    assert!(
        killed * 4 >= calls.len() * 3,
        "{killed} kills only, of {} calls",
        calls.len()
    );
    assert!(
        slowest < Duration::from_secs(2),
        "reserved after {slowest:?}"
    );
}

/// The calls between `begin` and `end`: the name of each, and its count among the calls of that
/// name in its thread.
fn traced_calls(port: u16, prepare: &impl Fn(&Folder, u16)) -> Vec<(String, usize)> {
    let folder = Folder::new();
    prepare(&folder, port);
    let file = folder.path().join("trace");
    let trace = ["-f", "-s", "64", "-o", file.to_str().unwrap()].map(String::from);
    Launch::new("crash", &folder.locks())
        .args(format!("port={port}"))
        .traced(trace)
        .start()
        .succeed();
    let text = std::fs::read_to_string(&file).unwrap();
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut calls = Vec::new();
    let mut within = false;
    for line in text.lines() {
        let Some((pid, rest)) = line.trim_start().split_once(' ') else {
            continue;
        };
        let Some((name, arguments)) = rest.trim_start().split_once('(') else {
            continue;
        };
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            continue;
        }
        let nth = counts.entry((pid, name)).or_default();
        *nth += 1;
        if name == "write" && arguments.contains("@@ end") {
            break;
        }
        if within {
            calls.push((name.to_owned(), *nth));
        }
        within |= name == "write" && arguments.contains("@@ begin");
    }
    assert!(calls.len() > 10, "the trace shows {calls:?} only");
    calls
}

/// Asserts that the crate's folders contain only lock files. Some of these files may still have
/// their temporary name. No process has any of the files locked.
fn assert_only_unlocked_files_are_left(folder: &Folder, at: &str) {
    let list = |path: &Path| -> Vec<_> {
        std::fs::read_dir(path)
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap())
            .collect()
    };
    for entry in list(folder.path()) {
        assert_eq!(
            entry.file_name(),
            "portlease",
            "{at}: left beside the lock folder"
        );
    }
    let scope = folder.scope();
    for entry in list(&folder.locks()) {
        assert_eq!(entry.path(), scope, "{at}: left in the lock folder");
    }
    for entry in list(&scope) {
        let name = entry.file_name().into_string().unwrap();
        let is_ours = name.ends_with(".tcp") || name.starts_with(".portlease-");
        assert!(is_ours, "{at}: {name} left");
        let file = File::open(entry.path()).unwrap();
        let locked = file.try_lock();
        assert!(locked.is_ok(), "{at}: {name} is still locked: {locked:?}");
        // A child that another test has forked meanwhile would keep the lock until it calls exec.
        file.unlock().unwrap();
    }
}
