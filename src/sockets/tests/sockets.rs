//! Which sockets are told, and how.

use std::io::Read as _;

use super::*;

#[test]
fn nobody_is_on_a_port_that_nobody_has() {
    if !has_sock_diag("a port that nobody has") {
        return;
    }
    let (listener, port) = listener(V4);
    drop(listener);
    expect(port, Tcp, &[]);
    nothing_is_searched(port);
}

#[test]
fn listeners_are_told_on_each_kind_of_address() {
    let (_v4, port) = listener(V4);
    expect(port, Tcp, &["listen 127.0.0.1:P by me"]);
    let (_any, port) = listener(ANY4);
    expect(port, Tcp, &["listen 0.0.0.0:P by me"]);
    if has_ipv6("listeners on IPv6") {
        let (_v6, port) = listener(V6);
        expect(port, Tcp, &["listen [::1]:P by me"]);
        assert_eq!(listening(port, Tcp).unwrap().len(), 1);
        assert_eq!(listening_or_all(port, Tcp).unwrap().rows.len(), 1);
        assert!(
            all_listeners()
                .unwrap()
                .iter()
                .any(|row| row.local.port() == port)
        );
    }
}

#[test]
fn a_dual_stack_listener_has_its_ipv4_clients() {
    if !has_ipv6("dual stack") {
        return;
    }
    let (socket, port) = bound(ANY6, true, Type::STREAM);
    socket.listen(8).unwrap();
    let client = dial(V4, port);
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
fn two_addresses_and_a_reuseport_group_are_told_socket_by_socket() {
    let (first, port) = bound(V4, true, Type::STREAM);
    first.listen(8).unwrap();
    let second = TcpListener::bind(("127.0.0.2", port)).unwrap();
    expect(
        port,
        Tcp,
        &["listen 127.0.0.1:P by me", "listen 127.0.0.2:P by me"],
    );
    drop(second);

    let group = |port| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&SocketAddr::new(V4, port).into()).unwrap();
        socket.listen(8).unwrap();
        socket
    };
    let one = group(0);
    let port = one.local_addr().unwrap().as_socket().unwrap().port();
    let _two = group(port);
    expect(
        port,
        Tcp,
        &["listen 127.0.0.1:P by me", "listen 127.0.0.1:P by me"],
    );
}

#[test]
fn udp_sockets_are_told_with_and_without_a_peer() {
    let socket = UdpSocket::bind((V4, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    expect(port, Udp, &["bound 127.0.0.1:P by me"]);
    socket.connect((V4, 9)).unwrap();
    expect(
        port,
        Udp,
        &["connected 127.0.0.1:P - 127.0.0.1:9 client by me"],
    );
    if has_ipv6("UDP over IPv6") {
        let socket = UdpSocket::bind((V6, 0)).unwrap();
        expect(
            socket.local_addr().unwrap().port(),
            Udp,
            &["bound [::1]:P by me"],
        );
    }
}

#[test]
fn one_number_has_its_tcp_and_its_udp_holder() {
    let (_listener, port) = listener(V4);
    let Ok(socket) = UdpSocket::bind((V4, port)) else {
        skip(
            "TCP and UDP on one number",
            &format!("somebody has {port}/udp"),
        );
        return;
    };
    let child = Killed(
        Command::new("sleep")
            .arg("600")
            .stdin(OwnedFd::from(socket))
            .spawn()
            .unwrap(),
    );
    expect(port, Tcp, &["listen 127.0.0.1:P by me"]);
    expect(
        port,
        Udp,
        &[&format!("bound 127.0.0.1:P by [{}]", child.0.id())],
    );
    let both = sockets(port, None).unwrap();
    assert_eq!(
        both.rows.iter().map(|row| row.protocol).collect::<Vec<_>>(),
        [Tcp, Udp]
    );
}

#[test]
fn a_bound_socket_that_does_not_listen_is_told() {
    if !has_sock_diag("a bound socket") {
        return;
    }
    for reuse in [false, true] {
        let (_socket, port) = bound(V4, reuse, Type::STREAM);
        expect(port, Tcp, &["bound 127.0.0.1:P by me"]);
        if has_ipv6("bound on IPv6") {
            let (_socket, port) = bound(ANY6, reuse, Type::STREAM);
            expect(port, Tcp, &["bound [::]:P dual by me"]);
        }
    }
}

#[test]
fn the_client_on_a_port_is_told_beside_a_server_on_another_address() {
    let (server, there) = listener(V4);
    let has_ipv6 = has_ipv6("a server beside a client");
    let pair = || {
        let client = dial(V4, there);
        let accepted = server.accept().unwrap();
        let port = client.local_addr().unwrap().port();
        let beside = has_ipv6.then(|| TcpListener::bind((V6, port))).transpose();
        // Another test can have the number on the other address.
        beside.ok().map(|beside| (client, accepted, port, beside))
    };
    let (_client, _accepted, port, _beside) = std::iter::repeat_with(pair)
        .take(100)
        .flatten()
        .next()
        .unwrap();
    let mut rows = vec![format!(
        "established 127.0.0.1:P - 127.0.0.1:{there} client by me"
    )];
    if _beside.is_some() {
        rows.push("listen [::1]:P by me".to_owned());
    }
    expect(
        port,
        Tcp,
        &rows.iter().map(String::as_str).collect::<Vec<_>>(),
    );
}

#[test]
fn each_state_of_a_closing_connection_is_told() {
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
        let client = dial(ip, port);
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
        nothing_is_searched(source.port());
    }
}

/// Where no socket can have a process. Another test can have the number for a moment, on another address.
#[track_caller]
fn nothing_is_searched(port: u16) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let table = sockets(port, Some(Tcp)).unwrap();
        if table.rows.iter().all(|row| row.inode.is_none()) {
            return assert_eq!(search(table).1, [], "nothing was to be searched");
        }
        assert!(Instant::now() < deadline, "port {port}: {:#?}", table.rows);
    }
}

/// Its end is not heard of: what was written before fills the peer's window.
#[test]
fn a_connection_whose_end_cannot_be_sent_is_told_owned_and_orphaned() {
    if !has_sock_diag("a connection's end") {
        return;
    }
    let (server, port) = listener(V4);
    let mut client = dial(V4, port);
    let source = client.local_addr().unwrap().port();
    let accepted = server.accept().unwrap();
    client.set_nonblocking(true).unwrap();
    // The window opens a little as the peer's buffer grows.
    let full = Instant::now() + Duration::from_millis(50);
    while Instant::now() < full {
        drop(client.write(&[0; 65536]));
    }
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let row = format!("fin_wait1 127.0.0.1:P - 127.0.0.1:{port}");
    expect(source, Tcp, &[&format!("{row} client by me")]);
    drop(client);
    expect(source, Tcp, &[&format!("{row} by []")]);
    nothing_is_searched(source);
    drop(accepted);
}

#[test]
fn an_orphan_has_no_process_and_is_not_hidden() {
    let (server, port) = listener(V4);
    let client = dial(V4, port);
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
fn a_connection_that_nobody_accepted_is_its_listeners() {
    let (server, port) = listener(V4);
    let client = dial(V4, port);
    let source = client.local_addr().unwrap().port();
    expect(
        port,
        Tcp,
        &[
            "listen 127.0.0.1:P by me",
            &format!("established 127.0.0.1:P - 127.0.0.1:{source} by me"),
        ],
    );
    let row = ask(port, Tcp)
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
fn a_connection_that_is_asked_for_is_a_clients() {
    let (server, there) = bound(V4, false, Type::STREAM);
    server.listen(0).unwrap();
    let mut asking = Vec::new();
    for _ in 0..4 {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(V4, 0).into()).unwrap();
        socket.set_nonblocking(true).unwrap();
        drop(socket.connect(&SocketAddr::new(V4, there).into()));
        asking.push(socket);
    }
    let port = asking[3].local_addr().unwrap().as_socket().unwrap().port();
    expect(
        port,
        Tcp,
        &[&format!(
            "syn_sent 127.0.0.1:P - 127.0.0.1:{there} client by me"
        )],
    );
}

#[test]
fn an_mptcp_listener_is_told() {
    if !has_sock_diag("MPTCP") {
        return;
    }
    let Ok(socket) = Socket::new(Domain::IPV4, Type::STREAM, Some(socket2::Protocol::MPTCP)) else {
        skip("MPTCP", "the kernel has none");
        return;
    };
    socket.bind(&SocketAddr::new(V4, 0).into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    expect(port, Tcp, &["bound 127.0.0.1:P by me"]);
    socket.listen(8).unwrap();
    expect(port, Tcp, &["listen 127.0.0.1:P by me"]);
}

#[test]
fn the_fall_back_tells_the_same_of_what_it_sees() {
    let (server, port) = listener(V4);
    let client = dial(V4, port);
    let accepted = server.accept().unwrap();
    let udp = UdpSocket::bind((V4, 0)).unwrap();
    let udp_port = udp.local_addr().unwrap().port();
    for (protocol, port) in [
        (Tcp, port),
        (Udp, udp_port),
        (Tcp, client.local_addr().unwrap().port()),
    ] {
        let mut told = linux::sockets_from_proc_net(port, Some(protocol)).unwrap();
        row::label_clients(&mut told.rows);
        let mut asked = sockets(port, Some(protocol)).unwrap();
        asked.rows.sort_by_key(|row| row.inode);
        told.rows.sort_by_key(|row| row.inode);
        assert_eq!(told.rows, asked.rows);
        assert!(!told.rows.is_empty());
        assert_eq!(
            told.unseen,
            if protocol == Tcp {
                vec![Incompleteness::Bound]
            } else {
                vec![]
            }
        );
    }
    assert_eq!(
        linux::sockets_from_proc_net(udp_port, Some(Protocol::UdpLite))
            .unwrap()
            .rows,
        []
    );
    drop(accepted);
}

#[test]
fn the_fall_back_does_not_call_a_bound_port_free() {
    // On every address, so that no other test is given the number on another one.
    let (_socket, port) = bound(ANY6, false, Type::STREAM);
    let told = linux::sockets_from_proc_net(port, Some(Tcp)).unwrap();
    assert_eq!(
        (told.rows, told.unseen),
        (vec![], vec![Incompleteness::Bound])
    );
}
