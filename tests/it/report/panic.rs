//! The text of a panic, and the location that it names.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use portlease::reserve_port;

use crate::support::helper::{self, Launch};
use crate::support::reserver::Reserver;
use crate::support::{DEADLINE, Folder, eventually, show_owner};

/// The helper process: replies for each panicking call whether the panic names that call's line. It
/// is a process of its own because the panic hook is global.
pub(crate) fn panic_in_each_call() {
    static LOCATION: Mutex<String> = Mutex::new(String::new());
    std::panic::set_hook(Box::new(|info| {
        let location = info.location().unwrap();
        *LOCATION.lock().unwrap() = format!("{}:{}", location.file(), location.line());
    }));
    let p = reserve_port();
    let server = p.listen().unwrap();
    let mut results = Vec::new();
    let mut note = |line: u32, panicking: &dyn Fn()| {
        let panicked = catch_unwind(AssertUnwindSafe(panicking)).is_err();
        let expected = format!("{}:{line}", file!());
        let location = LOCATION.lock().unwrap().clone();
        results.push(if panicked && location == expected {
            "ok".to_owned()
        } else {
            format!("{location} instead of {expected}")
        });
    };
    note(line!(), &|| portlease::assert_port_free(&p));
    note(line!(), &|| portlease::assert_ports_free([&p]));
    note(line!(), &|| portlease::assert_port_held_by(&p, u32::MAX));
    note(line!(), &|| assert!(portlease::is_port_free("x")));
    let unserved = reserve_port().leak();
    note(line!(), &|| portlease::assert_port_listening(unserved));
    let forget = || {
        let forgotten = reserve_port().listen().unwrap();
        show_owner(&forgotten);
        std::mem::forget(forgotten);
    };
    note(line!(), &|| portlease::assert_no_leaked_listeners(forget));
    drop(server);
    // Restores the default hook, so that a failure below is printed.
    drop(std::panic::take_hook());
    helper::reply(&results.join("|"));
}

#[test]
fn a_panic_names_the_callers_file_and_line() {
    let folder = Folder::new();
    let replies = Launch::new("panics", &folder.locks()).start().succeed();
    assert_eq!(replies, [["ok"; 6].join("|")]);
}

#[test]
fn a_panic_names_the_error_and_the_callers_line() {
    let folder = Folder::new();
    let launch = Reserver::launch(&folder.locks()).variable("PORTLEASE_RANGE", "x");
    let mut reserver = Reserver::start(launch);
    reserver.process().send("reserve_port");
    assert_eq!(reserver.process().receive_or_end(), None);
    let (output, line) = eventually("the panic is reported", DEADLINE, || {
        let output = reserver.process().output();
        match output.lines().find(|line| line.contains("panicked at ")) {
            Some(line) if output.contains("expected") => Ok((output.clone(), line.to_owned())),
            _ => Err(output),
        }
    });
    assert!(
        line.replace('\\', "/")
            .contains("tests/it/../support/reserver.rs:"),
        "{output}"
    );
    assert!(
        output.contains("PORTLEASE_RANGE is \"x\": expected"),
        "{output}"
    );
}
