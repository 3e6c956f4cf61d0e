//! `portlease run --leaks`.

use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::keepers::ends;
use crate::program::{Ran, Running, finish, kill, line_in, portlease, silent};
use crate::support::program::installed;
use crate::support::{Folder, capability, need};

/// A command that starts a server as a daemon, and ends when the server listens. The daemon is a
/// grandchild of the command in another session. If `run` did not adopt the daemon, pid 1 would.
/// With `once`, the daemon is a child that leads its session, and the command ends at once. With
/// `deaf`, the daemon ignores SIGTERM.
const DAEMON: &str = "\
import os, signal, socket, sys, time
kind = socket.SOCK_DGRAM if 'udp' in sys.argv else socket.SOCK_STREAM
up, code = os.environ['UP'], int(os.environ.get('CODE', '0'))
if os.fork():
    while 'once' not in sys.argv and not os.path.exists(up): time.sleep(0.001)
    sys.exit(code)
os.setsid()
if 'once' not in sys.argv and os.fork(): os._exit(0)
if 'deaf' in sys.argv: signal.signal(signal.SIGTERM, signal.SIG_IGN)
s = socket.socket(type=kind)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('' if 'wide' in sys.argv else '127.0.0.1', int(os.environ['PORT'])))
if kind == socket.SOCK_STREAM: s.listen()
null = os.open('/dev/null', os.O_RDWR)
for fd in range(3): os.dup2(null, fd)
open(up + '.new', 'w').write('%d %s\\n' % (os.getpid(), os.environ['PORT']))
os.rename(up + '.new', up)
time.sleep(600)
";

/// A finished run of a command that left a daemon. Dropping it kills the daemon.
struct Left {
    ran: Ran,
    pid: u32,
    port: String,
    folder: Folder,
}

impl Drop for Left {
    fn drop(&mut self) {
        kill(self.pid);
    }
}

fn daemon(folder: &Folder, options: &[&str], args: &[&str]) -> Command {
    let mut command =
        portlease(&[&["run"], options, &["--", "python3", "-c", DAEMON], args].concat());
    command
        .env("UP", folder.path().join("up"))
        .env("PORTLEASE_DIR", folder.locks())
        .current_dir(folder.path());
    command
}

/// Runs [`DAEMON`], which exits with `code`.
fn leave(options: &[&str], args: &[&str], code: u8) -> Left {
    let folder = Folder::new();
    let ran = finish(daemon(&folder, options, args).env("CODE", code.to_string()));
    let line = line_in(&folder.path().join("up"));
    let (pid, port) = line.split_once(' ').unwrap();
    Left {
        ran,
        pid: pid.parse().unwrap(),
        port: port.to_owned(),
        folder,
    }
}

/// The report on the daemon.
fn report_on(left: &Left, protocol: &str) -> String {
    let program = std::fs::read_link(format!("/proc/{}/exe", left.pid));
    let name = std::fs::read_to_string(format!("/proc/{}/comm", left.pid)).unwrap();
    format!(
        "portlease: the command has left a listener on 127.0.0.1:{}/{protocol}: {} (pid {}), \
         program {}, working directory {}\n",
        left.port,
        name.trim_end(),
        left.pid,
        program.unwrap().display(),
        left.folder.path().display()
    )
}

#[test]
fn a_daemon_of_the_command_is_reported_and_fails_the_run_on_request() {
    need!(installed("python3"), capability::native());
    let control = leave(&[], &[], 0);
    assert_eq!(control.ran.status.code(), Some(0), "{:#?}", control.ran);
    let report = "the command has left a listener";
    assert!(!control.ran.err.contains(report), "{:#?}", control.ran);
    // Each run waits 500 ms before it reports, so they run at the same time.
    std::thread::scope(|scope| {
        for (action, code, expected) in [
            ("report", 0, 0),
            ("report", 7, 7),
            ("fail", 0, 1),
            ("fail", 7, 7),
        ] {
            scope.spawn(move || {
                let left = leave(&["--leaks", action], &[], code);
                let (ran, at) = (&left.ran, format!("{action} {code}"));
                assert_eq!(ran.status.code(), Some(expected), "{at}: {ran:#?}");
                assert_eq!(ran.err, report_on(&left, "tcp"), "{at}");
            });
        }
    });
}

#[test]
fn stop_ends_the_daemon() {
    need!(installed("python3"), capability::native());
    let left = leave(&["--leaks=stop"], &[], 0);
    assert_eq!(left.ran.status.code(), Some(0), "{:#?}", left.ran);
    ends(left.pid);
    let lines: Vec<&str> = left.ran.err.lines().collect();
    let [found, stopped] = lines[..] else {
        panic!("{:#?}", left.ran)
    };
    let start = format!(
        "portlease: the command has left a listener on 127.0.0.1:{}/tcp: ",
        left.port
    );
    assert!(found.starts_with(&start), "{:#?}", left.ran);
    assert!(
        stopped.starts_with("portlease: stopped ")
            && stopped.contains(&format!("(pid {})", left.pid)),
        "{:#?}",
        left.ran
    );
}

/// Without the signal, `run` waits 5 s until it kills a daemon that ignores SIGTERM, and then
/// succeeds.
#[test]
fn a_signal_after_the_end_of_the_command_interrupts_the_run() {
    need!(installed("python3"), capability::native());
    for signal in [Signal::TERM, Signal::INT] {
        let folder = Folder::new();
        let log = folder.path().join("log");
        let mut command = daemon(&folder, &["--leaks=stop"], &["deaf"]);
        let (run, found) = Running::with_log(&mut command, &log);
        assert!(found.contains("the command has left a listener"), "{found}");
        let signalled = Instant::now();
        run.signal(signal);
        run.finish().killed_by(signal);
        assert!(signalled.elapsed() < Duration::from_secs(5));
        let line = line_in(&folder.path().join("up"));
        ends(line.split_once(' ').unwrap().0.parse().unwrap());
        let log = std::fs::read_to_string(&log).unwrap();
        assert!(log.contains(": SIGTERM did not end it"), "{log}");
    }
}

#[test]
fn leaks_are_one_json_object() {
    need!(installed("python3"), capability::native());
    let left = leave(&["--json", "--leaks=stop"], &[], 0);
    let answer: Value = serde_json::from_str(left.ran.err.lines().nth(1).unwrap()).unwrap();
    assert_eq!(answer["version"], json!(1));
    assert_eq!(answer["left"], json!([]), "{answer}");
    assert_eq!(answer["endings"][0]["pid"], json!(left.pid), "{answer}");
    assert_eq!(
        answer["endings"][0]["outcome"],
        json!("terminated"),
        "{answer}"
    );
    let leak = &answer["leaks"][0];
    assert_eq!(leak["local"], json!(format!("127.0.0.1:{}", left.port)));
    assert_eq!(leak["processes"][0]["pid"], json!(left.pid), "{answer}");
    ends(left.pid);
}

#[test]
fn a_udp_server_on_a_reserved_port_is_found() {
    need!(installed("python3"), capability::native());
    let left = leave(&["--leaks=fail", "--port", "PORT/udp"], &["udp"], 0);
    assert_eq!(left.ran.status.code(), Some(1), "{:#?}", left.ran);
    assert_eq!(left.ran.err, report_on(&left, "udp"));
    // An ephemeral number on every address: a socket with it could be a client's, but for the
    // reservation.
    let bound = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let number = bound.local_addr().unwrap().port();
    drop(bound);
    let port = format!("PORT={number}/udp");
    let left = leave(&["--leaks=fail", "--port", &port], &["udp", "wide"], 0);
    assert_eq!(left.ran.status.code(), Some(1), "{:#?}", left.ran);
}

/// The shell that the command leaves starts its server again.
#[test]
fn a_server_that_is_started_again_is_left() {
    need!(installed("python3"), capability::native());
    let program = "import os, socket, time\ns = socket.socket()\n\
                   s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
                   s.bind(('127.0.0.1', int(os.environ['PORT'])))\ns.listen()\ntime.sleep(600)";
    let folder = Folder::new();
    let started = folder.path().join("started");
    // The loop has streams of its own, so the output of `run` ends with `run`.
    let looping = "while [ -e \"$ALIVE\" ]; do python3 -c \"$SERVER\"; done > /dev/null 2>&1 & \
                   sleep 1";
    std::fs::write(&started, "").unwrap();
    let output = finish(
        portlease(&["run", "--leaks=stop", "--", "sh", "-c", looping])
            .env("ALIVE", &started)
            .env("SERVER", program),
    );
    // The shell ends with its next server.
    std::fs::remove_file(&started).unwrap();
    let left = output
        .err
        .lines()
        .find(|line| line.contains("cannot stop a listener on "));
    let pid = left.and_then(|line| line.split("(pid ").nth(1)?.split(')').next()?.parse().ok());
    let pid: u32 = pid.unwrap_or_else(|| panic!("{output:#?}"));
    kill(pid);
    assert_eq!(output.status.code(), Some(1), "{output:#?}");
    assert!(
        output
            .err
            .contains(&format!("help: stop pid {pid}; if the loop ")),
        "{output:#?}"
    );
}

/// Another process, which does not descend from the command, serves the reserved port.
#[test]
fn a_listener_that_the_command_did_not_start_itself_is_reported() {
    need!(installed("python3"), capability::native());
    for (action, code) in [("--leaks=fail", 1), ("--leaks=report", 0)] {
        let folder = Folder::new();
        let file = folder.path().join("port");
        let server = std::thread::spawn({
            let file = file.clone();
            move || {
                let port: u16 = line_in(&file).parse().unwrap();
                std::net::TcpListener::bind(("127.0.0.1", port)).unwrap()
            }
        });
        let script = "echo $PORT > \"$FILE\"; sleep 1";
        let mut command = portlease(&["run", action, "--", "sh", "-c", script]);
        let output = finish(command.env("FILE", &file)).code(code);
        let expected = format!("(pid {}) listens on ", std::process::id());
        let line = output.err.lines().next().unwrap_or_default();
        assert!(
            line.contains(" has a listener of an unrelated process: ") && line.contains(&expected),
            "{output:#?}"
        );
        drop(server.join().unwrap());
    }
}

/// The daemon starts while the command runs, and pid 1 adopts it. `run --leaks` would have adopted
/// a daemon of its command. Without `--leaks`, nothing shows which process started the daemon.
#[test]
fn a_strangers_daemon_is_not_reported_as_left_by_the_command() {
    need!(installed("python3"), capability::native());
    let script = "echo $PORT > \"$FILE\"; until [ -e \"$UP\" ]; do sleep 0.01; done";
    for (action, code) in [
        (None, 0),
        (Some("--leaks=report"), 0),
        (Some("--leaks=stop"), 1),
    ] {
        let folder = Folder::new();
        let (file, up) = (folder.path().join("port"), folder.path().join("up"));
        let action_args: Vec<&str> = action.into_iter().collect();
        let mut run =
            portlease(&[&["run"], &action_args[..], &["--", "sh", "-c", script]].concat());
        let run = Running::start(run.env("FILE", &file).env("UP", &up));
        let mut daemon = Command::new("python3");
        daemon.args(["-c", DAEMON]).env("PORT", line_in(&file));
        assert!(daemon.env("UP", &up).status().unwrap().success());
        let output = run.finish();
        let pid = line_in(&up).split(' ').next().unwrap().parse().unwrap();
        kill(pid);
        let listens = format!(": python3 (pid {pid}) listens on ");
        let line = output.err.lines().next().unwrap_or_default();
        assert!(line.contains(&listens), "{output:#?}");
        assert!(!line.contains("was left listening"), "{output:#?}");
        let is_certain = line.contains(" has a listener of an unrelated process: ");
        assert!(is_certain || action.is_none(), "{output:#?}");
        output.code(code);
    }
}

#[test]
fn a_command_that_leaves_nothing_is_not_reported() {
    need!(installed("python3"), capability::native());
    // A server of another command. It started earlier, and does not descend from this command.
    let other = leave(&[], &[], 0);
    let folder = Folder::new();
    let stops = "\"$0\" -c \"$1\"; read pid port < \"$UP\"; kill $pid";
    let mut command = portlease(&[
        "run",
        "--leaks=fail",
        "--",
        "sh",
        "-c",
        stops,
        "python3",
        DAEMON,
    ]);
    command
        .env("UP", folder.path().join("up"))
        .env("PORTLEASE_DIR", folder.locks());
    let output = finish(&mut command).code(0);
    assert_eq!(output.err, "");
    assert!(std::path::Path::new(&format!("/proc/{}", other.pid)).exists());
}

/// `run --leaks` adopts the daemon, also for a `run` that the command starts.
#[test]
fn an_adopted_daemon_is_a_server_of_the_command() {
    need!(installed("python3"), capability::native());
    let wait = ["--wait-listening=10s", "--port", "PORT"];
    let nested = [env!("CARGO_BIN_EXE_portlease"), "run"];
    let outer = ["--leaks=report", "--"];
    for options in [
        ["--leaks=report"].iter().chain(&wait).copied().collect(),
        [&outer[..], &nested[..], &wait[..]].concat(),
    ] {
        let options: Vec<&str> = options;
        let left = leave(&options, &["once"], 0);
        let leak = format!("the command has left a listener on 127.0.0.1:{}", left.port);
        assert!(left.ran.err.contains(&leak), "{:#?}", left.ran);
    }
}

#[test]
fn adopted_processes_are_reaped_when_they_end() {
    need!(capability::native());
    // The orphan ends once `run` has adopted it. The shell then waits until the pid of the orphan
    // is free.
    let orphan = "while ! grep -q \"^PPid:.$RUN\\$\" /proc/$$/status; do sleep 0.01; done; \
                  echo $$ > \"$UP\"";
    let script = "export RUN=$PPID; sh -c 'sh -c \"$ORPHAN\" & exit 0'; \
                  while ! test -s \"$UP\"; do sleep 0.01; done; \
                  while test -e /proc/$(cat \"$UP\"); do sleep 0.01; done";
    let folder = Folder::new();
    let mut command = portlease(&["run", "--leaks=report", "--", "sh", "-c", script]);
    let up = folder.path().join("up");
    finish(command.env("UP", up).env("ORPHAN", orphan)).code(0);
}

#[test]
fn a_report_of_leaks_is_no_panic_where_reservations_panic_on_leaks() {
    need!(installed("python3"));
    let folder = Folder::new();
    let mut command = daemon(&folder, &["--port", "PORT", "--leaks=report"], &[]);
    let ran = finish(command.env("PORTLEASE_ON_LEAK", "panic").env("CODE", "7"));
    let line = line_in(&folder.path().join("up"));
    kill(line.split_once(' ').unwrap().0.parse().unwrap());
    let ran = ran.code(7);
    assert!(!ran.err.contains("panicked"), "{}", ran.err);
}

/// The last command ends before its server listens. The parent of that server is the adopted
/// process.
#[test]
fn with_leaks_any_daemon_of_the_command_counts() {
    need!(installed("python3"), capability::native());
    let server = "import os, socket, time\n\
                  s = socket.create_server(('127.0.0.1', int(os.environ['PORT'])))\n\
                  time.sleep(600)";
    let running = "while test ! -e \"$SEEN\"; do sleep 0.01; done";
    for start in [
        &format!("setsid -f python3 -c \"$SERVER\" > /dev/null 2>&1; {running}"),
        &format!("(python3 -c \"$SERVER\" > /dev/null 2>&1 &); {running}"),
        "setsid -f sh -c 'python3 -c \"$SERVER\"; true' > /dev/null 2>&1",
    ] {
        let folder = Folder::new();
        let seen = folder.path().join("seen");
        let options = ["run", "--leaks=stop", "--wait-listening=10s", "--"];
        let mut command = portlease(&[&options[..], &["sh", "-c", start]].concat());
        command.env("SERVER", server).env("SEEN", &seen);
        let (run, line) = Running::with_log(&mut command, &folder.path().join("log"));
        std::fs::write(&seen, "").unwrap();
        let ran = run.finish();
        assert_eq!(ran.status.code(), Some(0), "{start}: {line}");
    }
}

#[test]
fn without_leaks_the_option_is_named_beside_a_daemon_that_does_not_count() {
    need!(installed("python3"), capability::native());
    let server = "import os, socket, time\n\
                  open(os.environ['UP'], 'w').write('%d\\n' % os.getpid())\n\
                  s = socket.create_server(('127.0.0.1', int(os.environ['PORT'])))\n\
                  time.sleep(600)";
    let starts = "setsid -f python3 -c \"$SERVER\" > /dev/null 2>&1; sleep 600";
    let folder = Folder::new();
    let up = folder.path().join("up");
    let mut command = portlease(&["run", "--wait-listening=3s", "--", "sh", "-c", starts]);
    let ran = finish(command.env("SERVER", server).env("UP", &up)).code(125);
    let pid = line_in(&up);
    kill(pid.parse().unwrap());
    let help = format!("\nhelp: if pid {pid} is a daemon of the command, add --leaks=report, ");
    assert!(ran.err.contains(&help), "{ran:#?}");
    assert!(
        ran.err.contains(&format!("; otherwise stop pid {pid}")),
        "{ran:#?}"
    );

    // The control: the process of this server is older than the command.
    let port = format!("PORT={}", silent().port());
    let idle = "echo $PORT > \"$UP\"; exec sleep 600";
    let up = folder.path().join("port");
    let options = ["run", "--wait-listening=3s", "--port", &port, "--"];
    let mut command = portlease(&[&options[..], &["sh", "-c", idle]].concat());
    let run = Running::start(command.env("UP", &up));
    let number: u16 = line_in(&up).parse().unwrap();
    let _server = std::net::TcpListener::bind(("127.0.0.1", number)).unwrap();
    let ran = run.finish().code(125);
    assert!(!ran.err.contains("--leaks"), "{ran:#?}");
    assert!(ran.err.contains(" listens on "), "{ran:#?}");
}
