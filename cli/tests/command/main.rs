//! The command from outside: the built binary, its exit codes and JSON shapes, servers and shells.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod callers;
mod check;
mod ephemeral_range;
mod http;
mod keeper;
mod keepers;
mod layout;
mod leaks;
mod list;
mod manual;
mod numbers;
mod pages;
mod passing;
mod program;
mod reports;
mod reserve;
mod run;
mod serve;
mod servers;
mod signals;
mod stop;
#[allow(
    dead_code,
    reason = "this test binary uses only a part of the shared helpers"
)]
#[path = "../../../tests/support/mod.rs"]
mod support;
mod terminal;
mod unrecorded;
mod usage;
mod wait;
mod who;
mod without_pidfd;
