//! `portlease stop`.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use portlease::reserve_port;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::program::{
    BINARY, Running, finish, for_everybody, idle, line_in, plain, portlease, ran, silent,
};
use crate::support::ports::non_ephemeral_ports;
use crate::support::program::installed;
use crate::support::{DEADLINE, Folder, capability, eventually, is_root, need};

/// Listens on 127.0.0.1, executes the code in THEN, and writes its pid to the file UP.
const SERVER: &str = "\
import os, signal, socket, sys, time
s = socket.create_server(('127.0.0.1', int(os.environ['SERVE'])))
exec(os.environ.get('THEN', ''))
open(os.environ['UP'], 'w').write('%d\\n' % os.getpid())
time.sleep(600)
";

/// A running server. Dropping the value kills the process.
struct Server {
    running: Running,
    pid: u32,
    folder: Folder,
}

impl Server {
    /// Starts Python with [`SERVER`], in a folder of its own. `then` is executed once the server
    /// listens.
    fn start(port: u16, then: &str) -> Server {
        let folder = Folder::new();
        let up = folder.path().join("up");
        let mut command = Command::new("python3");
        command.args(["-c", SERVER]).current_dir(folder.path());
        plain(
            command
                .env("SERVE", port.to_string())
                .env("THEN", then)
                .env("UP", &up),
        );
        let running = Running::start(&mut command);
        let pid = line_in(&up).parse().unwrap();
        Server {
            running,
            pid,
            folder,
        }
    }

    /// A server that the kernel knows by this name.
    fn named(name: &str, port: u16) -> Server {
        Server::start(
            port,
            &format!("open('/proc/self/comm', 'w').write('{name}')"),
        )
    }

    /// How the server ended: 128+N after signal N.
    fn ended(self) -> i32 {
        self.running.finish().shell_code()
    }
}

#[test]
fn a_server_is_stopped_and_its_port_is_free() {
    need!(installed("python3"), capability::native());
    let p = silent();
    let port = p.port();
    drop(p);
    let server = Server::start(port, "");
    let pid = server.pid;
    let planned = ran(&["stop", "--dry-run", &port.to_string()]).code(0);
    let expected = format!("would stop python3 (pid {pid}), which listens on 127.0.0.1:{port}\n");
    assert_eq!(planned.out, expected);
    let output = ran(&["stop", &port.to_string()]).code(0);
    let expected = format!(
        "stopped python3 (pid {pid}), which listened on 127.0.0.1:{port}\n\
         port {port}/tcp is free\n"
    );
    assert_eq!(output.out, expected);
    assert_eq!(server.ended(), 143, "by SIGTERM");
    let again = ran(&["stop", &port.to_string()]).code(0);
    assert_eq!(again.out, "");
    assert_eq!(again.err, "portlease: no server listens on these ports\n");
}

/// Whether this process can start another one that may not signal processes of other users.
fn without_cap_kill() -> Result<(), String> {
    let mut command = Command::new("setpriv");
    match finish(command.args(["--bounding-set=-kill", "true"])) {
        ran if ran.status.success() => Ok(()),
        ran => Err(ran.err),
    }
}

#[test]
fn a_server_that_this_user_may_not_signal_is_not_stopped_by_a_dry_run_either() {
    need!(
        installed("python3"),
        capability::nobody(),
        without_cap_kill()
    );
    let port = silent().port();
    let server = Server::start(port, "os.chmod('.', 0o777); os.setuid(65534)");
    let reason = format!(
        "not stop python3 (pid {}), which listens on 127.0.0.1:{port}: operation not \
         permitted\nhelp: run this command as nobody, the user of that process\n",
        server.pid
    );
    for (options, start) in [(&["--dry-run"][..], "would"), (&[], "did")] {
        let expected = format!("{start} {reason}");
        let mut command = Command::new("setpriv");
        command
            .args(["--bounding-set=-kill", BINARY, "stop"])
            .args(options);
        plain(command.arg(port.to_string()));
        let output = finish(&mut command).code(1);
        assert!(output.out.starts_with(&expected), "{output:#?}");
    }
}

/// Another process holds the reservation, so the port is not free without a server either.
#[test]
fn a_dry_run_finds_what_a_run_finds_on_a_reserved_port() {
    need!(installed("python3"), capability::native());
    let (folder, idle) = (Folder::new(), Running::start(&mut idle()));
    let command = |args: &[&str]| finish(portlease(args).env("PORTLEASE_DIR", folder.locks()));
    let held = command(&["reserve", "--pid", &idle.pid().to_string()]).code(0);
    let port = held.out.trim();
    let run = command(&["stop", port]).code(1);
    let dry = command(&["stop", "--dry-run", port]).code(1);
    assert_eq!((&dry.out, &dry.err), (&run.out, &run.err));
    let json = command(&["stop", "--json", port]).code(1).json();
    assert!(
        run.out
            .contains(json["ports"][0]["cause"].as_str().unwrap()),
        "{json}"
    );
    assert!(
        run.out.contains(json["ports"][0]["help"].as_str().unwrap()),
        "{json}"
    );
    assert_eq!(
        command(&["stop", "--json", "--dry-run", port])
            .code(1)
            .json(),
        json
    );
    // A server over the reservation does not change that.
    let server = Server::start(port.parse().unwrap(), "");
    let dry = command(&["stop", "--dry-run", port]).code(1);
    let reserved = format!("\nthe port would stay in use: {port}/tcp is reserved by ");
    assert!(dry.out.contains(&reserved), "{dry:#?}");
    drop(server);
    command(&["release", port]).code(0);
}

#[test]
fn the_json_has_this_shape() {
    need!(installed("python3"), capability::native());
    let p = silent();
    let port = p.port();
    drop(p);
    let server = Server::start(port, "signal.signal(signal.SIGTERM, signal.SIG_IGN)");
    let args = ["stop", "--json", "--timeout", "50ms", &port.to_string()];
    let expected = json!({
        "version": 1,
        "ports": [{"endpoint": format!("{port}/tcp"), "free": true}],
        "stopped": [{
            "pid": server.pid, "name": "python3",
            "listened": [format!("127.0.0.1:{port}")], "outcome": "killed",
        }],
        "not_stopped": [],
    });
    assert_eq!(ran(&args).code(0).json(), expected);
    assert_eq!(server.ended(), 137, "by SIGKILL");
}

#[test]
fn a_server_that_ignores_sigterm_is_killed_and_a_suspended_one_resumed() {
    need!(installed("python3"), capability::native());
    let p = reserve_port();
    let server = Server::start(p.port(), "signal.signal(signal.SIGTERM, signal.SIG_IGN)");
    let output = ran(&["stop", "--timeout", "50ms", &p.to_string()]).code(0);
    let killed = format!(
        "killed python3 (pid {}), which listened on 127.0.0.1:{p}: it had not ended 50ms after \
         SIGTERM\n",
        server.pid
    );
    // This test is the parent of the command. So the command counts the reservation of this test as
    // its own, and the port as free.
    assert_eq!(output.out, format!("{killed}port {p}/tcp is free\n"));
    assert_eq!(server.ended(), 137);

    // A handler shows that the signal is delivered and handled.
    let handler = "signal.signal(signal.SIGTERM, lambda *a: os._exit(42))";
    let server = Server::start(p.port(), handler);
    server.running.signal(Signal::STOP);
    ran(&["stop", "--timeout", "3m", &p.to_string()]).code(0);
    assert_eq!(server.ended(), 42);
}

/// If the first process of a pid namespace has no handler for SIGTERM, the kernel drops the signal.
#[test]
fn the_first_process_of_another_pid_namespace_is_killed() {
    need!(
        capability::pid_namespace(),
        installed("python3"),
        capability::native()
    );
    let p = reserve_port();
    let folder = Folder::new();
    let up = folder.path().join("up");
    let mut command = Command::new("unshare");
    command.args(capability::unshare_flags()).args([
        "-pf",
        "--mount-proc",
        "python3",
        "-c",
        SERVER,
    ]);
    plain(command.env("SERVE", p.to_string()).env("UP", &up));
    let server = Running::start(&mut command);
    assert_eq!(line_in(&up), "1");
    let check = ran(&["who", "--json", &format!("127.0.0.1:{p}/tcp")]).code(0);
    let process = check.json()["holders"][0]["processes"][0].clone();
    assert_eq!(process["ignores_sigterm"], json!(true), "{check:#?}");
    let args = ["stop", "--json", "--timeout", "50ms", &p.to_string()];
    let stopped = ran(&args).code(0).json()["stopped"][0].clone();
    assert_eq!(stopped["pid"], process["pid"]);
    assert_eq!(stopped["outcome"], json!("killed"), "{stopped}");
    assert_ne!(server.finish().shell_code(), 0);
}

#[test]
fn workers_that_outlive_their_server_are_stopped_too() {
    need!(installed("python3"), capability::native());
    let p = silent();
    let port = p.port();
    drop(p);
    // The worker writes its own pid. SIGTERM to its parent ends the parent alone.
    let server = Server::start(port, "if os.fork(): time.sleep(600)");
    assert_ne!(server.pid, server.running.pid());
    let output = ran(&["stop", &port.to_string()]).code(0);
    for pid in [server.pid, server.running.pid()] {
        assert!(
            output.out.contains(&format!("stopped python3 (pid {pid})")),
            "{output:#?}"
        );
    }
    assert_eq!(server.ended(), 143);
}

#[test]
fn servers_are_found_among_many_ports() {
    need!(installed("python3"), capability::native());
    let ports = non_ephemeral_ports(20);
    let servers = [ports[3], ports[17]].map(|port| Server::start(port, ""));
    let range = format!("{}-{}", ports[0], ports[19]);
    let output = ran(&["stop", "--dry-run", &range]).code(0);
    let lines: Vec<&str> = output.out.lines().collect();
    assert_eq!(lines.len(), 2, "{output:#?}");
    ran(&["stop", &range]).code(0);
    for server in servers {
        assert_eq!(server.ended(), 143);
    }
}

#[test]
fn a_client_is_never_stopped() {
    need!(installed("python3"), capability::native());
    let p = reserve_port();
    let listener = p.listen().unwrap();
    let folder = Folder::new();
    let up = folder.path().join("up");
    let connect = "import os, socket, sys, time\n\
        c = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n\
        open(os.environ['UP'], 'w').write('%d\\n' % c.getsockname()[1])\n\
        time.sleep(600)";
    let mut python = Command::new("python3");
    plain(python.args(["-c", connect, &p.to_string()]).env("UP", &up));
    let mut client = Running::start(&mut python);
    let source = line_in(&up);
    let (_accepted, _) = listener.accept().unwrap();
    let output = ran(&["stop", &source]).code(1);
    assert!(output.out.contains("is in use"), "{output:#?}");
    assert_eq!(output.err, "portlease: no server listens on these ports\n");
    // The client of port `p` is not stopped either. The server of `p` is not stopped, because it is
    // this test, which started the command.
    let output = ran(&["stop", &p.to_string()]).code(1);
    assert!(client.runs(), "{output:#?}");
    let refused = format!("(pid {}), which listens on", std::process::id());
    assert!(
        output.out.contains(&refused)
            && output
                .out
                .contains(": it is an ancestor of this portlease command\nhelp: "),
        "{output:#?}"
    );
}

#[test]
fn a_server_that_localhost_does_not_reach_is_not_stopped() {
    let p = reserve_port();
    let _server = TcpListener::bind(("127.0.0.2", p.port())).unwrap();
    let output = ran(&["stop", &format!("localhost:{p}")]).code(0);
    assert_eq!(output.err, "portlease: no server listens on these ports\n");
}

#[test]
fn the_interface_of_a_link_local_address_is_named() {
    need!(
        capability::network_namespace(),
        installed("python3"),
        // /proc/net shows no scope ids.
        capability::sock_diag(),
        capability::native()
    );
    let folder = Folder::new();
    let then = "s.close(); s = socket.socket(socket.AF_INET6)\n\
                s.bind(socket.getaddrinfo('fe80::7%lo', 8701)[0][4]); s.listen()";
    let script = "ip link set lo up && ip addr add fe80::7/64 dev lo nodad || exit 99
                  python3 -c \"$SERVER\" & server=$!
                  until test -s up; do sleep 0.01; done
                  \"$BIN\" stop --dry-run 8701; kill $server";
    let mut command = Command::new("unshare");
    command
        .args(capability::unshare_flags())
        .args(["-n", "sh", "-c", script])
        .env("SERVER", SERVER)
        .env("SERVE", "8702")
        .env("THEN", then)
        .env("UP", "up")
        .env("PORTLEASE_DIR", folder.locks())
        .current_dir(folder.path());
    plain(&mut command);
    let output = finish(&mut command);
    let end = "which listens on [fe80::7%lo]:8701\n";
    assert!(output.out.ends_with(end), "{output:#?}");
}

#[test]
fn under_stops_only_what_runs_below_the_folder() {
    need!(installed("python3"), capability::native());
    let (p, q) = (silent(), silent());
    let ports = [p.port(), q.port()];
    drop((p, q));
    let [mut outside, inside] = ports.map(|port| Server::start(port, ""));
    let folder = inside.folder.path().to_str().unwrap().to_owned();
    let [left, stopped] = ports.map(|port| port.to_string());
    let args = ["stop", "--under", &folder, &left, &stopped];
    let output = ran(&args).code(1);
    let reason = format!(
        "did not stop python3 (pid {}), which listens on 127.0.0.1:{left}: its working directory \
         {} is not below {folder}\n",
        outside.pid,
        outside.folder.path().display()
    );
    assert!(output.out.contains(&reason), "{output:#?}");
    assert!(outside.running.runs());
    let reason = format!("stopped python3 (pid {})", inside.pid);
    assert!(output.out.contains(&reason), "{output:#?}");
    assert_eq!(inside.ended(), 143);
    // A new folder with the path of the deleted working directory.
    let path = outside.folder.path();
    std::fs::remove_dir_all(path).unwrap();
    std::fs::create_dir(path).unwrap();
    let path = path.to_str().unwrap();
    let output = ran(&["stop", "--under", path, &left]).code(1);
    let reason = format!(
        ": its working directory {path} was deleted, so the present folder {path} does not \
         contain it\n"
    );
    assert!(output.out.contains(&reason), "{output:#?}");
    std::fs::write(outside.folder.path().join("up"), "").unwrap();
    let file = outside.folder.path().join("up").display().to_string();
    let output = ran(&["stop", "--under", &file, &left]).code(2);
    assert!(
        output
            .err
            .contains(&format!("cannot read {file:?}: not a directory")),
        "{output:#?}"
    );
    let missing = ran(&["stop", "--under", "/no/such/folder", &left]).code(2);
    assert!(
        missing.err.contains("cannot read \"/no/such/folder\""),
        "{missing:#?}"
    );
}

#[test]
fn a_proxy_and_a_socket_unit_are_named_with_what_to_do_instead() {
    need!(installed("python3"), capability::native());
    for (name, cause, help) in [
        (
            "docker-proxy",
            "it forwards the port to a container",
            "docker ps --filter publish=",
        ),
        (
            "conmon",
            "it forwards the port to a container",
            "podman ps shows it",
        ),
        (
            "systemd",
            "it is a service manager that listens on behalf of a service",
            "list-sockets",
        ),
    ] {
        let p = reserve_port();
        let mut server = Server::named(name, p.port());
        let output = ran(&["stop", &p.to_string()]).code(1);
        let headline = format!(
            "did not stop {name} (pid {}), which listens on 127.0.0.1:{p}: {cause}\nhelp: ",
            server.pid
        );
        assert!(output.out.starts_with(&headline), "{output:#?}");
        assert!(output.out.contains(help), "{output:#?}");
        // The process that starts a container does not listen itself. In another process group it
        // is no part of a pipeline with the server.
        let mut client = Command::new("sleep");
        plain(client.arg("600").process_group(0));
        let client = Running::start(&mut client);
        let pid = client.pid().to_string();
        let timeout = ["--timeout", "100ms", "--pid", &pid, &p.to_string()];
        let waited = ran(&[&["wait", "--listening"], &timeout[..]].concat()).code(1);
        let accept = format!(
            "help: if the container is your server, accept a listener of any process, not only of \
             pid {pid}"
        );
        assert_eq!(
            waited.out.contains(&accept),
            name != "systemd",
            "{waited:#?}"
        );
        // The help, followed.
        ran(&["wait", "--listening", &p.to_string()]).code(0);
        let answer = ran(&["stop", "--json", "--dry-run", &p.to_string()])
            .code(1)
            .json();
        assert_eq!(answer["stopped"], json!([]), "{answer}");
        assert_eq!(answer["not_stopped"][0]["cause"], json!(cause), "{answer}");
        assert!(server.running.runs());
    }
}

#[test]
fn a_script_that_may_start_the_server_again_is_named() {
    need!(installed("python3"), capability::native());
    let p = reserve_port();
    let folder = Folder::new();
    let up = folder.path().join("up");
    // A loop of one round, so that nothing is left running.
    let script = "for n in 1; do python3 -c \"$SERVER\"; done";
    let mut shell = Command::new("sh");
    shell
        .args(["-c", script])
        .env("SERVER", SERVER)
        .env("SERVE", p.to_string())
        .env("UP", &up);
    plain(&mut shell);
    let shell = Running::start(&mut shell);
    line_in(&up);
    let pid = shell.pid();
    let output = ran(&["stop", &p.to_string()]).code(0);
    let note = format!(
        "portlease: if the loop in the script of sh (pid {pid}) starts python3 again, stop pid \
         {pid} too\n"
    );
    assert_eq!(output.err, note, "{output:#?}");
    shell.finish();
}

/// No name and no state shows that this parent starts the server again.
#[test]
fn a_parent_that_has_started_the_server_again_is_named() {
    need!(installed("python3"), capability::native());
    let p = reserve_port();
    let folder = Folder::new();
    let up = folder.path().join("up");
    let parent = "import os, subprocess, sys\n\
        for _ in range(4): subprocess.run([sys.executable, '-c', os.environ['SERVER']])";
    let mut command = Command::new("python3");
    command
        .args(["-c", parent])
        .env("SERVER", SERVER)
        .env("SERVE", p.to_string())
        .env("UP", &up);
    plain(&mut command);
    let parent = Running::start(&mut command);
    line_in(&up);
    let output = ran(&["stop", &p.to_string()]).code(1);
    let pid = parent.pid();
    let cause = format!(
        ": python3 (pid {pid}) has started it again\nhelp: stop pid {pid}, and then run this \
         command again\n"
    );
    assert!(output.out.contains(&cause), "{output:#?}");
    // The advice is followed.
    parent.signal(Signal::TERM);
    ran(&["stop", &p.to_string()]).code(0);
    assert_eq!(parent.finish().shell_code(), 143);
}

/// make ends with its server, and the shell of the loop starts both again.
#[test]
fn a_loop_that_has_started_the_server_again_through_make_is_named() {
    need!(
        installed("python3"),
        installed("make"),
        capability::native()
    );
    a_loop_around_a_wrapper_is_named("make -f \"$MAKEFILE\"");
}

/// The name of this wrapper is unknown, and it ends with its server.
#[test]
fn a_loop_that_has_started_the_server_again_through_an_unknown_program_is_named() {
    need!(installed("python3"), capability::native());
    a_loop_around_a_wrapper_is_named(
        "python3 -c 'import os, subprocess, sys; \
         subprocess.run([sys.executable, \"-c\", os.environ[\"SERVER\"]])'",
    );
}

fn a_loop_around_a_wrapper_is_named(wrapper: &str) {
    let p = reserve_port();
    let folder = Folder::new();
    let makefile = folder.path().join("Makefile");
    std::fs::write(
        &makefile,
        "serve:\n\tpython3 -c \"$$SERVER\"\n\t@echo ended\n",
    )
    .unwrap();
    let up = folder.path().join("up");
    let mut shell = Command::new("sh");
    shell
        .args([
            "-c",
            &format!("for n in 1 2 3 4; do {wrapper}; done >/dev/null 2>&1"),
        ])
        .env("SERVER", SERVER)
        .env("MAKEFILE", &makefile)
        .env("SERVE", p.to_string())
        .env("UP", &up);
    plain(&mut shell);
    let shell = Running::start(&mut shell);
    let pid = shell.pid();
    line_in(&up);
    if wrapper.starts_with("make") {
        let output = ran(&["check", &p.to_string()]).code(1);
        let help = format!("if the loop in the script of sh (pid {pid}) starts the program again");
        assert!(output.out.contains(&help), "{output:#?}");
    }
    let output = ran(&["stop", &p.to_string()]).code(1);
    let cause = format!(": sh (pid {pid}) has started it again\nhelp: stop pid {pid}, ");
    assert!(output.out.contains(&cause), "{output:#?}");
    // The advice is followed.
    shell.signal(Signal::TERM);
    ran(&["stop", &p.to_string()]).code(0);
    assert_eq!(shell.finish().shell_code(), 143);
}

/// An interactive shell ignores SIGTERM.
#[test]
fn the_loop_of_an_interactive_shell_is_ended_in_its_terminal_or_by_sigkill() {
    need!(installed("python3"), capability::native());
    // Ctrl-C is typed when the driver gets SIGUSR1.
    const DRIVER: &str = "\
import os, pty, signal, sys\n\
pid, fd = pty.fork()\n\
if pid == 0: os.execvp('sh', ['sh', '-i'])\n\
signal.signal(signal.SIGUSR1, lambda *_: os.write(fd, b'\\x03'))\n\
os.write(fd, b'for n in 1 2 3 4 5 6; do python3 -c \"$SERVER\"; done\\n')\n\
try:\n    while os.read(fd, 4096): pass\n\
except OSError: pass\n\
os.waitpid(pid, 0)";
    let p = reserve_port();
    let folder = Folder::new();
    let up = folder.path().join("up");
    let mut command = Command::new("python3");
    command
        .args(["-c", DRIVER])
        .env("SERVER", SERVER)
        .env("SERVE", p.to_string())
        .env("UP", &up);
    plain(&mut command);
    let driver = Running::start(&mut command);
    line_in(&up);
    let stopped = ran(&["stop", &p.to_string()]).code(1);
    let (_, advice) = stopped
        .out
        .split_once("end its loop with Ctrl-C in the terminal ")
        .unwrap();
    let (terminal, advice) = advice.split_once(", or end pid ").unwrap();
    assert!(terminal.starts_with("/dev/pts/"), "{stopped:#?}");
    let (shell, advice) = advice.split_once(' ').unwrap();
    let expected = format!("with kill -KILL {shell}, and then run this command again\n");
    assert!(advice.starts_with(&expected), "{stopped:#?}");
    // Both pieces of advice are followed. Ctrl-C ends the server and the loop.
    driver.signal(Signal::USR1);
    eventually("the server ends", DEADLINE, || {
        match TcpStream::connect(p.addr()) {
            Ok(_) => Err("it listens".to_owned()),
            Err(_) => Ok(()),
        }
    });
    ran(&["stop", &p.to_string()]).code(0);
    let pid = Pid::from_raw(shell.parse().unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    assert_eq!(driver.finish().shell_code(), 0);
}

/// The parent sleeps after the end of its server, as a supervisor does before a restart. The
/// control: a parent that does not wait for its server, such as a test runner.
#[test]
fn a_parent_that_may_start_the_server_again_later_is_named() {
    need!(installed("python3"), capability::native());
    let start = "import os, subprocess, sys, time\n\
        server = subprocess.Popen([sys.executable, '-c', os.environ['SERVER']])\n";
    for wait in ["server.wait()\n", ""] {
        let p = reserve_port();
        let folder = Folder::new();
        let up = folder.path().join("up");
        let mut command = Command::new("python3");
        command
            .args(["-c", &format!("{start}{wait}time.sleep(600)")])
            .env("SERVER", SERVER)
            .env("SERVE", p.to_string())
            .env("UP", &up);
        plain(&mut command);
        let parent = Running::start(&mut command);
        let server = line_in(&up);
        let output = ran(&["stop", &p.to_string()]).code(0);
        let pid = parent.pid();
        let note = format!(
            "portlease: python3 (pid {pid}), which started python3 (pid {server}), still runs: if \
             it starts the server again, stop pid {pid}\n"
        );
        let expected = if wait.is_empty() { "" } else { note.as_str() };
        assert_eq!(output.err, expected, "{output:#?}");
        parent.signal(Signal::KILL);
        parent.finish();
    }
}

/// The same for pid 1 of a container. The server is stopped from inside of the container.
#[test]
fn pid_1_that_has_started_the_server_again_is_not_to_be_stopped_from_inside() {
    need!(
        capability::pid_namespace(),
        installed("python3"),
        capability::native()
    );
    let p = silent();
    let port = p.port();
    drop(p);
    let folder = Folder::new();
    let commands = "until test -s up; do sleep 0.01; done; \
                    \"$BIN\" stop $SERVE > out; echo > done";
    let script = "sh -c \"$COMMANDS\" & while true; do python3 -c \"$SERVER\"; done";
    let mut command = Command::new("unshare");
    command
        .args(capability::unshare_flags())
        .args(["-pf", "--kill-child", "--mount-proc", "sh", "-c", script])
        .env("COMMANDS", commands)
        .env("SERVER", SERVER)
        .env("SERVE", port.to_string())
        .env("UP", "up")
        .current_dir(folder.path());
    plain(&mut command);
    let _container = Running::start(&mut command);
    line_in(&folder.path().join("done"));
    let out = std::fs::read_to_string(folder.path().join("out")).unwrap();
    let outside = "stop the container from outside of it";
    let cause = format!(": sh (pid 1) has started it again\nhelp: {outside}\n");
    assert!(out.contains(&cause), "{out}");
}

/// A master whose workers have sockets of their own, as `gunicorn --reuse-port` has. It starts a
/// new worker when one ends. The workers end if it is killed: only it can write to their pipe.
const MASTER: &str = "\
import os, signal, socket
ready, done = os.pipe()
alive, kept = os.pipe()
def start():
    pid = os.fork()
    if pid: return pid
    os.close(kept)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind(('127.0.0.1', int(os.environ['SERVE'])))
    s.listen()
    os.write(done, b'.')
    os.read(alive, 1)
    os._exit(0)
def end(*_):
    for pid in workers: os.kill(pid, signal.SIGTERM)
    for pid in workers: os.waitpid(pid, 0)
    os._exit(0)
workers = {start(), start()}
signal.signal(signal.SIGTERM, end)
os.read(ready, 1), os.read(ready, 1)
open(os.environ['UP'], 'w').write('%d\\n' % os.getpid())
while True: workers.symmetric_difference_update({os.wait()[0], start()})
";

#[test]
fn the_master_of_workers_with_their_own_sockets_is_stopped_instead_of_them() {
    need!(installed("python3"), capability::native());
    let p = silent();
    let port = p.port();
    drop(p);
    let folder = Folder::new();
    let up = folder.path().join("up");
    let mut command = Command::new("python3");
    command.args(["-c", MASTER]);
    plain(command.env("SERVE", port.to_string()).env("UP", &up));
    let master = Running::start(&mut command);
    line_in(&up);
    let (pid, port) = (master.pid(), port.to_string());
    let check = ran(&["check", &port]).code(1);
    let help = format!(
        "help: stop python3 (pid {pid}) to end its workers too: if you stop only a worker, \
         python3 starts a new worker, or "
    );
    assert!(check.out.contains(&help), "{check:#?}");
    let planned = ran(&["stop", "--dry-run", &port]).code(0);
    let listens = format!("python3 (pid {pid}), whose workers listen on 127.0.0.1:{port}\n");
    assert_eq!(planned.out, format!("would stop {listens}"));
    // A folder that excludes the master.
    let elsewhere = folder.path().to_str().unwrap();
    let refused = ran(&["stop", "--under", elsewhere, &port]).code(1);
    let cause = format!(": its master (pid {pid}) is not stopped: its working directory ");
    assert!(refused.out.contains(&cause), "{refused:#?}");
    let stopped = ran(&["stop", &port]).code(0);
    let listened = listens.replace("listen on", "listened on");
    let expected = format!("stopped {listened}port {port}/tcp is free\n");
    assert_eq!(stopped.out, expected);
    assert_eq!(master.finish().shell_code(), 0);
}

/// If only one of two owners ended, the port would stay in use.
#[test]
fn no_owner_is_stopped_if_another_one_keeps_the_socket() {
    need!(capability::native());
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let mut sleep = {
        let mut sleep = Command::new("sleep");
        plain(sleep.arg("600"));
        Running::start(sleep.stdin(OwnedFd::from(server.try_clone().unwrap())))
    };
    let stop = || ran(&["stop", &port.to_string()]);
    let refused = format!(
        "did not stop sleep (pid {}), which listens on 127.0.0.1:{port}: pid {} has the same \
         socket and is not stopped\n",
        sleep.pid(),
        std::process::id()
    );
    let output = stop().code(1);
    assert!(output.out.contains(&refused) && sleep.runs(), "{output:#?}");
    // The control: without the other owner it is stopped.
    drop(server);
    stop().code(0);
    assert_eq!(sleep.finish().shell_code(), 143);
}

/// In its own mount namespace the working directory of a process can have the same path as another
/// folder here.
#[test]
fn under_does_not_stop_a_process_with_the_same_path_in_another_mount_namespace() {
    need!(
        installed("python3"),
        capability::mount_namespace(),
        capability::native()
    );
    let p = reserve_port();
    let (folder, other) = (Folder::new(), Folder::new());
    let up = other.path().join("up");
    let path = folder.path().to_str().unwrap().to_owned();
    let script = "mount -t tmpfs none \"$1\" && cd \"$1\" && exec python3 -c \"$SERVER\"";
    let mut command = Command::new("unshare");
    command
        .args(capability::unshare_flags())
        .args(["-m", "sh", "-c", script, "sh", &path])
        .env("SERVER", SERVER)
        .env("SERVE", p.to_string())
        .env("UP", &up);
    plain(&mut command);
    let mut server = Running::start(&mut command);
    line_in(&up);
    let output = ran(&["stop", "--under", &path, &p.to_string()]).code(1);
    let cause = ": its working directory is in another mount namespace";
    assert!(output.out.contains(cause) && server.runs(), "{output:#?}");
    // The control: without `--under` it is stopped.
    ran(&["stop", &p.to_string()]).code(0);
    assert_eq!(server.finish().shell_code(), 143);
}

#[test]
fn a_process_that_cannot_be_seen_is_not_stopped() {
    need!(
        installed("python3"),
        capability::native(),
        capability::nobody()
    );
    assert!(is_root());
    let (binary, _copy) = for_everybody();
    let p = reserve_port();
    let mut server = Server::start(p.port(), "");
    let mut command = Command::new("setpriv");
    plain(
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(binary)
            .args(["stop", &p.to_string()]),
    );
    let output = finish(&mut command).code(1);
    let refused = format!(
        "did not stop the server, which listens on 127.0.0.1:{p}: its process cannot be seen\n\
         help: retry with permission to inspect processes"
    );
    assert!(output.out.starts_with(&refused), "{output:#?}");
    assert!(server.running.runs());
}

/// A server of root shares its socket with a child that runs as nobody.
#[test]
fn a_dry_run_does_not_promise_a_port_whose_socket_a_hidden_process_has_too() {
    need!(
        installed("python3"),
        capability::native(),
        capability::nobody()
    );
    let (binary, _copy) = for_everybody();
    let port = silent().port();
    // `cat` ends with the server. Its exec closes `e`.
    let then = "\
r, w = os.pipe(); d, e = os.pipe()
if os.fork() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
    os.dup2(r, 0); s.set_inheritable(True); os.execvp('cat', ['cat'])
os.close(e); os.read(d, 1)";
    let _server = Server::start(port, then);
    let as_nobody = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.arg(&binary).args(args).arg(port.to_string());
        plain(&mut command);
        finish(&mut command)
    };
    let seen = as_nobody(&["who"]).code(0);
    assert!(seen.out.contains("\n  not seen "), "{seen:#?}");
    let planned = as_nobody(&["stop", "--dry-run"]).code(3);
    let doubt = "; a process that this user may not inspect probably has the same socket";
    assert!(planned.out.contains(doubt), "{planned:#?}");
    let stopped = as_nobody(&["stop"]).code(1);
    assert!(stopped.out.starts_with("stopped cat (pid "), "{stopped:#?}");
    assert!(
        stopped.out.contains(": its process cannot be seen\n"),
        "{stopped:#?}"
    );
}

#[test]
fn a_udp_server_is_stopped() {
    need!(installed("python3"), capability::native());
    let p = portlease::reserve_udp_port();
    let port = p.port();
    drop(p);
    let udp = format!(
        "s.close(); s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('127.0.0.1', {port}))"
    );
    let server = Server::start(port, &udp);
    let output = ran(&["stop", &format!("{port}/udp")]).code(0);
    assert!(
        output
            .out
            .contains(&format!("listened on 127.0.0.1:{port}/udp")),
        "{output:#?}"
    );
    assert_eq!(server.ended(), 143);
}

/// `check --listening` accepts such a socket, so `stop` must not say that no server was found.
#[test]
fn a_udp_socket_that_may_be_a_clients_is_named_and_not_stopped() {
    need!(capability::native());
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = format!("{}/udp", socket.local_addr().unwrap().port());
    ran(&["check", "--listening", &port]).code(0);
    let output = ran(&["stop", &port]).code(1);
    let cause = format!(
        " (pid {}), which listens on 0.0.0.0:{port}: its UDP port is ephemeral, so it may be a \
         client\nhelp: ",
        std::process::id()
    );
    assert!(output.out.contains(&cause), "{output:#?}");
    assert_eq!(output.err, "", "{output:#?}");
    ran(&["stop", "--dry-run", &port]).code(1);
}

#[test]
fn a_server_under_run_is_stopped_and_its_reservation_ends() {
    need!(installed("python3"), capability::native());
    let folder = Folder::new();
    let up = folder.path().join("up");
    let mut command = portlease(&["run", "--port", "SERVE", "--", "python3", "-c", SERVER]);
    let run = Running::start(command.env("UP", &up).env("PORTLEASE_DIR", folder.locks()));
    line_in(&up);
    let listed = finish(portlease(&["list", "--json"]).env("PORTLEASE_DIR", folder.locks()));
    let port = listed.json()["leases"][0]["port"].to_string();
    let output = finish(portlease(&["stop", &port]).env("PORTLEASE_DIR", folder.locks())).code(0);
    assert!(
        output.out.ends_with(&format!("port {port}/tcp is free\n")),
        "{output:#?}"
    );
    assert_eq!(run.finish().shell_code(), 143);
}
