//! The guarantee under attack. Beside each attack stands its control, in which the attacker must
//! win.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use portlease::ReserveOptions;

use crate::support::args::Args;
use crate::support::helper::{self, EPHEMERAL_LOW, Launch};
use crate::support::ports::non_ephemeral_port;
use crate::support::reserver::Reserver;
use crate::support::socket::{self, ANY_V4, ANY_V6, Reuse, V4, V6, port_of, reset_on_close};
use crate::support::{Folder, capability, need};

const EPHEMERAL_PORTS: u16 = 16;

/// A port outside the namespace's ephemeral range, for the server that clients connect to.
const OUTSIDE: u16 = EPHEMERAL_LOW + EPHEMERAL_PORTS + 1000;

/// The timeout of a connection that must be refused at once. A connection that is not refused at
/// once gets no answer at all, so the timeout may be long.
const AT_ONCE: Duration = Duration::from_secs(30);

#[test]
fn the_kernel_gives_a_reserved_port_to_nobody() {
    need!(capability::network_namespace());
    let folder = Folder::new();
    Launch::new("assignments", &folder.locks())
        .with_ephemeral_ports(EPHEMERAL_PORTS)
        .start()
        .succeed();
}

/// The helper process: five processes reserve ten of sixteen ephemeral ports. Then the kernel
/// assigns every port that is left to another process.
pub(crate) fn assignments_in_namespace() {
    let folder = Folder::new();
    let mut reservers: Vec<Reserver> = (0..5).map(|_| Reserver::new(&folder.locks())).collect();
    let mut ours = BTreeSet::new();
    let mut ports_of_each = Vec::new();
    let last = EPHEMERAL_LOW + EPHEMERAL_PORTS - 1;
    let within = format!("within={EPHEMERAL_LOW}-{last}");
    for reserver in &mut reservers {
        let held = reserver.reserve(&format!("many=2 {within}")).held();
        assert_eq!(held.guarantee, "Kernel");
        ours.extend(held.ports.iter().copied());
        ports_of_each.push(held.ports);
    }
    assert_eq!(ours.len(), 10, "{ours:?}");

    let all: BTreeSet<u16> = (EPHEMERAL_LOW..EPHEMERAL_LOW + EPHEMERAL_PORTS).collect();
    let others: BTreeSet<u16> = all.difference(&ours).copied().collect();
    let none_of_ours = |when: &str| {
        for (how, assigned) in assigned_ports(&folder) {
            let stolen: Vec<_> = assigned.intersection(&ours).collect();
            assert!(stolen.is_empty(), "{when}: {how} was given {stolen:?}");
            assert_eq!(
                assigned, others,
                "{when}: {how} was not given every port that was left, which proves nothing"
            );
        }
    };
    none_of_ours("reserved");
    for (reserver, ports) in reservers.iter_mut().zip(&ports_of_each) {
        for port in ports {
            assert_eq!(reserver.command(&format!("serve={port}")), "serves");
        }
    }
    none_of_ours("reserved, with a server on each");

    // The control: the same ports, picked and dropped.
    drop(reservers);
    for (how, assigned) in assigned_ports(&folder) {
        assert!(
            assigned.intersection(&ours).count() > 0,
            "control: {how} took none of the dropped ports"
        );
    }
}

/// The ports that the kernel assigns to another process, for each way in which the process requests
/// them.
fn assigned_ports(folder: &Folder) -> Vec<(String, BTreeSet<u16>)> {
    let replies = Launch::new("assigned-ports", &folder.locks())
        .args(format!("server={OUTSIDE}"))
        .start()
        .succeed();
    let reply = &replies[0];
    let ways: Vec<(String, BTreeSet<u16>)> = reply
        .split(' ')
        .map(|word| {
            let (how, ports) = word.rsplit_once('=').unwrap();
            let ports = ports
                .split(',')
                .filter(|port| !port.is_empty())
                .map(|port| port.parse().unwrap());
            (how.to_owned(), ports.collect())
        })
        .collect();
    let used = ways.iter().filter(|(_, ports)| !ports.is_empty()).count();
    assert_eq!(
        used,
        if capability::ipv6().is_ok() { 14 } else { 7 },
        "{reply}"
    );
    ways.into_iter()
        .filter(|(_, ports)| !ports.is_empty())
        .collect()
}

#[test]
fn a_retry_loop_never_connects_to_itself_on_a_reserved_port() {
    need!(capability::network_namespace());
    let folder = Folder::new();
    Launch::new("self-connections", &folder.locks())
        .with_ephemeral_ports(EPHEMERAL_PORTS)
        .start()
        .succeed();
}

/// The helper process. A connection whose source port is the port that it connects to succeeds
/// without any server.
pub(crate) fn self_connections_in_namespace() {
    const ROUNDS: usize = 200;
    const PORTS: usize = 12;
    let connected = |ports: &[u16]| {
        let mut count = 0;
        for _ in 0..ROUNDS {
            // Keeps the parent from timing out on a slow machine.
            helper::reply("working");
            for port in ports {
                match TcpStream::connect_timeout(&SocketAddr::new(V4, *port), AT_ONCE) {
                    Ok(stream) => {
                        socket::reset_on_close(&stream);
                        count += 1;
                    }
                    Err(e) => assert_eq!(e.kind(), io::ErrorKind::ConnectionRefused, "{e}"),
                }
            }
        }
        count
    };
    let ephemeral = ReserveOptions::new()
        .exclude(1..EPHEMERAL_LOW)
        .exclude(EPHEMERAL_LOW + EPHEMERAL_PORTS..=u16::MAX);
    let reserved = ephemeral.reserve_many(PORTS).unwrap();
    let numbers: Vec<u16> = reserved.iter().map(|r| r.port()).collect();
    assert_eq!(
        connected(&numbers),
        0,
        "of {ROUNDS} rounds over {numbers:?}"
    );
    drop(reserved);

    let picked: Vec<_> = (0..PORTS)
        .map(|_| socket::bind(V4, 0, Reuse::Neither).unwrap())
        .collect();
    let numbers: Vec<u16> = picked.iter().map(socket::port_of).collect();
    drop(picked);
    assert!(
        connected(&numbers) > 0,
        "control: no connection to itself in {ROUNDS} rounds over {numbers:?}"
    );
    // The crate does not take such a connection for a server.
    for _ in 0..ROUNDS {
        helper::reply("working");
        for port in &numbers {
            let met = portlease::probe(SocketAddr::new(V4, *port), AT_ONCE);
            assert_eq!(met, portlease::Reachability::Refuses);
        }
    }
}

#[test]
fn a_server_with_a_reuse_option_listens_over_a_reserved_port_and_a_plain_one_does_not() {
    let mut addresses = vec![V4, ANY_V4];
    if capability::ipv6().is_ok() {
        addresses.extend([V6, ANY_V6]);
    }
    for ip in addresses {
        for reuse in ALL_REUSE {
            let reservation = portlease::reserve_port();
            let server = socket::bind(ip, reservation.port(), reuse).and_then(|server| {
                server.listen(16)?;
                Ok(server)
            });
            match reuse {
                // Such a server needs an inherited listener, or `reuse_addr(false)`.
                Reuse::Neither => {
                    assert_eq!(
                        server.unwrap_err().kind(),
                        io::ErrorKind::AddrInUse,
                        "{ip}, {reuse:?}"
                    );
                    // The control: without a claim, the bind succeeds.
                    let number = non_ephemeral_port();
                    socket::bind(ip, number, reuse).unwrap();
                }
                _ => {
                    server.unwrap_or_else(|e| panic!("{ip}, {reuse:?}: {e}"));
                }
            }
        }
    }
}

#[test]
fn a_reserved_port_without_a_server_refuses_connections_at_once() {
    let mut addresses: Vec<IpAddr> = vec![V4];
    if capability::ipv6().is_ok() {
        addresses.push(V6);
    }
    for _ in 0..50 {
        let reservation = portlease::reserve_port();
        for ip in &addresses {
            let refused = TcpStream::connect_timeout(&reservation.addr_on(*ip), AT_ONCE);
            let refused = refused.map(drop).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{ip}");
        }
    }
}

const ALL_REUSE: [Reuse; 3] = [Reuse::Neither, Reuse::Address, Reuse::Port];

/// The helper process: replies with every port that the kernel assigns it, one word for each way:
/// `name=port,port`. The ways are twelve kinds of `bind(…, 0)`, and `connect` over IPv4 and IPv6;
/// each is repeated until it fails.
///
/// `server` is the port to connect to, outside the ephemeral range.
pub(crate) fn report_assigned_ports(args: &Args) {
    let server: u16 = args.number("server").unwrap();
    let mut ways = Vec::new();
    let mut note = |how: String, assigned: BTreeSet<u16>| {
        let ports: Vec<String> = assigned.iter().map(u16::to_string).collect();
        ways.push(format!("{how}={}", ports.join(",")));
    };
    for (name, ip) in [
        ("127.0.0.1", V4),
        ("0.0.0.0", ANY_V4),
        ("::1", V6),
        ("::", ANY_V6),
    ] {
        for reuse in ALL_REUSE {
            let mut held = Vec::new();
            // The range of the namespace has fewer ports than this limit.
            while held.len() < 1000 {
                match socket::bind(ip, 0, reuse) {
                    Ok(socket) => held.push(socket),
                    Err(_) => break,
                }
            }
            note(
                format!("bind({name},0)/{reuse:?}"),
                held.iter().map(port_of).collect(),
            );
        }
    }
    for ip in [V4, V6] {
        let Ok(listener) = TcpListener::bind((ip, server)) else {
            continue;
        };
        let mut held = Vec::new();
        while held.len() < 1000 {
            match TcpStream::connect_timeout(&SocketAddr::new(ip, server), Duration::from_secs(5)) {
                Ok(stream) => held.push((stream, listener.accept().unwrap())),
                Err(_) => break,
            }
        }
        note(
            format!("connect({ip})"),
            held.iter()
                .map(|(s, _)| s.local_addr().unwrap().port())
                .collect(),
        );
        for (stream, _) in &held {
            reset_on_close(stream);
        }
    }
    helper::reply(&ways.join(" "));
}
