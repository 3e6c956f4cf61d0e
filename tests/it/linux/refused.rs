//! How long a refusal takes if several numbers are requested, and processes serve or have reserved
//! all of them.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::Folder;
use crate::support::ports::non_ephemeral_ports;
use crate::support::program::python;
use crate::support::reserver::Reserver;
use crate::support::{DEADLINE, capability, eventually, need};

const LIMIT: Duration = Duration::from_secs(1);

/// A server that forks and keeps its sockets in the child. The parent ends, as with a daemon, or
/// stays alive, as with Python's multiprocessing. Neither process calls exec. The parent prints the
/// child's pid.
const DAEMON: &str = r#"
import os, signal, socket, sys
listeners = []
for port in sys.argv[2:]:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(port)))
    listener.listen()
    listeners.append(listener)
child = os.fork()
if child == 0:
    os.setsid()
    os.close(1)
    signal.pause()
print(child, flush=True)
for listener in listeners:
    listener.close()
os.close(1)
if sys.argv[1] == "parent-lives":
    sys.stdin.read()
"#;

struct Daemon {
    child: String,
    parent: std::process::Child,
}

impl Daemon {
    fn start(how: &str, ports: &[u16]) -> Daemon {
        let mut parent = Command::new(python())
            .args(["-c", DAEMON, how])
            .args(ports.iter().map(u16::to_string))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut child = String::new();
        std::io::Read::read_to_string(parent.stdout.as_mut().unwrap(), &mut child).unwrap();
        Daemon {
            child: child.trim().to_owned(),
            parent,
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ended = Command::new("kill").args(["-9", &self.child]).status();
        drop(self.parent.stdin.take());
        let _reaped = self.parent.wait();
    }
}

/// Asserts that the request is refused within [`LIMIT`]. One fast try of twenty is enough, because
/// the machine may be busy with every other test.
#[track_caller]
fn refused_soon(reserver: &mut Reserver, asked: &str, kind: &str) {
    let took = (0..20).map(|_| {
        let begun = Instant::now();
        let message = reserver.reserve(asked).refused(kind);
        (begun.elapsed(), message)
    });
    let mut tried = Vec::new();
    for (took, message) in took {
        if took < LIMIT {
            return;
        }
        tried.push((took, message));
    }
    panic!("{asked}: {tried:?}");
}

/// Waits until a daemon's child is older than a child that may still call exec.
fn wait_until_no_child_counts_as_new(reserver: &mut Reserver, port: u16) {
    eventually("a refusal at once", DEADLINE, || {
        let begun = Instant::now();
        reserver.reserve(&format!("port={port}")).refused("InUse");
        let took = begun.elapsed();
        if took < LIMIT {
            Ok(())
        } else {
            Err(format!("{took:?}"))
        }
    });
}

#[test]
fn many_preferred_numbers_that_are_taken_are_refused_soon() {
    // An emulator takes several times as long.
    need!(capability::native());
    let folder = Folder::new();
    let ports = non_ephemeral_ports(300);
    let list: Vec<String> = ports.iter().map(u16::to_string).collect();
    let prefer = format!(
        "prefer={} range={}-{}",
        list.join(","),
        ports[0],
        ports[299]
    );
    let mut reserver = Reserver::new(&folder.locks());
    let mut holder = Reserver::new(&folder.locks());
    holder
        .reserve(&format!("port={} block=300", ports[0]))
        .held();
    refused_soon(&mut reserver, &prefer, "NoFreePort");
    holder.release("all");
    let bind = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).unwrap();
    let served: Vec<TcpListener> = ports.iter().map(bind).collect();
    refused_soon(&mut reserver, &prefer, "NoFreePort");
    drop(served);
    for how in ["parent-ends", "parent-lives"] {
        let _daemon = Daemon::start(how, &ports);
        wait_until_no_child_counts_as_new(&mut reserver, ports[0]);
        refused_soon(&mut reserver, &prefer, "NoFreePort");
    }
}

#[test]
fn a_range_of_one_number_that_a_daemon_serves_is_refused_soon() {
    let folder = Folder::new();
    let port = non_ephemeral_ports(1)[0];
    let mut reserver = Reserver::new(&folder.locks());
    let range = format!("range={port}-{port}");
    // A daemon whose parent has ended cannot be a child that is about to call exec.
    let daemon = Daemon::start("parent-ends", &[port]);
    refused_soon(&mut reserver, &range, "NoFreePort");
    refused_soon(&mut reserver, &format!("port={port}"), "InUse");
    drop(daemon);
    let _daemon = Daemon::start("parent-lives", &[port]);
    wait_until_no_child_counts_as_new(&mut reserver, port);
    for asked in [&range, &format!("{range} plain=")] {
        refused_soon(&mut reserver, asked, "NoFreePort");
    }
}

#[test]
fn a_range_that_is_reserved_entirely_is_refused_soon() {
    // An emulator takes several times as long.
    need!(capability::native());
    let folder = Folder::new();
    for count in [1, 64, 65] {
        let ports = non_ephemeral_ports(count);
        let range = format!("range={}-{}", ports[0], ports[count - 1]);
        for kind in ["", "udp=", "plain=", "pair="] {
            let (mut holder, mut reserver) = (
                Reserver::new(&folder.locks()),
                Reserver::new(&folder.locks()),
            );
            holder
                .reserve(&format!("{kind} port={} block={count}", ports[0]))
                .held();
            refused_soon(&mut reserver, &format!("{kind} {range}"), "NoFreePort");
            refused_soon(
                &mut reserver,
                &format!("{kind} {range} block={}", count.min(2)),
                "NoFreePort",
            );
        }
    }
}
