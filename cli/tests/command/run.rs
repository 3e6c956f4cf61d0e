//! `portlease run`.

use std::net::TcpListener;
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::keepers::ends;
use crate::program::{
    Ran, Running, becomes_free, finish, for_everybody, line_in, plain, portlease, ran, silent,
};
use crate::support::program::{installed, python};
use crate::support::{DEADLINE, Folder, capability, eventually, need};

/// Runs a Python program that uses `s`, a TCP socket, and `port`, the number of `PORT`.
fn python_server(options: &[&str], program: &str) -> Ran {
    let program = format!(
        "import os, socket\ns = socket.socket()\nport = int(os.environ['PORT'])\n{program}"
    );
    let python = python();
    let command = ["--", &python, "-c", &program];
    ran(&[&["run"], options, &command].concat())
}

#[test]
fn a_command_that_fails_because_of_the_claim_is_explained() {
    need!(capability::native(), capability::bound_sockets());
    let bind = "s.bind(('127.0.0.1', port))\ns.listen()";
    let output = python_server(&[], bind).code(1);
    let note = "/tcp before the command failed\nhelp: reserve the port with --no-reuse-addr if the \
                server reported \"address already in use\" for it: ";
    assert!(output.err.contains("Address already in use"), "{output:#?}");
    assert!(output.err.contains(note), "{output:#?}");
    // The remedy. The controls: a server that listened, and a command that succeeds.
    let output = python_server(&["--no-reuse-addr"], bind).code(0);
    assert_eq!(output.err, "");
    let failing = format!(
        "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n{bind}\n\
         import time\ntime.sleep(0.5)\nraise SystemExit(3)"
    );
    assert_eq!(python_server(&[], &failing).code(3).err, "");
    assert_eq!(finish(&mut script(&[], "exit 0")).code(0).err, "");
}

/// Another server binds a port of the run over its claim, so the command may have failed because of
/// that server.
#[test]
fn a_busy_port_of_the_run_does_not_suggest_another_kind_of_reservation() {
    need!(capability::native(), capability::bound_sockets());
    let fails = "echo > \"$UP\"; while [ ! -e \"$GO\" ]; do sleep 0.01; done; exit 1";
    let help = "--no-reuse-addr";
    for options in [&[][..], &["--wait-listening=10m"]] {
        for is_busy in [true, false] {
            let folder = Folder::new();
            let [up, go] = ["up", "go"].map(|name| folder.path().join(name));
            let number = silent().port();
            let busy = format!("B={number}");
            let mut command = script(
                &[options, &["--port", "A", "--port", &busy]].concat(),
                fails,
            );
            let run = Running::start(command.env("UP", &up).env("GO", &go));
            line_in(&up);
            // The standard library sets SO_REUSEADDR.
            let server = is_busy.then(|| TcpListener::bind(("127.0.0.1", number)).unwrap());
            std::fs::write(&go, "").unwrap();
            let output = run.finish().code(1);
            assert_eq!(output.err.contains(help), !is_busy, "{output:#?}");
            drop(server);
        }
    }
}

/// A server that the user ends and a `run` that reserves the same port did not fail to bind.
#[test]
fn a_signal_or_a_nested_run_does_not_suggest_another_kind_of_reservation() {
    need!(capability::native(), capability::bound_sockets());
    let waits = "trap 'exit 1' TERM; echo > \"$UP\"; while true; do sleep 0.01; done";
    let nested = "exec \"$BIN\" run --port B=$PORT -- true";
    for options in [&[][..], &["--wait-listening=10m"]] {
        let folder = Folder::new();
        let up = folder.path().join("up");
        let run = Running::start(script(options, waits).env("UP", &up));
        line_in(&up);
        run.signal(Signal::TERM);
        let signalled = run.finish().code(1);
        let nested = finish(&mut script(options, nested)).code(125);
        for output in [signalled, nested] {
            assert!(!output.err.contains("--no-reuse-addr"), "{output:#?}");
        }
    }
}

/// The server needs a moment for its end after the signal.
#[test]
fn a_server_that_ends_after_the_command_is_not_left() {
    need!(capability::native());
    let slow = "import signal, sys, time\n\
                signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.2), sys.exit()))\n\
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
                s.bind(('127.0.0.1', port))\ns.listen()\nopen(os.environ['UP'], 'w').close()\n\
                time.sleep(600)";
    let program =
        format!("import os, socket\ns = socket.socket()\nport = int(os.environ['PORT'])\n{slow}");
    let folder = Folder::new();
    let stops = "$PYTHON -c \"$SERVER\" & while [ ! -e \"$UP\" ]; do sleep 0.01; done; kill $!";
    let mut command = script(&[], stops);
    command
        .env("UP", folder.path().join("up"))
        .env("PYTHON", python())
        .env("SERVER", program);
    assert_eq!(finish(&mut command).code(0).err, "");
}

/// The server on `A` needs a moment for its end after the signal, so it still has its port when the
/// command fails.
#[test]
fn a_server_that_is_ending_hides_no_explanation_of_another_port() {
    need!(capability::native(), capability::bound_sockets());
    let slow = "import os, signal, socket, sys, time\n\
                signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.2), sys.exit()))\n\
                s = socket.create_server(('127.0.0.1', int(os.environ['A'])))\n\
                open(os.environ['UP'], 'w').close()\n\
                time.sleep(600)";
    let folder = Folder::new();
    let stops = "$PYTHON -c \"$SERVER\" & while [ ! -e \"$UP\" ]; do sleep 0.01; done; \
                 kill $!; exit 1";
    let mut command = script(&["--port", "A", "--port", "B"], stops);
    command
        .env("UP", folder.path().join("up"))
        .env("PYTHON", python())
        .env("SERVER", slow);
    let output = finish(&mut command).code(1);
    let note = "portlease: no server was seen on port ";
    assert!(output.err.starts_with(note), "{output:#?}");
}

#[test]
fn a_wait_for_a_passed_socket_alone_is_refused() {
    let output = ran(&["run", "--listen", "WEB", "--wait-listening", "--", "true"]).code(125);
    let expected = "portlease: --wait-listening has no port to wait for: ";
    assert!(output.err.starts_with(expected), "{output:#?}");
    // The other port counts.
    let options = ["--listen", "WEB", "--wait-listening=100ms", "--port", "P"];
    let output = finish(&mut script(&options, "sleep 600")).code(125);
    assert!(
        output.err.contains("/tcp is not listening: "),
        "{output:#?}"
    );
}

#[test]
fn a_command_that_may_not_be_signalled_is_reported() {
    need!(capability::nobody());
    let (binary, folder) = for_everybody();
    // A setuid program: the command runs as root.
    let as_root = folder.path().join("as-root");
    let made = "cp \"$(command -v setpriv)\" \"$0\" && chmod 4755 \"$0\"";
    let made = Command::new("sh").args(["-c", made]).arg(&as_root).status();
    assert!(made.unwrap().success());
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&binary)
        .args(["run", "--wait-listening=100ms", "--"])
        .arg(&as_root)
        .args(["--reuid=0", "sleep", "2"])
        .env("PORTLEASE_DIR", folder.locks());
    plain(&mut command);
    let output = finish(&mut command).code(125);
    let expected = "portlease: stopped the command after 100ms, but not pid ";
    assert!(output.err.starts_with(expected), "{output:#?}");
    assert!(
        output
            .err
            .contains(", which this user may not signal: port "),
        "{output:#?}"
    );
}

#[test]
fn a_duration_that_is_taken_for_the_program_is_explained() {
    let output = ran(&["run", "--wait-listening", "5s", "--", "true"]).code(127);
    let expected = "portlease: cannot run 5s: no such file or directory\n\
                    help: write the option and the duration as one word: --wait-listening=5s\n";
    assert_eq!(output.err, expected);
    let output = ran(&["run", "5s"]).code(127);
    assert!(!output.err.contains("help: "), "the control: {output:#?}");
}

/// `portlease run` with these options and a shell script as the command.
fn script(options: &[&str], script: &str) -> Command {
    portlease(&[&["run"], options, &["--", "sh", "-c", script]].concat())
}

fn numbers(ran: &Ran) -> Vec<u16> {
    ran.out
        .split_whitespace()
        .map(|word| word.parse().unwrap_or_else(|_| panic!("{ran:#?}")))
        .collect()
}

#[test]
fn the_number_is_in_the_environment_and_in_the_arguments() {
    let output = finish(script(&[], "echo $PORT {PORT} $0 \"$@\"").args(["{PORT}", "{X}"])).code(0);
    let words: Vec<&str> = output.out.split_whitespace().collect();
    assert!(
        words[..3].iter().all(|word| word == &words[0]) && words[0].parse::<u16>().unwrap() > 0,
        "{output:#?}"
    );
    assert_eq!(words[3], "{X}", "other braces stay");
    assert_eq!(output.err, "");

    let fixed = silent().port().to_string();
    let options = [
        "--port",
        "A",
        "--port",
        "B/udp",
        "--port",
        &format!("C={fixed}"),
    ];
    let all = finish(&mut script(
        &options,
        "echo $A {B} $B $C; test -z \"$PORT\"",
    ))
    .code(0);
    let [a, b, same, c] = numbers(&all)[..] else {
        panic!("{all:#?}")
    };
    assert!(a != b && b == same && c.to_string() == fixed, "{all:#?}");
}

#[test]
fn the_command_may_stand_without_dashes() {
    let output = ran(&[
        "run",
        "--port",
        "A",
        "sh",
        "-c",
        "echo {A} --port $A",
        "--port",
    ])
    .code(0);
    let words: Vec<&str> = output.out.split_whitespace().collect();
    assert!(words[0] == words[2] && words[1] == "--port", "{output:#?}");
}

#[test]
fn a_name_after_a_dollar_sign_is_left_to_the_shell() {
    let output = finish(&mut script(&[], "echo ${PORT} $PORT {PORT} '{{PORT}}'")).code(0);
    let words: Vec<&str> = output.out.split_whitespace().collect();
    assert!(
        words[..3].iter().all(|word| word == &words[0]),
        "{output:#?}"
    );
    assert_eq!((words[3], output.err.as_str()), ("{PORT}", ""));
    let output = finish(&mut script(
        &["--port", "REDIS"],
        ": {PORT} {redis} ${PORT}",
    ))
    .code(0);
    for word in ["{PORT}", "{redis}"] {
        let note = format!("portlease: {word} in the command stays as it is, because no --port");
        assert!(output.err.contains(&note), "{output:#?}");
    }
    assert_eq!(output.err.lines().count(), 2, "{output:#?}");
}

#[test]
fn a_script_without_an_interpreter_line_is_run_by_a_shell() {
    let folder = Folder::new();
    let script = folder.path().join("script");
    // `sh` writes the script. If this process wrote it, a child forked meanwhile would inherit the
    // file open for writing, and exec would fail.
    let write = "printf 'echo \"$1 $PORT\"\\n' > \"$1\" && chmod 755 \"$1\"";
    let written = Command::new("sh")
        .args(["-c", write, "sh"])
        .arg(&script)
        .status();
    assert!(written.unwrap().success());
    let script = script.to_str().unwrap();
    let output = ran(&["run", "--", script, "argument", "x"]).code(0);
    assert!(
        output.out.starts_with("argument ") && output.out.len() > 10,
        "{output:#?}"
    );
}

#[test]
fn what_the_command_leaves_listening_is_named() {
    need!(installed("python3"));
    let folder = Folder::new();
    let file = folder.path().join("pid");
    let serve = "import os, socket, time; s = socket.create_server(('127.0.0.1', {PORT}))\n\
                 if os.fork(): raise SystemExit(0)\n\
                 os.setsid()\n\
                 for fd in (0, 1, 2): os.close(fd)\n\
                 open(os.environ['FILE'], 'w').write('%d\\n' % os.getpid()); time.sleep(600)";
    let mut command = portlease(&["run", "--", "python3", "-c", serve]);
    let output = finish(command.env("FILE", &file)).code(0);
    let pid = line_in(&file);
    crate::program::kill(pid.parse().unwrap());
    // The daemon has a session of its own, so nothing shows that the command started it.
    let named = output.err.contains(" still has a listener: ") && output.err.contains(&pid);
    assert!(named, "{output:#?}");
}

/// The server stays in the process group of `run`, so the command has started it.
#[test]
fn the_help_on_a_server_that_the_command_left_is_about_the_command() {
    need!(installed("python3"), capability::native());
    let folder = Folder::new();
    let file = folder.path().join("pid");
    let serve = "import os, socket, time; s = socket.create_server(('127.0.0.1', {PORT}))\n\
                 if os.fork(): raise SystemExit(0)\n\
                 for fd in (0, 1, 2): os.close(fd)\n\
                 open(os.environ['FILE'], 'w').write('%d\\n' % os.getpid()); time.sleep(600)";
    let mut command = portlease(&["run", "--", "python3", "-c", serve]);
    let output = finish(command.env("FILE", &file)).code(0);
    crate::program::kill(line_in(&file).parse().unwrap());
    let help = "\nhelp: stop each server before the command ends, or add --leaks=stop\n";
    assert!(output.err.ends_with(help), "{output:#?}");
}

#[test]
fn the_exit_status_is_the_commands() {
    need!(capability::native());
    for (command, code) in [("exit 0", 0), ("exit 1", 1), ("exit 200", 200)] {
        finish(&mut script(&[], command)).code(code);
    }
    // The parent learns that a signal ended the command. A shell reports 128+N.
    for (command, signal) in [("kill -9 $$", Signal::KILL), ("kill -15 $$", Signal::TERM)] {
        finish(&mut script(&[], command)).killed_by(signal);
    }
    let output = ran(&["run", "--", "portlease-no-such-command"]).code(127);
    // The cause depends on PATH: it is EACCES if this user may not search one of its folders.
    assert!(
        output
            .err
            .starts_with("portlease: cannot run portlease-no-such-command: "),
        "{output:#?}"
    );
    let output = ran(&["run", "--", "/nowhere/portlease-no-such-command"]).code(127);
    let message =
        "portlease: cannot run /nowhere/portlease-no-such-command: no such file or directory\n";
    assert_eq!(output.err, message);
    let output = ran(&["run", "--", "/etc/passwd"]).code(126);
    assert_eq!(
        output.err,
        "portlease: cannot run /etc/passwd: permission denied\n"
    );
    ran(&["run", "--", "/"]).code(126);
}

#[test]
fn a_busy_exact_port_exits_with_125() {
    let p = portlease::reserve_port();
    let output = ran(&["run", "--port", &format!("A={p}"), "--", "echo", "started"]).code(125);
    assert!(
        output.err.starts_with(&format!(
            "portlease: cannot reserve {p}/tcp: address already in use: "
        )),
        "{output:#?}"
    );
    assert_eq!(output.out, "");
}

#[test]
fn run_waits_for_a_busy_port() {
    let (folder, busy) = (Folder::new(), portlease::reserve_port());
    let file = folder.path().join("word");
    let args = [
        "run",
        "--port",
        &format!("A={busy}"),
        "--wait",
        "10m",
        "--",
        "sh",
        "-c",
        "echo {A} > \"$FILE\"",
    ];
    let mut queued = Running::start(portlease(&args).env("FILE", &file));
    let short = ran(&[
        "run",
        "--port",
        &format!("A={busy}"),
        "--wait",
        "20ms",
        "--",
        "true",
    ])
    .code(125);
    assert!(
        short.err.starts_with(&format!(
            "portlease: cannot reserve {busy}/tcp within 20 ms: "
        )),
        "{short:#?}"
    );
    assert!(queued.runs() && !file.exists());
    let port = busy.port().to_string();
    drop(busy);
    queued.finish().code(0);
    assert_eq!(line_in(&file), port);
}

#[test]
fn the_command_has_the_standard_streams() {
    let mut cat = portlease(&["run", "--", "sh", "-c", "cat; echo aside >&2"]);
    let folder = Folder::new();
    let input = folder.path().join("input");
    std::fs::write(&input, "said\n").unwrap();
    let output = finish(cat.stdin(std::fs::File::open(&input).unwrap())).code(0);
    assert_eq!(
        (output.out.as_str(), output.err.as_str()),
        ("said\n", "aside\n")
    );
}

#[test]
fn the_command_sees_its_own_reservation_as_free() {
    let output = finish(&mut script(
        &["--port", "A", "--port", "B/udp"],
        "\"$BIN\" check $A $B/udp",
    ))
    .code(0);
    assert_eq!(
        (output.out.as_str(), output.err.as_str()),
        ("2 ports are free\n", "")
    );
    let options = ["--port", "A"];
    let output = finish(&mut script(&options, "\"$BIN\" run --port X=$A -- true")).code(125);
    assert!(
        output.err.contains("address already in use"),
        "control: another reservation is refused: {output:#?}"
    );
}

#[test]
fn json_and_verbose_print_the_reservation_on_stderr() {
    let output = finish(&mut script(&["--json"], "echo $PORT")).code(0);
    let port: u16 = output.out.trim().parse().unwrap();
    let message: Value = serde_json::from_str(&output.err).unwrap();
    let row = json!({"name": "PORT", "port": port, "protocols": ["tcp"], "guarantee": "kernel"});
    assert_eq!(message, json!({"version": 1, "ports": [row]}));
    let output = finish(&mut script(&["-v", "--port", "A/udp"], "echo $A")).code(0);
    assert_eq!(
        output.err,
        format!("portlease: A is {}/udp\n", output.out.trim())
    );
}

#[test]
fn signals_reach_the_command_and_its_exit_code_is_returned() {
    let folder = Folder::new();
    for (signal, name) in [
        (Signal::INT, "INT"),
        (Signal::TERM, "TERM"),
        (Signal::HUP, "HUP"),
        (Signal::USR1, "USR1"),
    ] {
        let file = folder.path().join(name);
        let trap =
            format!("trap 'exit 42' {name}; echo $PORT > \"$FILE\"; while :; do sleep 0.01; done");
        let run = Running::start(script(&[], &trap).env("FILE", &file));
        line_in(&file);
        run.signal(signal);
        run.finish().code(42);
    }
    let file = folder.path().join("killed");
    let run =
        Running::start(script(&[], "echo $PORT > \"$FILE\"; exec sleep 600").env("FILE", &file));
    let port = line_in(&file);
    run.signal(Signal::INT);
    run.finish().killed_by(Signal::INT);
    becomes_free(port.parse().unwrap(), &folder);
}

#[test]
fn ignored_signals_stay_ignored_in_the_command() {
    need!(capability::native());
    let status = "grep SigIgn /proc/self/status";
    let mut command = Command::new("sh");
    plain(command.args([
        "-c",
        &format!("trap '' HUP INT; exec \"$BIN\" run -- {status}"),
    ]));
    let output = finish(&mut command).code(0);
    let mask = u64::from_str_radix(output.out.split_whitespace().last().unwrap(), 16).unwrap();
    assert_eq!(mask & 3, 3, "{output:#?}");
}

#[test]
fn killing_the_command_or_portlease_ends_both_and_releases_the_port() {
    let folder = Folder::new();
    for victim in ["the command", "portlease"] {
        let file = folder.path().join(format!("kill {victim}"));
        let mut command = script(&[], "echo $PORT $$ > \"$FILE\"; exec sleep 600");
        let run = Running::start(
            command
                .env("FILE", &file)
                .env("PORTLEASE_DIR", folder.locks()),
        );
        let line = line_in(&file);
        let (port, pid) = line.split_once(' ').unwrap();
        let pid: u32 = pid.parse().unwrap();
        let victim_pid = if victim == "portlease" {
            run.pid()
        } else {
            pid
        };
        crate::program::kill(victim_pid);
        if victim == "the command" {
            run.finish().killed_by(Signal::KILL);
        }
        becomes_free(port.parse().unwrap(), &folder);
        ends(pid);
    }
}

#[test]
fn wait_listening_stops_a_command_that_does_not_listen() {
    let output = finish(&mut script(&["--wait-listening=100ms"], "exec sleep 600")).code(125);
    // `run` also stops a process that the shell of the command started in the foreground.
    let folder = Folder::new();
    let file = folder.path().join("pid");
    let nested = "sh -c 'echo $$ > \"$FILE\"; exec sleep 600'; :";
    let mut command = script(&["--wait-listening=1s"], nested);
    finish(command.env("FILE", &file)).code(125);
    ends(line_in(&file).parse().unwrap());
    let (act, cause) = output.err.split_once(": port ").unwrap();
    assert_eq!(act, "portlease: stopped the command after 100ms");
    assert!(cause.contains("/tcp is not listening: "), "{output:#?}");
    assert!(
        cause.contains("\nhelp: check that the command of pid "),
        "{output:#?}"
    );
    // The command ends first: its exit code counts, unless it means success.
    let output = finish(&mut script(&["--wait-listening"], "exit 3")).code(3);
    let expected = "portlease: the command ended (exit status: 3) before it listened on port ";
    assert!(output.err.starts_with(expected), "{output:#?}");
    let output = finish(&mut script(&["--wait-listening"], "exit 0")).code(125);
    assert!(
        output
            .err
            .contains("ended (exit status: 0) before it listened on port "),
        "{output:#?}"
    );
    // A suspended command starts no server.
    let output = finish(&mut script(&["--wait-listening=1s"], "kill -STOP $$")).code(125);
    // It was ended, so the help does not advise to resume it.
    let cause = " is suspended, so it starts no server\n";
    assert!(output.err.ends_with(cause), "{output:#?}");

    need!(installed("python3"));
    let suspended = "import os, signal, socket; s = socket.create_server(('127.0.0.1', {PORT})); \
                     os.kill(os.getpid(), signal.SIGSTOP)";
    let run = ["run", "--wait-listening=1s", "--http", "/", "--"];
    let output = finish(portlease(&run).args(["python3", "-c", suspended])).code(125);
    let cause = "is suspended\n";
    assert!(output.err.ends_with(cause), "{output:#?}");
    let folder = Folder::new();
    let serve =
        "import socket, os, time; s = socket.create_server(('127.0.0.1', {PORT})); time.sleep(600)";
    let mut command = portlease(&["run", "--wait-listening=10m", "--", "python3", "-c", serve]);
    let (run, line) = Running::with_log(&mut command, &folder.path().join("log"));
    assert!(
        line.starts_with("portlease: the command started to listen after "),
        "{line}"
    );
    run.signal(Signal::TERM);
    run.finish().killed_by(Signal::TERM);
}

#[test]
fn twenty_concurrent_runs_get_different_ports() {
    need!(installed("python3"));
    let folder = Folder::new();
    let serve = "import os, socket, time\n\
        for _ in range(3):\n    s = socket.create_server(('127.0.0.1', {A}))\n    \
        u = socket.socket(type=socket.SOCK_DGRAM)\n    \
        u.bind(('127.0.0.1', {B})); s.close(); u.close()\n\
        print({A}, {B}, flush=True)\n\
        open(os.environ['FILE'], 'w').write('up\\n')\n\
        while not os.path.exists(os.environ['GO']): time.sleep(0.01)\n";
    let start_file = folder.path().join("start");
    let start = |n: usize| {
        let mut command = portlease(&[
            "run", "--port", "A", "--port", "B/udp", "--", "python3", "-c", serve,
        ]);
        command
            .env("FILE", folder.path().join(n.to_string()))
            .env("GO", &start_file)
            .env("PORTLEASE_DIR", folder.locks());
        Running::start(&mut command)
    };
    let mut running: Vec<Running> = (0..20).map(start).collect();
    for (n, run) in running.iter_mut().enumerate() {
        eventually("all of them run at once", DEADLINE, || {
            let up = folder.path().join(n.to_string()).exists();
            if up || !run.runs() {
                Ok(())
            } else {
                Err(format!("number {n} is not up"))
            }
        });
    }
    std::fs::write(&start_file, "").unwrap();
    let mut taken: Vec<u16> = running
        .into_iter()
        .flat_map(|run| numbers(&run.finish().code(0)))
        .collect();
    assert_eq!(taken.len(), 40);
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), 40, "a number was given twice");
    let left = finish(portlease(&["list", "--json"]).env("PORTLEASE_DIR", folder.locks()))
        .code(0)
        .json();
    assert_eq!(left["leases"], json!([]));
}
