//! Network namespaces: each has its own ports, also on one file system; and what a namespace may
//! lack.

use std::net::{Ipv6Addr, SocketAddrV6, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use portlease::{Reachability, State};

use crate::support::helper::{EPHEMERAL_LOW, Launch};
use crate::support::reserver::Reserver;
use crate::support::{Folder, capability, need};

const UP: &str = "ip link set lo up";

#[test]
fn two_network_namespaces_do_not_block_each_others_numbers() {
    need!(capability::network_namespace());
    let folder = Folder::new();
    let in_new_namespace = || Reserver::start(Reserver::launch(&folder.locks()).in_network(UP));
    let (mut here, mut there) = (Reserver::new(&folder.locks()), in_new_namespace());
    let mut elsewhere = in_new_namespace();
    let held = here.reserve("").held();
    let exactly = format!("port={}", held.port());
    for other in [&mut there, &mut elsewhere] {
        let same = other.reserve(&exactly).held();
        assert_eq!((same.port(), same.leased), (held.port(), true));
    }
    assert_eq!(
        std::fs::read_dir(folder.locks()).unwrap().count(),
        3,
        "one folder per namespace"
    );

    // The control: in one namespace they block each other.
    Reserver::new(&folder.locks())
        .reserve(&exactly)
        .refused("InUse");
}

#[test]
fn a_kernel_that_shares_ports_when_it_assigns_them_is_not_called_a_guarantee() {
    need!(capability::network_namespace());
    let folder = Folder::new();
    let launch = Reserver::launch(&folder.locks()).in_network(UP);
    let mut sharing =
        Reserver::start(launch.setup("echo 1 > /proc/sys/net/ipv4/ip_autobind_reuse"));
    // On a port outside the ephemeral range.
    assert_eq!(sharing.reserve("").held().guarantee, "Cooperative");
    let ephemeral = format!("range={EPHEMERAL_LOW}-{}", EPHEMERAL_LOW + 1000);
    assert_eq!(sharing.reserve(&ephemeral).held().guarantee, "BestEffort");
    let launch = Reserver::launch(&folder.locks()).in_network(UP);
    let mut keeping =
        Reserver::start(launch.setup("echo 0 > /proc/sys/net/ipv4/ip_autobind_reuse"));
    assert_eq!(keeping.reserve("").held().guarantee, "Kernel");
}

#[test]
fn a_port_is_reserved_at_once_where_the_loopback_interface_is_down() {
    need!(capability::network_namespace());
    let folder = Folder::new();
    let mut reserver = Reserver::start(Reserver::launch(&folder.locks()).in_network("true"));
    let begun = Instant::now();
    let held = reserver.reserve("").held();
    assert_eq!(held.guarantee, "Kernel");
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn a_port_is_reserved_where_ipv6_is_switched_off() {
    need!(capability::network_namespace());
    let folder = Folder::new();
    let off = "! test -e /proc/sys/net/ipv6 || echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6";
    let mut reserver = Reserver::start(Reserver::launch(&folder.locks()).in_network(UP).setup(off));
    let held = reserver.reserve("").held();
    assert_eq!(held.guarantee, "Kernel");
    assert_eq!(
        reserver.command(&format!("serve={}", held.port())),
        "serves"
    );
    let mut other = Reserver::start(Reserver::launch(&folder.locks()).in_network(UP).setup(off));
    other.reserve(&format!("port={}", held.port())).held();
}

#[test]
fn a_link_local_address_names_the_port_of_its_interface() {
    need!(capability::network_namespace());
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
pub(crate) fn link_local_in_namespace() {
    // As `3: va@vb: <BROADCAST,...`.
    let index = |name: &str| -> u32 {
        let listed = std::process::Command::new("ip")
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
        let is_listener = |holder: &&portlease::Holder| holder.state == State::Listen;
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
