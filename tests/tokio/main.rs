//! The feature `tokio`, on runtimes of one thread: whatever blocks that thread blocks the server under test too.
#![allow(clippy::unwrap_used, reason = "a test fails by it, and says where")]

mod children;
mod sockets;
#[allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "each test binary uses its part of what they share"
)]
#[path = "../support/mod.rs"]
mod support;
mod waits;

/// Where this binary plays another process; of itself it tests nothing.
#[test]
fn role() {
    let Some((role, words)) = support::part() else {
        return;
    };
    match role.as_str() {
        "server" => children::serve(&words),
        other => panic!("no such role: {other}"),
    }
}
