//! The feature `tokio`, on runtimes of one thread: a call that blocks the thread blocks the server
//! under test too.
#![allow(clippy::unwrap_used, reason = "a failing test names the line")]

mod children;
mod server;
mod sockets;
#[allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "each test binary uses only a part of the shared code"
)]
#[path = "../support/mod.rs"]
mod support;
mod waits;

/// Runs a helper process of the tests, if this process is one. It tests nothing.
#[test]
fn helper_process() {
    let Some((name, args)) = support::helper::requested() else {
        return;
    };
    match name.as_str() {
        "server" => children::serve(&args),
        other => panic!("no such helper: {other}"),
    }
}
