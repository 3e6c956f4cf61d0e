//! Checks, assertions and lists.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use portlease::ReserveOptions;

use crate::agent::{Agent, own_locks};
use crate::support::DEADLINE;

#[test]
fn a_port_is_free_until_a_server_has_it_and_again_when_it_is_gone() {
    let p = portlease::reserve_port();
    portlease::check_port_free(&p).unwrap();
    let server = TcpListener::bind(p.addr()).unwrap();
    let diagnosis = portlease::check_port_free(&p).unwrap_err();
    let text = diagnosis.to_string();
    assert!(
        text.starts_with(&format!("port {}/tcp is in use: ", p.port())),
        "{text}"
    );
    assert!(!portlease::is_port_free(p.port()));
    let panicked = std::panic::catch_unwind(|| portlease::assert_port_free(p.port()));
    let panic = *panicked.unwrap_err().downcast::<String>().unwrap();
    assert!(
        panic.contains(&format!("port {}/tcp is in use: ", p.port())),
        "{panic}"
    );
    drop(server);
    portlease::wait_until_free(&p, DEADLINE).unwrap();
    portlease::assert_port_free(&p);
}

#[test]
fn a_udp_port_is_free_until_a_socket_has_it() {
    let p = portlease::reserve_udp_port();
    portlease::check_port_free(&p).unwrap();
    let server = UdpSocket::bind(p.addr()).unwrap();
    portlease::check_port_free(&p).unwrap_err();
    drop(server);
    portlease::wait_until_free(&p, DEADLINE).unwrap();
}

#[test]
fn a_server_of_another_process_on_any_address_is_in_the_way() {
    let mut other = Agent::new(&own_locks());
    let port = other.reserve("").held().port();
    other.drop(port);
    assert_eq!(other.command(&format!("serve={port}")), "serves");
    portlease::check_port_free(port).unwrap_err();
    portlease::check_port_free((Ipv4Addr::LOCALHOST, port)).unwrap_err();
    portlease::check_port_listening(port).unwrap();
    let error = ReserveOptions::new().port(port).reserve().unwrap_err();
    let expected = format!("cannot reserve {port}/tcp: address already in use: ");
    assert!(error.to_string().starts_with(&expected), "{error}");
    assert_eq!(other.command("stop"), "stopped");
    portlease::wait_until_free(port, DEADLINE).unwrap();
}

#[test]
fn the_list_reads_the_records_of_live_processes_while_they_are_locked() {
    let mut other = Agent::new(&own_locks());
    let port = other.reserve("label=theirs").held().port();
    let live = portlease::reservations().unwrap();
    let lease = live.iter().find(|lease| lease.port() == port).unwrap();
    assert_eq!(lease.pid(), Some(other.pid()));
    assert_eq!(lease.label(), Some("theirs"));
    assert!(
        lease.at().is_some_and(|at| at.contains("agent.rs:")),
        "{lease:?}"
    );
    assert!(
        lease
            .program()
            .is_some_and(|program| program.contains("it-")),
        "{lease:?}"
    );
    let own = ReserveOptions::new().label("ours").reserve().unwrap();
    let live = portlease::reservations().unwrap();
    let lease = live
        .iter()
        .find(|lease| lease.port() == own.port())
        .unwrap();
    assert_eq!(
        (lease.pid(), lease.label()),
        (Some(std::process::id()), Some("ours"))
    );
    drop(own);
    other.process().kill();
    let live = portlease::reservations().unwrap();
    assert!(live.iter().all(|lease| lease.port() != port), "{live:?}");
}
