//! Listeners that a test leaves behind.

use std::net::TcpListener;

use portlease::{ErrorKind, ReserveOptions, reserve_port};

use super::owner::holders;
use crate::support::helper::{self, Launch};
use crate::support::reserver::Reserver;
use crate::support::{DEADLINE, Folder, eventually, own_locks, show_owner};

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

/// What the panic of this closure says; `None` if it does not panic.
fn panic_of(run: impl FnOnce() + std::panic::UnwindSafe) -> Option<String> {
    let payload = std::panic::catch_unwind(run).err()?;
    Some(match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => payload.downcast_ref::<&str>().unwrap().to_string(),
    })
}

#[test]
fn a_strict_reservation_panics_over_a_forgotten_server_and_is_over_then() {
    let strict = || ReserveOptions::new().strict().reserve().unwrap();
    let (p, control) = (strict(), reserve_port());
    let port = p.port();
    let (server, other) = (p.listen().unwrap(), control.listen().unwrap());
    show_owner(&server);
    assert_eq!(panic_of(move || drop(control)), None, "the control");
    let text = panic_of(move || drop(p)).unwrap();
    let expected = format!("port {port}/tcp was left listening: ");
    assert!(text.starts_with(&expected), "{text}");
    assert!(
        text.contains(&format!("pid {}", std::process::id())),
        "{text}"
    );
    drop((server, other));
    drop(ReserveOptions::new().port(port).reserve().unwrap());

    // A descendant runs the server.
    let p = strict();
    let mut child = Reserver::new(&own_locks());
    assert_eq!(child.command(&format!("serve={p}")), "serves");
    if holders(p.port()).is_none() {
        return p.release().unwrap_or_default();
    }
    let pid = format!("pid {}", child.pid());
    let text = panic_of(move || drop(p)).unwrap();
    assert!(text.contains(&pid), "{text}");
}

#[test]
fn a_strict_reservation_without_a_server_does_not_panic_and_release_returns_its_error() {
    let strict = || ReserveOptions::new().strict().reserve_many(2).unwrap();
    let mut pair = strict();
    drop(pair[0].listen().unwrap());
    let released = pair.pop().unwrap();
    let server = released.listen().unwrap();
    show_owner(&server);
    assert_eq!(released.release().unwrap_err().kind(), ErrorKind::InUse);
    drop((pair, server));
}

#[test]
fn a_strict_reservation_does_not_panic_while_the_test_already_does() {
    let text = panic_of(|| {
        let p = ReserveOptions::new().strict().reserve().unwrap();
        let forgotten = p.listen().unwrap();
        let _later = (p, forgotten);
        panic!("the first panic");
    });
    assert_eq!(text.as_deref(), Some("the first panic"));
}

#[test]
fn portlease_on_leak_warns_on_stderr_or_panics_and_names_a_wrong_value() {
    let start = |value: &str| {
        let folder = Folder::new();
        let launch = Reserver::launch(&folder.locks()).variable("PORTLEASE_ON_LEAK", value);
        (Reserver::start(launch), folder)
    };
    for value in ["", "yes", "Panic"] {
        let message = start(value).0.reserve("").refused("InvalidPort");
        let expected = format!("PORTLEASE_ON_LEAK is {value:?}: expected \"warn\" or \"panic\"");
        assert_eq!(message, expected);
    }
    let leak = |reserver: &mut Reserver| {
        let port = reserver.reserve("").held().port();
        assert_eq!(reserver.command(&format!("serve={port}")), "serves");
        port
    };
    let (mut warns, _folder) = start("warn");
    let port = leak(&mut warns);
    warns.release(port);
    let said = format!("portlease: port {port}/tcp was left listening: ");
    eventually("a warning on stderr", DEADLINE, || {
        let output = warns.process().output();
        if output.contains(&said) {
            Ok(())
        } else {
            Err(output)
        }
    });
    let (mut panics, _folder) = start("panic");
    let port = leak(&mut panics);
    panics.process().send(&format!("release={port}"));
    assert_eq!(panics.process().receive_or_end(), None);
    let output = panics.process().output();
    let said = format!("port {port}/tcp was left listening: ");
    assert!(output.contains(&said), "{output}");
}
