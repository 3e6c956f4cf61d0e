//! The list of reservations, and the sweep of the files that dead processes left.

use std::fs::File;

use portlease::ReserveOptions;

use crate::support::reserver::Reserver;
use crate::support::{Folder, own_locks};

#[test]
fn the_list_reads_the_records_of_live_processes_while_they_are_locked() {
    let mut other = Reserver::new(&own_locks());
    let port = other.reserve("label=theirs").held().port();
    let live = portlease::reservations().unwrap();
    let lease = live.iter().find(|lease| lease.port() == port).unwrap();
    assert_eq!(lease.pid(), Some(other.pid()));
    assert_eq!(lease.label(), Some("theirs"));
    assert!(
        lease.at().is_some_and(|at| at.contains("reserver.rs:")),
        "{lease:?}"
    );
    assert!(
        lease
            .program()
            .is_some_and(|program| program.contains("it-")),
        "{lease:?}"
    );
    let own = ReserveOptions::new().label("ours").reserve().unwrap();
    let live = portlease::reservations().unwrap();
    let lease = live
        .iter()
        .find(|lease| lease.port() == own.port())
        .unwrap();
    assert_eq!(
        (lease.pid(), lease.label()),
        (Some(std::process::id()), Some("ours"))
    );
    drop(own);
    other.process().kill();
    let live = portlease::reservations().unwrap();
    assert!(live.iter().all(|lease| lease.port() != port), "{live:?}");
}

#[test]
fn listing_reservations_sweeps_the_files_of_killed_processes() {
    let folder = Folder::new();
    let (mut killed, mut other) = (
        Reserver::new(&folder.locks()),
        Reserver::new(&folder.locks()),
    );
    let ports = killed.reserve("many=20").held().ports;
    let kept = other.reserve("").held().port();
    killed.process().kill();
    let left = || std::fs::read_dir(folder.scope()).unwrap().count();
    assert_eq!(left(), 21, "the control: the files are there");
    assert_eq!(other.command(&format!("lease={}", ports[0])), "none");
    assert_eq!(left(), 1);
    assert!(
        File::open(folder.lock_file(kept)).is_ok(),
        "the lock file of a live process stays"
    );
}
