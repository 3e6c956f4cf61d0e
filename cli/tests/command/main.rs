//! The command seen from outside: the real binary, its exit codes, its shapes, real servers and shells.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by it, and says where")]

mod check;
mod layout;
mod list;
mod manual;
mod program;
mod reports;
mod reserve;
mod run;
mod serve;
mod servers;
#[allow(
    dead_code,
    reason = "each test binary uses its part of what they share"
)]
#[path = "../../../tests/support/mod.rs"]
mod support;
mod terminal;
mod usage;
mod wait;
mod who;
