//! Whose listener a wait or an assertion accepts.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use portlease::{ErrorKind, ProcessState, Reservation, reserve_port};

use crate::support::helper::Launch;
use crate::support::program::python;
use crate::support::reserver::Reserver;
use crate::support::socket::leave_time_wait;
use crate::support::{DEADLINE, Folder, capability, eventually, need, own_locks};

/// A timeout within which a process that started before the wait would begin to listen.
const SHORT: Duration = Duration::from_millis(300);

/// A server. Its first argument says how it runs, and its second is the port.
pub(super) const SERVER: &str = r#"
import os, signal, socket, sys
how, port = sys.argv[1], int(sys.argv[2])
hosts = {"on-ipv6": "::1", "wide-twin": "0.0.0.0", "mapped-twin": "::ffff:127.0.0.1"}
host = hosts.get(how, "127.0.0.1")
family = socket.AF_INET6 if ":" in host else socket.AF_INET
listener = socket.socket(family)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, how != "plain")
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, how.endswith("twin"))
listener.bind((host, port))
if how != "bound":
    listener.listen()
print(listener.getsockname()[1], flush=True)
if how.endswith("daemon") and os.fork() != 0:
    os._exit(0)
if how.endswith("daemon"):
    os.setsid()
    # The leader of the session ends.
    if how == "double-daemon" and os.fork() != 0:
        os._exit(0)
    # If the test fails, only this alarm ends the daemon.
    signal.alarm(120)
    print(os.getpid(), flush=True)
    os.close(1)
if how == "thread":
    import ctypes, threading
    threading.Thread(target=signal.pause).start()
    ctypes.CDLL(None).pthread_exit(None)
signal.pause()
"#;

/// A running server, which is killed when the value is dropped.
pub(super) struct Server(Child);

impl Server {
    pub(super) fn of(child: Child) -> Server {
        Server(child)
    }

    pub(super) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Waits until the server ends.
    pub(super) fn wait(&mut self) {
        self.0.wait().unwrap();
    }

    pub(super) fn new(how: &str, port: u16) -> Server {
        let child = Command::new(python())
            .args(["-c", SERVER, how, &port.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        Server(child.unwrap())
    }

    /// The port on which it listens, once it does.
    pub(super) fn port(&mut self) -> u16 {
        self.line()
    }

    fn line<T: std::str::FromStr<Err: std::fmt::Debug>>(&mut self) -> T {
        let mut line = String::new();
        // One byte at a time, so that no later line is lost with the buffer.
        let stdout = self.0.stdout.as_mut().unwrap();
        BufReader::with_capacity(1, stdout)
            .read_line(&mut line)
            .unwrap();
        line.trim().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

/// A reserved port on which another process listens. That process bound its socket over the claim.
fn served_by_a_stranger() -> (Reservation, Reserver) {
    let p = reserve_port();
    let mut stranger = Reserver::new(&own_locks());
    assert_eq!(stranger.command(&format!("serve={p}")), "serves");
    (p, stranger)
}

/// Each of two reserved ports has a server of its own, so the listener on one is not a server
/// that took the wrong number.
#[test]
fn an_expected_process_in_another_network_namespace_is_reported() {
    need!(capability::network_namespace());
    let mut command = Command::new("unshare");
    command.args(capability::unshare_flags());
    command.args(["-n", "sleep", "600"]);
    let server = Server::of(command.spawn().unwrap());
    let (p, pid) = (reserve_port(), server.id());
    // The process enters the namespace a moment after its start.
    eventually("the report says it", DEADLINE, || {
        let report = portlease::check_port_held_by(&p, pid).unwrap_err();
        let cause =
            format!("pid {pid} is in another network namespace, whose ports are not visible here");
        let help = format!(
            "retry in the network namespace of pid {pid}: nsenter --net=/proc/{pid}/ns/net enters \
             it (rootless: nsenter --target {pid} --user --preserve-credentials --net)"
        );
        let is_said = report.cause() == cause && report.help() == Some(help);
        if is_said {
            Ok(())
        } else {
            Err(report.to_string())
        }
    });
}

#[test]
fn the_listeners_of_several_ports_are_not_taken_for_one_another() {
    let (own, missing) = (reserve_port(), reserve_port());
    let mut server = Server::new("server", own.port());
    server.port();
    let report = || {
        let error = missing.wait_for_pid(server.id(), SHORT).unwrap_err();
        error.to_string()
    };
    let text = report();
    let other = format!(
        "(pid {}) listens on {}; one process reserved both ports",
        server.id(),
        own.addr()
    );
    assert!(text.contains(&other) && !text.contains("instead"), "{text}");
    // The control: once the number of the listener is no longer reserved, the report names it.
    drop(own);
    let text = report();
    assert!(text.ends_with(" instead"), "{text}");
}

#[test]
fn the_ports_of_one_call_are_not_taken_for_one_another() {
    // The reservations end before the checks, so only the call connects the two numbers.
    let (own, missing) = (reserve_port(), reserve_port());
    let numbers = [own.port(), missing.port()];
    let mut server = Server::new("server", own.port());
    server.port();
    drop((own, missing));
    let wait = |numbers: &[u16]| {
        let waited = portlease::wait_until_all_held_by(numbers, server.id(), SHORT);
        waited.unwrap_err().to_string()
    };
    let check = |numbers: &[u16]| {
        let mut results = portlease::check_each_port_held_by(numbers, server.id());
        results.pop().unwrap().unwrap_err().to_string()
    };
    let missing = format!("port {}/tcp is not ", numbers[1]);
    for text in [wait(&numbers), check(&numbers)] {
        assert!(
            text.contains(&missing) && !text.contains("instead"),
            "{text}"
        );
    }
    // The control: the call names only one port, so its report says that the server took the other
    // one instead.
    for text in [wait(&numbers[1..]), check(&numbers[1..])] {
        assert!(
            text.contains(&missing) && text.contains(" instead"),
            "{text}"
        );
    }
    // A TCP listener is not reported in place of a missing UDP server.
    let udp = portlease::reserve_udp_port();
    let waited = portlease::wait_until_held_by(&udp, server.id(), SHORT);
    let text = waited.unwrap_err().to_string();
    assert!(!text.contains("instead"), "{text}");
}

#[test]
fn the_id_of_a_thread_and_the_id_of_no_process_are_called_so() {
    let p = reserve_port();
    let (send, receive) = std::sync::mpsc::channel();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        send.send(rustix::thread::gettid()).unwrap();
        stopped.recv().unwrap_err();
    });
    let id = receive
        .recv()
        .unwrap()
        .as_raw_nonzero()
        .get()
        .unsigned_abs();
    let own = std::process::id();
    let _server = p.listen().unwrap();
    let report = portlease::check_port_held_by(&p, id).unwrap_err();
    let waited = p.wait_for_pid(id, SHORT).unwrap_err();
    drop(stop);
    thread.join().unwrap();
    for text in [report.to_string(), format!("{waited:?}")] {
        assert!(
            text.contains(&format!(": {id} is a thread of pid {own}; ")),
            "{text}"
        );
        let help =
            format!("\nhelp: name pid {own} instead of pid {id}, if pid {own} is your server");
        assert!(text.ends_with(&help), "{text}");
    }
    // Linux has no pid above 4194304.
    let none = p.wait_for_pid(u32::MAX, DEADLINE).unwrap_err();
    let expected = format!(
        "process {} had ended (or never existed) before it listened",
        u32::MAX
    );
    assert!(none.to_string().starts_with(&expected), "{none}");
}

/// The stranger's port may come after a port without a listener.
#[test]
fn a_stranger_on_any_of_several_ports_is_named() {
    let [silent, taken] = portlease::reserve_ports();
    let _listener = taken.listen().unwrap();
    let mut expected = Command::new("sleep").arg("600").spawn().unwrap();
    for ports in [[&silent, &taken], [&taken, &silent]] {
        let error = portlease::wait_until_all_held_by(ports, expected.id(), SHORT).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&format!("port {}/tcp is not held by pid", taken.addr())),
            "{text}"
        );
    }
    expected.kill().unwrap();
    expected.wait().unwrap();
}

#[test]
fn a_process_that_does_not_run_is_called_so() {
    let p = reserve_port();
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let report = portlease::check_port_held_by(&p, child.id()).unwrap_err();
    let expected = format!("is not held by pid {}, which does not run: ", child.id());
    assert!(report.headline().contains(&expected), "{report}");
}

/// A wait that begins after the starter of a daemon has ended cannot show whose daemon it is.
#[test]
fn a_daemon_of_a_process_that_ended_before_the_wait_may_be_its_server() {
    let p = reserve_port();
    let mut starter = Server::new("double-daemon", p.port());
    starter.port();
    let daemon: u32 = starter.line();
    starter.wait();
    let pid = starter.id();
    let report = portlease::check_port_held_by(&p, pid).unwrap_err();
    let expect = format!("name pid {daemon} instead of pid {pid}, if pid {daemon} is your server");
    let stop = format!("{expect}, or stop pid {daemon}, or reserve another port with ");
    let help = report.help().unwrap_or_default();
    let is_later = daemon > pid;
    assert_eq!(help.starts_with(&stop), is_later, "{report}");
    // Applies the remedy.
    portlease::check_port_held_by(&p, daemon).unwrap();
    let ended = Command::new("kill").arg(daemon.to_string()).status();
    assert!(ended.unwrap().success());
}

/// The listener of the process on another address is named.
#[test]
fn a_process_must_listen_on_the_address_of_the_reservation() {
    need!(capability::ipv6());
    let p = reserve_port();
    let mut server = Server::new("on-ipv6", p.port());
    server.port();
    let report = portlease::check_port_held_by(&p, server.id()).unwrap_err();
    let wait = portlease::wait_until_held_by(&p, server.id(), SHORT).unwrap_err();
    for text in [report.to_string(), wait.to_string()] {
        let listener = format!("listens on [::1]:{p}");
        assert!(text.contains(&listener), "{text}");
    }
    // The control: for the number alone, any address counts.
    portlease::assert_port_held_by(p.port(), server.id());
}

/// The expected process is a shell, whose only child is suspended.
#[test]
fn a_suspended_child_of_the_expected_process_is_reported() {
    let p = reserve_port();
    let script = "sleep 600 & kill -STOP $!; echo $!; wait";
    let mut shell = Command::new("sh");
    let shell = shell.args(["-c", script]).stdout(Stdio::piped()).spawn();
    let mut shell = Server::of(shell.unwrap());
    let child: u32 = shell.line();
    let expected = format!("pid {child} is suspended, so it starts no server");
    eventually("the child is suspended", DEADLINE, || {
        let error = p.wait_for_pid(shell.id(), Duration::ZERO).unwrap_err();
        match error.to_string().contains(&expected) {
            true => Ok(()),
            false => Err(error.to_string()),
        }
    });
    // The control: another child runs.
    let script = "sleep 600 & kill -STOP $!; echo $!; sleep 5 > /dev/null 2>&1 & wait";
    let mut other = Command::new("sh");
    let other = other.args(["-c", script]).stdout(Stdio::piped()).spawn();
    let mut other = Server::of(other.unwrap());
    let second: u32 = other.line();
    let error = p.wait_for_pid(other.id(), SHORT).unwrap_err();
    for pid in [child, second] {
        let ended = Command::new("kill")
            .args(["-KILL", &pid.to_string()])
            .status();
        assert!(ended.unwrap().success());
    }
    assert!(!error.to_string().contains("is suspended, so"), "{error}");
}

#[test]
fn a_suspended_process_is_reported_with_the_remedy() {
    let p = reserve_port();
    let child = Server::of(Command::new("sleep").arg("600").spawn().unwrap());
    let signal = |signal: &str| {
        let pid = child.id().to_string();
        let status = Command::new("kill").args([signal, &pid]).status();
        assert!(status.unwrap().success());
    };
    signal("-STOP");
    // The signal takes effect a moment later.
    eventually("the process is suspended", DEADLINE, || {
        let error = p.wait_for_pid(child.id(), Duration::ZERO).unwrap_err();
        let diagnosis = error.diagnosis().unwrap();
        let resume = format!("resume pid {0} with kill -CONT {0}", child.id());
        if diagnosis.help() == Some(resume) {
            assert!(
                error
                    .to_string()
                    .contains(" is suspended, so it starts no server")
            );
            Ok(())
        } else {
            Err(error.to_string())
        }
    });
    // Applies the remedy. The control: afterwards the report is another one.
    signal("-CONT");
    eventually("the process runs", DEADLINE, || {
        let error = p.wait_for_pid(child.id(), Duration::ZERO).unwrap_err();
        match error.to_string().contains(" is suspended, so") {
            true => Err(error.to_string()),
            false => Ok(()),
        }
    });
}

#[test]
fn an_expected_process_that_its_debugger_has_stopped_is_called_so() {
    let p = reserve_port();
    // The parent traces the child (PTRACE_TRACEME is 0), which a signal then stops.
    let program = "import ctypes, os, signal, time\n\
                   child = os.fork()\n\
                   if child == 0:\n signal.alarm(120)\n \
                   ctypes.CDLL(None).ptrace(0, 0, 0, 0)\n os.kill(os.getpid(), signal.SIGSTOP)\n\
                   os.waitpid(child, 0)\nprint(child, flush=True)\ntime.sleep(600)";
    let mut tracer = Command::new(python())
        .args(["-c", program])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let stdout = tracer.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let _tracer = Server::of(tracer);
    let pid: u32 = line.trim().parse().unwrap();
    let error = p.wait_for_pid(pid, Duration::ZERO).unwrap_err();
    let help = error.diagnosis().unwrap().help();
    assert_eq!(help, Some(format!("resume pid {pid} in its debugger")));
    let expected = format!("pid {pid} is stopped by its debugger, so it starts no server");
    assert!(error.to_string().contains(&expected), "{error}");
}

/// The kernel shows such a process as a zombie.
#[test]
fn a_process_whose_first_thread_has_ended_runs_and_listens() {
    let p = reserve_port();
    let mut server = Server::new("thread", p.port());
    let (port, pid) = (server.port(), server.id());
    eventually("the first thread has ended", DEADLINE, || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        if stat.contains(") Z ") {
            Ok(())
        } else {
            Err(stat)
        }
    });
    p.wait_for_pid(pid, DEADLINE).unwrap();
    portlease::assert_port_held_by(&p, pid);
    let diagnosis = portlease::check_port_free(port).unwrap_err();
    let text = diagnosis.to_string();
    assert!(text.contains(&format!("(pid {pid}) listens on")), "{text}");
    let holders = diagnosis.holders().unwrap();
    let process = &holders.iter().next().unwrap().processes[0];
    assert_eq!(process.state, ProcessState::Running);
    assert!(process.working_directory.is_some(), "{process:?}");
    let line = process.command_line().unwrap();
    assert_eq!(line.last().unwrap().to_str(), Some(&*port.to_string()));
}

#[test]
fn a_child_that_fails_while_a_stranger_listens_is_no_server() {
    let (p, stranger) = served_by_a_stranger();
    p.wait_until_listening(DEADLINE).unwrap();
    for _ in 0..10 {
        let mut child = Server::new("plain", p.port());
        let error = p.wait_for(&mut child.0, DEADLINE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        let expected = format!(
            "process {} ended (exit status: 1) before it listened on port 127.0.0.1:{p}/tcp: ",
            child.0.id()
        );
        let text = error.to_string();
        assert!(text.starts_with(&expected), "{text}");
        let named = format!("(pid {}) listens on 127.0.0.1:{p}", stranger.pid());
        assert!(text.ends_with(&named), "{text}");
    }
}

#[test]
fn a_wait_for_a_process_goes_on_while_a_stranger_listens() {
    let (p, mut stranger) = served_by_a_stranger();
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let errors = [
        p.wait_for(&mut child, SHORT).unwrap_err(),
        p.wait_for_pid(child.id(), SHORT).unwrap_err(),
        portlease::wait_until_held_by(&p, child.id(), SHORT).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        let text = format!("{error:?}");
        let named = format!("(pid {}) listens on 127.0.0.1:{p}", stranger.pid());
        assert!(text.lines().next().unwrap().ends_with(&named), "{text}");
        let help = format!("help: stop pid {}, or reserve another port", stranger.pid());
        assert!(text.contains(&help), "{text}");
    }
    child.kill().unwrap();
    child.wait().unwrap();

    // The stranger stops while the wait goes on, and the server follows.
    let script = format!("sleep 0.4; exec '{}' -c \"$0\" server {p}", python());
    let mut server = Command::new("sh");
    server.args(["-c", &script, SERVER]).stdout(Stdio::null());
    let mut server = Server(server.spawn().unwrap());
    let stopping = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        stranger.process().kill();
    });
    p.wait_for(&mut server.0, DEADLINE).unwrap();
    stopping.join().unwrap();
}

#[test]
fn a_descendant_and_a_daemon_are_servers_of_the_process() {
    let p = reserve_port();
    let script = format!("'{}' -c \"$0\" server {p} & wait", python());
    let mut shell = Command::new("sh")
        .args(["-c", &script, SERVER])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    p.wait_for(&mut shell, DEADLINE).unwrap();
    portlease::assert_port_held_by(&p, shell.id());
    let holders = portlease::who_holds(&p).unwrap();
    let server = holders.iter().find(|socket| !socket.processes.is_empty());
    let server = server.unwrap().processes[0].pid;
    // The shell ends by itself.
    Command::new("kill")
        .arg(server.to_string())
        .status()
        .unwrap();
    shell.wait().unwrap();

    let p = reserve_port();
    let mut parent = Server::new("daemon", p.port());
    assert_eq!(parent.port(), p.port());
    let daemon: u32 = parent.line();
    assert!(parent.0.wait().unwrap().success());
    p.wait_for(&mut parent.0, DEADLINE).unwrap();
    // The daemon is no server of a process that started after it. The pause is longer than the 10
    // ms that are the kernel's unit of start times.
    std::thread::sleep(Duration::from_millis(30));
    let mut later = Command::new("true").spawn().unwrap();
    let error = p.wait_for(&mut later, DEADLINE).unwrap_err();
    assert!(
        error.to_string().contains(&format!("(pid {daemon})")),
        "{error}"
    );
    // Nor is it a server of a process that was reaped before the wait: that start time is unknown.
    let mut reaped = Command::new("true").spawn().unwrap();
    reaped.wait().unwrap();
    let error = portlease::wait_until_held_by(&p, reaped.id(), DEADLINE).unwrap_err();
    assert!(
        error.to_string().contains(&format!("(pid {daemon})")),
        "{error}"
    );
    Command::new("kill")
        .arg(daemon.to_string())
        .status()
        .unwrap();
}

/// A test runner can adopt the daemons of its tests.
#[test]
fn a_daemon_that_a_subreaper_in_this_session_adopted_is_a_server_of_the_process() {
    // An emulator makes up the start time that a process reads of itself. Others read the real one.
    need!(capability::native());
    let folder = Folder::new();
    Launch::new("subreaper", &folder.locks()).start().succeed();
}

/// The helper process, which is the subreaper.
pub(crate) fn adopt_a_daemon() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let p = reserve_port();
    let mut parent = Server::new("double-daemon", p.port());
    assert_eq!(parent.port(), p.port());
    let daemon: u32 = parent.line();
    p.wait_for(&mut parent.0, DEADLINE).unwrap();
    Command::new("kill")
        .arg(daemon.to_string())
        .status()
        .unwrap();
    // The control: a server that this process itself started is no daemon of another child.
    let p = reserve_port();
    let mut child = Command::new("true").spawn().unwrap();
    let mut server = Server::new("server", p.port());
    server.port();
    let error = p.wait_for(&mut child, DEADLINE).unwrap_err();
    let own = format!("(pid {})", server.id());
    assert!(error.to_string().contains(&own), "{error}");
}

/// A report on the expected process says nothing about the reservation, which is the caller's own.
#[test]
fn connections_of_an_earlier_server_are_no_cause_of_a_missing_listener() {
    let p = reserve_port();
    leave_time_wait(&p.listen().unwrap());
    let mut child = Server::of(Command::new("sleep").arg("60").spawn().unwrap());
    let error = p.wait_for(&mut child.0, SHORT).unwrap_err();
    let diagnosis = error.diagnosis().unwrap();
    assert_eq!(diagnosis.cause(), "nothing listens on it", "{error}");
}

/// Another option of the reservation would not help a server that has bound over the claim.
#[test]
fn a_server_that_has_bound_over_the_claim_gets_no_help_about_the_claim() {
    let p = reserve_port();
    let help = |child: &Server| {
        let error = p.wait_for_pid(child.id(), Duration::ZERO);
        format!("{:?}", error.unwrap_err())
    };
    let idle = Server::of(Command::new("sleep").arg("60").spawn().unwrap());
    let text = help(&idle);
    assert!(text.contains("reuse_addr(false)"), "{text}");
    let mut bound = Server::new("bound", p.port());
    bound.port();
    let text = help(&bound);
    assert!(
        text.contains("does not listen") && !text.contains("reuse_addr(false)"),
        "{text}"
    );
}

/// The kernel gives each client to the listener with the more specific address.
#[test]
fn a_wildcard_listener_does_not_count_beside_a_strangers_listener_on_the_address() {
    let p = reserve_port();
    let mut own = Server::new("wide-twin", p.port());
    own.port();
    p.wait_for_pid(own.id(), DEADLINE).unwrap();
    let mut stranger = Server::new("twin", p.port());
    stranger.port();
    let error = p.wait_for_pid(own.id(), SHORT).unwrap_err().to_string();
    let named = format!("(pid {}) listens on 127.0.0.1:{p}", stranger.id());
    assert!(error.contains(&named), "{error}");
    p.wait_for_pid(stranger.id(), SHORT).unwrap();
    // The control: a client of another address reaches the wildcard listener.
    let other = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 9), p.port()));
    portlease::wait_until_held_by(other, own.id(), SHORT).unwrap();
}

#[test]
fn a_port_that_a_stranger_serves_too_is_not_held_by_one_process() {
    need!(capability::ipv6());
    let p = reserve_port();
    let mut own = Server::new("twin", p.port());
    own.port();
    portlease::assert_port_held_by(&p, own.0.id());
    // The kernel treats the IPv4-mapped address as 127.0.0.1.
    for how in ["twin", "mapped-twin"] {
        let mut twin = Server::new(how, p.port());
        twin.port();
        let text = portlease::check_port_held_by(&p, own.0.id())
            .unwrap_err()
            .to_string();
        let expected = format!(
            "port 127.0.0.1:{p}/tcp is not held by pid {} alone: ",
            own.0.id()
        );
        assert!(text.starts_with(&expected), "{how}: {text}");
        let named = format!("(pid {}) listens on 127.0.0.1:{p}", twin.0.id());
        let first_line = text.lines().next().unwrap();
        assert!(first_line.ends_with(&named), "{how}: {text}");
    }
    // A listener on another address takes no clients from the first server.
    let mut beside = Server::new("on-ipv6", p.port());
    beside.port();
    portlease::assert_port_held_by(&p, own.0.id());
}

#[test]
fn a_server_on_another_number_or_address_is_named() {
    need!(capability::ipv6());
    let p = reserve_port();
    let mut child = Server::new("server", 0);
    let other = child.port();
    let error = p.wait_for(&mut child.0, SHORT).unwrap_err().to_string();
    let expected = format!(
        "(pid {}) listens on 127.0.0.1:{other} instead",
        child.0.id()
    );
    assert!(error.ends_with(&expected), "{error}");

    let mut child = Server::new("on-ipv6", p.port());
    child.port();
    let errors = [
        format!("{:?}", p.wait_for(&mut child.0, SHORT).unwrap_err()),
        portlease::check_port_listening(p.addr())
            .unwrap_err()
            .to_string(),
    ];
    for error in errors {
        let expected = format!(
            "(pid {}) listens on [::1]:{p} only; connections to 127.0.0.1 are refused",
            child.0.id()
        );
        assert!(
            error.lines().next().unwrap().ends_with(&expected),
            "{error}"
        );
        let help = format!("help: connect to [::1]:{p}, or let the server listen on 127.0.0.1");
        assert!(error.contains(&help), "{error}");
    }
    // Without an address, a listener on any local address counts.
    portlease::check_port_listening(p.port()).unwrap();
}

/// The child sets no reuse option, so it cannot bind over the claim.
#[test]
fn a_server_that_the_reservation_refuses_is_explained() {
    // Without sock_diag the claim is not visible.
    need!(capability::bound_sockets());
    let p = reserve_port();
    let mut child = Server::new("plain", p.port());
    let error = format!("{:?}", p.wait_for(&mut child.0, DEADLINE).unwrap_err());
    assert!(
        error.contains("reserve the port with ReserveOptions::new().reuse_addr(false)"),
        "{error}"
    );
    // The remedy.
    let p = portlease::ReserveOptions::new()
        .reuse_addr(false)
        .reserve()
        .unwrap();
    let mut child = Server::new("plain", p.port());
    p.wait_for(&mut child.0, DEADLINE).unwrap();
}
