//! nextest: several test processes share a port that the set-up script `nextest/ports` reserves.
//!
//! Most tests reserve a port of their own. Use a set-up script for a port that is chosen once per
//! run: the port of a service that the script starts, or a number in a file that it writes.
//!
//! Do not compute a port from `NEXTEST_TEST_GLOBAL_SLOT`. It differs only among the tests of one
//! run that run at the same time. Another run (another checkout, an editor's, another job on the
//! machine) counts from 0 too. The kernel does not know of the number either, and can assign it to
//! any process.

use std::net::{TcpListener, TcpStream};

/// Without nextest all tests are in one process, so each test reserves its own port.
fn exported(name: &str) -> u16 {
    match std::env::var(name) {
        Ok(port) => port.parse().unwrap(),
        Err(_) => portlease::reserve_port().leak(),
    }
}

#[test]
fn a_server_on_an_exported_port() {
    let port = exported("SUITE_API_PORT");
    // Passes because the port is our own: it is reserved for this process or an ancestor.
    portlease::assert_port_free(port);
    let server = TcpListener::bind(("127.0.0.1", port)).unwrap();
    TcpStream::connect(server.local_addr().unwrap()).unwrap();
    portlease::assert_port_held_by(port, std::process::id());
}

#[test]
fn an_exported_port_that_refuses() {
    assert!(TcpStream::connect(("127.0.0.1", exported("SUITE_DOWN_PORT"))).is_err());
}

/// The keeper of the ports ends with the runner, not with the script or a test.
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
        .expect("it is held for another process");
    let name = std::fs::read_to_string(format!("/proc/{runner}/comm")).unwrap();
    assert_eq!(name.trim(), "cargo-nextest");
    assert_eq!(runner, std::os::unix::process::parent_id());
}
