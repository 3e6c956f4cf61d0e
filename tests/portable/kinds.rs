//! What can be reserved, and what a server makes of it.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};

use portlease::{Guarantee, Protocol, Reachability, ReserveOptions};

use crate::agent::Agent;
use crate::support::DEADLINE;

#[test]
fn a_server_starts_by_number_answers_stops_and_starts_again() {
    let p = portlease::reserve_port();
    assert_ne!(portlease::probe(&p, DEADLINE), Reachability::Accepts);
    for _ in 0..3 {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, p.port())).unwrap();
        portlease::wait_until_listening(&p, DEADLINE).unwrap();
        let mut client = TcpStream::connect(p.addr()).unwrap();
        let answered = std::thread::spawn(move || {
            // On some systems the look connects too.
            for stream in server.incoming() {
                if stream.unwrap().write_all(b"hello").is_ok() {
                    break;
                }
            }
        });
        let mut text = String::new();
        let _read = client.read_to_string(&mut text);
        drop(client);
        answered.join().unwrap();
        // A child that another test forked at this moment has the listener too, until it execs.
        portlease::wait_until_free(&p, DEADLINE).unwrap();
    }
}

#[test]
fn sockets_of_ours_serve_at_once() {
    let p = ReserveOptions::new().tcp_and_udp().reserve().unwrap();
    assert_eq!(p.protocols(), [Protocol::Tcp, Protocol::Udp]);
    let listener = p.listen().unwrap();
    assert_eq!(listener.local_addr().unwrap(), p.addr());
    assert!(TcpStream::connect(p.addr()).is_ok());
    let socket = p.udp_socket().unwrap();
    assert_eq!(socket.local_addr().unwrap(), p.addr());
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    client.send_to(b"hello", p.addr()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut bytes = [0; 8];
    assert_eq!(socket.recv(&mut bytes).unwrap(), 5);
}

#[test]
fn a_udp_port_is_for_a_server_of_another_process() {
    let p = portlease::reserve_udp_port();
    let mut server = Agent::new();
    assert_eq!(server.command(&format!("serve-udp port={}", p.port())), "serves");
    assert_eq!(server.command("stop"), "stopped");
    assert_eq!(server.command(&format!("serve-udp port={}", p.port())), "serves");
}

#[test]
fn many_are_distinct_and_a_block_is_consecutive() {
    let many = ReserveOptions::new().reserve_many(50).unwrap();
    let distinct: BTreeSet<u16> = many.iter().map(portlease::Reservation::port).collect();
    assert_eq!(distinct.len(), 50);
    let block = ReserveOptions::new().reserve_block(8).unwrap();
    let first = block[0].port();
    assert!(block.iter().zip(first..).all(|(p, number)| p.port() == number), "{block:?}");
    let [a, b, c] = portlease::reserve_ports();
    assert_eq!(BTreeSet::from([a.port(), b.port(), c.port()]).len(), 3);
}

#[test]
fn a_range_is_kept_to() {
    let p = ReserveOptions::new().range(20000..=20999).exclude(20000..=20899).reserve().unwrap();
    assert!((20900..=20999).contains(&p.port()));
}

#[test]
fn the_grade_is_the_kernels_on_linux_alone() {
    let expected = if cfg!(target_os = "linux") { Guarantee::Kernel } else { Guarantee::Cooperative };
    assert_eq!(portlease::reserve_port().guarantee(), expected);
    assert_ne!(portlease::reserve_udp_port().guarantee(), Guarantee::Kernel);
}
