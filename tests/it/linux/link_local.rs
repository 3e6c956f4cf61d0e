//! IPv6 link-local addresses, which need an interface, and servers that are bound to an interface.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use portlease::{Holder, Reachability, State};
use socket2::{Domain, Socket, Type};

use crate::support::helper::Launch;
use crate::support::{Folder, capability, need};

#[test]
fn a_link_local_address_names_the_port_of_its_interface() {
    need!(capability::network_namespace());
    // /proc/net shows no scope ids.
    need!(capability::sock_diag());
    let folder = Folder::new();
    // Without `nodad` the kernel first checks, for a second, whether the link has the address
    // already.
    let setup = "ip link set lo up && ip link add va type veth peer name vb && \
                 ip link set va up && ip link set vb up && \
                 ip addr add fe80::7/64 dev va nodad && ip addr add fe80::7/64 dev vb nodad && \
                 ip addr add fe80::8/64 dev va nodad";
    Launch::new("link-local", &folder.locks())
        .in_network(setup)
        .start()
        .succeed();
}

/// The helper process. Two interfaces have `fe80::7`, one has `fe80::8`.
pub(crate) fn addresses_of_two_interfaces() {
    // A line looks like `3: va@vb: <BROADCAST,...`.
    let index = |name: &str| -> u32 {
        let listed = Command::new("ip")
            .args(["-o", "link", "show", name])
            .output()
            .unwrap();
        let line = String::from_utf8(listed.stdout).unwrap();
        line.split(':').next().unwrap().parse().unwrap()
    };
    let [va, vb] = ["va", "vb"].map(index);
    let at = |last: u16, port: u16, scope_id: u32| {
        let ip = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last);
        SocketAddrV6::new(ip, port, 0, scope_id)
    };
    let listeners = |addr: SocketAddrV6| {
        let found = portlease::who_holds(addr).unwrap();
        let is_listener = |holder: &&Holder| holder.state == State::Listen;
        found.iter().filter(is_listener).count()
    };
    let moment = Duration::from_secs(1);
    let p = portlease::reserve_port().leak();
    let server = TcpListener::bind(at(7, p, va)).unwrap();
    // Queries about the interface of the server.
    portlease::check_port_listening(at(7, p, va)).unwrap();
    let in_use = portlease::check_port_free(at(7, p, va)).unwrap_err();
    assert!(
        in_use
            .to_string()
            .contains(&format!("listens on [fe80::7%va]:{p}")),
        "{in_use}"
    );
    assert_eq!(
        portlease::probe(at(7, p, va), moment),
        Reachability::Accepts
    );
    assert_eq!(listeners(at(7, p, va)), 1);
    // Queries about the other interface.
    portlease::check_port_listening(at(7, p, vb)).unwrap_err();
    portlease::check_port_free(at(7, p, vb)).unwrap();
    assert_eq!(listeners(at(7, p, vb)), 0);
    // The same queries as text: by name, by index, and in the form of ss(8).
    for (on_va, on_vb) in [
        (format!("[fe80::7%va]:{p}"), format!("[fe80::7%vb]:{p}")),
        (format!("[fe80::7%{va}]:{p}"), format!("[fe80::7%{vb}]:{p}")),
        (format!("[fe80::7]%va:{p}"), format!("[fe80::7]%vb:{p}")),
    ] {
        portlease::check_port_listening(on_va.as_str()).unwrap();
        portlease::wait_until_listening(on_va.as_str(), moment).unwrap();
        portlease::check_port_free(on_va.as_str()).unwrap_err();
        portlease::check_port_free(on_vb.as_str()).unwrap();
        portlease::wait_until_free(on_vb.as_str(), moment).unwrap();
        let elsewhere = portlease::check_port_listening(on_vb.as_str()).unwrap_err();
        let report = elsewhere.to_string();
        for part in [
            format!("port [fe80::7%vb]:{p}/tcp is not listening: "),
            format!("listens on [fe80::7%va]:{p} only; connections to fe80::7%vb are refused"),
            format!("connect to [fe80::7%va]:{p}, or let the server listen on fe80::7%vb"),
        ] {
            assert!(report.contains(&part), "{report}");
        }
        let endpoint = elsewhere.endpoint().unwrap();
        let addr: SocketAddr = format!("[fe80::7%{vb}]:{p}").parse().unwrap();
        assert_eq!(endpoint.socket_addr(), Some(addr));
        assert_eq!(endpoint.to_string(), format!("[fe80::7%vb]:{p}/tcp"));
    }
    let missing = portlease::check_port_free(format!("[fe80::7%nosuch0]:{p}").as_str());
    let missing = portlease::Error::from(missing.unwrap_err());
    assert_eq!(missing.kind(), portlease::ErrorKind::AddressNotAvailable);
    assert!(
        missing
            .to_string()
            .contains("no network interface \"nosuch0\""),
        "{missing}"
    );
    // A query without an interface is about both interfaces.
    portlease::check_port_listening(at(7, p, 0)).unwrap();
    portlease::check_port_free(at(7, p, 0)).unwrap_err();
    assert_eq!(portlease::probe(at(7, p, 0), moment), Reachability::Accepts);
    drop(server);
    portlease::check_port_free(at(7, p, 0)).unwrap();

    // An address that only one interface has needs no scope id.
    let p = portlease::reserve_port();
    assert_eq!(p.addr_on(*at(8, 0, 0).ip()), at(8, p.port(), va).into());
    let server = p.listen_on(*at(8, 0, 0).ip()).unwrap();
    assert!(TcpStream::connect(at(8, p.port(), va)).is_ok());
    drop(server);
    // A multicast address of a link is on every interface, each with sockets of its own.
    let multicast = |scope_id| SocketAddrV6::new("ff02::7".parse().unwrap(), p.port(), 0, scope_id);
    let group = UdpSocket::bind(multicast(va)).unwrap();
    let udp = format!("[ff02::7%va]:{p}/udp");
    let holders = portlease::who_holds(udp.as_str()).unwrap();
    let local: Vec<SocketAddr> = holders.iter().map(|holder| holder.local).collect();
    assert_eq!(local, [multicast(va).into()]);
    let text = holders.to_string();
    let expected = format!("is bound to [ff02::7%va]:{p}/udp");
    assert!(text.lines().next().unwrap().contains(&expected), "{text}");
    let in_use = portlease::check_port_free(udp.as_str()).unwrap_err();
    let expected = format!("port [ff02::7%va]:{p}/udp is in use: ");
    assert!(in_use.headline().starts_with(&expected), "{in_use}");
    let other = format!("[ff02::7%vb]:{p}/udp");
    portlease::check_port_free(other.as_str()).unwrap();
    let elsewhere = portlease::check_port_listening(other.as_str()).unwrap_err();
    for part in [
        format!("is bound to [ff02::7%va]:{p}/udp only; datagrams to ff02::7%vb do not reach it"),
        format!("connect to [ff02::7%va]:{p}, or let the server listen on ff02::7%vb"),
    ] {
        assert!(elsewhere.to_string().contains(&part), "{elsewhere}");
    }
    // A query without an interface is about both interfaces.
    let every = format!("[ff02::7]:{p}/udp");
    portlease::check_port_free(every.as_str()).unwrap_err();
    drop(group);
    portlease::check_port_free(every.as_str()).unwrap();
    // An address that no interface has.
    let absent = portlease::check_port_free(at(9, p.port(), va)).unwrap_err();
    assert!(absent.to_string().contains("fe80::9"), "{absent}");
    let absent = portlease::check_port_free(at(9, p.port(), 0)).unwrap_err();
    let reason = "cannot be bound: this machine does not have the address";
    assert!(absent.headline().ends_with(reason), "{absent}");
}

#[test]
fn a_server_of_one_interface_does_not_listen_for_clients_of_a_loopback_address() {
    need!(capability::network_namespace());
    need!(capability::sock_diag());
    let folder = Folder::new();
    let setup = "ip link set lo up && ip link add va type veth peer name vb && \
                 ip link set va up && ip link set vb up && ip addr add 10.9.8.7/24 dev va";
    Launch::new("bound-to-interface", &folder.locks())
        .in_network(setup)
        .start()
        .succeed();
}

/// The helper process. The interface `va` has `10.9.8.7`.
pub(crate) fn server_of_one_interface() {
    let own = std::process::id();
    let moment = Duration::from_millis(1);
    let at = |ip: [u8; 4], port: u16| SocketAddr::from((ip, port));
    let listen = |interface: &str| {
        let p = portlease::reserve_port();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind_device(Some(interface.as_bytes())).unwrap();
        socket.bind(&at([0; 4], p.port()).into()).unwrap();
        socket.listen(1).unwrap();
        (p, socket)
    };

    let (p, server) = listen("va");
    // The control: the kernel refuses a client.
    TcpStream::connect(p.addr()).unwrap_err();
    let report = portlease::check_port_listening(p.addr())
        .unwrap_err()
        .to_string();
    for part in [
        format!("port 127.0.0.1:{p}/tcp is not listening: "),
        format!("listens on 0.0.0.0:{p} (interface va only); connections to 127.0.0.1 are refused"),
        "help: let the server accept connections from every interface: its socket is bound to va \
         only (SO_BINDTODEVICE)"
            .to_owned(),
    ] {
        assert!(report.contains(&part), "{report}");
    }
    let listed = report
        .lines()
        .filter(|line| line.starts_with("  listening"));
    assert_eq!(listed.count(), 1, "{report}");
    portlease::wait_until_listening(p.addr(), moment).unwrap_err();
    portlease::wait_until_held_by(p.addr(), own, moment).unwrap_err();
    portlease::check_port_held_by(p.addr(), own).unwrap_err();
    p.wait_for_pid(own, moment).unwrap_err();
    // Clients on the link reach the server, and the server keeps other servers from binding.
    portlease::check_port_listening(at([10, 9, 8, 7], p.port())).unwrap();
    portlease::check_port_listening(p.port()).unwrap();
    portlease::check_port_held_by(p.port(), own).unwrap();
    portlease::check_port_free(p.addr()).unwrap_err();
    drop(server);

    let (p, server) = listen("lo");
    TcpStream::connect(p.addr()).unwrap();
    portlease::check_port_listening(p.addr()).unwrap();
    portlease::check_port_held_by(p.addr(), own).unwrap();
    drop(server);
}
