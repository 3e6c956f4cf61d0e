//! Network namespaces. Each has its own ports, also if several of them share a file system. Some
//! lack IPv6, or a loopback interface that is up.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use portlease::{ErrorKind, Guarantee, ReserveOptions};

use crate::support::helper::{EPHEMERAL_LOW, Launch};
use crate::support::ports::non_ephemeral_ports;
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
    // The port is outside the ephemeral range.
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
    let first_reservation = |setup: &str| {
        let mut reserver = Reserver::start(Reserver::launch(&folder.locks()).in_network(setup));
        let begun = Instant::now();
        assert_eq!(reserver.reserve("").held().guarantee, "Kernel");
        begun.elapsed()
    };
    // A busy machine suspends either process for seconds, and an emulated one is 50 times slower.
    let (up, down) = (first_reservation(UP), first_reservation("true"));
    let bound = up * 5 + Duration::from_secs(10);
    assert!(down < bound, "{down:?}, and {up:?} where it is up");
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

/// A test harness that gives each test a namespace by unshare(2) has such threads.
#[test]
fn threads_in_different_network_namespaces_get_their_own_answers() {
    need!(capability::network_namespace());
    let folder = Folder::new();
    Launch::new("changes-namespace", &folder.locks())
        .in_network(UP)
        .start()
        .succeed();
}

/// Calls `act` in a thread of this process that is in a new network namespace. The loopback
/// interface is up there, and the shell commands `setup` have run.
fn in_new_namespace(setup: &str, act: impl FnOnce() + Send) {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    std::thread::scope(|scope| {
        scope.spawn(move || {
            #[expect(unsafe_code, reason = "other flags would unshare descriptors")]
            // SAFETY: NEWNET affects only the sockets that this thread creates from now on.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            let setup = format!("{UP} && {setup}");
            let done = Command::new("sh").args(["-c", &setup]).status().unwrap();
            assert!(done.success(), "{setup}");
            act();
        });
    });
}

pub(crate) fn reserve_in_several_namespaces() {
    let locks = std::env::var_os("PORTLEASE_DIR").unwrap();
    let locks = Path::new(&locks);
    let tcp = ReserveOptions::new;
    let udp = || ReserveOptions::new().udp();
    let ports = non_ephemeral_ports(3);
    let (shared, theirs, ours) = (ports[0], ports[1], ports[2]);
    // The first namespace is where the crate makes the queries whose answers it keeps.
    let first = [
        tcp().port(shared).reserve().unwrap(),
        udp().port(shared).reserve().unwrap(),
    ];
    let guarantees = || {
        let of = |options: ReserveOptions| options.reserve().unwrap().guarantee();
        [of(tcp()), of(udp())]
    };
    assert_eq!(guarantees(), [Guarantee::Kernel, Guarantee::Cooperative]);
    let mut neighbour = Reserver::new(locks);
    neighbour.reserve(&format!("udp port={ours}")).held();

    in_new_namespace("true", || {
        let holders = portlease::who_holds(shared).unwrap();
        assert!(holders.is_empty(), "of the other namespace: {holders}");
        assert_eq!(portlease::reservations().unwrap(), []);
        for options in [tcp(), udp()] {
            let same = options.clone().port(shared).reserve().unwrap();
            portlease::assert_port_free(&same);
            assert_eq!(portlease::reservations().unwrap().len(), 1);
            drop(same);
            drop(options.port(ours).reserve().unwrap());
        }
        let mut neighbour = Reserver::new(locks);
        neighbour.reserve(&format!("pair port={theirs}")).held();
        for options in [tcp(), udp()] {
            let taken = options.port(theirs).reserve().unwrap_err();
            assert_eq!(taken.kind(), ErrorKind::InUse, "{taken}");
        }
        for operand in [format!("{theirs}"), format!("{theirs}/udp")] {
            assert!(!portlease::is_port_free(operand.as_str()), "{operand}");
        }
    });
    // This namespace has its own self-test and its own ephemeral range.
    let sharing = "echo 1 > /proc/sys/net/ipv4/ip_autobind_reuse && \
                   echo 1024 65535 > /proc/sys/net/ipv4/ip_local_port_range";
    in_new_namespace(sharing, || {
        assert_eq!(guarantees(), [Guarantee::BestEffort; 2]);
    });

    // This process keeps the settings files of a few namespaces open, and closes all others.
    for _ in 0..20 {
        in_new_namespace("true", || drop(tcp().port(theirs).reserve().unwrap()));
    }
    let fds = std::fs::read_dir("/proc/self/fd").unwrap();
    let files = fds.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    let settings = files.filter(|file| file.starts_with("/proc/sys/net"));
    assert!(settings.count() <= 8 * 3);

    // The answers in the first namespace have not changed.
    assert_eq!(guarantees(), [Guarantee::Kernel, Guarantee::Cooperative]);
    assert!(portlease::is_port_free(theirs));
    let taken = udp().port(ours).reserve().unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::InUse, "{taken}");
    let mut stranger = Reserver::new(locks);
    for kind in ["", "udp"] {
        stranger
            .reserve(&format!("{kind} port={shared}"))
            .refused("InUse");
    }
    for p in first {
        portlease::assert_port_free(&p);
        p.release().unwrap();
    }
    stranger.reserve(&format!("udp port={shared}")).held();
}

/// Ephemeral ranges that contain, equal or border numbers that clients refuse.
#[test]
fn automatic_picks_yield_no_number_that_clients_refuse_from_any_ephemeral_range() {
    need!(capability::network_namespace());
    let folder = Folder::new();
    let with_range = |range: &str| {
        let set = format!("echo {range} > /proc/sys/net/ipv4/ip_local_port_range");
        Reserver::start(Reserver::launch(&folder.locks()).in_network(UP).setup(set))
    };
    let refused = [6665, 6666, 6667, 6668, 6669, 65535];
    for range in ["6660 6671", "6665 6669", "1024 65533", "1024 65534"] {
        let mut reserver = with_range(range);
        for kind in ["", "udp=", "pair=", "plain="] {
            for how in ["", "many=4", "block=3", "prefer=20000"] {
                for _ in 0..4 {
                    let held = reserver.reserve(&format!("{kind} {how}")).held();
                    let wrong = held.ports.iter().find(|port| refused.contains(*port));
                    assert_eq!(wrong, None, "{range}: {kind} {how}: {held:?}");
                }
            }
        }
    }
    // The control: the kernel itself does assign such numbers.
    let set = "echo 6665 6669 > /proc/sys/net/ipv4/ip_local_port_range";
    let by_kernel = Launch::new("assigned-ports", &folder.locks())
        .in_network(UP)
        .setup(set)
        .args("server=20000")
        .start()
        .succeed();
    let assigned = refused
        .iter()
        .filter(|port| by_kernel[0].contains(&port.to_string()));
    assert!(assigned.count() > 0, "{by_kernel:?}");
}

/// The test has a namespace of its own, so that no other test holds one of the few numbers for a
/// moment.
#[test]
fn of_a_range_the_numbers_that_clients_refuse_are_left_out() {
    need!(capability::network_namespace());
    let folder = Folder::new();
    let mut reserver = Reserver::start(Reserver::launch(&folder.locks()).in_network(UP));
    let ranges = [
        ("6660-6671", vec![6665, 6666, 6667, 6668, 6669], 7),
        ("10076-10086", vec![10080], 10),
        ("65525-65535", vec![65535], 10),
    ];
    for kind in ["", "udp=", "pair=", "plain="] {
        for (range, refused, others) in &ranges {
            let many = format!("many={others}");
            for how in ["", "block=3", "block=4", &many] {
                for _ in 0..10 {
                    let held = reserver
                        .reserve(&format!("{kind} {how} range={range}"))
                        .held();
                    let wrong = held.ports.iter().find(|port| refused.contains(*port));
                    assert_eq!(wrong, None, "{kind} {how}: {held:?}");
                    reserver.release("all");
                }
            }
            // The error says why no more ports are available.
            let all = others + refused.len();
            let error = reserver
                .reserve(&format!("{kind} many={all} range={range}"))
                .refused("NoFreePort");
            let left_out = format!(
                "{} not tried (port 65535, or ports that browsers refuse)",
                refused.len()
            );
            assert!(error.contains(&left_out), "{kind}: {error}");
            // Such a number can be reserved as an exact number.
            let named = format!("{kind} port={}", refused[0]);
            assert_eq!(reserver.reserve(&named).held().port(), refused[0]);
            reserver.release("all");
        }
    }
}

/// The test has a namespace of its own, so that the kernel assigns the number to no other process.
#[test]
fn the_only_number_that_is_not_excluded_is_found_in_the_ephemeral_range() {
    need!(capability::network_namespace());
    let folder = Folder::new();
    let launch = Launch::new("only-number", &folder.locks()).in_network(UP);
    launch.start().succeed();
}

/// The helper process.
pub(crate) fn reserve_the_only_number() {
    const ONLY: u16 = 45001;
    let new = ReserveOptions::new;
    let kinds = [
        new(),
        new().udp(),
        new().tcp_and_udp(),
        new().reuse_addr(false),
    ];
    for kind in kinds {
        let others = (1..=u16::MAX).filter(|port| *port != ONLY);
        let one = kind.clone().exclude(others);
        for _ in 0..5 {
            assert_eq!(one.clone().reserve().unwrap().port(), ONLY, "{kind:?}");
        }
        assert_eq!(one.reserve_block(1).unwrap()[0].port(), ONLY);
    }
}
