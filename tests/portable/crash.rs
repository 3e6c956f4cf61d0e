//! A process that is killed leaves nothing behind that is in the way, and a folder may go.

use portlease::{ErrorKind, ReserveOptions};

use crate::agent::Agent;
use crate::support::Folder;

#[test]
fn a_killed_holder_keeps_nobody_out() {
    for how in ["tcp", "udp", "pair"] {
        let mut victim = Agent::new();
        let port = victim.reserve(how)[0];
        let again = || {
            let options = match how {
                "udp" => ReserveOptions::new().udp(),
                "pair" => ReserveOptions::new().tcp_and_udp(),
                _ => ReserveOptions::new(),
            };
            options.port(port).reserve()
        };
        assert_eq!(again().unwrap_err().kind(), ErrorKind::InUse, "{how}: the control");
        victim.kill();
        assert_eq!(again().unwrap().port(), port, "{how}");
    }
}

#[test]
fn what_a_killed_holder_left_is_listed_no_more_and_swept() {
    let folder = Folder::new();
    let mut victim = Agent::in_folder(&folder);
    let port = victim.reserve("")[0];
    assert!(folder.lock_file(port).exists());
    victim.kill();
    // The list of another process sweeps.
    let mut other = Agent::in_folder(&folder);
    let answer = other.command("list");
    assert_eq!(answer, "live=");
    assert!(!folder.lock_file(port).exists());
    other.end();
}

#[test]
fn a_lock_folder_that_is_deleted_is_made_again() {
    let folder = Folder::new();
    let mut agent = Agent::in_folder(&folder);
    let port = agent.reserve("")[0];
    assert_eq!(agent.command(&format!("drop port={port}")), "dropped");
    std::fs::remove_dir_all(folder.locks()).unwrap();
    agent.reserve(&format!("port={port}"));
    assert!(folder.lock_file(port).exists());
    let mut other = Agent::in_folder(&folder);
    let answer = other.command(&format!("reserve port={port}"));
    assert!(answer.starts_with("refused InUse"), "{answer}");
}

#[test]
fn a_folder_in_the_place_of_a_lock_file_is_named_and_passed_over() {
    let folder = Folder::new();
    let mut agent = Agent::in_folder(&folder);
    let port = agent.reserve("")[0];
    assert_eq!(agent.command(&format!("drop port={port}")), "dropped");
    std::fs::remove_file(folder.lock_file(port)).unwrap();
    std::fs::create_dir(folder.lock_file(port)).unwrap();
    let answer = agent.command(&format!("reserve port={port}"));
    assert!(answer.starts_with("refused Lease cannot lock "), "{answer}");
    assert!(answer.contains(&format!("{port}.tcp")), "{answer}");
    agent.reserve("many=20");
}
