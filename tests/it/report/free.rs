//! Whether a port is free: the verdict of a check, its reason and its help.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};

#[cfg(target_os = "linux")]
use portlease::Reachability;
use portlease::{ReserveOptions, reserve_port};

#[cfg(unix)]
use crate::support::ports::non_ephemeral_port;
use crate::support::reserver::Reserver;
use crate::support::socket::{self, Reuse, V4, V6, port_of};
use crate::support::{DEADLINE, Folder, capability, need, own_locks};

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
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "the report depends on the system's socket table"
)]
fn the_other_loopback_address_is_offered_while_it_is_free() {
    need!(capability::native(), capability::ipv6());
    let port = reserve_port().port();
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    let help = format!("let the new server listen on [::1]:{port}, which is free");
    let offers = |at: &str| {
        let report = portlease::check_port_free(at).unwrap_err();
        report.help().unwrap().contains(&help)
    };
    let (every, v4) = (port.to_string(), format!("127.0.0.1:{port}"));
    assert!(offers(&every) && offers(&v4));
    let error = ReserveOptions::new().port(port).reserve().unwrap_err();
    assert!(format!("{error:?}").contains(&help), "{error:?}");
    // The remedy, followed.
    let other = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).unwrap();
    assert!(!offers(&every) && !offers(&v4));
    drop((other, server));
    // The name of a UDP address ends with the protocol.
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    let report = portlease::check_port_free(format!("{port}/udp")).unwrap_err();
    let udp = format!("let the new server listen on [::1]:{port}/udp, which is free");
    assert!(report.help().unwrap().contains(&udp), "{report}");
    drop(server);
    let server = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    assert!(!offers(&every) && !offers(&v4));
    drop(server);
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
    let mut other = Reserver::new(&own_locks());
    let port = other.reserve("").held().port();
    other.release(port);
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
fn our_own_reservation_is_free_and_a_siblings_is_not() {
    let folder = Folder::new();
    let (mut one, mut two) = (
        Reserver::new(&folder.locks()),
        Reserver::new(&folder.locks()),
    );
    let port = one.reserve("label=primary").held().port();
    assert_eq!(one.command(&format!("free={port}")), "true");
    assert_eq!(two.command(&format!("free={port}")), "false");
    let text = two.command(&format!("check={port}"));
    assert!(
        text.starts_with(&format!(
            "port {port}/tcp is in use: reserved by test helper_process ("
        )),
        "{text}"
    );
    assert!(
        text.contains(&format!("pid {}, labelled \"primary\"", one.pid())),
        "{text}"
    );
    assert!(
        text.contains("help: wait for the port with ReserveOptions::new().port("),
        "{text}"
    );
}

#[test]
fn an_ancestors_reservation_is_free_for_its_children() {
    let p = reserve_port();
    let mut child = Reserver::new(&own_locks());
    assert_eq!(child.command(&format!("free={p}")), "true");
    let server = p.listen().unwrap();
    assert_eq!(child.command(&format!("free={p}")), "false");
    drop(server);
}

#[test]
fn by_reference_only_that_reservation_is_our_own() {
    let (p, q) = (reserve_port(), reserve_port());
    assert!(portlease::is_port_free(&p) && portlease::is_port_free(&q));
    let server = p.listen().unwrap();
    assert!(!portlease::is_port_free(&p) && portlease::is_port_free(&q));
    drop(server);
    let pair = ReserveOptions::new().tcp_and_udp().reserve().unwrap();
    let udp = pair.udp_socket().unwrap();
    let text = portlease::check_port_free(&pair).unwrap_err().to_string();
    assert!(
        text.starts_with(&format!("port {pair}/udp is in use: ")),
        "{text}"
    );
    drop(udp);
    portlease::assert_port_free(&pair);
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "without a claim no socket shows the reservation"
)]
fn a_strangers_claim_is_in_use_although_a_server_could_bind() {
    need!(capability::bound_sockets());
    let (mine, theirs) = (Folder::new(), Folder::new());
    let (mut one, mut other) = (Reserver::new(&mine.locks()), Reserver::new(&theirs.locks()));
    let port = one.reserve("").held().port();
    assert_eq!(other.command(&format!("free={port}")), "false");
    let text = other.command(&format!("check={port}"));
    let any = match capability::ipv6() {
        Ok(()) => "[::]",
        Err(_) => "0.0.0.0",
    };
    assert!(text.contains(&format!("has bound {any}:{port}")), "{text}");
}

/// The claim of a non-ephemeral number has an abstract name, which shows that it is a reservation.
#[cfg(target_os = "linux")]
#[test]
fn a_claim_in_another_lock_folder_is_called_a_reservation() {
    need!(capability::bound_sockets());
    let (mine, theirs) = (Folder::new(), Folder::new());
    let (mut one, mut other) = (Reserver::new(&mine.locks()), Reserver::new(&theirs.locks()));
    let port = non_ephemeral_port();
    one.reserve(&format!("port={port}")).held();
    let check = format!("check={port}");
    let text = other.command(&check);
    let process = format!(
        "(pid {}): the lock file is in another lock folder",
        one.pid()
    );
    assert!(
        text.contains("is in use: reserved by ") && text.contains(&process),
        "{text}"
    );
    assert!(!text.contains("stop pid"), "{text}");
    // The control: a server on the reserved port is the holder that counts.
    one.command(&format!("serve={port}"));
    let text = other.command(&check);
    assert!(
        text.contains(&format!("listens on 127.0.0.1:{port}")),
        "{text}"
    );
}

/// Without a claim only the abstract name, in the network namespace, shows the reservation.
#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "abstract names in a network namespace exist on Linux alone"
)]
fn a_reservation_in_another_lock_folder_is_in_use_even_without_a_socket() {
    for (how, protocol) in [("udp=1", "udp"), ("plain=1", "tcp")] {
        let (mine, theirs) = (Folder::new(), Folder::new());
        let (mut one, mut other) = (Reserver::new(&mine.locks()), Reserver::new(&theirs.locks()));
        let port = one.reserve(how).held().port();
        let operand = format!("{port}/{protocol}");
        assert_eq!(
            one.command(&format!("free={operand}")),
            "true",
            "its own reservation"
        );
        assert_eq!(other.command(&format!("free={operand}")), "false");
        let text = other.command(&format!("check={operand}"));
        let expected = format!("port {operand} is in use: reserved by ");
        let process = format!(
            "(pid {}): the lock file is in another lock folder",
            one.pid()
        );
        assert!(
            text.starts_with(&expected) && text.contains(&process),
            "{text}"
        );
        let who = other.command(&format!("who={operand}"));
        assert!(
            who.starts_with("complete=false ")
                && who.contains("reserved by ")
                && who.contains(&format!("(pid {})", one.pid()))
                && who.contains(": the lock file is in another"),
            "{who}"
        );
        // A process whose own lock folder cannot be used learns why, and gets no help that needs
        // the folder.
        let mut misconfigured = Reserver::new("relative".as_ref());
        let text = misconfigured.command(&format!("check={operand}"));
        let reason = "; this process cannot use the lock folder \"relative\": expected an absolute \
                      path in PORTLEASE_DIR";
        assert!(text.contains(reason) && !text.contains("help: "), "{text}");
        // The error about a range of this number alone names the process too.
        let refused = other.reserve(&format!("{how} range={port}-{port}"));
        let message = refused.refused("NoFreePort");
        let start = format!("cannot reserve a port from {port}-{port}: 1 tried: ");
        assert!(
            message.starts_with(&start) && message.contains(&process),
            "{message}"
        );
        one.release("all");
        assert_eq!(
            other.command(&format!("free={operand}")),
            "true",
            "the control: it was released"
        );
    }
}

#[cfg(target_os = "linux")]
#[test]
fn localhost_means_both_loopback_addresses_and_no_other() {
    need!(capability::ipv6());
    let p = reserve_port();
    let port = p.port();
    let localhost = format!("localhost:{port}");
    let localhost = localhost.as_str();
    let _elsewhere = TcpListener::bind(("127.0.0.2", port)).unwrap();
    portlease::check_port_free(localhost).unwrap();
    assert!(
        portlease::who_holds(localhost)
            .unwrap()
            .iter()
            .all(|of| !of.is_server())
    );
    let text = portlease::check_port_listening(localhost)
        .unwrap_err()
        .to_string();
    let expected =
        format!("listens on 127.0.0.2:{port} only; connections to localhost are refused");
    assert!(text.contains(&expected), "{text}");
    assert_eq!(portlease::probe(localhost, DEADLINE), Reachability::Refuses);
    for ip in ["127.0.0.1", "::1"] {
        let server = TcpListener::bind((ip, port)).unwrap();
        portlease::check_port_listening(localhost).unwrap();
        portlease::wait_until_held_by(localhost, std::process::id(), DEADLINE).unwrap();
        assert_eq!(portlease::probe(localhost, DEADLINE), Reachability::Accepts);
        let text = portlease::check_port_free(localhost)
            .unwrap_err()
            .to_string();
        let addr = server.local_addr().unwrap();
        assert!(text.contains(&format!("listens on {addr}")), "{text}");
    }
}

#[test]
fn only_the_requested_address_counts() {
    need!(capability::ipv6());
    let other = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    for (held, requested, free) in [
        (V4, None, false),
        (V4, Some(V4), false),
        (V4, Some(other), true),
        (V4, Some(V6), true),
        (V6, Some(V4), true),
        (V6, None, false),
    ] {
        let socket = socket::bind(held, 0, Reuse::Address).unwrap();
        socket.listen(1).unwrap();
        let port = port_of(&socket);
        let endpoint = portlease::Endpoint {
            port,
            ip: requested,
            protocol: None,
        };
        assert_eq!(
            portlease::is_port_free(endpoint),
            free,
            "{held} held, {requested:?} requested"
        );
        assert_eq!(
            portlease::check_port_listening(endpoint).is_ok(),
            !free,
            "{held} held, {requested:?} requested"
        );
    }
}

#[test]
fn tcp_and_udp_of_one_number_are_two_ports() {
    let p = reserve_port();
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, p.port())).unwrap();
    assert!(portlease::is_port_free(&p));
    assert!(!portlease::is_port_free(format!("{p}/udp")));
    portlease::assert_port_listening(format!("{p}/udp"));
    drop(udp);
    // A child that another test has just forked has a copy of the socket until it calls exec.
    portlease::wait_until_free(format!("{p}/udp"), DEADLINE).unwrap();
}

#[test]
fn a_port_that_cannot_be_bound_is_reported_with_reason_and_help() {
    let text = portlease::check_port_free("203.0.113.7:8080")
        .unwrap_err()
        .to_string();
    assert!(
        text.starts_with("port 203.0.113.7:8080/tcp cannot be bound: this machine does not have"),
        "{text}"
    );
    assert!(
        text.contains("help: name an address that this machine has"),
        "{text}"
    );
    let text = portlease::check_port_free("70000").unwrap_err().to_string();
    assert!(text.starts_with("\"70000\" does not name a port"), "{text}");
    let text = portlease::check_port_listening(0).unwrap_err().to_string();
    assert!(text.starts_with("port 0 names no port"), "{text}");

    need!(capability::nobody());
    let folder = Folder::new();
    let mut nobody = Reserver::start(Reserver::launch(&folder.locks()).run_as_nobody());
    let text = nobody.command("check=1/tcp");
    assert!(text.starts_with("port 1/tcp cannot be bound: "), "{text}");
    assert!(text.contains("ip_unprivileged_port_start"), "{text}");
}

#[test]
fn several_busy_ports_are_reported_together() {
    let (p, q, free) = (reserve_port(), reserve_port(), reserve_port());
    let (one, two) = (p.listen().unwrap(), q.listen().unwrap());
    let text = portlease::check_ports_free([&p, &free, &q])
        .unwrap_err()
        .to_string();
    assert!(
        text.starts_with(&format!("port {p}/tcp is in use: ")),
        "{text}"
    );
    assert!(
        text.contains(&format!("\nport {q}/tcp is in use: ")),
        "{text}"
    );
    assert!(!text.contains(&format!("port {free}/tcp")), "{text}");
    drop((one, two));
    portlease::assert_ports_free([&p, &free, &q]);
}

/// The reader locks the lock file only for reading, so it has no lease. The report finds no holder.
#[test]
#[cfg(unix)]
fn a_port_that_is_free_again_when_its_refusal_is_reported_is_called_free() {
    let folder = Folder::new();
    let port = non_ephemeral_port();
    let mut reserver = Reserver::new(&folder.locks());
    // Creates the lock file.
    reserver.reserve(&format!("port={port}")).held();
    reserver.release(port);
    let reader = std::fs::File::open(folder.lock_file(port)).unwrap();
    reader.try_lock_shared().unwrap();
    let how = format!("port={port} wait=10");
    let message = reserver.reserve(&how).refused("TimedOut");
    let cause = "a socket held the port, or a process locked the port's lock file, until a moment \
                 ago; the port is free now";
    assert!(message.contains(cause), "{message}");
}
