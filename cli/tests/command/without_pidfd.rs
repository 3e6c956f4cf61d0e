//! Kernels without pidfds: Linux before 5.3, and gVisor. strace makes pidfd_open(2) fail as on
//! these kernels.

use std::process::Command;

use crate::keepers::{Sleeper, ends, keeper, number};
use crate::program::{BINARY, Running, becomes_free, finish, plain};
use crate::support::{Folder, capability, need};

fn traced(error: &str, args: &[&str]) -> Command {
    let mut command = Command::new("strace");
    let inject = format!("inject=pidfd_open:error={error}");
    // Without `-f`, strace does not trace the keeper. `reserve` passes it no pidfd, so the keeper
    // opens the process itself.
    command
        .args(["-o", "/dev/null", "-e", &inject, BINARY])
        .args(args);
    plain(&mut command);
    command
}

#[test]
fn a_keeper_ends_with_its_process() {
    need!(capability::strace());
    for error in ["ENOSYS", "EPERM"] {
        let (folder, mut sleeper) = (Folder::new(), Sleeper::new());
        let args = ["reserve", "--pid", &sleeper.pid()];
        let port =
            number(&finish(traced(error, &args).env("PORTLEASE_DIR", folder.locks())).code(0));
        let keeper = keeper(&folder, port);
        // The sleeper becomes a zombie: this test reaps it only at the end.
        sleeper.0.kill().unwrap();
        ends(keeper);
        becomes_free(port, &folder);
    }
}

#[test]
fn a_wait_ends_with_its_process_and_a_missing_process_is_an_error() {
    need!(capability::strace());
    let mut sleeper = Sleeper::new();
    let port = portlease::reserve_port();
    let number = port.to_string();
    let args = [
        "wait",
        "--listening",
        "--timeout",
        "10m",
        "--pid",
        &sleeper.pid(),
        &number,
    ];
    let waiting = Running::start(&mut traced("ENOSYS", &args));
    sleeper.0.kill().unwrap();
    let ran = waiting.finish().code(2);
    assert!(ran.out.contains("is not held by"), "{ran:#?}");
    sleeper.0.wait().unwrap();
    let args = ["reserve", "--pid", &sleeper.pid()];
    let ran = finish(&mut traced("ENOSYS", &args)).code(2);
    assert!(ran.err.contains("no such process"), "{ran:#?}");
}

#[test]
fn stop_ends_a_server() {
    need!(
        capability::strace(),
        crate::support::program::installed("python3")
    );
    let port = portlease::reserve_port();
    let script = "import socket, signal, sys\n\
                  s = socket.create_server((\"127.0.0.1\", int(sys.argv[1])))\nsignal.pause()";
    let mut python = Command::new("python3");
    let server = Running::start(python.args(["-c", script, &port.to_string()]));
    port.wait_for_pid(server.pid(), crate::support::DEADLINE)
        .unwrap();
    finish(&mut traced("ENOSYS", &["stop", &port.to_string()])).code(0);
    server.finish().killed_by(rustix::process::Signal::TERM);
}
