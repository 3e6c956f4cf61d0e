//! Tests that all need one fixed number, which `serial_test` kept apart before.
//!
//! `#[serial]` is a lock of one process, and under nextest each test is a process of its own; nor does it know of
//! another checkout's suite. A reservation that is waited for keeps everybody apart who asks for the number, and the
//! rest of each test runs beside the others.

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
    // Refused if any other of these tests were here.
    let server = TcpListener::bind(&p).unwrap();
    TcpStream::connect(("127.0.0.1", PORT)).unwrap();
    server.accept().unwrap();
    // Stopped and started again within the test.
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
