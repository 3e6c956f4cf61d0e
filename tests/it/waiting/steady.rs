//! Waiting until servers listen on several ports, and keep listening.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use portlease::{
    ErrorKind, reserve_port, reserve_ports, wait_until_all_listening, wait_until_listening,
};

use crate::support::socket::V4;
use crate::support::{DEADLINE, capability, need};

const AT_ONCE: Duration = Duration::ZERO;
const SHORT: Duration = Duration::from_millis(30);

#[test]
fn a_wait_for_no_port_returns_at_once() {
    let no_port: [u16; 0] = [];
    wait_until_all_listening(no_port, DEADLINE, AT_ONCE).unwrap();
}

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

/// The report names the server, whether it is made while the server listens or while it does not.
#[test]
#[cfg_attr(
    windows,
    ignore = "under wine the owner of a listener that closes soon is not found"
)]
fn a_server_that_listens_again_and_again_is_named() {
    need!(capability::native());
    let p = reserve_port();
    let is_over = AtomicBool::new(false);
    let flap = |open: Duration, closed: Duration| {
        while !is_over.load(Ordering::Relaxed) {
            let server = p.listen().unwrap();
            sleep(open);
            drop(server);
            sleep(closed);
        }
    };
    for (open, closed) in [(SHORT, SHORT * 10), (SHORT * 10, SHORT)] {
        is_over.store(false, Ordering::Relaxed);
        std::thread::scope(|scope| {
            let server = scope.spawn(|| flap(open, closed));
            wait_until_listening(&p, DEADLINE).unwrap();
            let waited = wait_until_all_listening([&p], DEADLINE, SHORT * 40);
            is_over.store(true, Ordering::Relaxed);
            server.join().unwrap();
            let error = waited.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut);
            let headline = error.diagnosis().unwrap().headline();
            let expected = format!("port 127.0.0.1:{p}/tcp had no listener that stayed open for ");
            assert!(headline.starts_with(&expected), "{headline}");
            // The JSON output of the command has only the cause.
            let cause = error.diagnosis().unwrap().cause();
            assert!(cause.starts_with("no listener stayed open for "), "{cause}");
            let own = format!("(pid {})", std::process::id());
            assert!(
                headline.contains(&own) && headline.contains(&p.addr().to_string()),
                "{headline}"
            );
        });
    }
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
