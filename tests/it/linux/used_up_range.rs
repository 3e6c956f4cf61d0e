//! Reservations while the ephemeral range is used up, or nearly.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};

use portlease::ReserveOptions;

use crate::support::args::Args;
use crate::support::helper::{EPHEMERAL_LOW, Launch};
use crate::support::reserver::{Outcome, Reserver};
use crate::support::socket::{
    self, ANY_V4, ANY_V6, Reuse, V4, V6, leave_clients_in_time_wait, port_of,
};
use crate::support::{Folder, capability, need};

const NUMBERS: u16 = 10;
const MANY_NUMBERS: u16 = 64;

/// Outside the ephemeral range.
const SERVER: u16 = EPHEMERAL_LOW + 2000;
const RANGE: &str = "range=41000-41010";

fn in_namespace(helper: &'static str, args: &str, ephemeral_ports: u16) {
    let folder = Folder::new();
    Launch::new(helper, &folder.locks())
        .args(args)
        .with_ephemeral_ports(ephemeral_ports)
        .start()
        .succeed();
}

/// The helper's argument for an automatic pick from the first `count` ephemeral ports alone.
fn within(count: u16) -> String {
    format!("within={EPHEMERAL_LOW}-{}", EPHEMERAL_LOW + count - 1)
}

fn ephemeral(count: u16) -> BTreeSet<u16> {
    (EPHEMERAL_LOW..EPHEMERAL_LOW + count).collect()
}

#[test]
fn a_claim_covers_ipv6_if_the_range_was_used_up_at_the_first_reservation() {
    need!(capability::network_namespace(), capability::ipv6());
    for how in ["sockets", "time-wait"] {
        in_namespace("ipv6-beside-used-up-range", how, NUMBERS);
    }
}

/// The helper process.
pub(crate) fn attack_over_ipv6(args: &Args) {
    let folder = Folder::new();
    let server = TcpListener::bind((V4, SERVER)).unwrap();
    let mut fill = Vec::new();
    match args.command().0 {
        "sockets" => {
            let bind = |port| socket::bind(ANY_V6, port, Reuse::Neither).unwrap();
            fill.extend(ephemeral(NUMBERS).into_iter().map(bind));
        }
        _ => {
            let all = usize::from(NUMBERS);
            assert_eq!(leave_clients_in_time_wait(&server, all).len(), all);
        }
    }
    assert!(
        socket::bind(V6, 0, Reuse::Neither).is_err() || fill.is_empty(),
        "the range is not used up"
    );
    let mut reserver = Reserver::new(&folder.locks());
    let mut held = vec![reserver.reserve(RANGE).held()];
    held.push(reserver.reserve("").held());
    for held in &held {
        assert_eq!(held.guarantee, "Kernel");
        for ip in [V6, ANY_V6] {
            let stranger = socket::bind(ip, held.port(), Reuse::Neither);
            assert_eq!(
                stranger.unwrap_err().kind(),
                io::ErrorKind::AddrInUse,
                "{ip}"
            );
        }
    }
    // The control: a number that is not reserved.
    let unreserved = (41000..=41010).find(|port| held.iter().all(|held| held.port() != *port));
    socket::bind(V6, unreserved.unwrap(), Reuse::Neither).unwrap();
    // Once the range has free numbers again, the same process picks some of them.
    if fill.is_empty() {
        return;
    }
    fill.clear();
    let ours: BTreeSet<u16> = reserver
        .reserve(&format!("many=6 {}", within(NUMBERS)))
        .held()
        .ports
        .into_iter()
        .collect();
    assert!(ours.is_subset(&ephemeral(NUMBERS)), "{ours:?}");
    for ip in [V6, ANY_V6] {
        let given: Vec<_> =
            std::iter::from_fn(|| socket::bind(ip, 0, Reuse::Neither).ok()).collect();
        let given: BTreeSet<u16> = given.iter().map(port_of).collect();
        let others: BTreeSet<u16> = ephemeral(NUMBERS).difference(&ours).copied().collect();
        assert_eq!(
            given, others,
            "{ip}: the kernel assigns all but the reserved numbers"
        );
    }
}

#[test]
fn a_claim_made_while_ipv6_was_switched_off_holds_once_it_is_on() {
    need!(capability::network_namespace(), capability::ipv6());
    in_namespace("ipv6-switched-on", "", NUMBERS);
}

/// The helper process.
pub(crate) fn switch_ipv6_on() {
    let switch = |off: &str| {
        for interface in ["all", "default", "lo"] {
            let path = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
            std::fs::write(path, off).unwrap();
        }
    };
    switch("1");
    assert!(socket::bind(V6, 0, Reuse::Neither).is_err(), "the control");
    let folder = Folder::new();
    let mut reserver = Reserver::new(&folder.locks());
    let held = [
        reserver.reserve(&within(NUMBERS)).held(),
        reserver.reserve(RANGE).held(),
    ];
    switch("0");
    for held in &held {
        assert_eq!(held.guarantee, "Kernel");
        let stranger = socket::bind(V6, held.port(), Reuse::Neither);
        assert_eq!(stranger.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
    reserver.release("all");
    for held in &held {
        socket::bind(V6, held.port(), Reuse::Neither).unwrap();
    }
}

#[test]
fn a_process_for_each_number_leaves_connections_possible() {
    need!(capability::network_namespace());
    in_namespace("process-for-each-number", "", MANY_NUMBERS);
}

/// The helper process.
pub(crate) fn reserve_by_a_process_each() {
    let folder = Folder::new();
    let server = TcpListener::bind((V4, SERVER)).unwrap();
    let mut reservers: Vec<Reserver> = (0..=MANY_NUMBERS)
        .map(|_| Reserver::new(&folder.locks()))
        .collect();
    let mut ours = BTreeSet::new();
    for reserver in &mut reservers {
        // Only the last processes are refused within the range.
        let held = match reserver.reserve(&within(MANY_NUMBERS)) {
            Outcome::Held(held) => held,
            Outcome::Refused { .. } => reserver.reserve("").held(),
        };
        assert_eq!(held.guarantee, "Kernel");
        assert!(ours.insert(held.port()), "{held:?}");
    }
    let used = ours.intersection(&ephemeral(MANY_NUMBERS)).count();
    assert!(used >= 32, "the control: {used} are ephemeral");
    TcpStream::connect(server.local_addr().unwrap()).unwrap();
}

#[test]
fn a_range_of_two_ephemeral_numbers_leaves_connections_possible() {
    need!(capability::network_namespace());
    in_namespace("range-of-two", "", 2);
}

/// The helper process.
pub(crate) fn reserve_in_a_range_of_two() {
    let folder = Folder::new();
    let server = TcpListener::bind((V4, SERVER)).unwrap();
    for how in ["many=3", "block=3", ""] {
        let mut reserver = Reserver::new(&folder.locks());
        let held = reserver.reserve(how).held();
        assert_eq!(held.guarantee, "Kernel", "{how}");
        let client = TcpStream::connect(server.local_addr().unwrap())
            .unwrap_or_else(|e| panic!("{how}: {e}, {held:?}"));
        socket::reset_on_close(&client);
    }
}

#[test]
fn a_request_for_few_ephemeral_numbers_of_many_free_ones_succeeds() {
    need!(capability::network_namespace());
    in_namespace("few-of-many", "", 400);
}

/// The helper process.
pub(crate) fn reserve_few_of_many() {
    let outside = || {
        ReserveOptions::new()
            .exclude(1..EPHEMERAL_LOW)
            .exclude(EPHEMERAL_LOW + 400..=u16::MAX)
    };
    // Each request admits two numbers. The range has more, which are free for connections.
    let aligned = outside().aligned(200).reserve().unwrap();
    assert_eq!(aligned.port() % 200, 0);
    let two = outside().exclude(EPHEMERAL_LOW + 2..=u16::MAX);
    assert!(two.reserve().unwrap().port() < EPHEMERAL_LOW + 2);
}

#[test]
fn a_range_that_was_narrowed_after_the_first_reservation_leaves_connections_possible() {
    need!(capability::network_namespace());
    in_namespace("range-narrowed", "", HALF_USED);
}

/// The helper process.
pub(crate) fn reserve_in_a_narrowed_range() {
    drop(portlease::reserve_port());
    let few = ephemeral(16);
    let (low, high) = (few.first().unwrap(), few.last().unwrap());
    let setting = "/proc/sys/net/ipv4/ip_local_port_range";
    std::fs::write(setting, format!("{low} {high}")).unwrap();
    // `bind(…, 0)` and connect(2) search different halves of the range first.
    let odd = few.iter().filter(|port| *port % 2 == 1);
    let _half: Vec<_> = odd
        .map(|port| socket::bind(ANY_V4, *port, Reuse::Neither).unwrap())
        .collect();
    let held: Vec<_> = (0..20).map(|_| portlease::reserve_port()).collect();
    let taken = held.iter().filter(|p| few.contains(&p.port())).count();
    assert_eq!(taken, 0, "{held:?}");
    let server = TcpListener::bind((V4, SERVER)).unwrap();
    TcpStream::connect(server.local_addr().unwrap()).unwrap();
}

#[test]
fn with_the_ephemeral_range_in_time_wait_or_claimed_reservations_succeed_outside_of_it() {
    need!(capability::network_namespace());
    in_namespace("range-in-time-wait", "", MANY_NUMBERS);
}

/// The helper process.
pub(crate) fn reserve_beside_time_wait() {
    const PROCESSES: usize = 6;
    const EACH: usize = 30;
    let folder = Folder::new();
    let server = TcpListener::bind((V4, SERVER)).unwrap();
    let waiting = leave_clients_in_time_wait(&server, 48);
    assert!(waiting.len() >= 40, "{waiting:?}");
    let connects = || {
        let client = TcpStream::connect(server.local_addr().unwrap())?;
        socket::reset_on_close(&client);
        Ok::<_, io::Error>(())
    };
    connects().unwrap();
    let mut reservers: Vec<Reserver> = (0..PROCESSES)
        .map(|_| Reserver::new(&folder.locks()))
        .collect();
    let mut ours = BTreeSet::new();
    for round in 0..EACH {
        for reserver in &mut reservers {
            reserver.begin_reserve("");
        }
        for reserver in &mut reservers {
            let held = reserver.end_reserve().held();
            assert_eq!(held.guarantee, "Kernel");
            assert!(ours.insert(held.port()), "reserved twice: {held:?}");
        }
        connects().unwrap_or_else(|e| panic!("round {round}: {e}"));
    }
    assert!(ours.is_disjoint(&ephemeral(MANY_NUMBERS)), "{ours:?}");
    // A stranger takes the rest of the range, so even the first attempt finds no number there.
    let _rest: Vec<_> = std::iter::from_fn(|| socket::bind(V4, 0, Reuse::Neither).ok()).collect();
    let held = Reserver::new(&folder.locks()).reserve("many=20").held();
    assert_eq!(held.guarantee, "Kernel");
    assert!(held.ports.iter().all(|port| !ours.contains(port)));
}

#[test]
fn from_half_of_a_range_on_reservations_take_numbers_outside_of_it() {
    need!(capability::network_namespace());
    in_namespace("range-half-used-up", "", HALF_USED);
}

const HALF_USED: u16 = 600;

/// The helper process.
pub(crate) fn reserve_beside_half_of_the_range() {
    let folder = Folder::new();
    let all = ephemeral(HALF_USED);
    let held = Reserver::new(&folder.locks()).reserve("many=20").held();
    let control = held.ports.iter().filter(|port| all.contains(port)).count();
    assert_eq!(control, 20, "the control: {held:?}");
    // `bind(…, 0)` first uses up the numbers of one parity.
    let _half: Vec<_> = (0..HALF_USED / 2 + 10)
        .map(|_| socket::bind(ANY_V4, 0, Reuse::Neither).unwrap())
        .collect();
    let held = Reserver::new(&folder.locks()).reserve("many=20").held();
    assert_eq!(held.guarantee, "Kernel");
    assert!(
        held.ports.iter().all(|port| !all.contains(port)),
        "{held:?}"
    );
}

#[test]
fn udp_stays_cooperative_while_any_non_ephemeral_number_is_free() {
    need!(capability::network_namespace());
    let folder = Folder::new();
    Launch::new("many-udp", &folder.locks())
        .in_network("ip link set lo up")
        .setup("echo 1024 60000 > /proc/sys/net/ipv4/ip_local_port_range")
        .setup("ulimit -n 8192")
        .start()
        .succeed();
}

/// The helper process. All but three of 5,535 non-ephemeral numbers are taken.
pub(crate) fn reserve_udp_beyond_the_first_thousands() {
    const FREE: [u16; 3] = [60777, 62222, 65001];
    let folder = Folder::new();
    let taken: Vec<UdpSocket> = (60001..=u16::MAX)
        .filter(|port| !FREE.contains(port))
        .map(|port| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap())
        .collect();
    assert!(taken.len() > 4096 + 1000);
    for kind in ["udp=", "plain= udp="] {
        let mut reserver = Reserver::new(&folder.locks());
        for free in 0..FREE.len() {
            let held = reserver.reserve(kind).held();
            assert_eq!(held.guarantee, "Cooperative", "{kind}, number {free}");
            assert!(FREE.contains(&held.port()), "{held:?}");
        }
        // The control: with all of them in use only ephemeral numbers are left.
        assert_eq!(reserver.reserve(kind).held().guarantee, "BestEffort");
    }
}
