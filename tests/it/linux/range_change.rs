//! The settings of the ephemeral range are changed while a process runs.

use crate::support::helper::{EPHEMERAL_LOW, Launch};
use crate::support::reserver::Reserver;
use crate::support::{Folder, capability, need};

#[test]
fn the_guarantee_follows_the_ephemeral_range_as_it_is_now() {
    need!(capability::network_namespace());
    let folder = Folder::new();
    Launch::new("changed-range", &folder.locks())
        .with_ephemeral_ports(1000)
        .start()
        .succeed();
}

fn set_range(low: u16, high: u16) {
    let range = format!("{low} {high}");
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", range).unwrap();
}

/// The helper process.
pub(crate) fn change_the_range() {
    let folder = Folder::new();
    let mut reserver = Reserver::new(&folder.locks());
    let kinds = ["udp=", "plain=", "pair="];
    let narrow = || set_range(EPHEMERAL_LOW, EPHEMERAL_LOW + 999);
    let wide = || set_range(1024, 65535);
    let held = kinds.map(|kind| reserver.reserve(kind).held());
    let claimed = reserver.reserve("").held();
    let claimed_outside = reserver.reserve("range=30000-30999").held();
    let now = |reserver: &mut Reserver, port: u16| reserver.command(&format!("guarantee={port}"));
    for (kind, held) in kinds.iter().zip(&held) {
        assert_eq!(held.guarantee, "Cooperative", "{kind}");
    }
    wide();
    for (kind, held) in kinds.iter().zip(&held) {
        assert_eq!(now(&mut reserver, held.port()), "BestEffort", "{kind}");
        // Each way to request a number.
        for how in ["", "range=20000-20999", "block=2", "many=2", "prefer=20500"] {
            let held = reserver.reserve(&format!("{kind} {how}")).held();
            assert_eq!(held.guarantee, "BestEffort", "{kind} {how}");
        }
    }
    let exact = reserver.reserve("udp= port=21500").held();
    assert_eq!(exact.guarantee, "BestEffort");
    for claimed in [&claimed, &claimed_outside] {
        assert_eq!(now(&mut reserver, claimed.port()), "Kernel");
    }
    narrow();
    for (kind, held) in kinds.iter().zip(&held) {
        assert_eq!(now(&mut reserver, held.port()), "Cooperative", "{kind}");
        let held = reserver.reserve(kind).held();
        assert_eq!(held.guarantee, "Cooperative", "{kind}");
    }
    assert_eq!(now(&mut reserver, claimed.port()), "Kernel");
    // With this setting, the kernel assigns claimed numbers to sockets with SO_REUSEADDR.
    let share = |value| std::fs::write("/proc/sys/net/ipv4/ip_autobind_reuse", value).unwrap();
    share("1");
    assert_eq!(now(&mut reserver, claimed.port()), "BestEffort");
    assert_eq!(now(&mut reserver, claimed_outside.port()), "Cooperative");
    assert_eq!(reserver.reserve("").held().guarantee, "Cooperative");
    share("0");
    assert_eq!(now(&mut reserver, claimed.port()), "Kernel");
    assert_eq!(reserver.reserve("").held().guarantee, "Kernel");
    // The administrator withholds numbers of the range from the kernel. The list is longer than
    // what one small read returns.
    let last = EPHEMERAL_LOW + 200;
    let withheld: Vec<String> = (EPHEMERAL_LOW..=last)
        .step_by(2)
        .map(|n| n.to_string())
        .collect();
    let reserved_ports = "/proc/sys/net/ipv4/ip_local_reserved_ports";
    std::fs::write(reserved_ports, withheld.join(",")).unwrap();
    let held = reserver.reserve(&format!("udp= port={last}")).held();
    assert_eq!(held.guarantee, "Cooperative");
    let held = reserver.reserve(&format!("udp= port={}", last - 1)).held();
    assert_eq!(held.guarantee, "BestEffort", "the control");
    std::fs::write(reserved_ports, "\n").unwrap();
    // The range moves: the kernel now assigns numbers that were outside the earlier range.
    set_range(45000, 65535);
    for kind in kinds {
        let held = reserver.reserve(kind).held();
        assert_eq!(held.guarantee, "Cooperative", "{kind}: {held:?}");
    }
    let held = reserver.reserve("").held();
    assert_eq!(held.guarantee, "Kernel");
}

#[test]
fn without_proc_nothing_but_a_claim_is_more_than_best_effort() {
    need!(capability::mount_namespace());
    let folder = Folder::new();
    let hide = "mount -t tmpfs none /proc";
    let mut reserver = Reserver::start(Reserver::launch(&folder.locks()).in_mounts(hide));
    for how in [
        "",
        "udp=",
        "plain=",
        "pair=",
        "udp= range=20000-29999",
        "block=2",
    ] {
        let held = reserver.reserve(how).held();
        assert_eq!(held.guarantee, "BestEffort", "{how}");
    }
    // The control.
    let held = Reserver::new(&folder.locks()).reserve("udp=").held();
    assert_eq!(held.guarantee, "Cooperative");
}

/// The setting is `ip_autobind_reuse`. Kernels that imitate Linux lack it too. gVisor is one of
/// them: it reports the release "4.4.0". The test mounts the files of such a kernel over those of
/// this kernel.
#[test]
fn a_missing_setting_of_claimed_ports_is_trusted_only_on_a_linux_that_never_had_it() {
    need!(
        capability::network_namespace(),
        capability::mount_namespace()
    );
    let old_linux = "conf/all/forwarding ip_local_reserved_ports tcp_timestamps";
    for (release, settings, guarantee) in [
        ("4.4.0", "", "BestEffort"),
        ("6.18.0", old_linux, "BestEffort"),
        ("4.4.0", old_linux, "Kernel"),
    ] {
        let folder = Folder::new();
        let (fake, proc) = (folder.path().display(), "/proc/sys");
        let mounts = format!(
            "mkdir -p '{fake}/conf/all' && cd '{fake}' && \
             echo 1024 65535 >ip_local_port_range && echo {release} >osrelease && \
             for name in {settings}; do echo 0 >$name; done && cd / && \
             mount --bind '{fake}/osrelease' {proc}/kernel/osrelease && \
             mount --bind '{fake}' {proc}/net/ipv4"
        );
        let launch = Reserver::launch(&folder.locks());
        let mut reserver = Reserver::start(launch.in_network("true").in_mounts(mounts));
        let held = reserver.reserve("").held();
        assert_eq!(held.guarantee, guarantee, "{release}, {settings:?}");
    }
}
