//! Tests that all need one fixed port, and used `serial_test` before.
//!
//! `#[serial]` locks within one process. Under nextest each test is a process, and the suite of
//! another checkout runs in other processes too. `ReserveOptions::wait` queues all processes that
//! request the port. The rest of each test runs in parallel with the others.

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use portlease::{Reservation, ReserveOptions};

const PORT: u16 = 17_115;

// Before: #[serial] on each test, and TcpListener::bind(("127.0.0.1", PORT)).
fn the_port() -> Reservation {
    ReserveOptions::new()
        .port(PORT)
        .wait(Duration::from_secs(60))
        .label("fixed")
        .reserve()
        .unwrap()
}

fn a_test() {
    let p = the_port();
    // This bind would fail if another of these tests held the port now.
    let server = TcpListener::bind(&p).unwrap();
    TcpStream::connect(("127.0.0.1", PORT)).unwrap();
    server.accept().unwrap();
    // The test can stop its server and start it again.
    drop(server);
    drop(TcpListener::bind(&p).unwrap());
}

#[test]
fn first() {
    a_test();
}

#[test]
fn second() {
    a_test();
}

#[test]
fn third() {
    a_test();
}

#[test]
fn fourth() {
    a_test();
}
