//! TCP connections, including orphaned ones.

use std::io::Read as _;

use super::*;

#[test]
fn a_dual_stack_listener_accepts_ipv4_clients() {
    if !has_ipv6("dual stack") {
        return;
    }
    let (socket, port) = bound(ANY6, true, Type::STREAM);
    socket.listen(8).unwrap();
    let client = connect(V4, port);
    let source = client.local_addr().unwrap().port();
    let accepted = socket.accept().unwrap();
    expect(
        port,
        Tcp,
        &[
            "listen [::]:P dual by me",
            &format!("established [::ffff:127.0.0.1]:P - [::ffff:127.0.0.1]:{source} by me"),
        ],
    );
    expect(
        source,
        Tcp,
        &[&format!(
            "established 127.0.0.1:P - 127.0.0.1:{port} client by me"
        )],
    );
    drop(accepted);
}

#[test]
fn a_client_and_a_server_on_another_address_are_both_reported() {
    let (server, server_port) = listener(V4);
    let has_ipv6 = has_ipv6("a server beside a client");
    let pair = || {
        let client = connect(V4, server_port);
        let accepted = server.accept().unwrap();
        let port = client.local_addr().unwrap().port();
        let beside = has_ipv6.then(|| TcpListener::bind((V6, port))).transpose();
        // The bind fails if another test uses this number on the IPv6 address. This test then makes
        // a new pair of connections.
        beside.ok().map(|beside| (client, accepted, port, beside))
    };
    let (_client, _accepted, port, beside) = std::iter::repeat_with(pair)
        .take(100)
        .flatten()
        .next()
        .unwrap();
    let mut rows = vec![format!(
        "established 127.0.0.1:P - 127.0.0.1:{server_port} client by me"
    )];
    if beside.is_some() {
        rows.push("listen [::1]:P by me".to_owned());
    }
    expect(
        port,
        Tcp,
        &rows.iter().map(String::as_str).collect::<Vec<_>>(),
    );
}

#[test]
fn each_state_of_a_closing_connection_is_reported() {
    if !has_sock_diag("a closing connection") {
        return;
    }
    for ip in [V4, V6] {
        if ip == V6 && !has_ipv6("closing over IPv6") {
            return;
        }
        let (server, port) = listener(ip);
        let own = server
            .local_addr()
            .unwrap()
            .to_string()
            .replace(&format!(":{port}"), ":P");
        let client = connect(ip, port);
        let source = client.local_addr().unwrap();
        let (accepted, _) = server.accept().unwrap();
        drop(server);
        client.shutdown(std::net::Shutdown::Write).unwrap();
        expect(
            port,
            Tcp,
            &[&format!("close_wait {own} - {source} client by me")],
        );
        let from = source
            .to_string()
            .replace(&format!(":{}", source.port()), ":P");
        let to = SocketAddr::new(ip, port);
        expect(
            source.port(),
            Tcp,
            &[&format!("fin_wait2 {from} - {to} client by me")],
        );
        drop(accepted);
        expect(
            source.port(),
            Tcp,
            &[&format!("time_wait {from} - {to} by []")],
        );
        expect(port, Tcp, &[]);
        expect_no_owner(source.port());
    }
}

/// The FIN does not reach the peer, because earlier data fills the peer's window.
#[test]
fn a_connection_that_cannot_send_its_fin_is_reported_owned_and_then_orphaned() {
    if !has_sock_diag("an unsent FIN") {
        return;
    }
    let (server, port) = listener(V4);
    let mut client = connect(V4, port);
    let source = client.local_addr().unwrap().port();
    let accepted = server.accept().unwrap();
    client.set_nonblocking(true).unwrap();
    // This loop fills the window of the peer. The window grows a little with the peer's buffer, so
    // the loop ends only after 50 ms without a successful write.
    let (begun, mut written) = (Instant::now(), Instant::now());
    while written.elapsed() < Duration::from_millis(50) && begun.elapsed() < TIMEOUT {
        if client.write(&[0; 65536]).is_ok() {
            written = Instant::now();
        }
    }
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let row = format!("fin_wait1 127.0.0.1:P - 127.0.0.1:{port}");
    expect(source, Tcp, &[&format!("{row} client by me")]);
    drop(client);
    expect(source, Tcp, &[&format!("{row} by []")]);
    expect_no_owner(source);
    drop(accepted);
}

#[test]
fn an_orphan_has_no_process_and_is_not_hidden() {
    let (server, port) = listener(V4);
    let client = connect(V4, port);
    let source = client.local_addr().unwrap().port();
    let (mut accepted, _) = server.accept().unwrap();
    drop(client);
    expect(
        source,
        Tcp,
        &[&format!("fin_wait2 127.0.0.1:P - 127.0.0.1:{port} by []")],
    );
    assert_eq!(accepted.read(&mut [0]).unwrap(), 0);
    drop(accepted.write(b"x"));
}

#[test]
fn a_connection_that_is_not_accepted_yet_has_the_process_of_its_listener() {
    let (server, port) = listener(V4);
    let client = connect(V4, port);
    let source = client.local_addr().unwrap().port();
    expect(
        port,
        Tcp,
        &[
            "listen 127.0.0.1:P by me",
            &format!("established 127.0.0.1:P - 127.0.0.1:{source} by me"),
        ],
    );
    let row = holders_of(port, Tcp)
        .0
        .into_iter()
        .find(|holder| holder.state == State::Established)
        .unwrap();
    assert_eq!(
        (row.inode, row.uid),
        (0, Some(rustix::process::geteuid().as_raw()))
    );
    drop(server);
}

#[test]
fn a_client_that_is_still_connecting_is_reported_as_client() {
    let (server, server_port) = bound(V4, false, Type::STREAM);
    server.listen(0).unwrap();
    let mut clients = Vec::new();
    for _ in 0..4 {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(V4, 0).into()).unwrap();
        socket.set_nonblocking(true).unwrap();
        drop(socket.connect(&SocketAddr::new(V4, server_port).into()));
        clients.push(socket);
    }
    let port = clients[3].local_addr().unwrap().as_socket().unwrap().port();
    expect(
        port,
        Tcp,
        &[&format!(
            "syn_sent 127.0.0.1:P - 127.0.0.1:{server_port} client by me"
        )],
    );
}
