//! The life of a reservation: its release, its leak, its listeners, and its process with threads
//! and children.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{LazyLock, OnceLock};
use std::time::{Duration, Instant};

use portlease::{ErrorKind, Protocol, Reachability, Reservation, ReserveOptions};

use crate::support::ports::{self, non_ephemeral_port};
use crate::support::reserver::Reserver;
use crate::support::socket::{self, Reuse, V4};
use crate::support::{DEADLINE, Folder, eventually, server};

#[test]
fn a_reservation_can_cross_threads() {
    fn crosses<T: Send + Sync + 'static>() {}
    crosses::<Reservation>();
    crosses::<portlease::Error>();
}

#[test]
fn a_reservation_describes_itself() {
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
    let mapped = std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped();
    assert_eq!(reservation.addr_on(mapped), reservation.addr());
    assert_eq!(reservation.protocols(), [Protocol::Tcp]);
    assert!(ports::is_tcp_guarantee(reservation.guarantee()));
    assert!(format!("{reservation:?}").contains(&port.to_string()));
    let server = TcpListener::bind(&reservation).unwrap();
    assert_eq!(server.local_addr().unwrap(), reservation.addr());
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "any process can bind a port without a claim"
)]
fn a_released_port_can_be_bound_at_once() {
    let number = non_ephemeral_port();
    for _ in 0..50 {
        let reservation = ReserveOptions::new().port(number).reserve().unwrap();
        socket::bind(V4, number, Reuse::Neither).unwrap_err();
        drop(reservation);
        // A child that another thread has just forked shares the claim until it calls exec.
        eventually("a plain bind", DEADLINE, || {
            socket::bind(V4, number, Reuse::Neither).map_err(|e| e.to_string())
        });
    }
}

#[test]
fn a_released_port_can_be_reserved_at_once_by_another_process() {
    let folder = Folder::new();
    let (mut one, mut two) = (
        Reserver::new(&folder.locks()),
        Reserver::new(&folder.locks()),
    );
    let number = non_ephemeral_port();
    for _ in 0..100 {
        one.reserve(&format!("port={number}")).held();
        two.reserve(&format!("port={number}")).refused("InUse");
        one.release(number);
        two.reserve(&format!("port={number}")).held();
        two.release(number);
    }
}

#[test]
fn a_leaked_port_stays_reserved_until_its_process_ends() {
    let folder = Folder::new();
    let (mut leaker, mut other) = (
        Reserver::new(&folder.locks()),
        Reserver::new(&folder.locks()),
    );
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
fn a_listener_from_a_reservation_can_be_closed_and_created_again() {
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
        let server = socket::bind(V4, number, reuse)?;
        server.listen(8)?;
        let mut client = TcpStream::connect((V4, number))?;
        drop(server.accept()?);
        assert_eq!(client.read(&mut [0])?, 0);
        Ok(())
    };
    let reservation = portlease::reserve_port();
    for round in 0..100 {
        // A child that another test has just forked shares the listener until it calls exec.
        reservation.wait_until_free(DEADLINE).unwrap();
        restart(reservation.port(), Reuse::Address)
            .unwrap_or_else(|e| panic!("round {round}: {e}"));
    }
    // The control: TIME_WAIT is there, and refuses a server that does not set the option.
    let number = non_ephemeral_port();
    restart(number, Reuse::Neither).unwrap();
    let refused = restart(number, Reuse::Neither).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::AddrInUse);
}

#[test]
fn a_killed_server_is_restarted_on_its_number_at_once() {
    let folder = Folder::new();
    let reservation = portlease::reserve_port();
    for _ in 0..10 {
        let mut server = server::start(&folder.locks(), reservation.port());
        let (_connection, greeter) = server::connect(reservation.addr());
        assert_eq!(greeter, server.pid());
        server.kill();
    }
}

#[test]
fn a_killed_holders_port_can_be_reserved_at_once() {
    let folder = Folder::new();
    let mut other = Reserver::new(&folder.locks());
    for _ in 0..10 {
        let mut holder = Reserver::new(&folder.locks());
        let held = holder.reserve("many=3").held();
        holder.process().kill();
        for port in held.ports {
            other.reserve(&format!("port={port}")).held();
            other.release(port);
        }
    }
}

#[test]
fn a_test_that_panics_releases_its_port_and_affects_no_other() {
    let folder = Folder::new();
    let (mut one, mut two) = (
        Reserver::new(&folder.locks()),
        Reserver::new(&folder.locks()),
    );
    let answer = one.command("panic");
    let port = answer.strip_prefix("panicked ").unwrap();
    two.reserve(&format!("port={port}")).held();
    one.reserve(&format!("port={port}")).refused("InUse");
    one.reserve("").held();
}

#[test]
fn a_process_that_panics_releases_its_reservations() {
    let folder = Folder::new();
    let (mut one, mut two) = (
        Reserver::new(&folder.locks()),
        Reserver::new(&folder.locks()),
    );
    let port = one.reserve("").held().port();
    one.process().send("die");
    assert_eq!(one.process().receive_or_end(), None);
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
    let mut other = Reserver::new(&folder.locks());
    let reservation = portlease::reserve_port();
    let port = reservation.port();
    let child = Reserver::new(&folder.locks());
    drop(reservation);
    other.reserve(&format!("port={port}")).held();
    drop(child);
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "descriptors are counted in /proc")]
fn a_reservation_takes_two_descriptors_and_gives_them_back() {
    let folder = Folder::new();
    let mut reserver = Reserver::new(&folder.locks());
    let count = |reserver: &Reserver| {
        std::fs::read_dir(format!("/proc/{}/fd", reserver.pid()))
            .unwrap()
            .count()
    };
    reserver.reserve("").held();
    reserver.release("all");
    let before = count(&reserver);
    reserver.reserve("many=10").held();
    // Each reservation has the claim and the lock file open. A record beside another user's lock
    // file would be a third descriptor.
    assert_eq!(count(&reserver), before + 20);
    reserver.release("all");
    eventually("the descriptors are closed", DEADLINE, || {
        match count(&reserver) {
            n if n == before => Ok(()),
            n => Err(format!("{n} descriptors, {before} before")),
        }
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
            // On some systems the wait connects too.
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
        // A child that another test has just forked shares the listener until it calls exec.
        portlease::wait_until_free(&p, DEADLINE).unwrap();
        let taken = ReserveOptions::new().port(p.port()).reserve().unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::InUse, "{taken}");
    }
}

/// The source line in the record of this reservation.
fn recorded_line(reservation: &Reservation) -> Option<String> {
    let leases = portlease::reservations().unwrap();
    let of_port = |lease: &&portlease::Lease| lease.port() == reservation.port();
    let lease = leases.iter().find(of_port).unwrap();
    lease.at().map(str::to_owned)
}

#[test]
fn the_recorded_line_is_the_callers_or_none_and_never_one_of_the_crate() {
    static BY_VALUE: LazyLock<Reservation> = LazyLock::new(portlease::reserve_port);
    static FALLIBLE: LazyLock<portlease::Result<Reservation>> =
        LazyLock::new(portlease::try_reserve_udp_port);
    static BY_CLOSURE: LazyLock<Reservation> = LazyLock::new(|| portlease::reserve_port());
    let by_pointer: fn() -> Reservation = portlease::reserve_port;
    let boxed: Box<dyn Fn() -> Reservation> = Box::new(portlease::reserve_port);
    let options: fn(ReserveOptions) -> portlease::Result<Reservation> = ReserveOptions::reserve;
    let cell = OnceLock::new();
    let lines = [
        recorded_line(&BY_VALUE),
        recorded_line(FALLIBLE.as_ref().unwrap()),
        recorded_line(&by_pointer()),
        recorded_line(&boxed()),
        recorded_line(&options(ReserveOptions::new()).unwrap()),
        recorded_line(cell.get_or_init(portlease::reserve_port)),
        recorded_line(&std::thread::spawn(portlease::reserve_port).join().unwrap()),
        recorded_line(
            &std::iter::repeat_with(portlease::reserve_port)
                .next()
                .unwrap(),
        ),
    ];
    for (place, line) in lines.into_iter().enumerate() {
        assert_eq!(line, None, "the one at {place}");
    }
    // The controls.
    let (line, direct) = (line!(), portlease::reserve_port());
    assert_eq!(recorded_line(&direct), Some(format!("{}:{line}", file!())));
    let closure = recorded_line(&BY_CLOSURE).unwrap();
    assert!(closure.starts_with(file!()), "{closure}");
}
