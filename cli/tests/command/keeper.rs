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

pub(crate) fn children_of(pid: u32) -> Vec<u32> {
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
            "port {port} cannot be released: this user did not reserve it with \
             `portlease reserve`, or a port server holds it: {port}/tcp is reserved by "
        )),
        "{output}"
    );
    finish(&mut command(&folder, &["check", "-q", &port.to_string()])).code(1);
    finish(&mut command(&folder, &["release", &port.to_string()])).code(0);
}

/// The abstract names of the keeper, without the `@`.
fn names_of(keeper: u32) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/net/unix").unwrap();
    let prefix = format!("@portlease/keeper/{keeper}/");
    let names = table
        .lines()
        .filter_map(|line| line.split_whitespace().last());
    let names = names.filter(|name| name.starts_with(&prefix));
    let mut names: Vec<String> = names.map(|name| name[1..].to_owned()).collect();
    names.dedup();
    names
}

#[test]
fn another_user_can_neither_feed_nor_occupy_a_keeper() {
    need!(capability::nobody(), installed("python3"));
    let (folder, sleeper) = (Folder::new(), Sleeper::new());
    let reserve = ["reserve", "--pid", &sleeper.pid()];
    let port = number(&finish(&mut command(&folder, &reserve)).code(0));
    let keeper = keeper(&folder, port);
    let [name] = &names_of(keeper)[..] else {
        panic!("one name")
    };
    // Sends until the keeper refuses, then opens 20 connections and keeps them open. Prints whether
    // the keeper accepted few or many bytes.
    let flood = "import socket, sys, time\n\
        def connect():\n    \
        s = socket.socket(socket.AF_UNIX); s.connect('\\0' + sys.argv[1])\n    return s\n\
        s, sent = connect(), 0\n\
        try:\n    \
        while sent < 50 << 20: sent += s.send(b'x' * 65536)\n\
        except OSError: pass\n\
        open_connections = [connect() for _ in range(20)]\n\
        print('few' if sent < 5 << 20 else 'many', flush=True)\n\
        time.sleep(600)\n";
    let log = folder.path().join("log");
    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    // Root's python3 may lie in a folder that no other user may enter.
    nobody.args(["/usr/bin/python3", "-c", flood, name]);
    plain(&mut nobody);
    nobody.stdout(std::fs::File::create(&log).unwrap());
    let mut nobody = nobody.spawn().unwrap();
    let sent = line_in(&log);
    finish(&mut command(&folder, &["release", &port.to_string()])).code(0);
    nobody.kill().unwrap();
    nobody.wait().unwrap();
    assert_eq!(sent, "few");
    ends(keeper);
}

#[test]
fn a_suspended_keeper_delays_a_release_for_a_bounded_time() {
    let (folder, sleeper) = (Folder::new(), Sleeper::new());
    let reserve = ["reserve", "--pid", &sleeper.pid()];
    let port = number(&finish(&mut command(&folder, &reserve)).code(0));
    let keeper = keeper(&folder, port);
    let pid = rustix::process::Pid::from_raw(keeper.cast_signed()).unwrap();
    rustix::process::kill_process(pid, Signal::STOP).unwrap();
    let output = finish(&mut command(&folder, &["release", &port.to_string()])).code(2);
    let message = format!("portlease: cannot ask pid {keeper} to release port {port}: no answer");
    assert!(output.err.starts_with(&message), "{output:#?}");
    rustix::process::kill_process(pid, Signal::CONT).unwrap();
    // The request that timed out may still be handled.
    let again = finish(&mut command(&folder, &["release", &port.to_string()]));
    assert!([0, 1].contains(&again.status.code().unwrap()), "{again:#?}");
    ends(keeper);
}

#[test]
fn keepers_with_one_id_in_two_pid_namespaces_do_not_collide() {
    need!(capability::pid_namespace());
    let folder = Folder::new();
    let start = |file: &str| {
        let file = folder.path().join(file);
        let script = "PORT=$(\"$BIN\" reserve) && echo $PORT > \"$FILE\"; read _";
        let mut command = Command::new("unshare");
        plain(command.args(["-pf", "--mount-proc", "sh", "-c", script]));
        command
            .stdin(std::process::Stdio::piped())
            .env("FILE", &file)
            .env("PORTLEASE_DIR", folder.locks());
        (Running::start(&mut command), file)
    };
    let (first, second) = (start("first"), start("second"));
    let ports = [&first, &second].map(|(_, file)| line_in(file));
    assert_ne!(ports[0], ports[1]);
    for port in &ports {
        finish(&mut command(&folder, &["release", port])).code(0);
    }
}
