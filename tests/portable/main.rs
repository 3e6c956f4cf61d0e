//! What the crate promises on every system, seen from outside: by two processes, one of them killed.
//!
//! `tests/it` holds the same and much more, and needs Linux: namespaces, users, strace, the kernel's claim.
#![allow(clippy::unwrap_used, reason = "a test fails by it, and says where")]

#[allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "each test binary uses its part of what they share"
)]
#[path = "../support/mod.rs"]
mod support;

mod agent;
mod checks;
mod crash;
mod exclusion;
mod kinds;
mod texts;
mod who;

/// Where this binary plays another process; of itself it tests nothing.
#[test]
fn role() {
    let Some((role, words)) = support::part() else { return };
    match role.as_str() {
        "agent" => agent::play(),
        "contender" => exclusion::contend(&words),
        other => panic!("no such role: {other}"),
    }
}
