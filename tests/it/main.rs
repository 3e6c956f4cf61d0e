//! The crate seen from outside, one module per subject.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by it, and says where")]

mod agent;
mod clock;
mod compile_fail;
mod crash;
mod diagnosis;
mod faults;
mod fixed;
mod guarantee;
mod handoff;
mod identity;
mod kinds;
mod namespaces;
mod options;
mod outsider;
mod programs;
mod reservation;
mod servers;
#[path = "../support/mod.rs"]
mod support;
mod tidy;
mod users;
mod waiting;
mod waits;

/// Where this binary plays another process; of itself it tests nothing.
#[test]
fn role() {
    let Some((role, words)) = support::part() else { return };
    match role.as_str() {
        "agent" => agent::play(),
        "checker" => waiting::checks_beside_spawning_threads(),
        "checker-over-time-wait" => waiting::checks_over_time_wait_beside_spawning_threads(),
        "inherited" => handoff::serve_inherited(),
        "server" => outsider::serve(&words),
        "racer" => guarantee::race(&words),
        "crash" => crash::play(&words),
        "spawner" => waiting::re_reserve_beside_spawning_threads(&words),
        "draws" => guarantee::draws_in_namespace(),
        "self-connections" => guarantee::self_connections_in_namespace(),
        "used-up" => faults::used_up_range_in_namespace(),
        other => panic!("no such role: {other}"),
    }
}
