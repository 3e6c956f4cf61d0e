//! nextest: a number that several test processes share, from the set-up script `nextest/ports`.
//!
//! Most tests want a port of their own, and reserve it. A set-up script is for what is decided once for the run: the
//! port of a service that it starts, or a number in a file that it writes.
//!
//! `NEXTEST_TEST_GLOBAL_SLOT` is no way to a number: it tells the tests of one run apart that run at the same moment.
//! Another run (another checkout, an editor's, another job on the machine) counts from 0 too, and nobody else knows of
//! it: a number made of it is taken by whoever the kernel gives it.

use std::net::{TcpListener, TcpStream};

/// Without nextest there is one process, which can as well decide by itself.
fn exported(name: &str) -> u16 {
    match std::env::var(name) {
        Ok(port) => port.parse().unwrap(),
        Err(_) => portlease::reserve_port().leak(),
    }
}

#[test]
fn a_server_on_an_exported_port() {
    let port = exported("SUITE_API_PORT");
    // Reserved, and our own: for this process, or for one that it descends from.
    portlease::assert_port_free(port);
    let server = TcpListener::bind(("127.0.0.1", port)).unwrap();
    TcpStream::connect(server.local_addr().unwrap()).unwrap();
    portlease::assert_port_held_by(port, std::process::id());
}

#[test]
fn an_exported_port_that_refuses() {
    assert!(TcpStream::connect(("127.0.0.1", exported("SUITE_DOWN_PORT"))).is_err());
}

/// The keeper of the numbers ends with the runner, and not with the script or with one of the tests.
#[test]
#[cfg(target_os = "linux")]
fn an_exported_port_is_kept_for_the_runner() {
    if std::env::var_os("NEXTEST").is_none() {
        return;
    }
    let port = std::env::var("SUITE_API_PORT").expect("the set-up script exports it");
    let leases = portlease::reservations().unwrap();
    let lease = leases
        .iter()
        .find(|lease| lease.port().to_string() == port)
        .expect("it is reserved");
    let runner = lease
        .on_behalf_of()
        .expect("it is kept for another process");
    let name = std::fs::read_to_string(format!("/proc/{runner}/comm")).unwrap();
    assert_eq!(name.trim(), "cargo-nextest");
    assert_eq!(runner, std::os::unix::process::parent_id());
}
