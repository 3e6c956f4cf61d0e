//! Sockets that are bound or listen, of each protocol and family.

use super::*;

#[test]
fn a_free_port_has_no_row() {
    let (listener, port) = listener(V4);
    drop(listener);
    expect(port, Tcp, &[]);
    expect_no_owner(port);
}

#[test]
fn listeners_are_reported_on_each_kind_of_address() {
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
fn two_addresses_and_a_reuseport_group_are_reported_socket_by_socket() {
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
fn udp_sockets_are_reported_with_and_without_a_peer() {
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
            &format!("another process has {port}/udp"),
        );
        return;
    };
    let child = KillOnDrop(
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
fn a_bound_socket_that_does_not_listen_is_reported() {
    if !shows_bound("a bound socket") {
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
fn an_mptcp_listener_is_reported() {
    if !shows_bound("MPTCP") {
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
