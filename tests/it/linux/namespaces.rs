//! Network namespaces: each has its own ports, also on one file system; and what a namespace may
//! lack.

use std::time::{Duration, Instant};

use crate::support::helper::EPHEMERAL_LOW;
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
