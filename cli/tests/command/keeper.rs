//! The keeper behind `portlease reserve`: when it ends, what it inherits, whom it obeys.

use std::path::Path;
use std::process::Command;

use portlease::reserve_port;
use rustix::process::Signal;

use crate::keepers::{Sleeper, command, ends, keeper, number};
use crate::program::{Running, becomes_free, finish, for_everybody, kill, line_in, plain};
use crate::support::program::installed;
use crate::support::{DEADLINE, Folder, capability, eventually, need};

#[test]
fn killing_the_shell_or_the_keeper_releases_the_port() {
    let folder = Folder::new();
    for victim in ["shell", "keeper"] {
        let file = folder.path().join(format!("kill {victim}"));
        let mut sh = Command::new("sh");
        plain(sh.args([
            "-c",
            "PORT=$(\"$BIN\" reserve | cat); echo $PORT > \"$FILE\"; read _ < \"$FIFO\"",
        ]));
        let fifo = folder.path().join(victim);
        assert!(
            Command::new("mkfifo")
                .arg(&fifo)
                .status()
                .unwrap()
                .success()
        );
        let shell = Running::start(
            sh.env("FILE", &file)
                .env("FIFO", &fifo)
                .env("PORTLEASE_DIR", folder.locks()),
        );
        let port = line_in(&file).parse().unwrap();
        let keeper = keeper(&folder, port);
        kill(if victim == "shell" {
            shell.pid()
        } else {
            keeper
        });
        ends(keeper);
        becomes_free(port, &folder);
    }
}

#[test]
fn a_keeper_ends_with_the_process_of_its_pid_option() {
    let folder = Folder::new();
    let mut sleeper = Sleeper::new();
    let port =
        number(&finish(&mut command(&folder, &["reserve", "--pid", &sleeper.pid()])).code(0));
    let keeper = keeper(&folder, port);
    let session = || {
        let stat = std::fs::read_to_string(format!("/proc/{keeper}/stat")).unwrap();
        stat.rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .nth(3)
            .unwrap()
            .parse::<u32>()
            .unwrap()
    };
    // In a session of its own, neither Ctrl-C nor the hangup of the terminal reaches the keeper.
    eventually("its own session", DEADLINE, || {
        if session() == keeper {
            Ok(())
        } else {
            Err(session().to_string())
        }
    });
    assert_eq!(
        std::fs::read_link(format!("/proc/{keeper}/cwd")).unwrap(),
        Path::new("/")
    );
    // This test is not a descendant of the sleeper, so it finds the port busy.
    let output = finish(&mut command(&folder, &["check", &port.to_string()]))
        .code(1)
        .out;
    let pid = sleeper.pid();
    let expected = format!("reserved by portlease, pid {keeper} for sleep (pid {pid})");
    assert!(output.contains(&expected), "{output}");
    sleeper.0.kill().unwrap();
    // The sleeper is a zombie: this test has not reaped it yet.
    ends(keeper);
    becomes_free(port, &folder);
}

#[test]
fn the_keeper_ends_when_a_waiting_reserve_is_interrupted() {
    let (folder, sleeper) = (Folder::new(), Sleeper::new());
    let busy = reserve_port();
    for signal in [Signal::INT, Signal::KILL] {
        let args = [
            "reserve",
            "--pid",
            &sleeper.pid(),
            "--port",
            &busy.to_string(),
            "--wait",
            "10m",
        ];
        let run = Running::start(&mut command(&folder, &args));
        let keeper = eventually("a keeper", DEADLINE, || {
            children_of(run.pid())
                .first()
                .copied()
                .ok_or_else(|| "no child".to_owned())
        });
        run.signal(signal);
        let code = run.finish().shell_code();
        assert!([130, 137].contains(&code), "{code}");
        ends(keeper);
    }
}

fn children_of(pid: u32) -> Vec<u32> {
    let is_child = |stat: &str| {
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1));
        parent == Some(&pid.to_string())
    };
    let pids = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let pids = pids.filter_map(|name| name.parse::<u32>().ok());
    pids.filter(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| is_child(&stat))
    })
    .collect()
}

#[test]
fn a_keeper_inherits_no_open_file_of_its_caller() {
    need!(installed("flock"), installed("bash"));
    let (folder, sleeper) = (Folder::new(), Sleeper::new());
    let lock = folder.path().join("lock");
    let script = "exec 9>\"$LOCK\"; flock -n 9 || exit 91; \"$BIN\" reserve --pid \"$HOLDER\"";
    let mut bash = Command::new("bash");
    plain(
        bash.args(["-c", script])
            .env("LOCK", &lock)
            .env("HOLDER", sleeper.pid()),
    );
    let port = number(&finish(bash.env("PORTLEASE_DIR", folder.locks())).code(0));
    let free = Command::new("flock")
        .arg("-n")
        .arg(&lock)
        .arg("true")
        .status()
        .unwrap();
    assert!(free.success(), "the keeper still has the caller's lock");
    assert!(keeper(&folder, port) > 0, "the keeper is still there");
}

#[test]
fn a_keeper_refuses_releases_by_other_users() {
    need!(capability::nobody());
    let (folder, sleeper) = (Folder::new(), Sleeper::new());
    let port =
        number(&finish(&mut command(&folder, &["reserve", "--pid", &sleeper.pid()])).code(0));
    let (binary, _copy) = for_everybody();
    let mut nobody = Command::new("setpriv");
    nobody
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&binary);
    plain(
        nobody
            .args(["release", &port.to_string()])
            .env("PORTLEASE_DIR", folder.locks()),
    );
    let output = finish(&mut nobody).code(1).out;
    assert!(
        output.starts_with(&format!(
            "port {port} was not reserved with `portlease reserve` by this user: {port}/tcp is \
             reserved by "
        )),
        "{output}"
    );
    finish(&mut command(&folder, &["check", "-q", &port.to_string()])).code(1);
    finish(&mut command(&folder, &["release", &port.to_string()])).code(0);
}
