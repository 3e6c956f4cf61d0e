//! Network namespaces: each has its own ports, also on one file system; and what a namespace may
//! lack.

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

/// Calls `act` in a thread of this process that is in a new network namespace, with the loopback
/// interface up after these shell commands.
fn in_new_namespace(setup: &str, act: impl FnOnce() + Send) {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    std::thread::scope(|scope| {
        scope.spawn(move || {
            #[expect(unsafe_code, reason = "other flags would unshare descriptors")]
            // SAFETY: NEWNET moves the sockets that this thread makes from now on, and no others.
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
    // Everything that is asked once is asked in the first namespace.
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
    // Neither the self-test nor the ephemeral range is that of another namespace.
    let sharing = "echo 1 > /proc/sys/net/ipv4/ip_autobind_reuse && \
                   echo 1024 65535 > /proc/sys/net/ipv4/ip_local_port_range";
    in_new_namespace(sharing, || {
        assert_eq!(guarantees(), [Guarantee::BestEffort; 2]);
    });

    // The first namespace is as it was.
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
        p.release().unwrap();
    }
    stranger.reserve(&format!("udp port={shared}")).held();
}
