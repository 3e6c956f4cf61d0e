//! Children that are forked while their parent checks a lock file.

use std::sync::atomic::{AtomicBool, Ordering};

use portlease::ReserveOptions;

use crate::support::fork::{self, ForkedChild};
use crate::support::helper::{self, Launch};
use crate::support::ports::non_ephemeral_port;
use crate::support::{DEADLINE, Folder, capability, eventually, need, print_line, test_name};

/// How many children are to have the lock file open.
const CHILDREN: usize = 10;

#[test]
fn a_check_while_children_are_forked_leaves_no_lock_behind() {
    need!(capability::native());
    let folder = Folder::new();
    let replies = Launch::new("checks-while-forking", &folder.locks())
        .start()
        .succeed();
    print_line(&format!("{}: {}", test_name!(), replies.join(" ")));
}

/// A check opens and closes the lock file. A child that is forked in between has the file open too,
/// and never calls exec.
pub(crate) fn check_while_forking() {
    let port = non_ephemeral_port();
    let exactly = || ReserveOptions::new().port(port).udp();
    // The release leaves the lock file in place.
    drop(exactly().reserve().unwrap());
    let stopped = AtomicBool::new(false);
    let (mut forked, mut children) = (0, Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stopped.load(Ordering::Relaxed) {
                portlease::is_port_free(format!("{port}/udp").as_str());
            }
        });
        let name = format!("/{port}.udp");
        eventually("children have the lock file open", DEADLINE, || {
            let child = fork::idle_child();
            forked += 1;
            if has_open(&child, &name) {
                children.push(child);
            }
            match children.len() {
                CHILDREN.. => Ok(()),
                count => Err(format!("{count} of {forked}")),
            }
        });
        stopped.store(true, Ordering::Relaxed);
    });
    let p = exactly().reserve();
    assert!(p.is_ok(), "beside {CHILDREN} children: {p:?}");
    helper::reply(&format!("{CHILDREN} of {forked} children had it open"));
}

fn has_open(child: &ForkedChild, name: &str) -> bool {
    let files = std::fs::read_dir(format!("/proc/{}/fd", child.pid())).unwrap();
    files
        .flatten()
        .filter_map(|file| std::fs::read_link(file.path()).ok())
        .any(|path| path.to_string_lossy().ends_with(name))
}
