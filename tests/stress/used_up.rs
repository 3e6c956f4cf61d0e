//! Sixty processes that reserve while the ephemeral range is used up: most of its numbers are in
//! TIME_WAIT, and other programs have bound the rest but for a few.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

use portlease::{Guarantee, ReserveOptions};

use super::{load, seconds};
use crate::support::args::Args;
use crate::support::helper::{self, EPHEMERAL_LOW, Helper, Launch};
use crate::support::socket::{self, ANY_V4, Reuse, V4, leave_clients_in_time_wait};
use crate::support::{Folder, capability, need};

const PROCESSES: usize = 60;

/// The rounds of all processes for each second of `PORTLEASE_STRESS_SECONDS`.
const ROUNDS_PER_SECOND: f64 = 3000.0;

/// The port that the stranger connects to, outside the ephemeral range.
const SERVER: u16 = EPHEMERAL_LOW + 2000;

/// How many numbers of the range stay free. An automatic pick leaves two numbers of so small a
/// range for outgoing connections.
const FREE: usize = 4;

#[test]
fn sixty_processes_lose_no_round_beside_64_used_up_ephemeral_ports() {
    need!(capability::network_namespace());
    beside_used_up_range(crate::support::test_name!(), 64);
}

#[test]
fn sixty_processes_lose_no_round_beside_300_used_up_ephemeral_ports() {
    need!(capability::network_namespace());
    beside_used_up_range(crate::support::test_name!(), 300);
}

fn beside_used_up_range(test: &str, ports: u16) {
    let folder = Folder::new();
    let rounds = (seconds() * ROUNDS_PER_SECOND / PROCESSES as f64).ceil();
    let launch = Launch::new("used-up", &folder.locks()).args(format!("rounds={rounds}"));
    // By default a connection over the loopback interface can take over a number in TIME_WAIT.
    let launch = launch
        .with_ephemeral_ports(ports)
        .setup("echo 0 > /proc/sys/net/ipv4/tcp_tw_reuse");
    let replies = launch.start().succeed();
    for line in replies {
        crate::support::print_line(&format!("stress: {test}: {line}"));
    }
}

/// The helper process in the namespace: the stranger, and the parent of the processes that reserve.
pub(crate) fn connect_beside_reservers(args: &Args) {
    let rounds: usize = args.number("rounds").unwrap();
    let folder = Folder::new();
    let server = TcpListener::bind((V4, SERVER)).unwrap();
    let mut bound = bound_rest();
    let ports = bound.len();
    bound.truncate(ports / 4);
    let waiting = leave_clients_in_time_wait(&server, ports - bound.len() - FREE).len();
    bound.append(&mut bound_rest());
    bound.truncate(bound.len() - FREE);
    assert_eq!(
        waiting + bound.len() + FREE,
        ports,
        "{waiting} in TIME_WAIT"
    );
    let connect = || {
        let client = TcpStream::connect(server.local_addr().unwrap())?;
        socket::reset_on_close(&client);
        drop(client);
        server.accept().map(drop)
    };
    let launch = |_| {
        Launch::new("used-up-worker", &folder.locks())
            .args(format!("rounds={rounds}"))
            .start()
    };
    // The stranger begins after the last fork of this process. Until it calls exec, a forked child
    // has copies of the stranger's sockets, and so keeps their numbers in use.
    let workers: Vec<Helper> = (0..PROCESSES).map(launch).collect();
    let done = AtomicBool::new(false);
    let (connected, refused) = std::thread::scope(|scope| {
        let stranger = scope.spawn(|| {
            let (mut connected, mut refused) = (0, Vec::new());
            loop {
                match connect() {
                    Ok(()) => connected += 1,
                    Err(error) => refused.push(error),
                }
                if done.load(Ordering::Relaxed) {
                    return (connected, refused);
                }
            }
        });
        for worker in workers {
            assert_eq!(worker.succeed(), [format!("{rounds} rounds")]);
        }
        done.store(true, Ordering::Relaxed);
        stranger.join().unwrap()
    });
    helper::reply(&format!(
        "{} rounds, none lost, beside {waiting} numbers in TIME_WAIT and {} bound; {connected} \
         connections of the stranger, {} refused",
        rounds * PROCESSES,
        bound.len(),
        refused.len()
    ));
    // The promise is about numbers: without a free one, the error is EADDRNOTAVAIL. About one of
    // 100,000 connections is refused (ECONNREFUSED) for a reason that is not known.
    let lack = |error: &&io::Error| error.kind() != io::ErrorKind::ConnectionRefused;
    assert!(connected > 0, "no connection");
    assert_eq!(refused.iter().find(lack).map(io::Error::to_string), None);
    assert!(refused.len() <= 1 + connected / 10_000, "{refused:?}");
    // The control: once the last numbers are bound, the stranger is refused.
    bound.append(&mut bound_rest());
    let error = connect().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable, "{error}");
}

/// A socket on each number of the range that the kernel still assigns.
fn bound_rest() -> Vec<socket2::Socket> {
    std::iter::from_fn(|| socket::bind(ANY_V4, 0, Reuse::Neither).ok()).collect()
}

/// The helper process that reserves. A round is lost if no port is reserved, or if the server of
/// its number cannot start or is not the one that answers.
pub(crate) fn reserve(args: &Args) {
    let rounds: usize = args.number("rounds").unwrap();
    for round in 0..rounds {
        let reserved = ReserveOptions::new().reserve();
        let reservation = reserved.unwrap_or_else(|e| panic!("round {round}: {e}"));
        assert_eq!(reservation.guarantee(), Guarantee::Kernel);
        let served = load::boot_twice(reservation.port(), |port| load::serve_tcp_once(port, true));
        served.unwrap_or_else(|e| panic!("round {round}: {e}"));
    }
    helper::reply(&format!("{rounds} rounds"));
}
