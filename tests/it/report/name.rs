//! Process names that are not plain text.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use crate::support::reserver::Reserver;
use crate::support::{DEADLINE, Folder, eventually};

#[test]
fn a_process_name_with_line_ends_and_escapes_stays_on_its_line() {
    let folder = Folder::new();
    let mut reserver = Reserver::new(&folder.locks());
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = "printf 'a) \\033[2J\\n(b' > /proc/$$/comm; read x";
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(OwnedFd::from(listener));
    let mut child = command.spawn().unwrap();
    // Until it is dropped, the `Command` keeps the socket open in this process too.
    drop(command);
    let escaped = "a) \\u{1b}[2J\\n(b";
    for question in [format!("who={port}"), format!("check={port}")] {
        eventually("the report names the process", DEADLINE, || {
            // A reply is one line, with its line ends escaped.
            let report = reserver.command(&question);
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
