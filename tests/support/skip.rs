//! Skipping a test, by name and with the reason, where the machine lacks what the test needs.

use std::fs::OpenOptions;
use std::io::{self, Write};

/// Prints a line for the person who runs the tests: libtest captures what `eprintln!` prints.
pub(crate) fn print_line(line: &str) {
    let _printed = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// The name of the enclosing test, as `cargo test` prints it.
macro_rules! test_name {
    () => {{
        fn here() {}
        // In an async test, `here` is inside a closure.
        let path = std::any::type_name_of_val(&here)
            .trim_end_matches("::here")
            .trim_end_matches("::{{closure}}");
        path.split_once("::").map_or(path, |(_binary, name)| name)
    }};
}
pub(crate) use test_name;

/// Returns from the enclosing test, and reports it as skipped, unless the machine has every one of
/// these capabilities.
macro_rules! need {
    ($($capability:expr),+ $(,)?) => {
        $(if let Err(reason) = $capability {
            return $crate::support::skip($crate::support::test_name!(), &reason);
        })+
    };
}
pub(crate) use need;

/// Reports a test as skipped. Panics where `PORTLEASE_NO_SKIP` is 1.
pub(crate) fn skip(test: &str, reason: &str) {
    let line = format!("skipped: {test}: {reason}");
    assert!(
        std::env::var_os("PORTLEASE_NO_SKIP").is_none_or(|v| v != "1"),
        "{line}"
    );
    print_line(&line);
    if let Some(path) = std::env::var_os("PORTLEASE_SKIPS") {
        let file = OpenOptions::new().append(true).create(true).open(&path);
        // One write, so that lines of tests that run at once do not mix.
        let noted = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
        assert!(
            noted.is_ok(),
            "cannot append to PORTLEASE_SKIPS, {path:?}: {noted:?}"
        );
    }
}
