//! PostgreSQL: a database, the server, and the first message of a client.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::is_root;
use crate::support::program::command;

/// As root, runs the program as nobody: PostgreSQL refuses to run as root.
fn unprivileged(program: &str, args: &[&str]) -> Command {
    let own = command(program, args);
    if !is_root() {
        return own;
    }
    let mut setpriv = Command::new("setpriv");
    setpriv
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(own.get_program())
        .args(own.get_args());
    setpriv
}

/// Makes a database in the folder `data` of this folder.
pub(super) fn make_database(folder: &Path) {
    let args = [
        "--auth=trust",
        "--username=postgres",
        "--no-locale",
        "--no-sync",
        "-D",
        "data",
    ];
    let output = unprivileged("initdb", &args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// The command that starts the server. Its working directory must be the folder of the database.
pub(super) fn server(port: &str) -> Command {
    let args = ["-D", "data", "-h", "127.0.0.1", "-k", "", "-F", "-p", port];
    unprivileged("postgres", &args)
}

/// A start-up message of protocol 3.0, after its length in network byte order.
pub(super) fn startup() -> Vec<u8> {
    let startup = b"\0\x03\0\0user\0postgres\0database\0postgres\0\0";
    let mut message = (startup.len() as u32 + 4).to_be_bytes().to_vec();
    message.extend_from_slice(startup);
    message
}
