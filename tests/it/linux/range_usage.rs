//! Reports while at least half of the ephemeral range is used up.

use std::net::TcpListener;

use portlease::{EphemeralUsage, ReserveOptions, check_port_free, who_holds};

use crate::support::helper::{EPHEMERAL_LOW, Launch};
use crate::support::socket::{self, ANY_V4, Reuse, V4, leave_clients_in_time_wait};
use crate::support::{Folder, capability, need};

const NUMBERS: u16 = 64;

/// Outside the ephemeral range.
const SERVER: u16 = EPHEMERAL_LOW + 2000;

#[test]
fn a_crowded_range_is_reported_by_what_uses_it_and_an_ordinary_one_is_not() {
    need!(capability::network_namespace());
    let folder = Folder::new();
    Launch::new("crowded-range", &folder.locks())
        .with_ephemeral_ports(NUMBERS)
        .start()
        .succeed();
}

/// The helper process.
pub(crate) fn report_a_crowded_range() {
    let server = TcpListener::bind((V4, SERVER)).unwrap();
    let usage = || who_holds(SERVER).unwrap().ephemeral_usage().cloned();
    let bound: Vec<_> = (0..10)
        .map(|_| socket::bind(ANY_V4, 0, Reuse::Neither).unwrap())
        .collect();
    assert_eq!(usage(), None, "10 of 64");
    let waiting = leave_clients_in_time_wait(&server, 36).len();
    assert_eq!(waiting, 36);
    let listener = TcpListener::bind((V4, 0)).unwrap();

    let found = usage().unwrap();
    check_counts(&found, 10, 36);
    assert_eq!((found.listening(), found.connected()), (Some(1), Some(0)));
    let text = who_holds(SERVER).unwrap().to_string();
    assert!(
        text.contains(&format!("\n  the range    {found}")),
        "{text}"
    );
    let udp = who_holds(format!("{SERVER}/udp")).unwrap();
    assert_eq!(udp.ephemeral_usage(), None, "a question about UDP");

    let port = listener.local_addr().unwrap().port();
    let failed = check_port_free(port).unwrap_err().to_string();
    assert!(
        failed.contains(&format!("\n  the range    {found}")),
        "{failed}"
    );
    let exact = ReserveOptions::new().port(port).reserve().unwrap_err();
    assert!(
        format!("{exact:?}").contains(&found.to_string()),
        "{exact:?}"
    );

    // Now the rest of the range is used up, and the reservation excludes all numbers outside it.
    let rest: Vec<_> =
        std::iter::from_fn(|| socket::bind(ANY_V4, 0, Reuse::Neither).ok()).collect();
    assert_eq!(rest.len(), usize::from(NUMBERS) - 47);
    let none = ReserveOptions::new()
        .exclude(1..EPHEMERAL_LOW)
        .exclude(EPHEMERAL_LOW + NUMBERS..=u16::MAX)
        .reserve()
        .unwrap_err();
    let found = usage().unwrap();
    check_counts(&found, 10 + rest.len(), 36);
    assert!(none.to_string().ends_with(&format!("; {found}")), "{none}");
    drop(bound);
}

/// A kernel that does not show bound sockets (Linux before 6.8) must not report zero of them.
fn check_counts(usage: &EphemeralUsage, bound: usize, time_wait: usize) {
    assert_eq!(usage.range(), EPHEMERAL_LOW..=EPHEMERAL_LOW + NUMBERS - 1);
    assert_eq!(usage.ports(), usize::from(NUMBERS));
    assert_eq!(usage.time_wait(), Some(time_wait), "{usage}");
    if usage.is_complete() {
        assert_eq!(usage.bound(), Some(bound), "{usage}");
        let listening = usage.listening().unwrap();
        assert_eq!(usage.in_use(), bound + time_wait + listening, "{usage}");
    } else {
        assert_eq!(usage.bound(), None, "{usage}");
        assert!(usage.to_string().starts_with("at least "), "{usage}");
    }
}
