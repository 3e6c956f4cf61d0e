//! `reserve`, `list` and `release` with a lock folder in which no lock file can be created.

use std::process::Command;

use serde_json::Value;

use crate::program::{Ran, finish, plain};
use crate::support::{Folder, capability, need};

/// Runs `setup`, which makes lock files impossible in the lock folder. Then runs `script` with
/// `PORT` set to a port that `reserve` has reserved. Keepers are found within one network
/// namespace, so both run in a new one.
fn run_without_lock_files(setup: &str, script: &str) -> Ran {
    let folder = Folder::new();
    let mut sh = Command::new("unshare");
    if !crate::support::is_root() {
        sh.arg("-r");
    }
    let reserve = "PORT=$(\"$BIN\" reserve --for 10m) || exit 90; echo $PORT";
    let script = format!(
        "ip link set lo up\n{setup}\n{reserve}\n{script}\n\"$BIN\" release -q $PORT 2>&-; exit 0"
    );
    plain(
        sh.args(["-n", "-m", "sh", "-c", &script])
            .env("PORTLEASE_DIR", folder.locks()),
    );
    finish(&mut sh).code(0)
}

const READ_ONLY: &str = "mkdir \"$PORTLEASE_DIR\" && \
    mount -t tmpfs -o ro none \"$PORTLEASE_DIR\" || exit 91";

#[test]
fn a_reservation_without_a_lock_file_says_so_and_is_found_by_its_keeper() {
    need!(
        capability::mount_namespace(),
        capability::network_namespace()
    );
    let script = "\"$BIN\" list; \"$BIN\" list --json; \"$BIN\" release -v $PORT; \"$BIN\" list; \
                  \"$BIN\" release $PORT";
    let ran = run_without_lock_files(READ_ONLY, script);
    let lines: Vec<&str> = ran.out.lines().collect();
    let [port, heads, row, json, not_reserved] = lines[..] else {
        panic!("{ran:#?}");
    };
    assert!(heads.starts_with("PORT "), "{ran:#?}");
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!((cells[0], cells[1], cells[3]), (port, "tcp", "portlease"));
    let json: Value = serde_json::from_str(json).unwrap();
    assert_eq!(json["leases"][0]["port"].to_string(), port);
    assert_eq!(json["leases"][0]["pid"].to_string(), cells[2]);
    assert_eq!(
        not_reserved,
        format!("no reservation of port {port} was found")
    );
    let notes: Vec<&str> = ran.err.lines().collect();
    let [note, released, none] = notes[..] else {
        panic!("{ran:#?}");
    };
    let expected = format!("portlease: the reservation of {port} is not recorded: ");
    assert!(note.starts_with(&expected), "{ran:#?}");
    assert!(note.contains("cannot use the lock folder"), "{ran:#?}");
    assert_eq!(released, format!("portlease: released port {port}"));
    assert_eq!(none, "portlease: no reservation was found");
}

#[test]
fn a_lock_folder_that_cannot_be_read_hides_no_port_of_a_keeper() {
    need!(
        capability::mount_namespace(),
        capability::network_namespace()
    );
    let file = "echo a file >\"$PORTLEASE_DIR\"";
    let script = "\"$BIN\" list; echo $?; \"$BIN\" release $PORT; echo $?; \"$BIN\" list; echo $?; \
                  \"$BIN\" release $PORT; echo $?";
    let ran = run_without_lock_files(file, script);
    let lines: Vec<&str> = ran.out.lines().collect();
    let [port, _, row, list, release, list_again, release_again] = lines[..] else {
        panic!("{ran:#?}");
    };
    assert!(row.starts_with(port), "{ran:#?}");
    assert_eq!([list, release], ["0", "0"], "{ran:#?}");
    assert_eq!([list_again, release_again], ["3", "2"], "{ran:#?}");
    let errors = ran.err.matches("cannot use the lock folder").count();
    assert_eq!(errors, 4, "{ran:#?}");
}
