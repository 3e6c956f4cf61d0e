//! The command on a terminal, which Python's pty makes.

use std::process::Command;

use crate::program::{BINARY, Ran, finish, plain};
use crate::support::program::installed;
use crate::support::{Folder, need};

/// Runs the command on a terminal of 60 columns. Types the first argument when the second has
/// appeared on the terminal or in the log. Prints the screen, and exits as the command does.
const DRIVER: &str = "\
import fcntl, os, pty, select, signal, struct, sys, termios, time
typed = sys.argv[1].encode().decode('unicode_escape').encode()
awaited, log = sys.argv[2], sys.argv[3]
pid, fd = pty.fork()
if pid == 0:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 60, 0, 0))
    os.execvp(sys.argv[4], sys.argv[4:])
seen, sent, end = b'', False, time.monotonic() + 60
while time.monotonic() < end:
    ready, _, _ = select.select([fd], [], [], 0.05)
    if ready:
        try:
            data = os.read(fd, 4096)
        except OSError:
            data = b''
        if not data:
            break
        seen += data
    there = awaited.encode() in seen or os.path.exists(log) and awaited in open(log).read()
    if typed and not sent and there:
        os.write(fd, typed)
        sent = True
status = os.waitpid(pid, 0)[1]
sys.stdout.buffer.write(seen)
sys.exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))
";

fn on_a_terminal(typed: &str, awaited: &str, folder: &Folder, args: &[&str]) -> Ran {
    on_terminal("xterm", typed, awaited, folder, args)
}

/// Sets the variable `CI`, as a CI runner does.
fn on_terminal(term: &str, typed: &str, awaited: &str, folder: &Folder, args: &[&str]) -> Ran {
    let mut python = Command::new("python3");
    let log = folder.path().join("log");
    python
        .args(["-c", DRIVER, typed, awaited])
        .arg(&log)
        .arg(BINARY)
        .args(args);
    plain(
        python
            .env("LOG", &log)
            .env("PORTLEASE_DIR", folder.locks())
            .env("TERM", term)
            .env("CI", "true"),
    );
    finish(&mut python)
}

#[test]
fn ctrl_c_reaches_the_command_once() {
    need!(installed("python3"));
    let folder = Folder::new();
    // Counts the interrupts that arrive within 0.5 s of the first.
    let count = "import os, signal, time\n\
        got = []\n\
        signal.signal(signal.SIGINT, lambda *a: got.append(1))\n\
        open(os.environ['LOG'], 'w').write('ready')\n\
        end = time.monotonic() + 60\n\
        while not got and time.monotonic() < end: time.sleep(0.01)\n\
        end = time.monotonic() + 0.5\n\
        while time.monotonic() < end: time.sleep(0.01)\n\
        print('interrupted', len(got), 'times')\n\
        raise SystemExit(42)\n";
    let output = on_a_terminal(
        "\\x03",
        "ready",
        &folder,
        &["run", "--", "python3", "-c", count],
    )
    .code(42);
    assert!(output.out.contains("interrupted 1 times"), "{output:#?}");
}

#[test]
fn ctrl_c_ends_a_wait() {
    need!(installed("python3"));
    let p = crate::program::silent();
    let folder = Folder::new();
    let args = ["wait", "--listening", "--timeout", "1m", &p.to_string()];
    let output = on_a_terminal("\\x03", "waiting for", &folder, &args).code(130);
    let line = format!("waiting for {p}/tcp to be listening: 0 s of 60 s");
    assert!(output.out.contains(&line), "{output:#?}");
    assert!(!output.out.contains("portlease:"), "{output:#?}");
}

#[test]
fn progress_fits_the_terminal_and_needs_its_control_sequences() {
    need!(installed("python3"));
    let p = portlease::reserve_port();
    let _server = p.listen().unwrap();
    let wide = format!("127.0.0.1:{p},127.0.0.2:{p},127.0.0.3:{p},[::1]:{p}");
    let args = ["wait", "--free", "--timeout", "300ms", &wide];
    let folder = Folder::new();
    let screen = on_a_terminal("", "", &folder, &args).code(1).out;
    let shown: Vec<&str> = screen.split("\r\u{1b}[K").collect();
    assert!(shown.len() > 2, "{screen}");
    for line in &shown[..shown.len() - 1] {
        assert!(line.chars().count() < 60, "{line:?}");
    }
    let screen = on_terminal("dumb", "", "", &folder, &args).code(1).out;
    assert!(
        !screen.contains('\u{1b}') && screen.contains("waiting up to 300ms"),
        "{screen}"
    );
    // A wait for a busy port shows progress too.
    let port = p.to_string();
    for args in [
        &["reserve", "--wait", "1s", "--port", &port][..],
        &[
            "run",
            "--wait",
            "1s",
            "--port",
            &format!("A={port}"),
            "--",
            "true",
        ],
    ] {
        let output = on_a_terminal("", "", &folder, args);
        let line = "waiting for busy ports to become free: 0 s of 1 s";
        assert!(output.out.contains(line), "{output:#?}");
    }
}

#[test]
fn a_waiting_check_shows_progress_and_clears_it() {
    need!(installed("python3"));
    let p = portlease::reserve_port();
    let _server = p.listen().unwrap();
    let args = ["check", "--wait", "1s", &p.to_string()];
    let output = on_a_terminal("", "", &Folder::new(), &args).code(1);
    assert!(
        output
            .out
            .contains(&format!("waiting for {p}/tcp to be free: 0 s of 1 s")),
        "{output:#?}"
    );
    // The progress line is cleared before the answer. The notes of a wait that has no terminal are
    // not printed.
    assert!(
        output.out.contains("\r\u{1b}[K\u{1b}[1mport ") && !output.out.contains("timed out"),
        "{output:#?}"
    );
}

#[test]
fn colours_and_tables_are_made_for_the_terminal() {
    need!(installed("python3"));
    let folder = Folder::new();
    let label = "a label that is longer than all of the columns that this terminal has";
    let args = ["run", "--label", label, "--", BINARY, "list"];
    let output = on_a_terminal("", "", &folder, &args).code(0);
    for line in output.out.lines() {
        assert!(line.chars().count() <= 60, "{line:?} of {output:#?}");
    }
    assert!(
        output.out.contains('…') && output.out.contains("PORT"),
        "{output:#?}"
    );
    let p = crate::program::silent();
    let args = ["check", "--listening", &p.to_string()];
    let output = on_a_terminal("", "", &folder, &args).code(1);
    assert!(
        output.out.contains("\u{1b}[1mport ") && output.out.contains("\u{1b}[32mhelp:"),
        "{output:#?}"
    );
}

/// The command under the session leader gets SIGHUP when the terminal goes away.
#[test]
fn a_hang_up_reaches_the_command_of_a_session_leader_once() {
    need!(installed("python3"));
    let folder = Folder::new();
    // nohup(1) ignores the signal for every process below it.
    let driver = "import os, pty, signal, sys, time\n\
        log, argv = sys.argv[1], sys.argv[2:]\n\
        signal.signal(signal.SIGHUP, signal.SIG_DFL)\n\
        pid, fd = pty.fork()\n\
        if pid == 0: os.execvp(argv[0], argv)\n\
        end = time.monotonic() + 60\n\
        read = lambda: open(log).read() if os.path.exists(log) else ''\n\
        while 'ready' not in read() and time.monotonic() < end: time.sleep(0.02)\n\
        os.close(fd)\n\
        os.waitpid(pid, 0)\n\
        print(read())";
    let script = "import os, signal, sys, time\n\
        got = []\n\
        signal.signal(signal.SIGHUP, lambda *a: got.append(1))\n\
        log = open(os.environ['LOG'], 'w')\n\
        print('ready', file=log, flush=True)\n\
        end = time.monotonic() + 60\n\
        while not got and time.monotonic() < end: time.sleep(0.01)\n\
        time.sleep(0.5)\n\
        print(len(got), file=log, flush=True)";
    let log = folder.path().join("log");
    let mut python = Command::new("python3");
    python.args(["-c", driver]).arg(&log).arg(BINARY);
    python.args(["run", "--", "python3", "-c", script]);
    plain(python.env("LOG", &log).env("PORTLEASE_DIR", folder.locks()));
    let ran = finish(&mut python).code(0);
    assert_eq!(ran.out, "ready\n1\n\n", "{ran:#?}");
}
