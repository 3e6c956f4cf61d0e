//! Tests which process `reserve` holds the ports for, if shells, wrappers and other programs call
//! `reserve`.

use std::process::Command;

use crate::program::{Running, finish, line_in, plain};
use crate::support::program::installed;
use crate::support::{Folder, capability, need, skip};

/// Runs a bash script that calls `reserve` by the command line `call`. Asserts that the port is
/// still reserved after the call has ended.
#[track_caller]
fn is_held_after(call: &str) {
    let folder = Folder::new();
    // The script outlives the call. It lists the reservations when no process of the call runs any
    // more.
    let script = format!(
        "PORT=$({call}) || exit 90\nsleep 0.3\n\
         \"$BIN\" list --json | grep -q \"\\\"port\\\":$PORT,\""
    );
    let file = folder.path().join("call.sh");
    std::fs::write(&file, script).unwrap();
    let mut command = Command::new("bash");
    plain(command.arg(&file).env("PORTLEASE_DIR", folder.locks()));
    command.current_dir(folder.path());
    let output = finish(&mut command);
    assert_eq!(output.status.code(), Some(0), "{call}: {output:#?}");
    assert_eq!(output.err, "", "{call}");
}

#[test]
fn wrappers_that_end_with_their_command_are_passed_over() {
    need!(installed("bash"));
    std::thread::scope(|scope| {
        for (program, call) in [
            ("timeout", "timeout 60 \"$BIN\" reserve"),
            ("timeout", "timeout 60 nice env \"$BIN\" reserve"),
            ("xargs", "echo | xargs \"$BIN\" reserve"),
            ("flock", "flock lock \"$BIN\" reserve"),
            ("strace", "strace -o /dev/null \"$BIN\" reserve"),
            ("unshare", "unshare -f \"$BIN\" reserve"),
        ] {
            match installed(program) {
                Ok(()) => drop(scope.spawn(move || is_held_after(call))),
                Err(reason) => skip(program, &reason),
            }
        }
    });
}

#[test]
fn shells_with_nothing_left_to_do_and_wrapper_scripts_are_passed_over() {
    need!(installed("bash"));
    // Each script sleeps until no process of its call runs, so all scripts run at the same time.
    std::thread::scope(|scope| {
        for shell in ["sh", "bash", "dash", "zsh", "busybox sh"] {
            let program = shell.split(' ').next().unwrap();
            if let Err(reason) = installed(program) {
                skip(shell, &reason);
                continue;
            }
            for call in [
                format!("{shell} -c '\"$BIN\" reserve'"),
                format!("{shell} -c 'cd / && \"$BIN\" reserve 2>&1'"),
                format!("{shell} -c '\"$BIN\" reserve | cat'"),
                format!("printf '\"$BIN\" reserve\\n:\\n' > wrapper; {shell} wrapper"),
            ] {
                scope.spawn(move || is_held_after(&call));
            }
        }
    });
}

#[test]
fn programs_of_other_users_are_passed_over() {
    need!(installed("bash"), installed("runuser"), installed("su"));
    need!(capability::nobody());
    let (binary, _binary_folder) = crate::program::for_everybody();
    let binary = binary.to_str().unwrap();
    is_held_after(&format!("runuser -u nobody -- {binary} reserve"));
    is_held_after(&format!("su nobody -s /bin/sh -c '{binary} reserve'"));
    is_held_after(&format!(
        "setpriv --reuid 65534 --regid 65534 --clear-groups {binary} reserve"
    ));
}

#[test]
fn python_node_and_make_hold_what_a_shell_of_theirs_reserved() {
    let folder = Folder::new();
    let python = "import os, subprocess, sys, time\n\
        port = subprocess.check_output('\"$BIN\" reserve', shell=True, text=True).strip()\n\
        time.sleep(0.3)\n\
        listed = subprocess.check_output([os.environ['BIN'], 'list'], text=True)\n\
        print('held' if port in listed else 'gone')\n";
    let node = "const c = require('child_process');\n\
        const port = c.execSync('\"$BIN\" reserve').toString().trim();\n\
        c.execSync('sleep 0.3');\n\
        const listed = c.execSync('\"$BIN\" list').toString();\n\
        console.log(listed.includes(port) ? 'held' : 'gone');\n";
    let make = "PORT := $(shell \"$$BIN\" reserve)\n\
        all:\n\t@\"$$BIN\" reserve > file\n\t@sleep 0.3\n\
        \t@\"$$BIN\" list | grep -q $(PORT) && \"$$BIN\" list | grep -q `cat file` && echo held\n";
    std::fs::write(folder.path().join("Makefile"), make).unwrap();
    for (program, args) in [
        ("python3", &["-c", python][..]),
        ("node", &["-e", node]),
        ("make", &["-s"]),
    ] {
        if let Err(reason) = installed(program) {
            skip(program, &reason);
            continue;
        }
        let mut command = Command::new(program);
        plain(command.args(args).env("PORTLEASE_DIR", folder.locks()));
        command.current_dir(folder.path());
        let output = finish(&mut command).code(0);
        assert_eq!(
            (output.out.as_str(), output.err.as_str()),
            ("held\n", ""),
            "{program}"
        );
    }
}

#[test]
fn a_shell_with_more_to_do_holds_the_port_itself() {
    let folder = Folder::new();
    let file = folder.path().join("port");
    // The outer shell runs `sleep` after the inner shell has ended.
    let inner = "PORT=$(\"$BIN\" reserve); echo $PORT > \"$FILE\"; \"$BIN\" list -q";
    let mut command = Command::new("sh");
    let outer = format!("sh -c '{inner}'; sleep 600");
    plain(command.args(["-c", &outer]).env("FILE", &file));
    let outer = Running::start(command.env("PORTLEASE_DIR", folder.locks()));
    let port = line_in(&file).parse().unwrap();
    crate::program::becomes_free(port, &folder);
    drop(outer);
}

#[test]
fn a_reservation_that_may_end_too_soon_is_noted() {
    let folder = Folder::new();
    let run = |script: &str, actions: &str| {
        let mut command = Command::new("sh");
        plain(
            command
                .args(["-c", script])
                .env("PORTLEASE_DIR", folder.locks()),
        );
        finish(command.env("GITHUB_ACTIONS", actions)).code(0)
    };
    let fixed = crate::program::silent().port();
    let exact = format!("\"$BIN\" reserve --port {fixed}; :");
    let note = "portlease: the reservation ends when pid ";
    let output = run(&exact, "false");
    assert!(
        output.err.starts_with(note) && output.err.contains("--for"),
        "{output:#?}"
    );
    let output = run("PORT=$(\"$BIN\" reserve); :", "true");
    assert!(
        output.err.starts_with(note) && output.err.contains("--pid job"),
        "{output:#?}"
    );
    assert_eq!(run("PORT=$(\"$BIN\" reserve); :", "false").err, "");
    assert_eq!(run("PORT=$(\"$BIN\" reserve -q); :", "true").err, "");
}
