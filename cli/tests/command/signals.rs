//! Signals under `run`. The command gets each signal once, and inherits the blocked and the ignored
//! signals. If a signal ends the command, `run` ends by the same signal.

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use crate::keepers::ends;
use crate::program::{BINARY, Running, finish, line_in, plain, portlease};
use crate::support::program::installed;
use crate::support::{DEADLINE, Folder, capability, eventually, need};

/// Counts the SIGTERMs and SIGINTs that arrive until half a second after the first.
const COUNT: &str = "\
import os, signal, time
got = []
for s in (signal.SIGTERM, signal.SIGINT):
    signal.signal(s, lambda *a: got.append(1))
with open(os.environ['READY'], 'w') as f: f.write('%d\\n' % os.getpid())
end = time.monotonic() + 120
while not got and time.monotonic() < end: time.sleep(0.01)
end = time.monotonic() + 0.5
while time.monotonic() < end: time.sleep(0.01)
print('got', len(got), flush=True)
";

/// Starts the program `args` as the leader of a new session.
fn in_own_session(args: &[&str], ready: &Path) -> Running {
    let mut command = Command::new("setsid");
    plain(command.args(args).env("READY", ready));
    Running::start(&mut command)
}

fn signal_group(of: &Running) {
    let group = rustix::process::Pid::from_raw(of.pid().cast_signed()).unwrap();
    rustix::process::kill_process_group(group, Signal::TERM).unwrap();
}

#[test]
fn a_signal_to_the_group_or_to_run_alone_reaches_the_command_once() {
    need!(installed("python3"));
    need!(capability::native());
    let folder = Folder::new();
    let run = [BINARY, "run", "--", "python3", "-c", COUNT];
    let nested = [&[BINARY, "run", "--"][..], &run].concat();
    let mut away = run.to_vec();
    away.insert(3, "setsid");
    for (n, args) in [&run[..], &nested, &away].into_iter().enumerate() {
        for to_group in [true, false] {
            let ready = folder.path().join(format!("{n} {to_group}"));
            let running = in_own_session(args, &ready);
            line_in(&ready);
            if to_group {
                signal_group(&running);
            } else {
                running.signal(Signal::TERM);
            }
            let output = running.finish().code(0);
            assert_eq!(output.out, "got 1\n", "{args:?}, to the group: {to_group}");
        }
    }
}

/// systemd's watchdog sends SIGABRT, and a process group does not get it.
#[test]
fn sigabrt_and_sigalrm_reach_the_command() {
    need!(capability::native());
    let folder = Folder::new();
    for (name, signal) in [("ABRT", Signal::ABORT), ("ALRM", Signal::ALARM)] {
        let ready = folder.path().join(name);
        let script = format!(
            "trap 'echo got {name}; exit 7' {name}; echo $$ > \"$READY\"; \
             i=0; while [ $i -lt 6000 ]; do sleep 0.01; i=$((i + 1)); done"
        );
        let running = in_own_session(&[BINARY, "run", "--", "sh", "-c", &script], &ready);
        line_in(&ready);
        running.signal(signal);
        assert_eq!(running.finish().code(7).out, format!("got {name}\n"));
    }
}

#[test]
fn timeout_signals_the_command_once() {
    need!(installed("python3"));
    need!(capability::native());
    let folder = Folder::new();
    let ready = folder.path().join("ready");
    let mut command = Command::new("timeout");
    plain(command.args([
        "-s", "TERM", "600", BINARY, "run", "--", "python3", "-c", COUNT,
    ]));
    let timeout = Running::start(command.env("READY", &ready));
    line_in(&ready);
    // timeout(1) passes a signal on to its command, and then to its process group.
    timeout.signal(Signal::TERM);
    assert_eq!(timeout.finish().out, "got 1\n");
}

#[test]
fn blocked_and_ignored_signals_are_inherited() {
    need!(installed("env"));
    need!(capability::native());
    for (option, field) in [
        ("--block-signal=CHLD,TERM", "SigBlk"),
        ("--ignore-signal=CHLD,PIPE,USR1", "SigIgn"),
    ] {
        let fields = format!("grep {field} /proc/self/status");
        let plainly = ["sh", "-c", &fields];
        let mask = |under_run: bool| {
            let mut command = Command::new("env");
            command.arg(option);
            if under_run {
                command.args([BINARY, "run", "--"]);
            }
            plain(command.args(plainly));
            finish(&mut command).code(0).out
        };
        assert_eq!(mask(true), mask(false), "{option}");
    }
}

#[test]
fn a_bash_script_ends_when_a_signal_ends_the_command() {
    need!(installed("bash"), installed("env"));
    let folder = Folder::new();
    let ready = folder.path().join("ready");
    let script = "\"$BIN\" run -- sh -c 'echo >\"$READY\"; exec sleep 600'; echo \"rc=$?\"";
    // A shell starts background commands, such as a run of these tests, with SIGINT ignored.
    let bash = ["env", "--default-signal=INT", "bash", "-c", script];
    let running = in_own_session(&bash, &ready);
    line_in(&ready);
    let group = rustix::process::Pid::from_raw(running.pid().cast_signed()).unwrap();
    rustix::process::kill_process_group(group, Signal::INT).unwrap();
    // If `run` handled SIGINT and exited, bash would go on with its script.
    let output = running.finish().killed_by(Signal::INT);
    assert_eq!(output.out, "");
}

#[test]
fn killing_run_ends_all_that_the_command_started() {
    need!(capability::native());
    let folder = Folder::new();
    let ready = folder.path().join("ready");
    let script = "setsid sleep 600 & sleep 600 & echo \"$! $$\" > \"$READY\"; wait";
    let run = Running::start(portlease(&["run", "--", "sh", "-c", script]).env("READY", &ready));
    let pids = line_in(&ready);
    crate::program::kill(run.pid());
    for pid in pids.split(' ') {
        ends(pid.parse().unwrap());
    }
}

#[test]
fn the_first_process_of_a_namespace_reaps_and_passes_signals_on() {
    need!(capability::pid_namespace());
    let folder = Folder::new();
    let ready = folder.path().join("ready");
    let script = "for i in 1 2 3; do (setsid true &); done; echo up > \"$READY\"; exec sleep 600";
    let mut command = Command::new("unshare");
    plain(command.args([
        "-pf",
        "--mount-proc",
        BINARY,
        "run",
        "--",
        "sh",
        "-c",
        script,
    ]));
    let unshare = Running::start(command.env("READY", &ready));
    line_in(&ready);
    let children = |pid: u32| {
        let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        list.split_whitespace()
            .map(|pid| pid.parse().unwrap())
            .collect::<Vec<u32>>()
    };
    let [first] = children(unshare.pid())[..] else {
        panic!("unshare has one child")
    };
    eventually(
        "only the command and its watcher are left",
        DEADLINE,
        || match children(first).len() {
            2 => Ok(()),
            n => Err(n.to_string()),
        },
    );
    let first = rustix::process::Pid::from_raw(first.cast_signed()).unwrap();
    rustix::process::kill_process(first, Signal::TERM).unwrap();
    assert_eq!(unshare.finish().shell_code(), 143);
}
