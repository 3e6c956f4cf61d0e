//! Without `/proc`, and with a `/proc` that shows the processes of another pid namespace.

use std::process::Command;

use crate::keepers::ends;
use crate::program::{Ran, finish, plain};
use crate::support::program::installed;
use crate::support::{Folder, capability, need};

/// Replaces `/proc` by an empty folder, in a mount namespace of its own.
const WITHOUT_PROC: &str = "mount -t tmpfs none /proc";

/// A server on the port in its argument. It prints its pid once it listens.
const SERVER: &str = "import os, socket, sys, time\n\
                      s = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n\
                      print(os.getpid(), flush=True)\n\
                      time.sleep(600)";

const UNSEEN: &str = "cannot check which process has the listener: /proc is missing or \
                      belongs to another pid namespace";

/// Runs the shell script under unshare(1) with these flags.
fn inside(flags: &[&str], script: &str) -> Ran {
    let folder = Folder::new();
    let mut command = Command::new("unshare");
    command
        .args(capability::unshare_flags())
        .args(flags)
        .args(["sh", "-c", script]);
    plain(&mut command);
    let number = portlease::reserve_port().port();
    command
        .env("PORTLEASE_DIR", folder.locks())
        .env("SERVER", SERVER)
        .env("OUT", folder.path().join("out"))
        .env("N", number.to_string());
    finish(&mut command)
}

/// A script that starts a server on port `$N`, runs `act` with the pid of the server in `$P`, and
/// then ends the server.
fn beside_server(act: &str) -> String {
    format!(
        "python3 -c \"$SERVER\" $N > $OUT & trap \"kill -KILL $!\" EXIT; \
         until read P < $OUT; do :; done; {act}"
    )
}

#[test]
fn run_and_wait_accept_a_listener_of_an_unseen_process_and_say_so() {
    need!(
        capability::mount_namespace(),
        capability::pid_namespace(),
        installed("python3")
    );
    let without = |script: &str| inside(&["-m"], &format!("{WITHOUT_PROC}; {script}"));
    let foreign = |script: &str| inside(&["-pf", "--kill-child"], script);
    for run in [&without as &dyn Fn(&str) -> Ran, &foreign] {
        let script = "\"$BIN\" run --wait-listening=1m -- sh -c \
                      'python3 -c \"$SERVER\" $PORT > $OUT & until read P < $OUT; do :; done; \
                      sleep 1; kill -KILL $!; exit 7'";
        let ran = run(script).code(7);
        assert!(
            ran.err.contains("the command started to listen"),
            "{ran:#?}"
        );
        assert!(ran.err.contains(UNSEEN), "{ran:#?}");

        let wait = beside_server("\"$BIN\" wait --listening --timeout 1m --pid $P $N");
        let ran = run(&wait).code(0);
        assert!(ran.err.contains(UNSEEN), "{ran:#?}");
        // The wait ends with the process, and a process that does not exist counts as ended.
        let script = "sleep 1 & \"$BIN\" wait --listening --timeout 5m --pid $! $N";
        run(script).code(2);
    }
}

#[test]
fn run_ends_a_command_that_does_not_listen() {
    need!(capability::mount_namespace());
    let script = "\"$BIN\" run --wait-listening=100ms -- sh -c 'echo $$; exec sleep 600'";
    let ran = inside(&["-m"], &format!("{WITHOUT_PROC}; {script}")).code(125);
    ends(ran.out.trim().parse().unwrap());
    assert!(
        ran.err.contains("stopped the command after 100ms"),
        "{ran:#?}"
    );
}

/// Each lock file belongs to a network namespace. Without `/proc` the command does not know its
/// own namespace.
#[test]
fn list_finds_no_reservation_and_does_not_say_that_there_is_none() {
    need!(capability::mount_namespace());
    let list = "\"$BIN\" list --json; echo $?";
    let reserve = "\"$BIN\" run -- sh -c";
    let script = format!("{reserve} 'mount -t tmpfs none /proc; {list}; {reserve} \"$LIST\"'");
    let ran = inside(&["-m"], &format!("export LIST='{list}'; {script}")).code(0);
    let lines: Vec<&str> = ran.out.lines().collect();
    let [without, code, with_own, code_of_own] = lines[..] else {
        panic!("{ran:#?}");
    };
    let cause = "without /proc, the lock files of this network namespace cannot be found";
    assert!(
        without.starts_with("{\"version\":1,\"leases\":[],\"complete\":false"),
        "{ran:#?}"
    );
    assert!(without.contains(cause), "{ran:#?}");
    assert_eq!((code, code_of_own), ("3", "0"), "{ran:#?}");
    assert!(with_own.contains("\"complete\":false"), "{ran:#?}");
}

/// In such a `/proc`, the pid of the server is the pid of another process.
#[test]
fn with_a_proc_of_another_pid_namespace_no_remedy_names_a_pid() {
    need!(capability::pid_namespace(), installed("python3"));
    let act = "\"$BIN\" check $N; echo $?; \"$BIN\" who $N; \"$BIN\" stop $N; echo $?";
    let ran = inside(&["-pf", "--kill-child"], &beside_server(act)).code(0);
    assert!(
        !ran.out.contains("(pid ") && !ran.out.contains("stop pid"),
        "{ran:#?}"
    );
    let unseen = "not seen     processes could not be read: /proc shows the processes of another \
                  pid namespace";
    assert!(ran.out.contains(unseen), "{ran:#?}");
    let refused = ": its process cannot be seen\nhelp: mount the file system proc on /proc";
    assert!((ran.out + &ran.err).contains(refused));
}
