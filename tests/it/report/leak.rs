//! Listeners that a test leaves behind.

use std::net::TcpListener;

use portlease::{ErrorKind, reserve_port};

use super::owner::holders;
use crate::support::helper::{self, Launch};
use crate::support::reserver::Reserver;
use crate::support::{Folder, own_locks, show_owner};

/// The helper process: leaves two listeners behind, and replies what the check reports. It is a
/// process of its own because the check looks at every listener of the process.
pub(crate) fn leak_listeners() {
    let kept = reserve_port();
    let none = portlease::check_no_leaked_listeners(|| drop(kept.listen()));
    assert!(none.is_ok(), "{none:?}");
    let mut leaked = Vec::new();
    let report = portlease::check_no_leaked_listeners(|| {
        leaked.push(kept.listen().unwrap());
        leaked.push(TcpListener::bind("127.0.0.1:0").unwrap());
        leaked.iter().for_each(show_owner);
    });
    helper::reply(&report.unwrap_err().to_string());
}

#[test]
fn each_leaked_listener_is_reported() {
    let folder = Folder::new();
    let replies = Launch::new("leaks", &folder.locks()).start().succeed();
    let text = &replies[0];
    assert_eq!(text.matches("was left listening: ").count(), 2, "{text}");
    assert_eq!(
        text.matches("help: stop each server before its test ends")
            .count(),
        2,
        "{text}"
    );
}

#[test]
fn a_leaked_listener_is_reported_and_one_from_before_is_not() {
    let (before, p) = (portlease::reserve_port(), portlease::reserve_port());
    if holders(p.port()).is_none() {
        return;
    }
    let mut server = Reserver::new(&own_locks());
    assert_eq!(server.command(&format!("serve={before}")), "serves");
    let leaked = portlease::check_no_leaked_listeners(|| {
        assert_eq!(server.command(&format!("serve={p}")), "serves");
    });
    let report = leaked.unwrap_err().to_string();
    assert!(
        report.contains(&format!("port {}/tcp was left listening", p.port())),
        "{report}"
    );
    assert!(
        !report.contains(&format!("port {}/tcp", before.port())),
        "{report}"
    );
    let released = p.release().unwrap_err();
    assert!(
        released.to_string().contains("was left listening"),
        "{released}"
    );
}

#[test]
fn release_names_the_server_that_still_listens() {
    let p = reserve_port();
    let addr = p.addr();
    let server = p.listen().unwrap();
    show_owner(&server);
    let error = p.release().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    let text = error.to_string();
    assert!(
        text.contains("was left listening: ") && text.ends_with(&format!("listens on {addr}")),
        "{text}"
    );
    drop(server);
    reserve_port().release().unwrap();
}
