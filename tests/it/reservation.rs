//! A reservation's life: dropped, leaked, listened on, restarted over; with its process, its thread, its children.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use portlease::{ErrorKind, Protocol, Reachability, Reservation, ReserveOptions};

use crate::agent::{Agent, own_locks};
use crate::numbers::{self, quiet_number};
use crate::outsider::{self, Reuse, V4};
use crate::support::{DEADLINE, Folder, eventually};

#[test]
fn a_reservation_can_cross_threads() {
    fn crosses<T: Send + Sync + 'static>() {}
    crosses::<Reservation>();
    crosses::<portlease::Error>();
}

#[test]
fn a_reservation_tells_what_it_is() {
    let reservation = portlease::reserve_port();
    let port = reservation.port();
    assert_eq!(reservation.to_string(), port.to_string());
    assert_eq!(reservation.addr().to_string(), format!("127.0.0.1:{port}"));
    assert_eq!(
        reservation
            .addr_on(std::net::Ipv6Addr::LOCALHOST)
            .to_string(),
        format!("[::1]:{port}")
    );
    assert_eq!(reservation.protocols(), [Protocol::Tcp]);
    assert_eq!(reservation.guarantee(), numbers::OF_TCP);
    assert!(format!("{reservation:?}").contains(&port.to_string()));
    let server = TcpListener::bind(&reservation).unwrap();
    assert_eq!(server.local_addr().unwrap(), reservation.addr());
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "a number without a claim can be bound by anybody"
)]
fn a_released_port_can_be_bound_at_once() {
    let number = quiet_number();
    for _ in 0..50 {
        let reservation = ReserveOptions::new().port(number).reserve().unwrap();
        outsider::bind(V4, number, Reuse::Neither).unwrap_err();
        drop(reservation);
        // A child that another thread forked at this moment shares the claim until it execs.
        eventually("a plain bind", DEADLINE, || {
            outsider::bind(V4, number, Reuse::Neither).map_err(|e| e.to_string())
        });
    }
}

#[test]
fn a_released_port_can_be_reserved_at_once_by_another_process() {
    let folder = Folder::new();
    let (mut one, mut two) = (Agent::new(&folder.locks()), Agent::new(&folder.locks()));
    let number = quiet_number();
    for _ in 0..100 {
        one.reserve(&format!("port={number}")).held();
        two.reserve(&format!("port={number}")).refused("InUse");
        one.drop(number);
        two.reserve(&format!("port={number}")).held();
        two.drop(number);
    }
}

#[test]
fn a_leaked_port_stays_reserved_until_its_process_ends() {
    let folder = Folder::new();
    let (mut leaker, mut other) = (Agent::new(&folder.locks()), Agent::new(&folder.locks()));
    let port = leaker.reserve("").held().port();
    assert_eq!(
        leaker.command(&format!("leak={port}")),
        format!("leaked {port}")
    );
    other.reserve(&format!("port={port}")).refused("InUse");
    leaker.process().kill();
    other.reserve(&format!("port={port}")).held();
}

#[test]
fn a_listener_of_the_reservations_can_be_closed_and_made_again() {
    let reservation = portlease::reserve_port();
    for _ in 0..20 {
        let server = reservation.listen().unwrap();
        assert!(reservation.listen().is_err(), "one at a time");
        let client = TcpStream::connect(&reservation).unwrap();
        let (stream, _) = server.accept().unwrap();
        drop((stream, client));
    }
    ReserveOptions::new()
        .port(reservation.port())
        .reserve()
        .unwrap_err();
}

#[test]
#[cfg_attr(
    windows,
    ignore = "Windows lets a server start over what it left in TIME_WAIT"
)]
fn a_server_is_restarted_on_its_number_over_its_time_wait() {
    // The side that closes first keeps the connection in TIME_WAIT, with the options of its socket.
    let restart = |number, reuse| -> std::io::Result<()> {
        let server = outsider::bind(V4, number, reuse)?;
        server.listen(8)?;
        let mut client = TcpStream::connect((V4, number))?;
        drop(server.accept()?);
        assert_eq!(client.read(&mut [0])?, 0);
        Ok(())
    };
    let reservation = portlease::reserve_port();
    for round in 0..100 {
        // A child that another test forked at this moment has the listener too, until it execs.
        reservation.wait_until_free(DEADLINE).unwrap();
        restart(reservation.port(), Reuse::Address)
            .unwrap_or_else(|e| panic!("round {round}: {e}"));
    }
    // The control: TIME_WAIT is there, and keeps out who does not set the option.
    let number = quiet_number();
    restart(number, Reuse::Neither).unwrap();
    let refused = restart(number, Reuse::Neither).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::AddrInUse);
}

#[test]
fn a_killed_server_is_restarted_on_its_number_at_once() {
    let folder = Folder::new();
    let reservation = portlease::reserve_port();
    for _ in 0..10 {
        let mut server = outsider::server(&folder.locks(), reservation.port());
        let (_connection, greeter) = outsider::greeted(reservation.addr());
        assert_eq!(greeter, server.pid());
        server.kill();
    }
}

#[test]
fn a_killed_holders_port_can_be_reserved_at_once() {
    let folder = Folder::new();
    let mut other = Agent::new(&folder.locks());
    for _ in 0..10 {
        let mut holder = Agent::new(&folder.locks());
        let held = holder.reserve("many=3").held();
        holder.process().kill();
        for port in held.ports {
            other.reserve(&format!("port={port}")).held();
            other.drop(port);
        }
    }
}

#[test]
fn ports_reserved_by_many_threads_are_distinct_while_they_are_held() {
    let held: Vec<Reservation> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    (0..50)
                        .map(|_| portlease::reserve_port())
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    let mut ports: Vec<u16> = held.iter().map(Reservation::port).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 16 * 50);
}

#[test]
fn a_test_that_panics_lets_its_port_go_and_harms_no_other() {
    let folder = Folder::new();
    let (mut one, mut two) = (Agent::new(&folder.locks()), Agent::new(&folder.locks()));
    let answer = one.command("panic");
    let port = answer.strip_prefix("panicked ").unwrap();
    two.reserve(&format!("port={port}")).held();
    one.reserve(&format!("port={port}")).refused("InUse");
    one.reserve("").held();
}

#[test]
fn a_process_that_panics_with_reservations_ends_them() {
    let folder = Folder::new();
    let (mut one, mut two) = (Agent::new(&folder.locks()), Agent::new(&folder.locks()));
    let port = one.reserve("").held().port();
    one.process().tell("die");
    assert_eq!(one.process().hear_or_end(), None);
    let begun = Instant::now();
    two.reserve(&format!("port={port} wait=20000")).held();
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn a_child_process_does_not_keep_its_parents_port() {
    let folder = Folder::new();
    let mut other = Agent::new(&folder.locks());
    let reservation = portlease::reserve_port();
    let port = reservation.port();
    let child = Agent::new(&folder.locks());
    drop(reservation);
    other.reserve(&format!("port={port}")).held();
    drop(child);
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "descriptors are counted in /proc")]
fn a_reservation_takes_two_descriptors_and_gives_them_back() {
    let folder = Folder::new();
    let mut agent = Agent::new(&folder.locks());
    let count = |agent: &Agent| {
        std::fs::read_dir(format!("/proc/{}/fd", agent.pid()))
            .unwrap()
            .count()
    };
    agent.reserve("").held();
    agent.drop("all");
    let before = count(&agent);
    agent.reserve("many=10").held();
    // Beside another user's lock file the record is one more; here all are this user's.
    assert_eq!(count(&agent), before + 20);
    agent.drop("all");
    eventually("they are closed", DEADLINE, || match count(&agent) {
        n if n == before => Ok(()),
        n => Err(format!("{n} descriptors, {before} before")),
    });
}

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
fn a_killed_holder_keeps_nobody_out() {
    for how in ["tcp", "udp", "pair"] {
        let mut victim = Agent::new(&own_locks());
        let port = victim.reserve(how).held().port();
        let again = || {
            let options = match how {
                "udp" => ReserveOptions::new().udp(),
                "pair" => ReserveOptions::new().tcp_and_udp(),
                _ => ReserveOptions::new(),
            };
            options.port(port).reserve()
        };
        assert_eq!(
            again().unwrap_err().kind(),
            ErrorKind::InUse,
            "{how}: the control"
        );
        victim.process().kill();
        assert_eq!(again().unwrap().port(), port, "{how}");
    }
}
