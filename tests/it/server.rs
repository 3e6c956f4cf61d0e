//! Programs that are started on a reserved port: restarted, killed, stopped, dropped.

use std::io::Read;
use std::net::TcpStream;

use portlease::{ErrorKind, ReserveOptions, Server, reserve_port};

use crate::support::{DEADLINE, capability, need, server, socket};

fn spawn() -> Server {
    let p = reserve_port();
    let command = server::command(p.port());
    p.spawn(command, DEADLINE).unwrap()
}

#[track_caller]
fn assert_refused(server: &Server) {
    let refused = TcpStream::connect(server.addr()).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_server_is_started_again_on_its_number_over_every_kind_of_connection() {
    let mut started = spawn();
    let port = started.port();
    assert_eq!(started.reservation().port(), port);
    assert_eq!(started.addr().port(), port);
    let (mut clients, mut pids) = (Vec::new(), Vec::new());
    for round in 0..3 {
        let (client, pid) = server::connect(started.addr());
        assert_eq!(pid, started.id());
        assert_eq!(pid, started.child().id());
        // wine does not show the owners of sockets.
        if cfg!(target_os = "linux") {
            portlease::assert_port_held_by(started.reservation(), pid);
        }
        pids.push(pid);
        if cfg!(windows) {
            // On Windows a connection in TIME_WAIT keeps the port from a server for a minute.
            socket::reset_on_close(&client);
            drop(client);
        } else {
            clients.push(client); // it stays open over the restart
        }
        if round == 1 {
            started.kill().unwrap();
            if cfg!(unix) {
                assert_refused(&started);
            }
        }
        if round == 1 && !clients.is_empty() {
            // The client reads the end of the stream and closes. Then the server's side is in
            // TIME_WAIT.
            let mut rest = Vec::new();
            let mut client = clients.remove(0);
            let _reset_or_end = client.read_to_end(&mut rest);
        }
        started.restart().unwrap();
    }
    pids.push(started.id());
    let distinct: std::collections::BTreeSet<u32> = pids.iter().copied().collect();
    assert_eq!(distinct.len(), 4, "{pids:?}");

    let reservation = started.stop().unwrap();
    assert_eq!(reservation.port(), port);
    portlease::assert_port_free(&reservation);
    let taken = ReserveOptions::new().port(port).reserve().unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::InUse, "{taken}");
    drop(clients);
}

#[test]
fn a_dropped_server_has_ended_and_its_number_is_free() {
    for _ in 0..3 {
        let started = spawn();
        let port = started.port();
        drop(started);
        let again = ReserveOptions::new().port(port).reserve().unwrap();
        drop(again.listen().unwrap());
    }
}

#[test]
fn a_server_that_its_owner_reaped_is_started_again() {
    let mut started = spawn();
    for _ in 0..2 {
        started.child().kill().unwrap();
        started.child().wait().unwrap();
        started.restart().unwrap();
        server::connect(started.addr());
    }
    started.child().kill().unwrap();
    started.child().wait().unwrap();
    started.kill().unwrap();
    drop(started.stop().unwrap());
}

#[test]
fn a_program_that_is_not_there_is_named() {
    // Under an emulator a spawn returns before the exec fails.
    need!(capability::native());
    let p = reserve_port();
    let port = p.port();
    let missing = std::process::Command::new("no-such-program-of-portlease");
    let error = p.spawn(missing, DEADLINE).unwrap_err();
    let expected = "cannot start \"no-such-program-of-portlease\": ";
    assert!(error.to_string().starts_with(expected), "{error}");
    drop(ReserveOptions::new().port(port).reserve().unwrap());
}

#[cfg(unix)]
pub(crate) mod unix {
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use portlease::Reservation;

    use super::*;
    use crate::support::program::installed;
    use crate::support::{eventually, helper};

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    /// A command that runs a shell script. In the script, `"$@"` is the command of the helper
    /// server.
    fn server_under(script: &str, p: &Reservation) -> Command {
        let server = server::command(p.port());
        let mut command = shell(script);
        command
            .arg("sh")
            .arg(server.get_program())
            .args(server.get_args());
        let variables = server.get_envs();
        command.envs(variables.filter_map(|(name, value)| Some((name, value?))));
        command.stdout(Stdio::null());
        command
    }

    /// A zombie is gone too: not every container has a first process that reaps it.
    fn is_gone(pid: u32) -> Result<(), String> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        if stat.is_ok_and(|stat| stat.contains(") Z ")) {
            return Ok(());
        }
        match Command::new("kill").args(["-0", &pid.to_string()]).output() {
            Ok(output) if output.status.success() => Err(format!("{pid} runs")),
            _ => Ok(()),
        }
    }

    #[test]
    fn a_program_that_ends_first_is_an_error_with_its_status_and_its_last_lines() {
        let p = reserve_port();
        let (port, addr) = (p.port(), p.addr());
        let mut command = shell(
            "for n in 1 2 3 4 5 6 7 8 9 10 11; do echo \"line $n\" >&2; done
            echo 'bind: \"in use\"' >&2; exit 3",
        );
        command.stderr(Stdio::piped());
        let error = p.spawn(command, DEADLINE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        let text = error.to_string();
        let expected = format!(" ended (exit status: 3) before it listened on port {addr}");
        assert!(text.contains(&expected), "{text}");
        assert!(
            text.ends_with("line 10\\nline 11\\nbind: \\\"in use\\\"\""),
            "{text}"
        );
        assert!(!text.contains("line 2\\n"), "{text}");
        assert_eq!(text.lines().count(), 1);
        let debug = format!("{error:?}");
        assert!(debug.starts_with(&text), "{debug}");
        drop(ReserveOptions::new().port(port).reserve().unwrap());

        // Without a pipe there is nothing to show.
        let mut command = shell("exit 4");
        command.stderr(Stdio::null());
        let error = reserve_port().spawn(command, DEADLINE).unwrap_err();
        assert!(error.to_string().contains("exit status: 4"), "{error}");
        assert!(!error.to_string().contains("stderr"), "{error}");
        // A signal.
        let error = reserve_port().spawn(shell("kill -9 $$"), DEADLINE);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("signal: 9"), "{error}");
    }

    #[test]
    fn a_program_that_fills_a_pipe_before_it_listens_is_explained() {
        need!(capability::native());
        for stream in ["stdout", "stderr"] {
            let redirect = if stream == "stderr" { "exec >&2;" } else { "" };
            let mut command = shell(&format!("{redirect} exec yes"));
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            // The limit is long enough for yes(1) to fill the pipe on a busy machine.
            let error = reserve_port().spawn(command, Duration::from_secs(3));
            let error = error.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
            let expected =
                format!("; the {stream} pipe of the program is full, so the program blocks");
            assert!(error.to_string().contains(&expected), "{error}");
        }
    }

    #[test]
    fn a_program_that_never_listens_is_ended_and_its_last_lines_are_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let mut command =
            shell("echo waiting for the database >&2; sleep 600 & echo $! >\"$F\"; wait");
        command.env("F", &file).stderr(Stdio::piped());
        // The limit is long enough for the shell on a busy machine to write its line.
        let error = reserve_port()
            .spawn(command, Duration::from_secs(3))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        assert!(
            error
                .to_string()
                .ends_with("; stderr of the program ends with \"waiting for the database\""),
            "{error}"
        );
        let sleep: u32 = std::fs::read_to_string(&file)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        eventually("the process of the group ends", DEADLINE, || is_gone(sleep));
    }

    #[test]
    fn what_a_script_starts_in_its_group_ends_with_the_server() {
        type End = fn(Server);
        let ends: [(&str, End); 3] = [
            ("drop", drop),
            ("stop", |server| drop(server.stop().unwrap())),
            ("kill", |mut server| server.kill().unwrap()),
        ];
        for (what, end) in ends {
            let p = reserve_port();
            // The script waits for the server, so the server is no child of this process.
            let command = server_under("\"$@\" & wait", &p);
            let started = p.spawn(command, DEADLINE).unwrap();
            let (client, pid) = server::connect(started.addr());
            assert_ne!(pid, started.id());
            let port = started.port();
            end(started);
            let refused = TcpStream::connect(("127.0.0.1", port));
            assert!(refused.is_err(), "{what}");
            eventually("the server ends", DEADLINE, || is_gone(pid));
            drop(client);
        }
    }

    #[test]
    fn a_script_that_leaves_its_server_behind_is_ended_too() {
        // Under an emulator this test has failed when others ran beside it. The cause is unknown.
        need!(capability::native());
        let p = reserve_port();
        let command = server_under("\"$@\" & exit 0", &p);
        let mut started = p.spawn(command, DEADLINE).unwrap();
        let (_, first) = server::connect(started.addr());
        started.restart().unwrap();
        let (_, second) = server::connect(started.addr());
        assert_ne!(first, second);
        let reservation = started.stop().unwrap();
        portlease::assert_port_free(&reservation);
    }

    #[test]
    fn a_server_that_ignores_sigterm_is_killed() {
        let p = reserve_port();
        let command = server_under("trap '' TERM; exec \"$@\"", &p);
        let started = p.spawn(command, DEADLINE).unwrap();
        let pid = started.id();
        let reservation = started.stop().unwrap();
        portlease::assert_port_free(&reservation);
        is_gone(pid).unwrap();
    }

    #[test]
    fn a_daemon_that_left_the_group_is_named_by_stop() {
        need!(installed("setsid"));
        let p = reserve_port();
        let port = p.port();
        let command = server_under("setsid \"$@\" & wait", &p);
        let started = p.spawn(command, DEADLINE).unwrap();
        let (client, daemon) = server::connect(started.addr());
        let error = started.stop().unwrap_err();
        assert!(
            error.to_string().contains(&format!("pid {daemon}")),
            "{error}"
        );
        // The reservation has ended; only the daemon has the port.
        assert!(!portlease::is_port_free(port));
        let killed = Command::new("kill")
            .args(["-9", &daemon.to_string()])
            .status();
        assert!(killed.unwrap().success());
        drop(client);
        portlease::wait_until_free(port, DEADLINE).unwrap();
    }

    #[test]
    fn a_daemon_that_listens_too_late_is_named() {
        need!(capability::native());
        need!(installed("setsid"));
        if !cfg!(target_os = "linux") {
            return;
        }
        // The daemon writes its pid before the program ends.
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let mut command = shell(
            "mkfifo \"$F.up\"; setsid sh -c 'echo $$ >\"$F\"; echo >\"$F.up\"; exec sleep 600' &
            read up <\"$F.up\"; exit 0",
        );
        command.env("F", &file).stdin(Stdio::null());
        let error = reserve_port().spawn(command, DEADLINE).unwrap_err();
        let daemon = std::fs::read_to_string(&file).unwrap();
        let killed = Command::new("kill").args(["-9", daemon.trim()]).status();
        assert!(killed.unwrap().success());
        let text = format!("{error:?}");
        // The named process can be a daemon that another test left at the same time.
        assert!(
            text.contains(" still runs, and may be a daemon of the ended process; "),
            "{text}"
        );
        assert!(
            text.contains("help: start the server in the foreground"),
            "{text}"
        );
    }

    #[test]
    fn a_program_that_inherits_its_socket_is_stopped_and_hands_the_port_back() {
        for is_stopped in [true, false] {
            let p = ReserveOptions::new().strict().reserve().unwrap();
            let mut command = shell("exec sleep 600");
            p.pass_to(&mut command).unwrap();
            let mut started = p.spawn(command, DEADLINE).unwrap();
            drop(TcpStream::connect(started.addr()).unwrap());
            let error = started.restart().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(
                error
                    .to_string()
                    .contains("call `stop`, pass the port to a new `Command`"),
                "{error}"
            );
            assert!(started.child().try_wait().unwrap().is_none());
            if is_stopped {
                portlease::assert_port_free(&started.stop().unwrap());
            }
        }
    }

    /// `spawn` ends the program, so help about that process would be useless.
    #[test]
    fn a_failed_spawn_gives_no_help_about_the_process_that_it_has_ended() {
        need!(capability::native());
        need!(installed("python3"));
        let suspended = reserve_port().spawn(shell("kill -STOP $$"), Duration::from_secs(3));
        let listen = "import socket, sys, time
s = socket.socket(socket.AF_INET6)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
s.bind(('::1', int(sys.argv[1]))); s.listen()
time.sleep(600)";
        let p = reserve_port();
        let mut python = Command::new("python3");
        python.args(["-c", listen, &p.to_string()]);
        let elsewhere = p.spawn(python, Duration::from_secs(3));
        let silent = reserve_port().spawn(shell("sleep 600"), Duration::from_secs(1));
        // On a terminal, the suspended program is also in its background.
        for (error, cause, help) in [
            (suspended, " was suspended", ""),
            (
                elsewhere,
                " listened on [::1]:",
                "help: let the server listen on 127.0.0.1",
            ),
            (
                silent,
                "",
                "help: check that the command starts its server on this port, or ",
            ),
        ] {
            let text = format!("{:?}", error.unwrap_err());
            assert!(text.contains(cause) && text.contains(help), "{text}");
            let found = text.split("help: ").nth(1).unwrap_or_default();
            assert!(
                !found.contains("pid") && !found.contains("connect to"),
                "{text}"
            );
        }
    }

    /// The helper process: reports the failed `spawn` and the failed `wait_for` of a program that
    /// configures the terminal from the background.
    pub(crate) fn spawn_on_a_terminal() {
        let configure = "stty -echo </dev/tty; sleep 600";
        let error = reserve_port().spawn(shell(configure), Duration::from_secs(2));
        helper::reply(&format!("{:?}", error.unwrap_err()));
        let mut child = std::os::unix::process::CommandExt::process_group(&mut shell(configure), 0)
            .spawn()
            .unwrap();
        let error = reserve_port().wait_for(&mut child, Duration::from_secs(2));
        helper::reply(&format!("{:?}", error.unwrap_err()));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_program_that_its_terminal_suspends_is_explained() {
        need!(capability::native());
        need!(installed("python3"));
        if !cfg!(target_os = "linux") {
            return;
        }
        let pty = "import os, pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)";
        let output = Command::new("python3")
            .args(["-c", pty])
            .arg(std::env::current_exe().unwrap())
            .args(helper::LIBTEST_ARGS)
            .env(helper::NAME, "spawns-on-a-terminal")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut replies = text.lines().filter(|line| line.contains(helper::MARK));
        for (tense, help) in [
            (
                "was",
                "help: start the program without a terminal as its stdin: ",
            ),
            ("is", " with fg in its shell, because after kill -CONT "),
        ] {
            let reply = replies.next().unwrap_or_else(|| panic!("{output:?}"));
            let cause =
                format!(" {tense} suspended in the background of its terminal, so it start");
            assert!(reply.contains(&cause) && reply.contains(help), "{reply}");
        }
    }

    /// A process that leads a group may not call setsid(2).
    #[test]
    fn a_hook_that_calls_setsid_is_explained() {
        need!(capability::native());
        let mut command = shell("exit 0");
        #[expect(unsafe_code, reason = "only an unsafe hook can call setsid")]
        // SAFETY: the hook only makes a system call.
        unsafe {
            let hook = || Ok(rustix::process::setsid().map(drop)?);
            std::os::unix::process::CommandExt::pre_exec(&mut command, hook);
        }
        let error = reserve_port().spawn(command, DEADLINE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        let text = error.to_string();
        assert!(
            text.contains("if a pre_exec hook calls setsid(2), remove the call"),
            "{text}"
        );
    }

    #[test]
    fn another_programs_listener_does_not_count() {
        let p = reserve_port();
        let stranger = p.listen().unwrap();
        let command = shell("sleep 600");
        let error = p.spawn(command, Duration::from_millis(200)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        let own = format!("pid {}", std::process::id());
        assert!(error.to_string().contains(&own), "{error}");
        drop(stranger);
    }
}
