//! TIME_WAIT: what a closed connection leaves behind, and which servers it refuses.

use std::io::Read;
use std::net::{TcpListener, TcpStream};

use portlease::{ErrorKind, ReserveOptions, ServerKind};

use crate::support::reserver::Reserver;
use crate::support::socket::{self, Reuse, V4, leave_time_wait, port_of};
use crate::support::{DEADLINE, capability, eventually, need, own_locks};

fn only_time_wait_is_left(port: u16) {
    eventually("TIME_WAIT", DEADLINE, || {
        let holders = portlease::who_holds(port).unwrap();
        let states: Vec<_> = holders.iter().map(|holder| holder.state).collect();
        let waits = |state: &portlease::State| *state == portlease::State::TimeWait;
        if !states.is_empty() && states.iter().all(waits) {
            Ok(())
        } else {
            Err(format!("{states:?}"))
        }
    });
}

fn listener(reuse: Reuse) -> (TcpListener, u16) {
    let socket = socket::bind(V4, 0, reuse).unwrap();
    socket.listen(8).unwrap();
    let port = port_of(&socket);
    (TcpListener::from(socket), port)
}

#[test]
fn time_wait_of_a_server_with_so_reuseaddr_is_free_and_reported() {
    need!(capability::bound_sockets());
    let (server, port) = listener(Reuse::Address);
    leave_time_wait(&server);
    drop(server);
    only_time_wait_is_left(port);
    portlease::assert_port_free(port);
    let text = portlease::diagnose(port).to_string();
    assert!(
        text.contains(
            "is free: a server that sets SO_REUSEADDR can bind the port despite TIME_WAIT"
        ),
        "{text}"
    );
    let plain = match capability::ipv6() {
        Ok(()) => "without it ::1",
        Err(_) => "without it nowhere",
    };
    let expected = format!("with SO_REUSEADDR could bind everywhere; {plain}");
    assert!(text.contains(&expected), "{text}");
    // An exact port in TIME_WAIT can be reserved, with the kernel's guarantee.
    let p = ReserveOptions::new().port(port).reserve().unwrap();
    assert_eq!(p.guarantee(), portlease::Guarantee::Kernel);
    portlease::assert_port_free(&p);
    let again = ReserveOptions::new().port(port).reserve().unwrap_err();
    assert_eq!(
        again.kind(),
        ErrorKind::InUse,
        "a second such claim is refused"
    );
    drop(p.listen().unwrap());
}

#[test]
fn time_wait_of_a_plain_server_and_of_a_client_refuses_every_server() {
    let (server, plain) = listener(Reuse::Neither);
    leave_time_wait(&server);
    drop(server);
    // A client that closes first keeps its source port in TIME_WAIT.
    let (server, _) = listener(Reuse::Address);
    let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    let source = client.local_addr().unwrap().port();
    let (mut accepted, _) = server.accept().unwrap();
    drop(client);
    assert_eq!(accepted.read(&mut [0]).unwrap(), 0);
    drop((accepted, server));
    for port in [plain, source] {
        only_time_wait_is_left(port);
        assert!(!portlease::is_port_free(port));
        let text = portlease::check_port_free(port).unwrap_err().to_string();
        assert!(
            text.starts_with(&format!(
                "port {port}/tcp is in use: TIME_WAIT of 1 connection, left by"
            )),
            "{text}"
        );
        assert!(
            text.contains("help: wait up to 60 s until TIME_WAIT ends"),
            "{text}"
        );
        let error = ReserveOptions::new().port(port).reserve().unwrap_err();
        assert!(error.to_string().contains("TIME_WAIT"), "{error}");
    }
}

/// The reservation has no claim, so a server without SO_REUSEADDR waits for TIME_WAIT alone.
#[test]
fn a_reservation_is_reported_before_the_time_wait_of_its_server() {
    let mut reserver = Reserver::new(&own_locks());
    let port = reserver.reserve("plain=1").held().port();
    let server = socket::bind(V4, port, Reuse::Address).unwrap();
    server.listen(8).unwrap();
    let server = TcpListener::from(server);
    leave_time_wait(&server);
    drop(server);
    only_time_wait_is_left(port);
    for kind in [ServerKind::ReuseAddr, ServerKind::Plain] {
        let report = portlease::check_port_free_for(port, kind).unwrap_err();
        assert!(
            report.headline().contains("reserved by"),
            "{kind:?}: {report}"
        );
    }
    reserver.release("all");
    // The control: TIME_WAIT alone.
    let report = portlease::check_port_free_for(port, ServerKind::Plain).unwrap_err();
    assert!(report.headline().contains("TIME_WAIT"), "{report}");
}

#[test]
fn time_wait_is_not_reported_as_hidden_and_its_effect_only_where_requested() {
    let (server, port) = listener(Reuse::Address);
    leave_time_wait(&server);
    drop(server);
    only_time_wait_is_left(port);
    let this = std::process::id();
    let text = portlease::check_port_held_by(port, this)
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("help: start the server if it does not run") && !text.contains("root"),
        "{text}"
    );
    for text in [
        text,
        portlease::check_port_listening(port)
            .unwrap_err()
            .to_string(),
    ] {
        assert!(
            text.contains("  TIME_WAIT    1 connection, no process; they end within 60 s\n"),
            "{text}"
        );
    }
}

#[test]
fn a_connection_that_a_server_left_open_is_reported_beside_free() {
    let (server, port) = listener(Reuse::Address);
    let _client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    let _accepted = server.accept().unwrap();
    drop(server);
    portlease::assert_port_free(port);
    let text = portlease::diagnose(port).to_string();
    let expected = "is free: a server that sets SO_REUSEADDR can bind the port despite 1 \
                    connection of a server that has stopped listening";
    assert!(text.lines().next().unwrap().contains(expected), "{text}");
}
