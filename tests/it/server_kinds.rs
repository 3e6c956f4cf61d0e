//! UDP, pairs, and TCP servers without SO_REUSEADDR: what is reserved without a claim.

use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use portlease::{
    ErrorKind, Guarantee, Protocol, Remedy, Reservation, ReserveOptions, ServerKind, reserve_port,
};

use crate::support::ports::{is_tcp_guarantee, non_ephemeral_port};
use crate::support::reserver::Reserver;
use crate::support::socket::{self, Reuse, V4, port_of};
use crate::support::{DEADLINE, Folder, capability, need, own_locks};

const KINDS: [fn(ReserveOptions) -> ReserveOptions; 3] =
    [|o| o.udp(), |o| o.tcp_and_udp(), |o| o.reuse_addr(false)];

fn ephemeral() -> std::ops::RangeInclusive<u16> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let numbers: Vec<u16> = text
        .split_whitespace()
        .map(|n| n.parse().unwrap())
        .collect();
    numbers[0]..=numbers[1]
}

fn ports(reservations: &[Reservation]) -> Vec<u16> {
    reservations.iter().map(Reservation::port).collect()
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "the ephemeral range is read from /proc"
)]
fn ports_outside_the_ephemeral_range_are_picked() {
    for kind in KINDS {
        for p in kind(ReserveOptions::new()).reserve_many(20).unwrap() {
            assert!(!ephemeral().contains(&p.port()) && p.port() >= 49152, "{p}");
            assert_eq!(p.guarantee(), Guarantee::Cooperative, "{p:?}");
        }
    }
}

#[test]
fn every_option_works_for_every_kind() {
    for kind in KINDS {
        let new = || kind(ReserveOptions::new());
        let block = new().range(20000..=29999).reserve_block(4).unwrap();
        let first = block[0].port();
        assert_eq!(ports(&block), (first..first + 4).collect::<Vec<_>>());
        let busy = new().port(first).reserve().unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::InUse, "{busy}");
        let other = new()
            .prefer([first, first + 1])
            .exclude([first + 2])
            .range(first..=first + 50)
            .reserve()
            .unwrap();
        assert!(!block.iter().any(|p| p.port() == other.port()));
        let begun = Instant::now();
        let timed_out = new()
            .port(first)
            .wait(Duration::from_millis(30))
            .reserve()
            .unwrap_err();
        assert_eq!(timed_out.kind(), ErrorKind::TimedOut);
        assert!(begun.elapsed() >= Duration::from_millis(30));
        drop(block);
        let again = new().port(first).label("again").reserve().unwrap();
        assert_eq!((again.port(), again.label()), (first, Some("again")));
    }
}

#[test]
fn a_port_busy_in_one_protocol_is_not_reserved_as_a_pair() {
    let pair = || ReserveOptions::new().tcp_and_udp();
    for busy in [Protocol::Tcp, Protocol::Udp] {
        let number = non_ephemeral_port();
        let (tcp, udp);
        match busy {
            Protocol::Tcp => {
                tcp = TcpListener::bind(("127.0.0.1", number)).unwrap();
                let _ = &tcp;
            }
            _ => {
                udp = UdpSocket::bind(("127.0.0.1", number)).unwrap();
                let _ = &udp;
            }
        }
        let error = pair().port(number).reserve().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse);
        let text = error.to_string();
        assert!(
            text.starts_with(&format!(
                "cannot reserve {number}/{busy}: address already in use: "
            )),
            "{text}"
        );
        // All or nothing: the other protocol was released.
        let free = if busy == Protocol::Tcp { "udp" } else { "tcp" };
        assert!(portlease::is_port_free(format!("{number}/{free}")));
        // A block avoids the busy number, and the error about a range with no other number names
        // it.
        let block = pair()
            .range(number - 3..=number + 3)
            .reserve_block(3)
            .unwrap();
        assert!(!ports(&block).contains(&number));
        drop(block);
        let error = pair().range(number..=number).reserve().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoFreePort);
        let start =
            format!("cannot reserve a port from {number}-{number}: 1 tried: 1 in use; {number}: ");
        assert!(error.to_string().starts_with(&start), "{error}");
        let error = pair()
            .range(number - 1..=number + 1)
            .reserve_block(3)
            .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("cannot reserve 3 consecutive ports from "),
            "{error}"
        );
        let error = pair()
            .range(number..=number + 1)
            .reserve_block(3)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidPort, "{error}");
    }
}

#[test]
fn a_plain_server_can_bind_a_port_reserved_for_one() {
    let p = ReserveOptions::new().reuse_addr(false).reserve().unwrap();
    for _ in 0..3 {
        let server = socket::bind(V4, p.port(), Reuse::Neither).unwrap();
        server.listen(1).unwrap();
        assert_eq!(port_of(&server), p.port());
        drop(server);
        // A child that another test has just forked shares the listener until it calls exec.
        p.wait_until_free(DEADLINE).unwrap();
    }
    if cfg!(target_os = "linux") {
        // The control: a claim refuses such a server.
        let claimed = portlease::reserve_port();
        socket::bind(V4, claimed.port(), Reuse::Neither).unwrap_err();
    }
}

/// The remedy of the failed check, followed, lets the check succeed.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "only Linux has claims")]
fn a_check_for_a_plain_server_says_how_to_reserve_for_one() {
    let plain = |p: &Reservation| portlease::check_port_free_for(p, ServerKind::Plain);
    let report = plain(&reserve_port()).unwrap_err();
    assert_eq!(
        report.remedies(),
        [Remedy::ReserveForPlainServer],
        "{report}"
    );
    let p = ReserveOptions::new().reuse_addr(false).reserve().unwrap();
    plain(&p).unwrap();
}

#[test]
fn without_ipv6_every_kind_is_reserved() {
    need!(capability::network_namespace());
    let folder = Folder::new();
    let off = "ip link set lo up && { ! test -e /proc/sys/net/ipv6 || \
               echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; }";
    let mut reserver = Reserver::start(Reserver::launch(&folder.locks()).in_network(off));
    for kind in ["", "udp=", "pair=", "plain="] {
        let held = reserver.reserve(kind).held();
        if kind != "udp=" {
            assert_eq!(
                reserver.command(&format!("serve={}", held.port())),
                "serves"
            );
        }
    }
}

#[test]
fn where_every_port_is_ephemeral_the_guarantee_is_best_effort() {
    need!(capability::network_namespace());
    let folder = Folder::new();
    let all_ephemeral =
        "ip link set lo up && echo 1024 65535 > /proc/sys/net/ipv4/ip_local_port_range";
    let mut reserver = Reserver::start(Reserver::launch(&folder.locks()).in_network(all_ephemeral));
    for (kind, guarantee) in [
        ("", "Kernel"),
        ("udp=", "BestEffort"),
        ("pair=", "BestEffort"),
        ("plain=", "BestEffort"),
    ] {
        assert_eq!(reserver.reserve(kind).held().guarantee, guarantee, "{kind}");
    }
    // The kernel assigns no port that the administrator reserved.
    let reserved =
        format!("{all_ephemeral} && echo 3000-3004 > /proc/sys/net/ipv4/ip_local_reserved_ports");
    let mut reserver = Reserver::start(Reserver::launch(&folder.locks()).in_network(&reserved));
    let held = reserver.reserve("udp= many=5").held();
    assert_eq!(held.guarantee, "Cooperative");
    assert!(
        held.ports.iter().all(|port| (3000..=3004).contains(port)),
        "{held:?}"
    );
}

#[test]
fn a_range_yields_its_numbers_outside_of_the_ephemeral_range_first() {
    need!(capability::network_namespace());
    let folder = Folder::new();
    let network = "ip link set lo up && echo 40000 50000 > /proc/sys/net/ipv4/ip_local_port_range";
    let mut reserver = Reserver::start(Reserver::launch(&folder.locks()).in_network(network));
    // 1001 numbers of the range are ephemeral, and 4 are not.
    let range = "range=49000-50004";
    let block = reserver.reserve(&format!("udp= block=4 {range}")).held();
    assert_eq!(block.port(), 50001, "{block:?}");
    reserver.release("all");
    for kind in ["udp=", "pair=", "plain="] {
        let held = reserver.reserve(&format!("{kind} {range}")).held();
        assert_eq!(held.guarantee, "Cooperative", "{kind} {held:?}");
        assert!(held.port() > 50000, "{kind} {held:?}");
        reserver.release("all");
    }
    // After these four numbers, the ephemeral numbers of the range follow.
    let all = reserver.reserve(&format!("udp= {range} many=4")).held();
    assert_eq!(all.guarantee, "Cooperative", "{all:?}");
    let held = reserver.reserve(&format!("udp= {range}")).held();
    assert_eq!(held.guarantee, "BestEffort", "{held:?}");
}

#[test]
fn sockets_from_a_reservation_serve_at_once() {
    let p = ReserveOptions::new().tcp_and_udp().reserve().unwrap();
    assert_eq!(p.protocols(), [Protocol::Tcp, Protocol::Udp]);
    let listener = p.listen().unwrap();
    assert_eq!(listener.local_addr().unwrap(), p.addr());
    assert!(TcpStream::connect(p.addr()).is_ok());
    let socket = p.udp_socket().unwrap();
    assert_eq!(socket.local_addr().unwrap(), p.addr());
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    client.send_to(b"hello", p.addr()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut bytes = [0; 8];
    assert_eq!(socket.recv(&mut bytes).unwrap(), 5);
}

#[test]
fn a_udp_port_is_for_a_server_of_another_process() {
    let p = portlease::reserve_udp_port();
    let mut server = Reserver::new(&own_locks());
    assert_eq!(server.command(&format!("serve-udp={p}")), "serves");
    assert_eq!(server.command("stop"), "stopped");
    assert_eq!(server.command(&format!("serve-udp={p}")), "serves");
}

#[test]
fn the_kernel_guarantee_is_given_on_linux_alone() {
    assert!(is_tcp_guarantee(portlease::reserve_port().guarantee()));
    assert_ne!(portlease::reserve_udp_port().guarantee(), Guarantee::Kernel);
}
