//! Children that are slow to call exec.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::{Duration, Instant};

use portlease::{ErrorKind, Protocol, ReserveOptions};

use crate::support::helper::Launch;
use crate::support::ports::non_ephemeral_port;
use crate::support::socket::leave_time_wait;
use crate::support::{DEADLINE, Folder, capability, eventually, need};

/// How long a child takes to call exec, as on an overloaded machine.
const EXEC_DELAY: Duration = Duration::from_millis(1200);

/// Forks a child that shares the sockets of this process until it calls exec, and then exits.
/// Returns once a second process is seen to share the socket of `endpoint`.
#[expect(
    unsafe_code,
    reason = "only pre_exec delays a child before it calls exec"
)]
fn slow_child(endpoint: &str) -> std::thread::JoinHandle<()> {
    use std::os::unix::process::CommandExt;
    let mut child = Command::new("true");
    // SAFETY: nanosleep(2) is a system call that takes no lock and allocates nothing.
    unsafe {
        child.pre_exec(|| {
            std::thread::sleep(EXEC_DELAY);
            Ok(())
        })
    };
    let starter = std::thread::spawn(move || assert!(child.status().unwrap().success()));
    eventually("a child shares the socket", DEADLINE, || {
        let holders = portlease::who_holds(endpoint).unwrap();
        let shared = holders.iter().any(|holder| holder.processes.len() > 1);
        if shared {
            Ok(())
        } else {
            Err(holders.to_string())
        }
    });
    starter
}

/// Waits for the end of the child. The control: the calls since `begun` had to wait for it.
fn join_awaited(starter: std::thread::JoinHandle<()>, begun: Instant) {
    assert!(
        begun.elapsed() > EXEC_DELAY / 4,
        "control: the child had called exec already"
    );
    starter.join().unwrap();
}

/// In a helper process, because such a child shares every descriptor of its parent.
#[test]
fn reserving_waits_for_a_child_that_is_slow_to_exec() {
    let folder = Folder::new();
    Launch::new("reserves-beside-slow-child", &folder.locks())
        .start()
        .succeed();
}

pub(crate) fn reserve_beside_slow_child() {
    // A port with a claim and a listener, and a port that only a lease and an abstract name keep.
    for options in [ReserveOptions::new(), ReserveOptions::new().udp()] {
        let options = options.port(non_ephemeral_port());
        let p = options.clone().reserve().unwrap();
        let port = p.port();
        let server: OwnedFd = match p.protocols()[0] {
            Protocol::Tcp => p.listen().unwrap().into(),
            _ => p.udp_socket().unwrap().into(),
        };
        let starter = slow_child(&format!("{p}/{}", p.protocols()[0]));
        let begun = Instant::now();
        drop(server);
        if p.protocols()[0] == Protocol::Tcp {
            portlease::assert_port_free(&p);
        }
        drop(p);
        assert_eq!(options.reserve().unwrap().port(), port);
        join_awaited(starter, begun);
    }
}

/// The server closes its connections first, so they are in TIME_WAIT. They neither end the retries
/// of a pick nor make it refuse a number.
#[test]
fn a_range_of_one_number_waits_for_a_slow_child_beside_old_connections() {
    need!(capability::native());
    let folder = Folder::new();
    Launch::new("reserves-range-beside-slow-child", &folder.locks())
        .start()
        .succeed();
}

pub(crate) fn reserve_range_beside_slow_child() {
    for both in [false, true] {
        let port = non_ephemeral_port();
        let range = ReserveOptions::new().range(port..=port);
        let range = if both { range.tcp_and_udp() } else { range };
        let p = range.clone().reserve().unwrap();
        let server = p.listen().unwrap();
        leave_time_wait(&server);
        let starter = slow_child(&format!("{port}/tcp"));
        let begun = Instant::now();
        drop((server, p));
        assert_eq!(range.reserve().unwrap().port(), port);
        join_awaited(starter, begun);
    }
}

/// The port was not reserved before, so the child shares only the server's socket, and no claim or
/// lease.
#[test]
fn reserving_waits_for_a_slow_child_that_shares_a_closed_server() {
    // The first `reserve` below is refused, and its error reads every process. Under an emulator
    // that takes longer than `EXEC_DELAY`, so the child has called exec too early.
    need!(capability::native());
    let folder = Folder::new();
    Launch::new("closes-beside-slow-child", &folder.locks())
        .start()
        .succeed();
}

pub(crate) fn close_beside_slow_child() {
    let all = ReserveOptions::new;
    for (options, protocol) in [
        (all(), Protocol::Tcp),
        (all().reuse_addr(false), Protocol::Tcp),
        (all().udp(), Protocol::Udp),
    ] {
        let port = non_ephemeral_port();
        let server: OwnedFd = match protocol {
            Protocol::Tcp => eventually("the server is bound", DEADLINE, || {
                // Another test may bind the port for a moment.
                TcpListener::bind(("127.0.0.1", port)).map_err(|e| e.to_string())
            })
            .into(),
            _ => UdpSocket::bind(("127.0.0.1", port)).unwrap().into(),
        };
        let starter = slow_child(&format!("{port}/{protocol}"));
        let refused = options.clone().port(port).reserve().unwrap_err();
        assert_eq!(
            refused.kind(),
            ErrorKind::InUse,
            "control: this process still has the server's socket too"
        );
        let begun = Instant::now();
        drop(server);
        assert_eq!(options.port(port).reserve().unwrap().port(), port);
        join_awaited(starter, begun);
    }
}
