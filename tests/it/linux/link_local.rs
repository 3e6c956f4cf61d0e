//! IPv6 link-local addresses, which need an interface.

use std::net::{Ipv6Addr, SocketAddrV6, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use portlease::{Holder, Reachability, State};

use crate::support::helper::Launch;
use crate::support::{Folder, capability, need};

#[test]
fn a_link_local_address_names_the_port_of_its_interface() {
    need!(capability::network_namespace());
    // /proc/net shows no scope ids.
    need!(capability::sock_diag());
    let folder = Folder::new();
    // `nodad`: otherwise the kernel looks for the address on the link for a second.
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
    // As `3: va@vb: <BROADCAST,...`.
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
    // On the interface of the server.
    portlease::check_port_listening(at(7, p, va)).unwrap();
    let in_use = portlease::check_port_free(at(7, p, va)).unwrap_err();
    assert!(
        in_use.to_string().contains("listens on [fe80::7"),
        "{in_use}"
    );
    assert_eq!(
        portlease::probe(at(7, p, va), moment),
        Reachability::Accepts
    );
    assert_eq!(listeners(at(7, p, va)), 1);
    // On the other.
    portlease::check_port_listening(at(7, p, vb)).unwrap_err();
    portlease::check_port_free(at(7, p, vb)).unwrap();
    assert_eq!(listeners(at(7, p, vb)), 0);
    // Without an interface the question is about both.
    portlease::check_port_listening(at(7, p, 0)).unwrap();
    portlease::check_port_free(at(7, p, 0)).unwrap_err();
    assert_eq!(portlease::probe(at(7, p, 0), moment), Reachability::Accepts);
    drop(server);
    portlease::check_port_free(at(7, p, 0)).unwrap();

    // An address of one interface needs no scope id.
    let p = portlease::reserve_port();
    assert_eq!(p.addr_on(*at(8, 0, 0).ip()), at(8, p.port(), va).into());
    let server = p.listen_on(*at(8, 0, 0).ip()).unwrap();
    assert!(TcpStream::connect(at(8, p.port(), va)).is_ok());
    drop(server);
    // An address that no interface has.
    let absent = portlease::check_port_free(at(9, p.port(), va)).unwrap_err();
    assert!(absent.to_string().contains("fe80::9"), "{absent}");
}
