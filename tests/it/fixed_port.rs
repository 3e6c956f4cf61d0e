//! A port number that is written into code, as users write it.
//!
//! Tests in other processes may use the port too. `file_serial` runs the two tests of this file one
//! after another. `reserved` waits for any other process.

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use portlease::{ErrorKind, Reservation, ReserveOptions};
use serial_test::file_serial;
use socket2::{Domain, Socket, Type};

use crate::support::DEADLINE;

const NUMBER: u16 = 60315;

/// Reserves the port. Waits longer than a TIME_WAIT of another program lasts.
fn reserved() -> Reservation {
    ReserveOptions::new()
        .port(NUMBER)
        .wait(Duration::from_secs(90))
        .reserve()
        .unwrap()
}

#[test]
#[file_serial(portlease_60315)]
fn a_fixed_number_is_reserved_served_and_free_again() {
    let p = reserved();
    portlease::assert_port_free(60315);
    let server = TcpListener::bind(("127.0.0.1", 60315)).unwrap();
    assert_eq!(
        portlease::check_port_free("60315/tcp")
            .unwrap_err()
            .endpoint()
            .unwrap()
            .port,
        NUMBER
    );
    drop(server);
    portlease::assert_port_free(&p);
    assert_eq!(
        ReserveOptions::new()
            .port(NUMBER)
            .reserve()
            .unwrap_err()
            .kind(),
        ErrorKind::InUse
    );
}

#[test]
#[file_serial(portlease_60315)]
#[cfg_attr(not(target_os = "linux"), ignore = "the help is a setting of Linux")]
fn the_source_port_of_a_client_is_reported_as_one() {
    drop(reserved());
    // A child that another test has just forked shares the claim until it calls exec.
    portlease::wait_until_free(NUMBER, DEADLINE).unwrap();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    client.set_linger(Some(Duration::ZERO)).unwrap();
    client
        .bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, NUMBER)).into())
        .unwrap();
    client
        .connect(&server.local_addr().unwrap().into())
        .unwrap();
    let text = portlease::check_port_free(60315).unwrap_err().to_string();
    assert!(
        text.starts_with("port 60315/tcp is in use: outgoing connection of "),
        "{text}"
    );
    assert!(text.contains("dynamic (RFC 6335), "), "{text}");
    assert!(
        text.contains("sysctl -w net.ipv4.ip_local_reserved_ports="),
        "{text}"
    );
    drop(client);
}
