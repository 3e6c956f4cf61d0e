//! Options that cannot be met, each with its error message.

use std::ops::Bound;

use portlease::{Error, ErrorKind, ReserveOptions};

use crate::support::reserver::Reserver;
use crate::support::{Folder, capability, is_root, need, skip, test_name};

#[track_caller]
fn assert_error(error: Error, kind: ErrorKind, message: &str) {
    assert_eq!(error.to_string(), message);
    assert_eq!(error.kind(), kind, "{message}");
}

#[track_caller]
fn invalid<T: std::fmt::Debug>(result: portlease::Result<T>, message: &str) {
    assert_error(result.unwrap_err(), ErrorKind::InvalidPort, message);
}

#[test]
fn port_0_is_an_error_that_says_so() {
    let message = "port 0 names no port (bind(2) reads 0 as \"any free port\"): expected a number \
                   from 1 to 65535";
    let options = ReserveOptions::new;
    invalid(options().port(0).reserve(), message);
    invalid(options().prefer([20000, 0]).reserve(), message);
    invalid(options().range(0..=9).reserve(), message);
    invalid(options().port(0).reserve_block(2), message);
    invalid(options().port(0).reserve_many(1), message);
}

#[test]
#[expect(clippy::reversed_empty_ranges, reason = "the test needs empty ranges")]
fn an_empty_range_is_an_error_that_says_so() {
    let say =
        |ends: &str| format!("range {ends} is empty: expected LOW..=HIGH with 1 <= LOW <= HIGH");
    let options = ReserveOptions::new;
    invalid(
        options().range(20009..=20000).reserve(),
        &say("20009..=20000"),
    );
    invalid(
        options().range(20000..20000).reserve(),
        &say("20000..20000"),
    );
    invalid(options().range(..0).reserve(), &say("..0"));
    let beyond = (Bound::Excluded(u16::MAX), Bound::Unbounded);
    invalid(options().range(beyond).reserve(), &say("65536.."));
    invalid(
        options().range(20009..=20000).reserve_many(2),
        &say("20009..=20000"),
    );
    invalid(
        options().range(20009..=20000).reserve_block(2),
        &say("20009..=20000"),
    );
}

#[test]
fn a_range_of_excluded_ports_alone_is_an_error_that_says_so() {
    let options = ReserveOptions::new()
        .range(20000..=20003)
        .exclude(20000..=20003);
    invalid(
        options.reserve(),
        "range 20000-20003 contains only excluded ports",
    );
}

#[test]
fn an_exact_port_that_is_ruled_out_is_an_error_that_says_so() {
    let message = "port 20000 was requested, but `range` or `exclude` rules it out";
    invalid(
        ReserveOptions::new()
            .port(20000)
            .range(20001..=20009)
            .reserve(),
        message,
    );
    invalid(
        ReserveOptions::new().port(20000).exclude([20000]).reserve(),
        message,
    );
}

#[test]
fn many_that_cannot_fit_are_an_error_that_says_so() {
    let options = ReserveOptions::new;
    let ten = || options().range(20000..=20009);
    let message = "port 20000 cannot be reserved 2 times: request a block, or do not request an \
                   exact port";
    invalid(options().port(20000).reserve_many(2), message);
    let message = "cannot reserve 11 ports from 20000-20009: the range has fewer allowed ports";
    invalid(ten().reserve_many(11), message);
    invalid(ten().reserve_block(11), message);
    let message = "cannot reserve 10 ports from 20000-20009: the range has fewer allowed ports";
    invalid(ten().exclude([20005]).reserve_many(10), message);
    let message = "cannot reserve a block of 7 ports from 65530: port numbers end at 65535";
    invalid(options().port(65530).reserve_block(7), message);
    let message = "cannot reserve 65536 ports from 1-65535: the range has fewer allowed ports";
    invalid(options().reserve_many(65536), message);
    invalid(options().reserve_block(65536), message);
}

#[test]
fn an_address_that_the_machine_does_not_have_is_an_error_that_says_so() {
    let reservation = portlease::reserve_port();
    // RFC 5737 reserves this address for documentation.
    let elsewhere = std::net::Ipv4Addr::new(192, 0, 2, 1);
    let error = reservation.listen_on(elsewhere).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrNotAvailable);
    if cfg!(windows) {
        // Under wine the report does not say so.
        return;
    }
    let listening = portlease::check_port_listening((elsewhere, reservation.port()));
    let report = listening.unwrap_err();
    let expected = "is not listening: this machine does not have the address";
    assert!(report.headline().ends_with(expected), "{report}");
    let help = "name an address that this machine has, or omit the address";
    assert_eq!(report.help().as_deref(), Some(help));
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "which ports are privileged is read from /proc"
)]
fn a_privileged_port_without_the_right_is_an_error_that_says_so() {
    if is_root() {
        need!(capability::nobody());
    }
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let Some(Ok(first @ 2..)) = first.ok().map(|text| text.trim().parse::<u16>()) else {
        return skip(test_name!(), "no port is privileged here");
    };
    let folder = Folder::new();
    let launch = Reserver::launch(&folder.locks());
    let mut reserver = Reserver::start(if is_root() {
        launch.run_as_nobody()
    } else {
        launch
    });
    let port = first - 1;
    let message = reserver
        .reserve(&format!("port={port}"))
        .refused("PermissionDenied");
    let expected = format!(
        "cannot reserve {port}/tcp: permission denied: binding a port below {first} \
         (net.ipv4.ip_unprivileged_port_start) requires CAP_NET_BIND_SERVICE, which root usually \
         has"
    );
    assert_eq!(message, expected);
    let message = reserver
        .reserve(&format!("range={port}-{port}"))
        .refused("NoFreePort");
    assert!(message.contains("1 not permitted"), "{message}");
}

#[test]
fn offsets_and_multiples_that_cannot_be_met_are_errors_that_say_so() {
    let new = ReserveOptions::new;
    invalid(
        new().reserve_offsets([0, 5, 5]),
        "offset 5 is requested twice: expected distinct offsets",
    );
    invalid(
        new().port(60000).reserve_offsets([0, 10000]),
        "cannot reserve ports at the offsets 0, 10000 above base 60000: port numbers end at 65535",
    );
    invalid(
        new().range(20000..=20009).reserve_offsets([0, 10]),
        "cannot reserve ports at the offsets 0, 10 in 20000-20009: for every base number, at \
         least one port is outside the range or excluded; widen the range or exclude fewer ports",
    );
    invalid(
        new().range(20001..=20003).aligned(2).reserve_block(3),
        "cannot reserve 3 consecutive ports in 20001-20003: for every base number that is a \
         multiple of 2, at least one port is outside the range or excluded; widen the range or \
         exclude fewer ports",
    );
    let zero = "cannot reserve multiples of 0: expected a number from 1 to 65535";
    invalid(new().aligned(0).reserve(), zero);
    invalid(new().aligned(0).reserve_block(2), zero);
    invalid(
        new().port(20001).aligned(2).reserve(),
        "port 20001 was requested, but `aligned` requires a multiple of 2",
    );
    invalid(
        new().range(20001..=20001).aligned(2).reserve(),
        "cannot reserve multiples of 2: range 20001-20001 has none that is allowed",
    );
}
