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
    // Only ports that both ranges hold.
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
        format!("range 19000-19009 has no port within PORTLEASE_RANGE, {low}-{high}")
    );
    let message = reserver.reserve("many=33").refused("InvalidPort");
    assert_eq!(
        message,
        format!("33 ports cannot fit in {low}-{high}: too few are allowed")
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
