//! Binding a port that was just reserved, and checking one whose server was just closed.

use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use portlease::ReserveOptions;

use super::spawn_children;
use crate::support::helper::{self, Launch};
use crate::support::socket::{self, Reuse, V4};
use crate::support::{DEADLINE, Folder, eventually, print_line, test_name};

/// Reserving binds the port for a moment. A child that is forked then shares that socket until it
/// calls exec.
#[test]
fn a_port_without_a_claim_is_bound_at_once_beside_threads_that_spawn() {
    let folder = Folder::new();
    let replies = Launch::new("binds-beside-spawning-threads", &folder.locks())
        .start()
        .succeed();
    print_line(&format!("{}: {}", test_name!(), replies.join(" ")));
}

/// The helper process.
pub(crate) fn bind_beside_spawning_threads() {
    let stopped = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = spawn_children(scope, &stopped);
        const ROUNDS: u32 = 100;
        const ROUNDS_AT_MOST: u32 = 5_000;
        let (mut refused, mut control, mut rounds) = (Vec::new(), 0, 0);
        let mut note = |what: &str, bound: std::io::Result<()>| {
            refused.extend(bound.err().map(|e| format!("{what}: {e}")));
        };
        // The loop also goes on until the control has met a socket that a child shares.
        while rounds < ROUNDS || control == 0 && rounds < ROUNDS_AT_MOST {
            rounds += 1;
            let udp = ReserveOptions::new().udp().reserve().unwrap();
            note("UDP", UdpSocket::bind(udp.addr()).map(drop));
            let plain = ReserveOptions::new().reuse_addr(false).reserve().unwrap();
            note(
                "plain",
                socket::bind(V4, plain.port(), Reuse::Neither).map(drop),
            );
            let pair = ReserveOptions::new()
                .tcp_and_udp()
                .reuse_addr(false)
                .reserve()
                .unwrap();
            portlease::wait_until_free(&pair, DEADLINE).unwrap();
            note(
                "plain and free",
                socket::bind(V4, pair.port(), Reuse::Neither).map(drop),
            );
            portlease::wait_until_free(udp.port(), DEADLINE).unwrap();
            note(
                "free for a server with SO_REUSEADDR",
                TcpListener::bind(("127.0.0.1", udp.port())).map(drop),
            );
            // The control: plain binds. Nothing waits for the children before them.
            control += (0..10)
                .filter(|_| UdpSocket::bind(pair.addr()).is_err())
                .count();
        }
        assert!(
            refused.is_empty(),
            "{} of {rounds} rounds: {}",
            refused.len(),
            refused[0]
        );
        assert!(
            control > 0,
            "control: no child shared the socket of a plain bind, so the test proves nothing"
        );
        helper::reply(&format!(
            "{rounds} rounds, none refused, {control} of the control"
        ));
    });
}

/// The helper process: closes its own servers and checks their ports at once, beside threads that
/// spawn children.
pub(crate) fn check_beside_spawning_threads() {
    let stopped = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = spawn_children(scope, &stopped);
        const ROUNDS: u32 = 150;
        const ROUNDS_AT_MOST: u32 = 5_000;
        let (mut shared, mut rounds) = (0, 0);
        // The loop also goes on until the control has met a socket that a child shares.
        while rounds < ROUNDS || shared == 0 && rounds < ROUNDS_AT_MOST {
            rounds += 1;
            let p = portlease::reserve_port();
            drop(p.listen().unwrap());
            // The control: nothing waits before this bind, so it meets a listener that a child
            // shares.
            shared += u32::from(TcpListener::bind(p.addr()).is_err());
            drop(p.listen().unwrap());
            portlease::check_port_free(&p).unwrap();
            drop(p.listen().unwrap());
            p.release().unwrap();
        }
        helper::reply(&format!("shared={shared} rounds={rounds}"));
    });
}

#[test]
fn a_closed_server_is_gone_for_every_check_beside_threads_that_spawn() {
    let folder = Folder::new();
    let replies = Launch::new("checks-beside-spawning-threads", &folder.locks())
        .start()
        .succeed();
    print_line(&format!(
        "{}: {replies:?}; `shared` counts the refused binds of the control",
        test_name!()
    ));
    assert!(
        !replies[0].starts_with("shared=0 "),
        "control: no child shared a listener, so the test proves nothing"
    );
}

/// Without a lock folder no record says which of the sockets belongs to the reservation.
#[test]
fn a_closed_server_is_gone_for_every_check_without_a_usable_lock_folder() {
    let folder = Folder::new();
    std::fs::write(folder.locks(), "no folder").unwrap();
    let replies = Launch::new("checks-beside-spawning-threads", &folder.locks())
        .start()
        .succeed();
    assert!(
        !replies[0].starts_with("shared=0 "),
        "control: no child shared a listener, so the test proves nothing"
    );
}

/// The helper process: closes its servers and checks their port at once, while a connection of an
/// earlier server is in TIME_WAIT. That server set SO_REUSEADDR, so TIME_WAIT admits the next
/// server.
pub(crate) fn check_over_time_wait_beside_spawning_threads() {
    let p = portlease::reserve_port();
    let server = p.listen().unwrap();
    let client = std::net::TcpStream::connect(p.addr()).unwrap();
    // The side that closes first keeps the TIME_WAIT: here the server.
    drop(server.accept().unwrap());
    drop((client, server));
    eventually("a connection in TIME_WAIT", DEADLINE, || {
        let holders = portlease::who_holds(&p).unwrap();
        let waits = holders
            .iter()
            .any(|holder| holder.state == portlease::State::TimeWait);
        if waits {
            Ok(())
        } else {
            Err(holders.to_string())
        }
    });
    let stopped = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = spawn_children(scope, &stopped);
        // The loop ends long before TIME_WAIT does, which lasts for a minute.
        let begun = Instant::now();
        for _ in 0..20_000 {
            if begun.elapsed() > Duration::from_secs(3) {
                break;
            }
            drop(p.listen().unwrap());
            portlease::check_port_free(&p).unwrap();
        }
    });
}

#[test]
fn a_closed_server_is_not_mistaken_for_its_time_wait() {
    let folder = Folder::new();
    Launch::new("checks-over-time-wait", &folder.locks())
        .start()
        .succeed();
}
