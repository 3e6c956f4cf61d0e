//! The lock folder: deleted, obstructed, littered.

use std::fs::File;

use crate::agent::Agent;
use crate::support::Folder;

#[test]
#[cfg_attr(windows, ignore = "a file that somebody has open cannot be deleted")]
fn whoever_only_looks_finds_the_lock_folder_that_was_made_again() {
    let folder = Folder::new();
    let (mut holder, mut looker) = (Agent::new(&folder.locks()), Agent::new(&folder.locks()));
    let lease = |looker: &mut Agent, port: u16| looker.command(&format!("lease={port}"));
    let port = holder.reserve("label=before").held().port();
    assert!(lease(&mut looker, port).contains("before"));
    std::fs::remove_dir_all(folder.locks()).unwrap();
    assert_eq!(
        lease(&mut looker, port),
        "none",
        "the control: the lease went with the folder"
    );
    let port = holder.reserve("udp=1 label=after").held().port();
    assert!(lease(&mut looker, port).contains("after"));
    let report = looker.command(&format!("check={port}/udp"));
    assert!(report.contains("after"), "{report}");
}

#[test]
fn a_lock_folder_that_is_deleted_is_made_again() {
    let folder = Folder::new();
    let mut agent = Agent::new(&folder.locks());
    let port = agent.reserve("").held().port();
    agent.drop(port);
    std::fs::remove_dir_all(folder.locks()).unwrap();
    agent.reserve(&format!("port={port}")).held();
    assert!(folder.lock_file(port).exists());
    let mut other = Agent::new(&folder.locks());
    other.reserve(&format!("port={port}")).refused("InUse");
}

#[test]
fn a_folder_in_the_place_of_a_lock_file_is_named_and_passed_over() {
    let folder = Folder::new();
    let mut agent = Agent::new(&folder.locks());
    let port = agent.reserve("").held().port();
    agent.drop(port);
    std::fs::remove_file(folder.lock_file(port)).unwrap();
    std::fs::create_dir(folder.lock_file(port)).unwrap();
    let message = agent.reserve(&format!("port={port}")).refused("Lease");
    assert!(
        message.starts_with("cannot lock ") && message.contains(&format!("{port}.tcp")),
        "{message}"
    );
    agent.reserve("many=20").held();
}

#[test]
fn the_files_that_killed_processes_left_are_swept_by_a_look() {
    let folder = Folder::new();
    let (mut killed, mut other) = (Agent::new(&folder.locks()), Agent::new(&folder.locks()));
    let ports = killed.reserve("many=20").held().ports;
    let kept = other.reserve("").held().port();
    killed.process().kill();
    let left = || std::fs::read_dir(folder.scope()).unwrap().count();
    assert_eq!(left(), 21, "the control: they are left");
    assert_eq!(other.command(&format!("lease={}", ports[0])), "none");
    assert_eq!(left(), 1);
    assert!(
        File::open(folder.lock_file(kept)).is_ok(),
        "a live one's stays"
    );
}
