//! Who a process is: its number, its name, and what it left written about itself.

use std::cell::RefCell;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use proptest::test_runner::{Config, TestRunner};

use crate::agent::Agent;
use crate::numbers::quiet_number;
use crate::support::{DEADLINE, Folder, eventually};

/// What decides is the lock, and the kernel has that; whoever can write to the file can make it say anything.
#[test]
fn no_bytes_in_a_lock_file_make_a_lease_and_none_end_one() {
    let folder = Folder::new();
    let (mut holder, other) = (
        Agent::new(&folder.locks()),
        RefCell::new(Agent::new(&folder.locks())),
    );
    let held = holder.reserve("label=whole").held().port();
    let (path, nobodys) = (folder.lock_file(held), quiet_number());
    let whole = std::fs::read(&path).unwrap();
    let bytes = (
        proptest::collection::vec(proptest::num::u8::ANY, 0..1100),
        proptest::bool::ANY,
        0..1024usize,
    );
    let mut runner = TestRunner::new(Config {
        cases: 150,
        failure_persistence: None,
        ..Config::default()
    });
    let outcome = runner.run(&bytes, |(mut bytes, is_changed, at)| {
        if is_changed {
            // Of a live process, all but for some bytes.
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
        std::fs::write(folder.lock_file(nobodys), &bytes).unwrap();
        assert_eq!(
            other.borrow_mut().command(&format!("lease={nobodys}")),
            "none"
        );
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    let mut other = other.into_inner();
    other.reserve(&format!("port={held}")).refused("InUse");
    other.reserve(&format!("port={nobodys}")).held();
}

/// As if an earlier process with its number had written the record.
fn age(path: &std::path::Path, field: &str, pid: u32) {
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
fn a_reservation_of_an_earlier_process_with_an_ancestors_number_is_not_ones_own() {
    let folder = Folder::new();
    let mut agent = Agent::new(&folder.locks());
    let port = agent.reserve("").held().port();
    let asked = |agent: &mut Agent| agent.command(&format!("child-free={port}"));
    assert_eq!(asked(&mut agent), "true", "the control: it is its parent's");
    age(&folder.lock_file(port), "started", agent.pid());
    assert_eq!(asked(&mut agent), "false");
}

#[test]
fn a_reservation_for_an_earlier_process_with_ones_own_number_is_not_ones_own() {
    let folder = Folder::new();
    let (mut keeper, mut caller) = (Agent::new(&folder.locks()), Agent::new(&folder.locks()));
    let port = keeper
        .reserve(&format!("for={}", caller.pid()))
        .held()
        .port();
    let free = format!("free={port}");
    assert_eq!(
        caller.command(&free),
        "true",
        "the control: it is kept for it"
    );
    age(&folder.lock_file(port), "for", caller.pid());
    assert_eq!(caller.command(&free), "false");
    assert_eq!(caller.command(&format!("child-free={port}")), "false");
}

#[test]
fn a_name_with_brackets_line_ends_and_escapes_makes_no_line_of_its_own() {
    let folder = Folder::new();
    let mut agent = Agent::new(&folder.locks());
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = "printf 'a) \\033[2J\\n(b' > /proc/$$/comm; read x";
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(OwnedFd::from(listener));
    let mut child = command.spawn().unwrap();
    // The command has the socket too.
    drop(command);
    let escaped = "a) \\u{1b}[2J\\n(b";
    for question in [format!("who={port}"), format!("check={port}")] {
        eventually("the name", DEADLINE, || {
            // The answer comes in one line, its line ends escaped.
            let report = agent.command(&question);
            assert!(!report.contains('\u{1b}'), "{report:?}");
            if report.contains(&format!("{escaped} (pid {})", child.id())) {
                Ok(())
            } else {
                Err(report)
            }
        });
    }
    drop(child.stdin.take());
    child.wait().unwrap();
}
