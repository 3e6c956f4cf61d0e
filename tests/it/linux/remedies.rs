//! Remedies, followed to the letter. Afterwards the port is free, or what the remedy promises is
//! true.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use portlease::{Remedy, reserve_port};

use super::whose::Server;
use crate::support::helper::{EPHEMERAL_LOW, Launch};
use crate::support::program::python;
use crate::support::socket::{self, Reuse, V4};
use crate::support::{DEADLINE, Folder, capability, eventually, need};

/// The parts of the help line of a check.
fn help(port: u16) -> (Vec<Remedy>, String) {
    let diagnosis = portlease::check_port_free(port).unwrap_err();
    let help = diagnosis.help().unwrap();
    (diagnosis.remedies().to_vec(), help)
}

/// Runs the command in the help line between `start` and the next comma, as a person would.
fn follow(help: &str, start: &str) {
    let at = help
        .find(start)
        .unwrap_or_else(|| panic!("no {start:?} in {help:?}"));
    let command = help[at..].split(", ").next().unwrap();
    let status = Command::new("sh").args(["-c", command]).status().unwrap();
    assert!(status.success(), "{command}");
}

#[test]
fn a_suspended_holder_is_killed() {
    let p = reserve_port();
    let mut server = Server::new("server", p.port());
    let pid = server.id();
    server.port();
    Command::new("kill")
        .args(["-STOP", &pid.to_string()])
        .status()
        .unwrap();
    // The signal takes effect a moment later.
    eventually("the process is suspended", DEADLINE, || {
        let text = help(p.port()).1;
        if text.contains("kill -KILL") {
            Ok(())
        } else {
            Err(text)
        }
    });
    let (_, help) = help(p.port());
    // SIGTERM, which `stop` suggests, would have no effect.
    assert!(!help.contains("stop pid"), "{help}");
    follow(&help, &format!("kill -KILL {pid}"));
    p.wait_until_free(DEADLINE).unwrap();
}

/// Servers that SIGTERM ends, or does not end, by what they do before they listen. `SERVER` runs
/// after it.
const SIGTERM: [(&str, bool); 6] = [
    ("pass", true),
    ("signal.signal(signal.SIGTERM, lambda *_: sys.exit())", true),
    ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", false),
    (
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])",
        false,
    ),
    // sigwait(3) and signalfd(2) receive a blocked signal.
    (
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); import threading\n\
         def wait():\n signal.sigwait([signal.SIGTERM])\n os._exit(0)\n\
         threading.Thread(target=wait).start()",
        true,
    ),
    (
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); import ctypes, threading\n\
         mask = ctypes.create_string_buffer(b'\\0\\x40', 128)\n\
         fd = ctypes.CDLL(None).signalfd(-1, mask, 0)\n\
         def wait():\n os.read(fd, 128)\n os._exit(0)\n\
         threading.Thread(target=wait).start()",
        true,
    ),
];

#[test]
fn a_holder_that_sigterm_does_not_end_is_killed() {
    need!(capability::pid_namespace());
    let listen = "s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); os.write(1, b'1\\n')";
    for (before, ends) in SIGTERM {
        let program =
            format!("import os, signal, socket, sys, time\n{before}\n{listen}\ntime.sleep(600)");
        for in_namespace in [false, true] {
            // The first process of a namespace gets SIGTERM only if it handles or blocks it.
            let ends = ends && (!in_namespace || before != "pass");
            let p = reserve_port();
            let mut command = match in_namespace {
                true => Command::new("unshare"),
                false => Command::new(python()),
            };
            if in_namespace {
                let flags = ["-pf", "--mount-proc", "--kill-child"];
                command
                    .args(capability::unshare_flags())
                    .args(flags)
                    .arg(python());
            }
            command.args(["-c", &program, &p.to_string()]);
            let child = command
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let mut server = Server::of(child);
            server.port();
            p.wait_until_listening(DEADLINE).unwrap();
            // A thread may not have called sigwait(3) yet.
            eventually("the remedy ends the process", DEADLINE, || {
                let (remedies, help) = help(p.port());
                match &remedies[0] {
                    Remedy::KillProcess { pid, .. } if !ends => {
                        follow(&help, &format!("kill -KILL {pid}"));
                    }
                    Remedy::StopProcess { pid, .. } if ends => {
                        follow(&format!("kill {pid}, "), "kill");
                    }
                    _ => return Err(format!("{before}: {help}")),
                }
                Ok(())
            });
            p.wait_until_free(DEADLINE).unwrap();
        }
    }
}

/// A process that is killed does not end its workers.
#[test]
fn the_workers_of_a_holder_that_is_killed_are_killed_too() {
    let p = reserve_port();
    let program = "import os, signal, socket, sys, time\n\
                   signal.signal(signal.SIGTERM, signal.SIG_IGN)\n\
                   s = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n\
                   os.fork()\nsignal.alarm(120)\nos.write(1, b'1\\n')\ntime.sleep(600)";
    let mut command = Command::new(python());
    command.args(["-c", program, &p.to_string()]);
    let child = command
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut server = Server::of(child);
    server.port();
    server.port();
    let (remedies, help) = help(p.port());
    let pids = remedies.iter().filter_map(|remedy| match remedy {
        Remedy::KillProcess { pid, .. } => Some(*pid),
        _ => None,
    });
    let pids: Vec<u32> = pids.collect();
    assert_eq!(pids.len(), 2, "{help}");
    for pid in pids {
        // The sentence names both commands.
        follow(&help.replace(';', ","), &format!("kill -KILL {pid}"));
    }
    p.wait_until_free(DEADLINE).unwrap();
}

/// Starts a Python program that prints a line once it is ready. Its argument is the port.
fn start(program: &str, port: u16) -> Server {
    let mut command = Command::new(python());
    command.args(["-c", program, &port.to_string()]);
    let child = command.stdout(std::process::Stdio::piped()).spawn();
    let mut server = Server::of(child.unwrap());
    server.port();
    server
}

/// The processes that the remedies end.
fn to_end(remedies: &[Remedy]) -> Vec<(u32, &'static str)> {
    let end = |remedy: &Remedy| match remedy {
        Remedy::StopProcess { pid, .. } => Some((*pid, "-TERM")),
        Remedy::KillProcess { pid, .. } | Remedy::ResumeOrKill { pid, .. } => Some((*pid, "-KILL")),
        _ => None,
    };
    remedies.iter().filter_map(end).collect()
}

/// A child that outlives its server, because nothing ends it. The server ends by SIGTERM at once,
/// or must be killed.
#[test]
fn a_child_that_its_server_does_not_end_is_stopped_too() {
    const LISTEN: &str = "import ctypes, os, signal, socket, subprocess, sys, time\n\
                          signal.alarm(120)\n\
                          s = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n";
    // A helper program that inherits the listener, and a worker of a server without a handler.
    let helper = "s.set_inheritable(True)\n\
                  subprocess.Popen(['sleep', '120'], close_fds=False, stdout=subprocess.DEVNULL)\n";
    let worker = "os.fork()\n";
    // A server with a handler, which a suspended process does not run.
    let suspended = "signal.signal(signal.SIGTERM, lambda *_: os._exit(0))\n\
                     if os.fork() == 0: time.sleep(120)\n\
                     os.write(1, b'1\\n')\n\
                     os.kill(os.getpid(), signal.SIGSTOP)\n";
    for (before, own_line) in [(helper, false), (worker, false), (suspended, true)] {
        let p = reserve_port();
        let ready = if own_line {
            ""
        } else {
            "os.write(1, b'1\\n')\n"
        };
        let program = format!("{LISTEN}{before}{ready}time.sleep(600)");
        let _server = start(&program, p.port());
        let mut found = Vec::new();
        eventually("both processes are named", DEADLINE, || {
            let (remedies, text) = help(p.port());
            found = to_end(&remedies);
            let is_ready = !own_line || found.iter().any(|(_, signal)| *signal == "-KILL");
            (found.len() == 2 && is_ready).then_some(()).ok_or(text)
        });
        for (pid, signal) in found {
            Command::new("kill")
                .args([signal, &pid.to_string()])
                .status()
                .unwrap();
        }
        p.wait_until_free(DEADLINE).unwrap();
    }
}

#[test]
fn a_process_that_its_debugger_has_stopped_is_killed() {
    let p = reserve_port();
    // The parent traces the child (PTRACE_TRACEME is 0), which a signal then stops.
    let program = "import ctypes, os, signal, socket, sys, time\n\
                   signal.alarm(120)\n\
                   at = ('127.0.0.1', int(sys.argv[1]))\n\
                   if os.fork() == 0:\n s = socket.create_server(at)\n \
                   ctypes.CDLL(None).ptrace(0, 0, 0, 0)\n os.kill(os.getpid(), signal.SIGSTOP)\n\
                   os.waitpid(-1, 0)\nos.write(1, b'1\\n')\ntime.sleep(600)";
    let _tracer = start(program, p.port());
    let (remedies, text) = help(p.port());
    let Remedy::KillProcess {
        pid, traced: true, ..
    } = remedies[0]
    else {
        panic!("{text}");
    };
    assert!(
        text.starts_with(&format!("resume pid {pid} in its debugger, or ")),
        "{text}"
    );
    follow(&text, &format!("kill -KILL {pid}"));
    p.wait_until_free(DEADLINE).unwrap();
}

/// The server hands its socket over, and the process that should take it does not.
#[test]
fn a_process_that_does_not_receive_the_socket_is_stopped() {
    let p = reserve_port();
    let program = "import os, socket, sys, time\n\
                   s = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n\
                   ends = socket.socketpair()\n\
                   socket.send_fds(ends[0], [b'x'], [s.fileno()])\n\
                   s.close()\nos.write(1, b'1\\n')\ntime.sleep(600)";
    let receiver = start(program, p.port());
    let pid = receiver.id();
    let report = portlease::check_port_free(p.port()).unwrap_err();
    // Other tests can leave such descriptors at the same time.
    let headline = report.headline();
    assert!(
        headline.contains("a descriptor that was sent to pid ")
            && headline.contains(&format!(" {pid} ")),
        "{report}"
    );
    let help = report.help().unwrap();
    assert!(help.contains(&format!(", or stop pid {pid}")), "{help}");
    Command::new("kill").arg(pid.to_string()).status().unwrap();
    p.wait_until_free(DEADLINE).unwrap();
}

#[test]
fn every_process_that_shares_the_number_is_stopped() {
    let p = reserve_port();
    let mut twins = [Server::new("twin", p.port()), Server::new("twin", p.port())];
    let mut pids = twins.each_mut().map(|twin| {
        twin.port();
        twin.id()
    });
    pids.sort_unstable();
    let (remedies, help) = help(p.port());
    let mut stopped: Vec<u32> = remedies
        .iter()
        .filter_map(|remedy| match remedy {
            Remedy::StopProcess { pid, .. } => Some(*pid),
            _ => None,
        })
        .collect();
    stopped.sort_unstable();
    assert_eq!(stopped, pids, "{help}");
    assert!(help.contains(" and stop pid "), "{help}");
    // One alone does not free the port.
    let kill = |pid: u32| {
        Command::new("kill").arg(pid.to_string()).status().unwrap();
    };
    kill(pids[0]);
    twins
        .iter_mut()
        .find(|twin| twin.id() == pids[0])
        .unwrap()
        .wait();
    portlease::check_port_free(&p).unwrap_err();
    kill(pids[1]);
    p.wait_until_free(DEADLINE).unwrap();
}

#[test]
fn a_server_of_the_other_protocol_is_named() {
    let p = reserve_port();
    let _server = std::net::UdpSocket::bind((V4, p.port())).unwrap();
    let own = std::process::id();
    let named = format!("(pid {own}) is bound to 127.0.0.1:{p}/udp, not tcp");
    let moment = Duration::from_millis(1);
    let waited = portlease::wait_until_listening(p.port(), moment).unwrap_err();
    let held = portlease::check_port_held_by(p.port(), own).unwrap_err();
    let missing = portlease::check_port_listening(p.port()).unwrap_err();
    for report in [waited.diagnosis().unwrap(), &held, &missing] {
        assert!(report.headline().ends_with(&named), "{report}");
        let help = report.help().unwrap();
        let start = format!("name the port as {p}/udp if your server uses that port, or ");
        assert!(help.starts_with(&start), "{report}");
    }
    // The remedy.
    portlease::check_port_listening(format!("{p}/udp").as_str()).unwrap();
    // The control: a call that asks for both protocols has named the server.
    let both = [format!("{p}/tcp"), format!("{p}/udp")];
    let mut results = portlease::check_each_port_listening(&both).into_iter();
    let text = results.next().unwrap().unwrap_err().to_string();
    assert!(!text.contains("not tcp"), "{text}");
    results.next().unwrap().unwrap();
}

#[test]
fn the_kernel_is_kept_from_a_number_that_an_outgoing_connection_has() {
    need!(capability::network_namespace(), capability::bound_sockets());
    let folder = Folder::new();
    Launch::new("follows-sysctl", &folder.locks())
        .with_ephemeral_ports(4)
        .start()
        .succeed();
}

/// The helper process.
pub(crate) fn follow_sysctl() {
    let list = "/proc/sys/net/ipv4/ip_local_reserved_ports";
    std::fs::write(list, "20000-20009").unwrap();
    let server = TcpListener::bind((V4, EPHEMERAL_LOW + 100)).unwrap();
    let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    let port = client.local_addr().unwrap().port();
    let (_, help) = help(port);
    follow(&help, "sysctl -w net.ipv4.ip_local_reserved_ports=");
    let now = std::fs::read_to_string(list).unwrap();
    assert_eq!(now.trim(), format!("20000-20009,{port}"), "{help}");
    socket::reset_on_close(&client);
    drop(client);
    // The kernel assigns every other number of the range.
    let assigned: Vec<_> =
        std::iter::from_fn(|| socket::bind(V4, 0, Reuse::Neither).ok()).collect();
    assert_eq!(assigned.len(), 3);
    portlease::check_port_free((Ipv4Addr::LOCALHOST, port)).unwrap();
}

/// nftables redirects the connections of a port to a server on another one.
#[test]
fn a_redirected_port_is_explained_when_a_wait_for_its_listener_times_out() {
    need!(capability::network_namespace(), capability::nft());
    let folder = Folder::new();
    Launch::new("redirected", &folder.locks())
        .in_network(
            "ip link set lo up && nft add table ip nat && \
             nft 'add chain ip nat out { type nat hook output priority -100; }' && \
             nft add rule ip nat out tcp dport 8080 redirect to :9090",
        )
        .start()
        .succeed();
}

/// The helper process.
pub(crate) fn wait_for_redirected() {
    let _server = TcpListener::bind((V4, 9090)).unwrap();
    let wait = |port: u16| {
        let error = portlease::wait_until_listening(port, Duration::from_millis(50)).unwrap_err();
        format!("{error:?}")
    };
    let text = wait(8080);
    let expected = "port 8080/tcp is not listening: no socket listens, but a connection to \
                    127.0.0.1:8080 is accepted: a packet filter, such as ";
    assert!(text.contains(expected), "{text}");
    assert!(
        text.contains("help: list the rules of the packet filter"),
        "{text}"
    );
    // A wait for one process reports it too.
    let mut child = Command::new("sleep").arg("600").spawn().unwrap();
    let at_most = Duration::from_millis(50);
    let error = portlease::wait_until_held_by(8080, child.id(), at_most).unwrap_err();
    child.kill().unwrap();
    child.wait().unwrap();
    let text = format!("{error:?}");
    assert!(text.contains(expected), "{text}");
    // So does a check of one process.
    let report = portlease::check_port_held_by(8080, std::process::id()).unwrap_err();
    let text = report.to_string();
    assert!(
        text.contains("kube-proxy, redirects the connection"),
        "{text}"
    );
    // So does a wait for one address, beside a server on another address.
    let _other = TcpListener::bind("[::1]:8080").unwrap();
    let error = portlease::wait_until_listening((Ipv4Addr::LOCALHOST, 8080), at_most).unwrap_err();
    let text = format!("{error:?}");
    let expected = "no socket listens there, but a connection to 127.0.0.1:8080 is accepted: a \
                    packet filter, such as ";
    assert!(text.contains(expected), "{text}");
    // The control: nothing redirects this port.
    let text = wait(8081);
    assert!(text.contains("is not listening: "), "{text}");
    assert!(!text.contains("packet filter"), "{text}");
    // The remedy.
    let rules = Command::new("sh")
        .args(["-c", "nft list ruleset"])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&rules.stdout).contains("redirect to :9090"));
}
