//! Waiting until servers listen on several ports, and keep listening.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use portlease::{ErrorKind, reserve_port, reserve_ports, wait_until_all_listening};

use crate::support::DEADLINE;
use crate::support::socket::V4;

const AT_ONCE: Duration = Duration::ZERO;
const SHORT: Duration = Duration::from_millis(30);

#[test]
fn a_wait_for_many_ports_needs_every_one_of_them() {
    let reserved = reserve_ports::<20>();
    let udp = portlease::reserve_udp_port();
    let mut servers: Vec<TcpListener> = reserved.iter().map(|p| p.listen().unwrap()).collect();
    let operands: Vec<String> = reserved
        .iter()
        .map(|p| p.port().to_string())
        .chain([format!("{}/udp", udp.port())])
        .collect();

    let error = wait_until_all_listening(&operands, AT_ONCE, SHORT).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let silent = format!("{}/udp", udp.port());
    assert!(error.to_string().contains(&silent), "{error}");

    let _socket = UdpSocket::bind((V4, udp.port())).unwrap();
    wait_until_all_listening(&operands, AT_ONCE, DEADLINE).unwrap();
    wait_until_all_listening(&operands, SHORT, DEADLINE).unwrap();

    drop(servers.remove(7));
    let error = wait_until_all_listening(&operands, AT_ONCE, SHORT).unwrap_err();
    let silent = reserved[7].port();
    assert!(error.to_string().contains(&silent.to_string()), "{error}");
    let other = reserved.iter().find(|p| p.port() != silent).unwrap();
    assert!(
        !error.to_string().contains(&other.port().to_string()),
        "{error}"
    );
}

#[test]
fn a_listener_on_another_address_does_not_count() {
    let (p, other) = (reserve_port(), reserve_port());
    let _servers = (p.listen().unwrap(), other.listen().unwrap());
    let elsewhere = SocketAddr::from(([127, 0, 0, 9], other.port()));
    let error = wait_until_all_listening([p.addr(), elsewhere], AT_ONCE, SHORT).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.to_string().contains("127.0.0.9"), "{error}");
}
