//! The crate seen from outside, one module per subject.
#![allow(clippy::unwrap_used, reason = "a test fails by it, and says where")]

// On every system; what one of these tests cannot show on one, it says there.
mod agent;
mod checks;
mod diagnosis;
mod exclusion;
mod fixed;
mod folder;
mod kinds;
mod numbers;
mod options;
mod outsider;
mod reservation;
mod rooms;
mod tidy;
mod waiting;
mod waits;
mod who;

#[cfg(target_os = "linux")]
mod linux;
#[cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, reason = "part of it is for the tests of Linux")
)]
#[path = "../support/mod.rs"]
mod support;

/// Where this binary plays another process; of itself it tests nothing.
#[test]
fn role() {
    let Some((role, words)) = support::part() else {
        return;
    };
    match role.as_str() {
        "agent" => agent::play(),
        "contender" => exclusion::contend(&words),
        "server" => outsider::serve(&words),
        #[cfg(target_os = "linux")]
        other => linux::play(other, &words),
        #[cfg(not(target_os = "linux"))]
        other => panic!("no such role: {other}"),
    }
}
