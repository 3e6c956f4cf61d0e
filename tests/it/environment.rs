//! The variables `PORTLEASE_RANGE` and `PORTLEASE_DIR`.

use crate::support::Folder;
use crate::support::ports::{non_ephemeral_port, non_ephemeral_ports};
use crate::support::reserver::Reserver;

/// A process with this `PORTLEASE_RANGE`.
fn reserver_with_range(folder: &Folder, range: &str) -> Reserver {
    Reserver::start(Reserver::launch(&folder.locks()).variable("PORTLEASE_RANGE", range))
}

#[test]
fn automatic_picks_come_from_portlease_range() {
    let folder = Folder::new();
    let ports = non_ephemeral_ports(32);
    let (low, high) = (ports[0], ports[31]);
    let mut reserver = reserver_with_range(&folder, &format!(" {low} - {high} "));
    for how in ["", "many=4", "block=4", "prefer=19999", "range=1024-65535"] {
        let held = reserver.reserve(how).held();
        assert!(
            held.ports.iter().all(|port| (low..=high).contains(port)),
            "{how}: {held:?}"
        );
        reserver.release("all");
    }
    // A pick comes from the ports that both ranges contain.
    let held = reserver.reserve(&format!("range={high}-65535")).held();
    assert_eq!(held.ports, [high]);
    reserver.release("all");
    // The variable does not apply to an exact port.
    let outside = non_ephemeral_port();
    assert_eq!(
        reserver.reserve(&format!("port={outside}")).held().ports,
        [outside]
    );
    let message = reserver.reserve("range=19000-19009").refused("InvalidPort");
    assert_eq!(
        message,
        format!("range 19000-19009 has no port within PORTLEASE_RANGE ({low}-{high})")
    );
    let message = reserver.reserve("many=33").refused("InvalidPort");
    assert_eq!(
        message,
        format!(
            "cannot reserve 33 ports from {low}-{high}: the range has fewer allowed ports; \
             PORTLEASE_RANGE allows only {low}-{high}"
        )
    );
    // All ports are reserved, by the same process.
    reserver.reserve("many=32").held();
    let message = reserver.reserve("").refused("NoFreePort");
    assert!(
        message.contains(": 32 tried: 32 already reserved; ")
            && message.ends_with(&format!("; PORTLEASE_RANGE allows only {low}-{high}")),
        "{message}"
    );
}

#[test]
fn a_bad_portlease_range_is_an_error_that_names_the_variable() {
    let folder = Folder::new();
    for bad in [
        "",
        "x",
        "20000",
        "0-9",
        "20009-20000",
        "20000-70000",
        "20000..20009",
        "-1-5",
        "+1-5",
        "1-2-3",
    ] {
        let mut reserver = reserver_with_range(&folder, bad);
        let message = reserver.reserve("").refused("InvalidPort");
        let expected = format!(
            "PORTLEASE_RANGE is {bad:?}: expected LOW-HIGH with 1 <= LOW <= HIGH <= 65535, as \
             in 20000-20999"
        );
        assert_eq!(message, expected);
        // An exact port can still be reserved.
        reserver
            .reserve(&format!("port={}", non_ephemeral_port()))
            .held();
    }
}

#[test]
fn a_bad_portlease_dir_is_an_error_that_names_the_variable() {
    for bad in ["", "relative/folder"] {
        let mut reserver = Reserver::new(bad.as_ref());
        let message = reserver.reserve("").refused("Lease");
        let expected = format!(
            "cannot use the lock folder {bad:?}: expected an absolute path in PORTLEASE_DIR"
        );
        assert_eq!(message, expected);
        assert_eq!(reserver.reserve("port=20000").refused("Lease"), expected);
    }
}

#[test]
fn blocks_obey_portlease_range() {
    let folder = Folder::new();
    let ports = non_ephemeral_ports(16);
    let (low, high) = (ports[0], ports[15]);
    let mut reserver = reserver_with_range(&folder, &format!("{low}-{high}"));
    // At least one number of each of these blocks would be outside the range.
    for prefer in [high - 2, high, high + 1, low - 1, low - 3] {
        let held = reserver.reserve(&format!("prefer={prefer} block=4")).held();
        assert!(
            held.ports.iter().all(|port| (low..=high).contains(port)),
            "{prefer}: {held:?}"
        );
        reserver.release("all");
    }
    let held = reserver
        .reserve(&format!("prefer={} block=4", high - 3))
        .held();
    assert_eq!(held.ports, ports[12..]);
    reserver.release("all");
    for first in [high - 2, low - 1] {
        let message = reserver
            .reserve(&format!("port={first} block=4"))
            .refused("InvalidPort");
        assert!(message.contains("PORTLEASE_RANGE"), "{message}");
    }
    let held = reserver
        .reserve(&format!("port={} block=4", high - 3))
        .held();
    assert_eq!(held.ports, ports[12..]);
}

#[test]
#[cfg(unix)]
fn a_portlease_dir_that_is_a_symbolic_link_is_followed() {
    use std::os::unix::fs::symlink;

    let folder = Folder::new();
    let link = folder.path().join("link");
    let chain = folder.path().join("chain");
    // The folder that the link names does not exist yet.
    symlink(folder.locks(), &link).unwrap();
    symlink(&link, &chain).unwrap();
    for dangling in [&link, &chain] {
        let mut reserver = Reserver::new(dangling);
        for how in ["", "udp=", "port=20000"] {
            let message = reserver.reserve(how).refused("Lease");
            assert!(
                message.contains(&format!("{dangling:?}")) && message.contains("PORTLEASE_DIR"),
                "{how}: {message}"
            );
        }
    }
    std::fs::create_dir(folder.locks()).unwrap();
    crate::support::set_mode(&folder.locks(), 0o1777);
    let mut direct = Reserver::new(&folder.locks());
    for path in [&link, &chain, &link.join(".")] {
        let mut other = Reserver::new(path);
        for how in ["", "udp="] {
            let held = other.reserve(how).held();
            assert!(held.leased, "{path:?}");
            let again = format!("{how} port={}", held.port());
            direct.reserve(again.trim()).refused("InUse");
        }
        let held = direct.reserve("udp= label=direct").held();
        let lease = other.command(&format!("lease={}", held.port()));
        assert!(lease.contains("direct"), "{path:?}: {lease}");
    }
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let to_file = folder.path().join("to-file");
    symlink(&file, &to_file).unwrap();
    Reserver::new(&to_file).reserve("udp=").refused("Lease");
}

#[test]
#[cfg(target_os = "linux")]
fn a_portlease_dir_that_is_not_utf_8_is_used_as_it_is() {
    use std::os::unix::ffi::OsStrExt;

    let folder = Folder::new();
    let named = |name: &[u8]| folder.path().join(std::ffi::OsStr::from_bytes(name));
    let path = named(b"caf\xe9");
    let (mut one, mut two) = (Reserver::new(&path), Reserver::new(&path));
    let held = one.reserve("udp= label=latin").held();
    assert!(held.leased);
    let again = format!("udp= port={}", held.port());
    two.reserve(&again).refused("InUse");
    let lease = two.command(&format!("lease={}", held.port()));
    assert!(lease.contains("latin"), "{lease}");
    let made: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(made.len(), 1, "{made:?}");
    assert!(path.is_dir(), "{made:?}");
}
