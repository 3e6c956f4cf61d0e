//! Records: torn, of any bytes, and of an earlier process with the same pid.

use std::cell::RefCell;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::test_runner::{Config, TestRunner};

use crate::support::Folder;
use crate::support::ports::non_ephemeral_port;
use crate::support::reserver::Reserver;

#[test]
fn a_record_that_cannot_be_read_leaves_the_lease_in_force() {
    let folder = Folder::new();
    let (mut holder, mut other) = (
        Reserver::new(&folder.locks()),
        Reserver::new(&folder.locks()),
    );
    let port = holder.reserve("label=whole").held().port();
    let exactly = format!("port={port}");
    let message = other.reserve(&exactly).refused("InUse");
    assert!(message.contains("whole"), "{message}");
    let path = folder.lock_file(port);
    let whole = std::fs::read(&path).unwrap();
    let newer =
        String::from_utf8(whole.clone())
            .unwrap()
            .replacen("portlease 1 ", "portlease 2 ", 1);
    let torn = [&whole[..100], &[b'\n'; 100][..]].concat();
    let broken: [(&str, &[u8]); 7] = [
        ("empty", b""),
        ("torn", &torn),
        ("cut short", &whole[..40]),
        ("not UTF-8", b"portlease 1 \xff\xfe\xfd\n"),
        ("newer", newer.as_bytes()),
        ("not a record", b"#!/bin/sh\nexit 1\n"),
        ("huge", &[b'x'; 1 << 20]),
    ];
    for (what, bytes) in broken {
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(0).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        let begun = Instant::now();
        let message = other.reserve(&exactly).refused("InUse");
        assert!(!message.contains("whole"), "{what}: {message}");
        let lease = format!(
            "{port}/tcp is reserved by an unknown process: the reservation has no readable record"
        );
        assert_eq!(other.command(&format!("lease={port}")), lease, "{what}");
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{what}: {:?}",
            begun.elapsed()
        );
    }
    holder.release(port);
    // A broken record without a lock is overwritten.
    other.reserve(&format!("{exactly} label=next")).held();
    let message = holder.reserve(&exactly).refused("InUse");
    assert!(message.contains("next"), "{message}");
}

/// The kernel's lock on the file decides. What the file says does not: any process that can write
/// to it can make it say anything.
#[test]
fn no_bytes_in_a_lock_file_create_or_end_a_lease() {
    let folder = Folder::new();
    let (mut holder, other) = (
        Reserver::new(&folder.locks()),
        RefCell::new(Reserver::new(&folder.locks())),
    );
    let held = holder.reserve("label=whole").held().port();
    let (path, unlocked) = (folder.lock_file(held), non_ephemeral_port());
    let whole = std::fs::read(&path).unwrap();
    let bytes = (
        proptest::collection::vec(proptest::num::u8::ANY, 0..2200),
        proptest::bool::ANY,
        0..2048usize,
    );
    let mut runner = TestRunner::new(Config {
        cases: 150,
        failure_persistence: None,
        ..Config::default()
    });
    let outcome = runner.run(&bytes, |(mut bytes, is_changed, at)| {
        if is_changed {
            // The record of a live process, with some bytes changed.
            let tail = bytes.split_off(bytes.len().min(3));
            let changed = std::mem::take(&mut bytes);
            bytes = whole.clone();
            bytes[at..]
                .iter_mut()
                .zip(changed)
                .for_each(|(byte, other)| *byte = other);
            bytes.extend(tail);
        }
        std::fs::write(&path, &bytes).unwrap();
        let lease = other.borrow_mut().command(&format!("lease={held}"));
        assert!(
            lease.starts_with(&format!("{held}/tcp is reserved by ")),
            "{lease}"
        );
        assert!(!lease.contains(char::is_control), "{lease:?}");
        std::fs::write(folder.lock_file(unlocked), &bytes).unwrap();
        assert_eq!(
            other.borrow_mut().command(&format!("lease={unlocked}")),
            "none"
        );
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    let mut other = other.into_inner();
    other.reserve(&format!("port={held}")).refused("InUse");
    other.reserve(&format!("port={unlocked}")).held();
}

/// Rewrites the record so that `field` names an earlier process with the same pid.
fn age(path: &Path, field: &str, pid: u32) {
    let text = std::fs::read_to_string(path).unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("{field} ")))
        .unwrap_or_else(|| panic!("{text}"));
    let (kept, started) = line.rsplit_once(' ').unwrap();
    let before = started.parse::<u64>().unwrap() - 1;
    assert!(
        field == "started" || kept.ends_with(&format!(" {pid}")),
        "{line}"
    );
    std::fs::write(path, text.replacen(line, &format!("{kept} {before}"), 1)).unwrap();
}

#[test]
fn a_reservation_of_an_earlier_process_with_an_ancestors_pid_is_not_our_own() {
    let folder = Folder::new();
    let mut reserver = Reserver::new(&folder.locks());
    let port = reserver.reserve("").held().port();
    let is_free = |reserver: &mut Reserver| reserver.command(&format!("child-free={port}"));
    assert_eq!(
        is_free(&mut reserver),
        "true",
        "the control: it is the reservation of the child's parent"
    );
    age(&folder.lock_file(port), "started", reserver.pid());
    assert_eq!(is_free(&mut reserver), "false");
}

#[test]
fn a_reservation_for_an_earlier_process_with_our_pid_is_not_our_own() {
    let folder = Folder::new();
    let (mut keeper, mut caller) = (
        Reserver::new(&folder.locks()),
        Reserver::new(&folder.locks()),
    );
    let port = keeper
        .reserve(&format!("for={}", caller.pid()))
        .held()
        .port();
    let free = format!("free={port}");
    assert_eq!(
        caller.command(&free),
        "true",
        "the control: the reservation is on its behalf"
    );
    age(&folder.lock_file(port), "for", caller.pid());
    assert_eq!(caller.command(&free), "false");
    assert_eq!(caller.command(&format!("child-free={port}")), "false");
}
